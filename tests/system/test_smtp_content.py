"""What becomes of a message: its bytes, the header lines before it, what is recorded about it, and what is refused."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import Account
from store.content import message_reader
from store.models import Message
from tests.system.conftest import MailboxUser
from tests.system.servers import Server
from tests.system.smtp_wire import Wire

PLAIN = b"From: Jan <jan@author.example>\r\nSubject: x\r\n\r\nbody\r\n"


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.ip, server.smtp_port) as connected:
        yield connected.hello()


def messages(account: Account) -> list[Message]:
    return list(Message.objects.filter(account=account, expunged=False).order_by("pk"))


def whole(message: Message) -> bytes:
    with message_reader(message.pk) as reader:
        return reader.read()


def content(message: Message) -> bytes:
    return whole(message)[len(bytes(message.prefix)) :]


def the_message(account: Account) -> Message:
    (message,) = messages(account)
    return message


def test_the_prefix_tells_the_way_the_message_took(wire: Wire, mailbox_user: MailboxUser) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    address = mailbox_user.address.replace("@", "+tag@")
    wire.begin(address)
    assert wire.data(PLAIN + b".\r\n").startswith("250 2.2.0 ")
    message = the_message(mailbox_user.account)
    lines = whole(message).split(b"\r\n")
    assert lines[0] == b"X-Mox-Reason: no-bad-signals"
    fields = [line for line in lines if line[:1] not in (b" ", b"\t")]
    assert fields[1].startswith(b"X-Mox-Explanation: reputation by none says nothing")
    assert fields[2] == f"Delivered-To: {address}".encode()
    assert fields[3] == b"Return-Path: <sender@remote.example>"
    names = [line.partition(b":")[0] for line in lines if line[:1] not in (b" ", b"\t")]
    assert names[4:7] == [b"Authentication-Results", b"Received-SPF", b"Received"]
    received = email.message_from_bytes(whole(message), policy=email.policy.default)["Received"]
    text = re.sub(r"\s+", " ", received)
    match = re.fullmatch(
        r"from client\.example \(\[127\.[\d.]+\]\) by localhost \(\[127\.[\d.]+\]\) via tcp with ESMTP "
        rf"id [\w-]{{22}} for <{re.escape(address)}>; (\d+ \w{{3}} \d{{4}} [\d:]{{8}} \+0000)",
        text,
    )
    assert match is not None, text
    assert max(map(len, bytes(message.prefix).split(b"\r\n"))) <= 78
    stamp = datetime.strptime(match[1], "%d %b %Y %H:%M:%S %z")
    assert before - timedelta(seconds=1) <= stamp <= datetime.now(UTC)
    assert content(message) == PLAIN
    assert message.size == len(whole(message))


def test_what_is_known_about_the_sender_is_recorded(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.begin(mailbox_user.address, sender="Bounce+1@Remote.example")
    wire.data(PLAIN + b".\r\n")
    message = the_message(mailbox_user.account)
    client = wire.sock.getsockname()[0]
    assert (message.remote_ip, message.remote_ip_masked1) == (client, client)
    assert message.remote_ip_masked2 == client.rpartition(".")[0] + ".0"
    assert message.remote_ip_masked3 == message.remote_ip_masked2  # the test's addresses are the first of a /21
    assert message.ehlo_domain == "client.example"
    assert message.mail_from == "Bounce+1@remote.example"
    assert (message.mail_from_localpart, message.mail_from_domain) == ("Bounce+1", "remote.example")
    assert f"{message.rcpt_to_localpart}@{message.rcpt_to_domain}" == mailbox_user.address
    assert (message.msg_from_localpart, message.msg_from_domain) == ("jan", "author.example")
    assert (message.received_tls_version, message.received_tls_ciphersuite) == (1, "")
    assert not message.received_require_tls


def test_tls_is_recorded(server: Server, mailbox_user: MailboxUser) -> None:
    with Wire(server.ip, server.smtp_port) as wire:
        wire.hello()
        assert wire.command("STARTTLS").startswith("220 ")
        wire.start_tls(server.certificate)
        wire.send("EHLO [IPv6:2001:db8::1]\r\n")
        wire.reply()
        wire.send(f"MAIL FROM:<> REQUIRETLS\r\nRCPT TO:<{mailbox_user.address}>\r\n")
        assert wire.reply()[0].startswith("250 ")
        assert wire.reply()[0].startswith("250 ")
        assert wire.data(PLAIN + b".\r\n").startswith("250 2.2.0 ")
    message = the_message(mailbox_user.account)
    assert message.received_tls_version == 0x0304
    assert message.received_tls_ciphersuite.startswith("TLS_")
    assert message.received_require_tls
    assert (message.mail_from, message.ehlo_domain) == ("", "")
    text = re.sub(rb"\s+", b" ", bytes(message.prefix))
    assert b"Return-Path: <> Authentication-Results: " in text
    assert b" Received: from [IPv6:2001:db8::1] ([127." in text
    assert b"with ESMTPS (requiretls) id " in text
    assert b" (TLS1.3 TLS_" in text


def test_helo_is_smtp(server: Server, mailbox_user: MailboxUser) -> None:
    with Wire(server.ip, server.smtp_port) as wire:
        wire.reply()
        assert wire.command("HELO client.example") == "250 localhost"
        wire.begin(mailbox_user.address)
        wire.data(PLAIN + b".\r\n")
    assert b"with SMTP id" in re.sub(rb"\s+", b" ", bytes(the_message(mailbox_user.account).prefix))


def test_each_recipient_has_its_own_copy_and_one_named_twice_has_one(
    wire: Wire, new_user: Callable[[], MailboxUser]
) -> None:
    first, second = new_user(), new_user()
    wire.begin(first.address, second.address, first.address)
    assert wire.data(PLAIN + b".\r\n").startswith("250 2.2.0 ")
    one, two = the_message(first.account), the_message(second.account)
    assert f"\r\nDelivered-To: {first.address}\r\n".encode() in bytes(one.prefix)
    assert f"\r\nDelivered-To: {second.address}\r\n".encode() in bytes(two.prefix)
    assert one.blob_id == two.blob_id


def test_content_without_a_header_is_the_body_of_a_message(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.begin(mailbox_user.address)
    wire.data(b"no header here\r\n\r\nreally\r\n.\r\n")
    header, _, body = whole(the_message(mailbox_user.account)).partition(b"\r\n\r\n")
    assert header.startswith(b"X-Mox-Reason: ")
    assert body == b"no header here\r\n\r\nreally\r\n"


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        (b"..\r\n.a\r\n...\r\n", b".\r\na\r\n..\r\n"),
        (b"x" * 20_000 + b"\r\n", b"x" * 20_000 + b"\r\n"),
        (b"\x00\x01\xff binary \x80\r\n", b"\x00\x01\xff binary \x80\r\n"),
        (b"line\r\n" * 500_000, b"line\r\n" * 500_000),  # through a temporary file
        (b"", b""),
    ],
    ids=["dots", "long line", "binary", "three megabytes", "empty"],
)
def test_the_body_is_stored_as_sent(wire: Wire, mailbox_user: MailboxUser, sent: bytes, stored: bytes) -> None:
    wire.begin(mailbox_user.address)
    assert wire.data(b"Subject: x\r\n\r\n" + sent + b".\r\n").startswith("250 2.2.0 ")
    assert content(the_message(mailbox_user.account)) == b"Subject: x\r\n\r\n" + stored


SMUGGLING = [b"\r\n.\n", b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\n"]


@pytest.mark.parametrize("end", SMUGGLING)
def test_a_smuggled_message_is_neither_delivered_nor_run(wire: Wire, mailbox_user: MailboxUser, end: bytes) -> None:
    """Every end of a message that other servers take for one, and in pedantic mode any bare LF."""
    wire.begin(mailbox_user.address)
    smuggled = b"MAIL FROM:<evil@remote.example>\r\nRCPT TO:<" + mailbox_user.address.encode() + b">\r\nDATA\r\nx\r\n"
    wire.send(b"DATA\r\n")
    assert wire.reply()[0].startswith("354 ")
    wire.send(b"Subject: x\r\n\r\nfirst" + end + smuggled + b".\r\nNOOP\r\n")
    assert "possible SMTP smuggling" in wire.reply()[0]
    assert wire.reply() == ["250 2.0.0 nothing done"]
    assert messages(mailbox_user.account) == []
    wire.begin(mailbox_user.address)
    assert wire.data(PLAIN + b".\r\n").startswith("250 2.2.0 ")


def test_more_than_a_hundred_received_headers_are_a_loop(wire: Wire, mailbox_user: MailboxUser) -> None:
    hop = b"Received: from a\r\n\tby b\r\n"
    wire.begin(mailbox_user.address)
    assert wire.data(b"RECEIVED: x\r\n" + hop * 100 + b"\r\n.\r\n").startswith("550 5.4.6 ")
    wire.begin(mailbox_user.address)
    assert wire.data(hop * 100 + b"\r\n" + hop * 10 + b".\r\n").startswith("250 2.2.0 ")
    assert len(messages(mailbox_user.account)) == 1


BROKEN_MIME = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: a/b/c\r\n\r\n--y\r\n"


def test_broken_mime_is_delivered(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.begin(mailbox_user.address)
    assert wire.data(BROKEN_MIME + b".\r\n").startswith("250 2.2.0 ")
    assert content(the_message(mailbox_user.account)) == BROKEN_MIME


def test_internationalised_mail_says_so_on_its_way(wire: Wire, mailbox_user: MailboxUser) -> None:
    address = mailbox_user.address.replace("@", "+é@")
    wire.send(f"MAIL FROM:<a@bücher.example> SMTPUTF8\r\nRCPT TO:<{address}>\r\n")
    assert wire.reply()[0].startswith("250 ")
    assert wire.reply()[0].startswith("250 ")
    assert wire.data(PLAIN + b".\r\n").startswith("250 2.2.0 ")
    message = the_message(mailbox_user.account)
    prefix = re.sub(r"\s+", " ", bytes(message.prefix).decode())
    assert f"Delivered-To: {address} Return-Path: <a@bücher.example> " in prefix
    assert " with UTF8SMTP id " in prefix
    assert message.mail_from_domain == "bücher.example"


def test_the_flag_alone_makes_no_internationalised_mail(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.send(f"MAIL FROM:<a@xn--bcher-kva.example> SMTPUTF8\r\nRCPT TO:<{mailbox_user.address}>\r\n")
    wire.reply()
    wire.reply()
    assert wire.data(b"Subject: x\r\n\r\nb\xc3\xbccher\r\n.\r\n").startswith("250 2.2.0 ")
    prefix = bytes(the_message(mailbox_user.account).prefix)
    assert b"with ESMTP id" in re.sub(rb"\s+", b" ", prefix)
    assert b"Return-Path: <a@xn--bcher-kva.example>\r\n" in prefix


def test_pedantry_wants_smtputf8_for_headers_outside_ascii(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.begin(mailbox_user.address)
    assert wire.data(b"Subject: b\xc3\xbccher\r\n\r\nx\r\n.\r\n").startswith("550 5.6.0 ")
    assert messages(mailbox_user.account) == []
