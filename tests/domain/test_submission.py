"""Submitting mail: who may send what for whom, what is added, and what the queue is given."""

from __future__ import annotations

import base64
import contextlib
import email.utils
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db.models import Max

from accounts.accounts import add_address, create_account
from accounts.models import Account, Address, Domain, FromIDLoginAddress
from accounts.passwords import set_password
from mailqueue import limits
from mailqueue.models import FromID, HoldRule, OutgoingRecipient, QueueMessage
from protocols.sasl.client import Plain
from server import db
from store import content
from store.models import Blob
from tests.domain.smtp_service import Service, running
from tests.system.conftest import MailboxUser, make_user
from tests.system.smtp_wire import Wire, play

pytestmark = pytest.mark.database


@pytest.fixture(scope="module")
def service(database: None) -> Iterator[Service]:
    with running(name="submission") as started:
        yield started


@pytest.fixture(scope="module")
def pedantic_service(database: None) -> Iterator[Service]:
    with running(name="submission", server={"pedantic": True}) as started:
        yield started


@pytest.fixture
def user(new_account: Callable[[], Account]) -> Iterator[MailboxUser]:
    """Somebody whose messages stay in the queue until the test is over, whatever workers there are."""
    made = make_user(new_account)
    with db.write():
        rule = HoldRule.objects.create(account=made.account)
    yield made
    with db.write():
        QueueMessage.objects.filter(account=made.account).delete()
        rule.delete()


@pytest.fixture
def wire(service: Service, user: MailboxUser) -> Iterator[Wire]:
    with service.connect() as connected:
        yield log_in(connected, user)


@pytest.fixture
def pedantic(pedantic_service: Service, user: MailboxUser) -> Iterator[Wire]:
    with pedantic_service.connect() as connected:
        yield log_in(connected, user)


@pytest.fixture
def own_domain(user: MailboxUser) -> Iterator[Domain]:
    """A hosted domain in which the user has addresses of their own; it has no DKIM key."""
    with db.write():
        domain = Domain.objects.create(name=f"{user.account.name}.example")
    yield domain
    with db.write():
        Address.objects.filter(domain=domain).delete()
        domain.delete()


def log_in(wire: Wire, user: MailboxUser) -> Wire:
    assert wire.hello().authenticate(Plain(user.address, user.password)).startswith("235 ")
    return wire


def message(sender: str, *fields: str, body: str = "body\r\n") -> bytes:
    """A message with its end."""
    return "".join(f"{line}\r\n" for line in (f"From: <{sender}>", "Subject: x", *fields, "", body)).encode() + b".\r\n"


def send(wire: Wire, user: MailboxUser, content: bytes, *recipients: str, mail: str = "") -> str:
    """A whole transaction; the reply to its content."""
    assert wire.command(f"MAIL FROM:<{user.address}>{mail}").startswith("250 2.1.0 ")
    for recipient in recipients or ("bo@remote.example",):
        assert wire.command(f"RCPT TO:<{recipient}>").startswith("250 2.1.0 ")
    return wire.data(content)


def queued(user: MailboxUser) -> list[QueueMessage]:
    return list(QueueMessage.objects.filter(account=user.account).order_by("pk"))


def stored(row: QueueMessage) -> bytes:
    """The content of a queued message, without what was put in front."""
    blob = row.blob
    with content.blob_reader(blob.pk, blob.size, blob.data, blob.storage_name) as reader:
        return reader.read()


def stored_files() -> set[Path]:
    return {path for path in (Path(settings.MOX.data_dir) / "msg").rglob("*") if path.is_file()}


# What is queued.


def test_a_message_is_queued_with_what_the_server_adds(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "To: bo@remote.example")
    assert send(wire, user, text).startswith("250 2.2.0 ")
    (row,) = queued(user)
    assert (row.sender, row.recipient, row.base_id) == (user.address, "bo@remote.example", 0)
    assert (row.has_8bit, row.smtputf8, row.require_tls, row.kind) == (False, False, None, "message")
    prefix = bytes(row.prefix)
    names = [line.split(b":")[0] for line in prefix.split(b"\r\n") if line and line[:1] not in b"\t "]
    assert names == [b"Received", b"Message-Id", b"Date", b"DKIM-Signature", b"Authentication-Results"]
    unfolded = re.sub(rb"\r\n[\t ]", b" ", prefix)
    assert re.search(
        rb"^Received: from localhost by localhost via tcp with ESMTPA id [\w-]{22} for <bo@remote.example>; \d",
        unfolded,
    )
    assert f"Authentication-Results: localhost; auth=pass smtp.mailfrom={user.address}\r\n".encode() in unfolded
    assert re.search(rb"\r\nMessage-Id: <[\w-]{22}@localhost>\r\n", unfolded)
    match = re.search(rb"\r\nDate: ([^\r]*)\r\n", unfolded)
    assert match is not None
    assert abs(email.utils.parsedate_to_datetime(match[1].decode()) - datetime.now(UTC)) < timedelta(minutes=1)
    assert row.message_id.encode() in prefix
    assert row.subject == "x"
    assert row.size == len(prefix) + len(text) - len(b".\r\n")
    assert stored(row) + b".\r\n" == text
    assert OutgoingRecipient.objects.filter(account=user.account).count() == 1


def test_nothing_of_the_client_is_told(service: Service, user: MailboxUser) -> None:
    with service.connect() as wire:
        source = wire.sock.getsockname()[0]
        log_in(wire, user)
        assert send(wire, user, message(user.address)).startswith("250 ")
    (row,) = queued(user)
    assert source.encode() not in bytes(row.prefix)
    assert b"client.example" not in bytes(row.prefix)


def test_what_the_message_has_is_not_added(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "Message-ID: <mine@here.example>", "date: Thu, 1 Jan 1998 00:00:00 +0000")
    assert send(wire, user, text).startswith("250 ")
    (row,) = queued(user)
    assert row.message_id == "<mine@here.example>"
    assert b"\r\nMessage-Id:" not in bytes(row.prefix)
    assert b"\r\nDate:" not in bytes(row.prefix)


def test_several_recipients_share_one_message(wire: Wire, user: MailboxUser) -> None:
    recipients = ("bo@remote.example", "jo@far.example", "bo@remote.example", "<postmaster>"[1:-1])
    assert send(wire, user, message(user.address), *recipients).startswith("250 ")
    rows = queued(user)
    assert [row.recipient for row in rows] == ["bo@remote.example", "jo@far.example", "postmaster@localhost"]
    assert {row.base_id for row in rows} == {rows[0].pk}
    assert len({(row.blob_id, bytes(row.prefix)) for row in rows}) == 1
    assert b" for <" not in bytes(rows[0].prefix)
    assert OutgoingRecipient.objects.filter(account=user.account).count() == 3


def test_a_message_over_tls_says_so(service: Service, user: MailboxUser) -> None:
    with service.connect() as wire:
        assert wire.hello().command("STARTTLS").startswith("220 ")
        wire.start_tls(Path(settings.MOX.data_dir) / "localhost.crt")
        log_in_again = wire.command("EHLO client.example")
        assert log_in_again.startswith("250 ")
        assert wire.authenticate(Plain(user.address, user.password)).startswith("235 ")
        assert send(wire, user, message(user.address, "TLS-Required: No"), mail=" REQUIRETLS").startswith("250 ")
        assert send(wire, user, message(user.address, "TLS-Required: No", "TLS-required:  no ")).startswith("250 ")
        assert send(wire, user, message(user.address, "TLS-Required: No", "TLS-Required: yes")).startswith("250 ")
    rows = queued(user)
    assert [row.require_tls for row in rows] == [True, False, None]
    unfolded = re.sub(rb"\r\n[\t ]", b" ", bytes(rows[0].prefix))
    assert re.search(rb"with ESMTPSA \(requiretls\) id \S+ \(TLS1\.3 TLS_\w+\) for <bo@remote.example>;", unfolded)


def test_requiretls_needs_tls(wire: Wire, user: MailboxUser) -> None:
    assert wire.command(f"MAIL FROM:<{user.address}> REQUIRETLS").startswith("530 5.7.10 ")


def test_an_internationalised_message(wire: Wire, user: MailboxUser, own_domain: Domain) -> None:
    with db.write():
        add_address(user.account, "é", own_domain)
    text = message(f"é@{own_domain.name}", "To: ü@bücher.example")
    wire.send(f"MAIL FROM:<e\u0301@{own_domain.name}> SMTPUTF8\r\nRCPT TO:<ü@BÜCHER.example>\r\n")
    assert [wire.reply()[0][:3] for _ in range(2)] == ["250", "250"]
    assert wire.data(text).startswith("250 ")
    (row,) = queued(user)
    assert (row.smtputf8, row.has_8bit, row.sender_localpart, row.rcpt_domain) == (True, True, "é", "bücher.example")
    assert row.rcpt_domain_ascii == "xn--bcher-kva.example"
    unfolded = re.sub(rb"\r\n[\t ]", b" ", bytes(row.prefix)).decode()
    assert " with UTF8SMTPA id " in unfolded
    assert f"smtp.mailfrom=é@{own_domain.name}" in unfolded
    assert "DKIM-Signature" not in unfolded  # its domain has no keys


def test_8bit_content_alone_needs_no_smtputf8(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", body="é\r\n")
    assert send(wire, user, text, mail=" BODY=8BITMIME").startswith("250 ")
    (row,) = queued(user)
    assert (row.has_8bit, row.smtputf8) == (True, False)


def test_the_null_sender_may_be_used(wire: Wire, user: MailboxUser) -> None:
    assert wire.command("MAIL FROM:<>").startswith("250 ")
    assert wire.command("RCPT TO:<bo@remote.example>").startswith("250 ")
    assert wire.data(message(user.address)).startswith("250 ")
    (row,) = queued(user)
    assert row.sender == ""
    assert b"\r\nAuthentication-Results: localhost;\r\n\tauth=pass\r\n" in bytes(row.prefix)


def test_hold_rules_hold_what_is_submitted(wire: Wire, user: MailboxUser) -> None:
    with db.write():
        HoldRule.objects.filter(account=user.account).update(recipient_domain="held.example")
    recipients = ("bo@held.example", "bo@remote.example")
    assert send(wire, user, message(user.address), *recipients, mail=" HOLDFOR=3600").startswith("250 ")
    assert [row.hold for row in queued(user)] == [True, False]


def test_extra_headers_are_kept_and_told(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "x-mox-extra-order-NUMBER: 17", "X-Mox-Extra-A: b", "X-Mox-Extra-: nothing")
    assert send(wire, user, text).startswith("250 ")
    (row,) = queued(user)
    assert row.extra == {"Order-Number": "17", "A": "b"}
    twice = message(user.address, "X-Mox-Extra-A: b", "x-mox-extra-a: c")
    assert send(wire, user, twice).startswith("554 5.6.0 X-Mox-Extra-A ")
    assert len(queued(user)) == 1


# MAIL and RCPT.


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        ("<mox@localhost>", "550 5.7.1"),
        ("<nobody-of-that-name@localhost>", "550 5.7.1"),
        ("<postmaster@localhost>", "550 5.7.1"),
        ("<a@remote.example>", "550 5.7.1"),
        ("<a@[127.0.0.1]>", "550 5.7.1"),
        ("<OWN> HOLDFOR=60 HOLDUNTIL=2031-03-01T00:00:00Z", "501 5.5.4"),
        ("<OWN> HOLDFOR=60 HOLDFOR=60", "501 5.5.4"),
        ("<OWN> HOLDFOR=5184001", "554 5.5.4"),
        ("<OWN> HOLDFOR=9999999", "554 5.5.4"),
        ("<OWN> HOLDFOR=1234567890", "501 5.5.2"),
        ("<OWN> HOLDUNTIL=2001-01-01T00:00:00Z", "554 5.5.4"),
        ("<OWN> HOLDUNTIL=9999-01-01T00:00:00Z", "554 5.5.4"),
        ("<OWN> HOLDUNTIL=tomorrow", "501 5.5.2"),
        ("<OWN> RET=FULL", "555 5.3.3"),
        ("<OWN> SIZE=104857601", "552 5.3.4"),
        ("<OWN> BODY=BINARYMIME", "555 5.5.4"),
        ("<OWN> AUTH=a+3d", "501 5.5.2"),
        ("<OWN> ", "501 5.5.2"),
        ("<é@localhost>", "550 5.6.7"),
        ("OWN", "501 5.5.2"),
    ],
)
def test_mail_is_refused_and_leaves_no_transaction(wire: Wire, user: MailboxUser, arguments: str, reply: str) -> None:
    assert wire.command(f"MAIL FROM:{arguments.replace('OWN', user.address)}").startswith(f"{reply} ")
    assert wire.command("RCPT TO:<bo@remote.example>").startswith("503 5.5.1 ")
    assert wire.command(f"MAIL FROM:<{user.address}> SIZE=104857600 AUTH=<>").startswith("250 2.1.0 ")


def test_a_senders_spellings_and_catchall_are_the_accounts(wire: Wire, user: MailboxUser, own_domain: Domain) -> None:
    with db.write():
        add_address(user.account, "", own_domain)
    localpart, _, domain = user.address.partition("@")
    for sender in (f"{localpart}+tag@{domain}", user.address.upper(), f"whatever@{own_domain.name}"):
        assert wire.command(f"MAIL FROM:<{sender}>").startswith("250 2.1.0 ")
        assert wire.command("RCPT TO:<bo@remote.example>").startswith("250 ")
        assert wire.data(message(sender)).startswith("250 ")
        assert queued(user)[-1].sender_localpart == sender.partition("@")[0]
    with db.write():
        Domain.objects.filter(pk=own_domain.pk).update(disabled=True)
    assert wire.command(f"MAIL FROM:<whatever@{own_domain.name}>").startswith("550 5.7.1 ")
    assert send(wire, user, message(f"whatever@{own_domain.name}")).startswith("550 5.7.1 ")


def test_recipients_are_looked_at_in_order(wire: Wire, user: MailboxUser, own_domain: Domain) -> None:
    with db.write():
        Domain.objects.filter(pk=own_domain.pk).update(disabled=True)
    assert wire.command(f"MAIL FROM:<{user.address}>").startswith("250 ")
    for arguments, reply in (
        ("<nobody-of-that-name@localhost>", "550 5.1.1 no such user"),
        (f"<anybody@{own_domain.name}>", "450 4.2.1"),
        ("<mox@localhost>", "250 2.1.0"),
        ("<anybody@elsewhere.example>", "250 2.1.0"),
        ("<bo@[192.0.2.1]>", "250 2.1.0"),
        ("<bo@[IPv6:2001:db8::1]>", "250 2.1.0"),
        ("<@relay.example:bo@far.example>", "250 2.1.0"),
        ("<bo@remote.example> NOTIFY=NEVER", "555 5.3.3"),
        ("<é@remote.example>", "553 5.6.7"),
        ("bo@remote.example", "501 5.5.2 expected a path in angle brackets, at 'bo@remote.example'"),
        ("<bo@remote.example>  ", "501 5.5.2"),
    ):
        assert wire.command(f"RCPT TO:{arguments}").startswith(reply)
    assert wire.data(message(user.address)).startswith("250 ")
    assert [row.recipient for row in queued(user)] == [
        "mox@localhost",
        "anybody@elsewhere.example",
        "bo@[192.0.2.1]",
        "bo@[IPv6:2001:db8::1]",
        "bo@far.example",
    ]


def test_a_thousand_recipients_and_not_one_more(wire: Wire, user: MailboxUser) -> None:
    with db.write():
        Account.objects.filter(pk=user.account.pk).update(max_first_time_recipients_per_day=1000)
    assert wire.command(f"MAIL FROM:<{user.address}>").startswith("250 ")
    wire.send("".join(f"RCPT TO:<u{n}@remote.example>\r\n" for n in range(1001)))
    replies = [wire.reply()[0] for _ in range(1001)]
    assert all(reply.startswith("250 2.1.0 ") for reply in replies[:1000])
    assert replies[1000].startswith("452 4.5.3 ")
    assert wire.data(message(user.address)).startswith("250 ")
    assert QueueMessage.objects.filter(account=user.account).count() == 1000
    # And those were all for today.
    assert send(wire, user, message(user.address)).startswith("451 4.7.1 ")


# Commands.


def test_white_space_at_the_end_is_an_error_and_shown(wire: Wire) -> None:
    for command in ("RSET", "NOOP", "NOOP x", "QUIT", "DATA", "EHLO client.example", "VRFY x"):
        assert wire.command(f"{command} ").startswith("501 5.5.2 white space at the end of a command, at ' ' (")
    assert wire.command("RSET now").startswith("501 5.5.2 this command takes no argument, at ' now' (")
    long = wire.command("MAIL FROM:" + "x" * 1000)
    assert long.count("x") < 110
    assert wire.command("MAIL FROM:é\\\"'").startswith("501 5.5.2 ")


def test_hello_names_are_not_looked_at_but_in_pedantic_mode(service: Service, pedantic_service: Service) -> None:
    nonsense = ("EHLO", "EHLO my pc's name!", "EHLO [fe80::1%eth0]", "HELO .", "EHLO é")
    with service.connect() as wire:
        wire.reply()
        for command in nonsense:
            assert wire.command(command).startswith("250 ")
    with pedantic_service.connect() as wire:
        wire.reply()
        for command in nonsense:
            assert wire.command(command).startswith("501 5.5.2 ")
        assert wire.command("EHLO [2001:db8::1]").startswith("250 ")


def test_pipelined_commands_are_answered_in_one_piece(wire: Wire, user: MailboxUser) -> None:
    wire.send(f"MAIL FROM:<{user.address}>\r\nRCPT TO:<bo@remote.example>\r\nRCPT TO:<x\r\nDATA\r\n")
    received = wire.sock.recv(65536)
    assert [line[:3] for line in received.splitlines()] == [b"250", b"250", b"501", b"354"]
    wire.send(message(user.address) + b"NOOP\r\nQUIT\r\n")
    assert [wire.reply()[0][:9] for _ in range(3)] == ["250 2.2.0", "250 2.0.0", "221 2.0.0"]
    assert len(queued(user)) == 1


def test_a_lower_size_limit(user: MailboxUser) -> None:
    with running(name="submission", listener={"max_message_size": 2000}) as service, service.connect() as wire:
        log_in(wire, user)
        assert wire.command(f"MAIL FROM:<{user.address}> SIZE=2001").startswith("552 5.2.3 ")
        assert send(wire, user, message(user.address, body="x" * 2000)).startswith("552 5.2.3 ")
        assert wire.is_closed()
    assert queued(user) == []


@pytest.mark.parametrize("end", [b"\r\n.\n", b"\n.\n", b"\n.\r\n", b"\r.\r"])
def test_smuggling_is_refused_here_too(wire: Wire, user: MailboxUser, end: bytes) -> None:
    text = message(user.address).removesuffix(b"\r\n.\r\n") + end
    smuggled = f"MAIL FROM:<{user.address}>\r\nRCPT TO:<bo@remote.example>\r\nDATA\r\n".encode() + message(user.address)
    assert send(wire, user, text + smuggled).startswith("500 5.5.2 ")
    assert wire.command("NOOP").startswith("250 ")
    assert queued(user) == []


def test_after_ten_failed_transactions_the_client_is_sent_away(wire: Wire, user: MailboxUser) -> None:
    for _ in range(11):
        assert send(wire, user, message("a@remote.example")).startswith("550 5.7.1 ")
    assert wire.command(f"MAIL FROM:<{user.address}>").startswith("550 5.1.0 ")
    assert wire.is_closed()


# The From header, and what else a message must have.


@pytest.mark.parametrize(
    ("fields", "reply"),
    [
        (["From: <a@remote.example>"], "550 5.7.1"),
        (["From: <mox@localhost>"], "550 5.7.1"),
        (["From: <postmaster@localhost>"], "550 5.7.1"),
        (["From: <OWN>", "From: <OWN>"], "550 5.6.0"),
        (["From: <OWN>", "FROM: <mox@localhost>"], "550 5.6.0"),
        (["From : <OWN>", "From: <mox@localhost>"], "550 5.6.0"),
        (["From: <OWN>, <mox@localhost>"], "550 5.6.0"),
        (["From: <OWN>,", "\t<mox@localhost>"], "550 5.6.0"),
        (["From: group: <OWN>, <mox@localhost>;"], "550 5.6.0"),
        (["From: group: <OWN>;"], "550 5.6.0"),
        (["From: undisclosed-recipients:;"], "550 5.6.0"),
        (["From:"], "550 5.6.0"),
        (["From: OWN <mox@localhost>"], "550 5."),
        (['From: "<OWN>" <mox@localhost>'], "550 5.7.1"),
        (["From: (<OWN>) mox@localhost"], "550 5.7.1"),
        (["From: =?utf-8?q?=3COWN=3E?= <mox@localhost>"], "550 5.7.1"),
        (["From: <OWN\0@remote.example>"], "550 5."),
        (["From: <mox@localhost\u3002>"], "550 5."),
        (["To: bo@remote.example"], "550 5.6.0"),
        (["Sender: <OWN>", "Resent-From: <OWN>"], "550 5.6.0"),
    ],
)
def test_a_from_that_is_not_the_accounts(wire: Wire, user: MailboxUser, fields: list[str], reply: str) -> None:
    files, blobs = stored_files(), Blob.objects.aggregate(last=Max("pk"))
    text = "".join(f"{line}\r\n" for line in fields).replace("OWN", user.address) + "\r\nbody\r\n.\r\n"
    assert send(wire, user, text.encode()).startswith(reply)
    assert queued(user) == []
    assert (stored_files(), Blob.objects.aggregate(last=Max("pk"))) == (files, blobs)
    assert OutgoingRecipient.objects.filter(account=user.account).count() == 0


def test_a_from_in_another_part_is_none(wire: Wire, user: MailboxUser) -> None:
    """Only the header of the message itself counts: a part that is a message has a From of its own."""
    nested = (
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
        "From: <{}>\r\n\r\nbody\r\n--b--\r\n.\r\n"
    )
    without = nested.format(user.address).encode()
    assert send(wire, user, without).startswith("550 5.6.0 ")
    foreign = f"From: <{user.address}>\r\n{nested.format('a@remote.example')}".encode()
    assert send(wire, user, foreign).startswith("250 ")


def test_a_from_may_be_written_in_many_ways(wire: Wire, user: MailboxUser, own_domain: Domain) -> None:
    with db.write():
        bucher = Domain.objects.create(name="xn--bcher-kva.example", unicode_name="bücher.example")
        add_address(user.account, "bo", bucher)
    try:
        for author in (
            user.address,
            f"Jo <{user.address.upper()}>",
            f"=?utf-8?q?J=C3=B6?= (comment) <{user.address.replace('@', '+x@')}>",
            "bo@xn--bcher-kva.example",
            "bo@bücher.example",
            "bo@BÜCHER.example",
        ):
            text = f"From: {author}\r\n\r\nbody\r\n.\r\n".encode()
            assert send(wire, user, text).startswith("250 "), author
    finally:
        with db.write():
            Address.objects.filter(domain=bucher).delete()
            bucher.delete()


@pytest.mark.parametrize(
    "content",
    [b".\r\n", b"From: <OWN>\r\n.\r\n", b"\r\nbody\r\n.\r\n", b"just text\r\n.\r\n", b"just text\r\n\r\n.\r\n"],
)
def test_a_message_has_a_header_and_a_body(wire: Wire, user: MailboxUser, content: bytes) -> None:
    reply = send(wire, user, content.replace(b"OWN", user.address.encode()))
    assert reply.startswith(("554 5.6.0 ", "550 5.6.0 "))
    assert queued(user) == []


def test_a_first_line_that_continues_nothing_does_not_continue_what_is_added(wire: Wire, user: MailboxUser) -> None:
    for first in (b" ;dmarc=pass\r\n", b"\tx\r\n"):
        reply = send(wire, user, first + message(user.address))
        assert not reply.startswith("250 ")
    assert queued(user) == []


def test_what_is_malformed_is_refused_in_pedantic_mode_only(wire: Wire, pedantic: Wire, user: MailboxUser) -> None:
    bad_mime = message(
        user.address, "MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=b", body="no parts\r\n"
    )
    eight_bit = message(user.address, body="é\r\n")
    return_path = message(user.address, "Return-Path: <a@remote.example>")
    utf8 = message(user.address, "X-Name: é")
    for text in (bad_mime, eight_bit, return_path):
        assert send(wire, user, text).startswith("250 ")
    assert send(wire, user, utf8, mail=" BODY=8BITMIME").startswith("250 ")
    assert queued(user)[-1].smtputf8
    assert send(pedantic, user, bad_mime).startswith("554 5.6.0 malformed message: ")
    assert send(pedantic, user, eight_bit).startswith("500 5.6.0 ")
    assert send(pedantic, user, return_path).startswith("550 5.6.0 ")
    assert send(pedantic, user, utf8, mail=" BODY=8BITMIME").startswith("550 5.6.0 ")
    assert send(pedantic, user, eight_bit, mail=" BODY=8BITMIME").startswith("250 ")
    assert send(pedantic, user, utf8, mail=" BODY=8BITMIME SMTPUTF8").startswith("250 ")


def test_the_checks_have_an_order(pedantic: Wire, user: MailboxUser) -> None:
    """Of what is wrong about a message the first is told."""
    own, foreign = f"From: <{user.address}>", "From: <a@remote.example>"
    rest = ["X-Mox-Extra-A: 1", "X-Mox-Extra-A: 2"]
    mime = ["MIME-Version: 1.0", "Content-Type: multipart/mixed; boundary=b"]

    def reply(*fields: str, body: str = "body") -> str:
        return send(pedantic, user, "".join(f"{line}\r\n" for line in (*fields, "", body, ".")).encode())

    assert reply(foreign, foreign, "Return-Path: <>", *mime, *rest, body="é").startswith("554 5.6.0 malformed ")
    assert reply(foreign, foreign, "Return-Path: <>", *rest, body="é").startswith("500 5.6.0 ")
    assert reply(foreign, foreign, "Return-Path: <>", *rest).startswith("550 5.6.0 ")
    assert reply(foreign, "Return-Path: <>", *rest).startswith("550 5.7.1 ")
    assert "Return-Path" in reply(own, "Return-Path: <>", *rest)
    with db.write():
        Account.objects.filter(pk=user.account.pk).update(
            max_outgoing_messages_per_day=2, max_first_time_recipients_per_day=1
        )
    with db.write():
        limits.record(user.account.pk, ["old@remote.example"] * 2, datetime.now(UTC))
    assert "max_outgoing_messages_per_day" in reply(own, *rest)


# Limits, and senders that are unique to a message.


def test_messages_are_limited_by_their_recipients_in_24_hours(wire: Wire, user: MailboxUser) -> None:
    with db.write():
        Account.objects.filter(pk=user.account.pk).update(max_outgoing_messages_per_day=3)
    assert send(wire, user, message(user.address), "a@remote.example", "b@remote.example").startswith("250 ")
    reply = send(wire, user, message(user.address), "a@remote.example", "b@remote.example")
    assert reply.startswith("451 4.7.1 ")
    assert "3 messages" in reply
    assert "max_outgoing_messages_per_day" in reply
    assert send(wire, user, message(user.address), "a@remote.example").startswith("250 ")
    assert send(wire, user, message(user.address), "a@remote.example").startswith("451 4.7.1 ")
    assert len(queued(user)) == 3
    day_ago = datetime.now(UTC) - timedelta(hours=24, seconds=1)
    OutgoingRecipient.objects.filter(account=user.account).update(submitted=day_ago)
    assert send(wire, user, message(user.address), "a@remote.example").startswith("250 ")


def test_recipients_that_are_new_to_the_account_are_limited(wire: Wire, user: MailboxUser) -> None:
    with db.write():
        Account.objects.filter(pk=user.account.pk).update(max_first_time_recipients_per_day=2)
        limits.record(user.account.pk, ["old@remote.example"], datetime.now(UTC) - timedelta(days=2))
    assert send(wire, user, message(user.address), "a@remote.example", "b@remote.example").startswith("250 ")
    reply = send(wire, user, message(user.address), "c@remote.example")
    assert reply.startswith("451 4.7.1 ")
    assert "max_first_time_recipients_per_day" in reply
    assert send(wire, user, message(user.address), "a@remote.example", "old@remote.example").startswith("250 ")


@contextlib.contextmanager
def from_id_login(user: MailboxUser) -> Iterator[None]:
    address = Address.objects.get(account=user.account)
    with db.write():
        row = FromIDLoginAddress.objects.create(account=user.account, address=address)
    yield
    with db.write():
        row.delete()


def test_each_recipient_gets_a_sender_of_its_own(wire: Wire, user: MailboxUser) -> None:
    localpart = user.account.name
    with from_id_login(user):
        assert send(wire, user, message(user.address), "a@remote.example", "b@remote.example").startswith("250 ")
    rows = queued(user)
    assert [row.base_id for row in rows] == [0, 0]
    assert len({row.from_id for row in rows}) == 2
    for row in rows:
        assert re.fullmatch(r"[\w-]{22}", row.from_id)
        assert row.sender == f"{localpart}+{row.from_id}@localhost"
        assert f"smtp.mailfrom={user.address}\r\n".encode() in re.sub(rb"\r\n[\t ]", b" ", bytes(row.prefix))


def test_a_client_may_choose_the_id(wire: Wire, user: MailboxUser) -> None:
    def reply(sender: str, *recipients: str) -> str:
        assert wire.command(f"MAIL FROM:<{sender}@localhost>").startswith("250 ")
        for recipient in recipients:
            assert wire.command(f"RCPT TO:<{recipient}>").startswith("250 ")
        return wire.data(message(user.address))

    chosen = f"order-{user.account.pk}"
    with from_id_login(user):
        localpart = user.account.name
        assert reply(f"{localpart}+{chosen}", "a@remote.example", "b@remote.example").startswith("554 5.5.3 ")
        assert reply(f"{localpart}+{chosen}", "a@remote.example").startswith("250 ")
        assert reply(f"{localpart}+{chosen}", "b@remote.example").startswith("554 5.1.7 ")
        assert reply(f"{localpart}+", "a@remote.example", "b@remote.example").startswith("250 ")
    assert [row.from_id for row in queued(user)] == [chosen, "", ""]
    assert FromID.objects.filter(from_id=chosen).count() == 1


# FUTURERELEASE.


def test_a_message_is_held_back_until_its_time(wire: Wire, user: MailboxUser) -> None:
    now = datetime.now(UTC)
    until = (now + timedelta(days=3)).replace(microsecond=0)
    request = f"{until:%Y-%m-%dT%H:%M:%SZ}"
    assert send(wire, user, message(user.address), mail=" HOLDFOR=3600").startswith("250 ")
    assert send(wire, user, message(user.address), mail=f" HOLDUNTIL={request}").startswith("250 ")
    assert send(wire, user, message(user.address), mail=" HOLDFOR=0").startswith("250 ")
    first, second, third = queued(user)
    assert abs(first.next_attempt - now - timedelta(hours=1)) < timedelta(minutes=1)
    assert second.next_attempt == until
    assert abs(third.next_attempt - now) < timedelta(minutes=1)
    assert [row.future_release_request for row in (first, second, third)] == ["for;3600", f"until;{request}", "for;0"]


# What goes wrong here.


def test_an_account_that_is_removed_meanwhile(service: Service, user: MailboxUser) -> None:
    leaving = create_account("leaving-sender", "leaving-sender", Domain.objects.get(name="localhost"))
    set_password(leaving, user.password)
    with service.connect() as wire:
        log_in(wire, MailboxUser(leaving, "leaving-sender@localhost"))
        assert wire.command("MAIL FROM:<leaving-sender@localhost>").startswith("250 ")
        assert wire.command("RCPT TO:<bo@remote.example>").startswith("250 ")
        assert wire.command("DATA").startswith("354 ")
        with db.write():
            Address.objects.filter(account=leaving).delete()
            leaving.delete()
        files = stored_files()
        wire.send(message("leaving-sender@localhost"))
        assert wire.reply()[0].startswith("550 5.7.1 ")
    assert stored_files() == files


def test_a_whole_session(pedantic_service: Service, user: MailboxUser) -> None:
    plain = base64.b64encode(f"\0{user.address}\0{user.password}".encode()).decode()
    with pedantic_service.connect() as wire:
        play(
            wire,
            f"""
            S: 220 localhost ESMTP mox
            C: EHLO client.example
            S: 250-localhost
            S: ...
            C: AUTH LOGIN
            S: 334 VXNlcm5hbWU6
            C: *
            S: 501 5.5.0 login cancelled ...
            C: AUTH PLAIN {plain}
            S: 235 2.7.0 logged in
            C: MAIL FROM:<{user.address}> BODY=8BITMIME
            S: 250 2.1.0 ...
            C: RCPT TO:<bo@remote.example>
            S: 250 2.1.0 ...
            C: DATA
            S: 354 ...
            C: From: Jo <{user.address}>
            C: Subject: Grüße
            C:
            C: ..dot
            C: .
            S: 550 5.6.0 message needs SMTPUTF8...
            C: MAIL FROM:<{user.address}> BODY=8BITMIME SMTPUTF8
            S: 250 2.1.0 ...
            C: RCPT TO:<bo@remote.example>
            S: 250 2.1.0 ...
            C: DATA
            S: 354 ...
            C: From: Jo <{user.address}>
            C: Subject: Grüße
            C:
            C: ..dot
            C: .
            S: 250 2.2.0 message is queued
            C: RSET
            S: 250 2.0.0 ...
            C: QUIT
            S: 221 2.0.0 ...
            S: <closed>
            """,
        )
    (row,) = queued(user)
    assert row.subject == "Grüße"
    assert stored(row).endswith(b"\r\n\r\n.dot\r\n")
