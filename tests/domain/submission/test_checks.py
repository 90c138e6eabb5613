"""Whose name a message may bear, what it must have, how many there may be: all refusals, in their order."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.db.models import F, Max
from prometheus_client import REGISTRY

from accounts.accounts import add_address
from accounts.aliases import add_alias, update_alias
from accounts.fromidlogins import set_logins
from accounts.models import Account, Address, Domain
from mailqueue import limits
from mailqueue.models import FromID, OutgoingCount, OutgoingRecipient
from server import db
from store.models import Blob
from tests.domain.submission.sending import message, queued, send, stored_files
from tests.system.conftest import MailboxUser
from tests.system.smtp_wire import Wire

pytestmark = pytest.mark.database


# The From header, and what else a message must have.


def test_a_member_sends_as_an_alias_that_lets_it(wire: Wire, user: MailboxUser) -> None:
    name = f"as-{user.account.name}@localhost"
    alias = add_alias(name, [user.address])
    assert wire.command(f"MAIL FROM:<{name}>").startswith("550 5.7.1 ")
    assert send(wire, user, message(name)).startswith("550 5.7.1 ")
    update_alias(alias, allow_msg_from=True)
    assert send(wire, user, message(name.upper())).startswith("250 2.2.0 ")
    assert wire.command(f"MAIL FROM:<{name.replace('@', '+x@')}>").startswith("250 2.1.0 ")
    assert wire.command(f"RCPT TO:<{name}>").startswith("250 2.1.0 ")
    assert wire.data(message(name)).startswith("250 2.2.0 ")
    assert [row.recipient for row in queued(user)] == ["bo@remote.example", name]


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
        limits.record(limits.use(user.account.pk, ["old@remote.example"] * 2, datetime.now(UTC)))
    assert "max_outgoing_messages_per_day" in reply(own, *rest)


def test_what_becomes_of_submissions_is_counted(wire: Wire, user: MailboxUser) -> None:
    def count(result: str) -> float:
        return REGISTRY.get_sample_value("mox_smtpserver_submission_total", {"result": result}) or 0.0

    with db.write():
        Account.objects.filter(pk=user.account.pk).update(max_outgoing_messages_per_day=1)
    for content, result in (
        (b"no header\r\n.\r\n", "badmessage"),
        (message("a@remote.example"), "badfrom"),
        (message(user.address, "From: <a@remote.example>"), "badheader"),
        (message(user.address), "ok"),
        (message(user.address), "messagelimiterror"),
    ):
        before = count(result)
        send(wire, user, content)
        assert count(result) == before + 1


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
    passed = timedelta(hours=24, seconds=1)
    OutgoingRecipient.objects.filter(account=user.account).update(submitted=F("submitted") - passed)
    OutgoingCount.objects.filter(account=user.account).update(since=F("since") - passed)
    assert send(wire, user, message(user.address), "a@remote.example").startswith("250 ")


def test_recipients_that_are_new_to_the_account_are_limited(wire: Wire, user: MailboxUser) -> None:
    with db.write():
        Account.objects.filter(pk=user.account.pk).update(max_first_time_recipients_per_day=2)
        limits.record(limits.use(user.account.pk, ["old@remote.example"], datetime.now(UTC) - timedelta(days=2)))
    assert send(wire, user, message(user.address), "a@remote.example", "b@remote.example").startswith("250 ")
    reply = send(wire, user, message(user.address), "c@remote.example")
    assert reply.startswith("451 4.7.1 ")
    assert "max_first_time_recipients_per_day" in reply
    assert send(wire, user, message(user.address), "a@remote.example", "old@remote.example").startswith("250 ")


@contextlib.contextmanager
def from_id_login(user: MailboxUser) -> Iterator[None]:
    set_logins(user.account, [user.address])
    yield
    set_logins(user.account, [])


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
