"""Clients on the submission ports that mean harm: passwords guessed, commands slipped in, senders forged."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from mailqueue.models import HoldRule, QueueMessage
from protocols.sasl.client import Plain
from server import db
from tests.system.conftest import MailboxUser
from tests.system.imap.wire import Wire as IMAPWire
from tests.system.servers import Server, source_ip
from tests.system.smtp_wire import Wire

FAILURES_MAX = 10  # failed logins of an address in a minute (smtp.md 3)


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.ip, server.submission_port) as connected:
        yield connected


@pytest.fixture
def user(mailbox_user: MailboxUser) -> Iterator[MailboxUser]:
    """Somebody whose messages stay in the queue until the test is over."""
    with db.write():
        rule = HoldRule.objects.create(account=mailbox_user.account)
    yield mailbox_user
    with db.write():
        QueueMessage.objects.filter(account=mailbox_user.account).delete()
        rule.delete()


def fail_by_smtp(server: Server, user: MailboxUser, source: str) -> bool:
    """A wrong password on a connection of its own; False where that is turned away."""
    with Wire(server.ip, server.submission_port, source) as wire:
        greeting = wire.reply()[0]
        if greeting.startswith("421 4.7.0 "):
            assert wire.is_closed()
            return False
        assert wire.command("EHLO client.example").startswith("250 ")
        assert wire.authenticate(Plain(user.address, "wrong-password")).startswith("535 5.7.8 ")
    return True


def fail_by_imap(server: Server, user: MailboxUser, source: str) -> bool:
    wire = IMAPWire(server.ip, server.imap_port, source=source)
    try:
        assert wire.greeting is not None
        if wire.greeting.name == "BYE":
            return False
        wire.no(f"LOGIN {user.address} wrong-password", code="AUTHENTICATIONFAILED")
    finally:
        wire.close()
    return True


def failures_until_refused(server: Server, user: MailboxUser, source: str) -> int:
    failures = 0
    while failures < 4 * FAILURES_MAX:
        for fail in (fail_by_smtp, fail_by_imap):
            if not fail(server, user, source):
                return failures
            failures += 1
    return failures


def test_guessing_passwords_is_limited_over_connections_and_services(server: Server, user: MailboxUser) -> None:
    source = source_ip()
    with Wire(server.ip, server.submission_port, source) as early:
        early.hello()
        failures = failures_until_refused(server, user, source)
        if failures > FAILURES_MAX:  # the minute turned meanwhile, and the counting began again
            failures = failures_until_refused(server, user, source)
        assert failures <= FAILURES_MAX
        # A connection from before has no more tries either, not even with the right password.
        assert early.authenticate(Plain(user.address, user.password)).startswith("454 4.7.0 ")
        assert early.command("NOOP").startswith("250 ")
    with Wire(server.ip, server.submissions_port, source) as over_tls:
        assert over_tls.start_tls(server.certificate).reply()[0].startswith("421 4.7.0 ")
    with Wire(server.ip, server.smtp_port, source) as reception:
        reception.hello()  # mail from other servers goes on
    with Wire(server.ip, server.submission_port) as elsewhere:
        assert elsewhere.hello().authenticate(Plain(user.address, user.password)).startswith("235 ")


@pytest.mark.parametrize("injected", [b"RSET\r\n", b"AUTH PLAIN AG1veABtb3htb3htb3g=\r\n", b"NOOP\r\n" * 1000])
def test_commands_injected_behind_starttls_are_never_run(server: Server, wire: Wire, injected: bytes) -> None:
    wire.hello()
    wire.send(b"STARTTLS\r\n" + injected)
    assert wire.reply() == ["220 2.0.0 go on with TLS"]
    try:
        wire.start_tls(server.certificate)
    except (ssl.SSLError, ConnectionError):
        return  # they were given to the handshake, which failed on them
    wire.send("EHLO after.example\r\n")
    assert wire.reply()[0] == "250-localhost"  # the first thing said within TLS
    assert wire.command("MAIL FROM:<mox@localhost>").startswith("530 5.7.0 ")


def test_commands_behind_a_login_in_one_packet_are_run_after_it(wire: Wire, user: MailboxUser) -> None:
    """They came from whoever knows the password. What follows a challenge is taken for the answer to it."""
    wire.hello()
    wire.send(f"AUTH LOGIN\r\nMAIL FROM:<{user.address}>\r\nNOOP\r\n")
    assert wire.reply() == ["334 VXNlcm5hbWU6"]
    assert wire.reply()[0].startswith("501 5.5.2 response is not base64")
    assert wire.reply()[0].startswith("250 2.0.0 ")
    assert wire.command(f"MAIL FROM:<{user.address}>").startswith("530 5.7.0 ")


def test_nothing_can_be_put_in_the_header_by_way_of_the_envelope(wire: Wire, user: MailboxUser) -> None:
    wire.hello()
    assert wire.command("EHLO x\rX-Evil: 1").startswith("500 5.5.2 ")
    assert wire.authenticate(Plain(user.address, user.password)).startswith("235 ")
    localpart, _, domain = user.address.partition("@")
    assert wire.command(f'MAIL FROM:<"{localpart}+\rX-Evil: 1"@{domain}>').startswith("50")
    odd = f'"{localpart}+; auth=fail (=?x"@{domain}'
    assert wire.command(f"MAIL FROM:<{odd}>").startswith("250 ")
    assert wire.command('RCPT TO:<"a\\\r\nX-Evil: 1"@remote.example>').startswith("50")
    assert wire.reply()[0].startswith("500 ")  # X-Evil is a command of its own
    assert wire.command('RCPT TO:<"a; X-Evil: 1"@remote.example>').startswith("250 ")
    assert wire.data(f"From: <{user.address}>\r\nSubject: x\r\n\r\n.\r\n".encode()).startswith("250 ")
    row = QueueMessage.objects.get(account=user.account)
    lines = bytes(row.prefix).decode().split("\r\n")
    names = [line.partition(":")[0] for line in lines if line[:1] not in ("", "\t", " ")]
    assert names == ["Received", "Message-Id", "Date", "DKIM-Signature", "Authentication-Results"]
    assert f"smtp.mailfrom={odd}" in bytes(row.prefix).decode().replace("\r\n\t", " ")


def test_a_login_that_never_goes_on_holds_nobody_up(server: Server, user: MailboxUser) -> None:
    waiting = [Wire(server.ip, server.submission_port).hello() for _ in range(20)]
    try:
        for wire in waiting:
            assert wire.command("AUTH SCRAM-SHA-256").startswith("334 ")
        began = time.monotonic()
        with Wire(server.ip, server.submission_port) as other:
            assert other.hello().authenticate(Plain(user.address, user.password)).startswith("235 ")
        assert time.monotonic() - began < 5
    finally:
        for wire in waiting:
            wire.sock.close()


def test_many_who_log_in_at_once_keep_reception_going(server: Server, user: MailboxUser) -> None:
    """Each wrong password costs a hash on purpose; other connections go on meanwhile."""
    results: list[str] = []

    def guess() -> None:
        with Wire(server.ip, server.submission_port) as wire:
            wire.hello()
            results.extend(wire.authenticate(Plain(user.address, "wrong-password"))[:9] for _ in range(3))

    threads = [threading.Thread(target=guess) for _ in range(16)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        began = time.monotonic()
        with Wire(server.ip, server.smtp_port) as wire:
            wire.hello()
        slowest = max(slowest, time.monotonic() - began)
    for thread in threads:
        thread.join()
    assert results == ["535 5.7.8"] * 48
    assert slowest < 5
