"""A message that some of its recipients get, and others do not: its sender is told by a DSN, or nobody gets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from accounts.models import Account, Route
from mailqueue.models import MessageKind, QueueMessage
from protocols import dsn
from server import db
from server.models import ServerSettings
from store.models import Message
from tests.domain.queueing import address_of, deliver_due, route_to
from tests.domain.smtp_service import Service, running
from tests.sinks import sink
from tests.system.smtp_wire import Wire

pytestmark = pytest.mark.database

HEADER = b"From: <sender@remote.example>\r\nSubject: hello\r\nMessage-Id: <orig@remote.example>\r\n"
MESSAGE = HEADER + b"\r\nsecret body\r\n.\r\n"
NOBODY = "nobody-of-that-name@localhost"
SENDER = "sender@remote.example"


@pytest.fixture(scope="module")
def service(database: None) -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    with service.connect() as connected:
        yield connected.hello()
    QueueMessage.objects.filter(kind=MessageKind.DSN).delete()


def inbox(account: Account) -> int:
    return Message.objects.filter(account=account, mailbox__name="Inbox", expunged=False).count()


def queued() -> QueueMessage:
    return QueueMessage.objects.get(kind=MessageKind.DSN)


def set_postmaster(name: str) -> None:
    row = ServerSettings.objects.get()
    row.postmaster_account = name
    row.save()


def content(row: QueueMessage, *, smtputf8: bool = False) -> bytes:
    with row.reader(smtputf8=smtputf8) as reader:
        return reader.read()


def test_the_sender_is_told_of_those_who_did_not_get_it(wire: Wire, account: Account) -> None:
    wire.begin(NOBODY, address_of(account), "other-nobody@localhost", sender=SENDER)
    assert wire.data(MESSAGE).startswith("250 2.2.0 ")
    assert inbox(account) == 1
    row = queued()
    assert (row.sender, row.recipient, row.require_tls) == ("", SENDER, None)
    assert row.account_name == ServerSettings.current().postmaster_account
    raw = content(row)
    told, _ = dsn.parse(raw)
    assert (told.from_.text(), told.to.text(), told.references) == (
        "postmaster@localhost",
        SENDER,
        "<orig@remote.example>",
    )
    assert [(r.final.text(), r.action, r.status) for r in told.recipients] == [
        (NOBODY, dsn.Action.FAILED, "5.1.1"),
        ("other-nobody@localhost", dsn.Action.FAILED, "5.1.1"),
    ]
    assert told.received_from is not None
    assert str(told.received_from.ip).startswith("127.")
    assert b"\r\nSubject: hello\r\n" in raw
    assert b"secret body" not in raw
    assert raw.startswith(b"DKIM-Signature: ")


def test_it_goes_out_signed_in_the_form_that_its_server_takes(wire: Wire, account: Account) -> None:
    wire.begin(address_of(account))
    wire.send("RSET\r\nMAIL FROM:<ü@remote.example> SMTPUTF8\r\n")
    assert [wire.reply()[0][:3] for _ in range(2)] == ["250", "250"]
    for recipient in (address_of(account), "nöbody@localhost"):
        assert wire.command(f"RCPT TO:<{recipient}>").startswith("250 ")
    assert wire.data(MESSAGE).startswith("250 2.2.0 ")
    row = queued()
    assert row.smtputf8
    assert b"\r\nFinal-Recipient: rfc822;n\\x{f6}body@localhost\r\n" in content(row)
    postmaster = Account.objects.get(name=row.account_name)
    with sink() as server:
        transport = route_to(server, postmaster)
        try:
            deliver_due()
        finally:
            Route.objects.filter(transport=transport).delete()
            transport.delete()
        (received,) = server.received
    assert "\r\nFinal-Recipient: utf-8;nöbody@localhost\r\n" in received.content.decode()
    assert received.content.count(b"DKIM-Signature: ") == 1


def test_a_full_mailbox_fails_alone(wire: Wire, account: Account, new_account: Callable[[], Account]) -> None:
    """Only the transaction knows of it, when the DSN has been written already for the others."""
    full = new_account()
    with db.write():
        Account.objects.filter(pk=full.pk).update(quota_message_size=100)
    wire.begin(address_of(full), address_of(account), NOBODY, sender=SENDER)
    assert wire.data(MESSAGE).startswith("250 2.2.0 ")
    assert (inbox(account), inbox(full)) == (1, 0)
    told, _ = dsn.parse(content(queued()))
    found = {r.final.text(): (r.status, r.diagnostic) for r in told.recipients}
    assert found[address_of(full)] == ("5.2.2", "452 4.2.2 mailbox is full, try again later")
    assert found[NOBODY][0] == "5.1.1"


def test_a_message_that_nobody_can_be_told_of_reaches_nobody(wire: Wire, account: Account) -> None:
    set_postmaster("gone")
    try:
        wire.begin(address_of(account), NOBODY, sender=SENDER)
        assert wire.command("DATA").startswith("354 ")
        wire.send(MESSAGE)
        lines = wire.reply()
    finally:
        set_postmaster("mox")
    assert lines[0] == f"550-5.1.1 <{NOBODY}>: no such user"
    assert lines[1].startswith("550 5.1.1 the other recipients did not get the message either (")
    assert inbox(account) == 0
    assert not QueueMessage.objects.filter(kind=MessageKind.DSN).exists()


def test_nothing_is_queued_where_all_get_it_or_none_does(wire: Wire, account: Account) -> None:
    wire.begin(NOBODY, sender=SENDER)
    assert wire.data(MESSAGE).startswith("550 5.1.1 ")
    wire.begin(address_of(account), sender=SENDER)
    assert wire.data(MESSAGE).startswith("250 ")
    assert not QueueMessage.objects.filter(kind=MessageKind.DSN).exists()
