"""MAIL and RCPT of users, and what commands may look like here."""

from __future__ import annotations

import pytest

from accounts.accounts import add_address
from accounts.models import Account, Domain
from mailqueue.models import QueueMessage
from server import db
from tests.domain.smtp_service import Service, running
from tests.domain.submission.sending import log_in, message, queued, send
from tests.system.conftest import MailboxUser
from tests.system.smtp_wire import Wire

pytestmark = pytest.mark.database


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
