"""Clients that mean harm, or behave as if: nobody else notices, and they leave nothing behind."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.models import Message
from tests.system.conftest import MailboxUser
from tests.system.servers import Server
from tests.system.smtp_wire import Wire

SOON = 20.0  # seconds to wait for what must happen by itself


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.ip, server.smtp_port) as connected:
        yield connected


def count(user: MailboxUser) -> int:
    return Message.objects.filter(account=user.account, expunged=False).count()


def temporary_files(server: Server) -> list[str]:
    """Files that the mail process has open in its directory for spools; they have no name there."""
    folder = Path(f"/proc/{server.child_pid('mail-1')}/fd")
    found = []
    for descriptor in os.listdir(folder):
        try:
            target = os.readlink(folder / descriptor)
        except FileNotFoundError:
            continue
        if target.startswith(str(server.directory / "tmp")):
            found.append(target)
    return found


def wait_until_none_are_left(server: Server) -> None:
    deadline = time.monotonic() + SOON
    while left := temporary_files(server):
        assert time.monotonic() < deadline, f"temporary files stay open: {left}"
        os.sched_yield()


@pytest.mark.parametrize("injected", [b"RSET\r\n", b"MAIL FROM:<a@b.example>\r\n", b"NOOP\r\n" * 1000])
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
    assert wire.command("NOOP") == "250 2.0.0 nothing done"


def test_a_handshake_that_is_none_ends_the_connection(wire: Wire) -> None:
    wire.hello()
    assert wire.command("STARTTLS").startswith("220 ")
    wire.send(b"EHLO client.example\r\n" * 10)
    while data := wire.sock.recv(65536):
        assert not data.startswith(b"250")


@pytest.mark.parametrize("end", [b"\r\n", b"xx"])
def test_a_line_over_2048_bytes_is_refused_and_ends_the_connection(wire: Wire, end: bytes) -> None:
    wire.hello()
    wire.send(b"NOOP " + b"x" * 2041 + b"\r\n")  # 2048 bytes with its end
    assert wire.reply() == ["250 2.0.0 nothing done"]
    wire.send(b"NOOP " + b"x" * 2042 + end)
    assert wire.reply()[0].startswith("500 5.5.0 ")
    assert wire.is_closed()


def test_a_thousand_recipients_and_not_one_more(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.hello().begin()
    localpart, _, domain = mailbox_user.address.partition("@")
    replies = []
    for start in range(0, 1001, 91):
        wire.send("".join(f"RCPT TO:<{localpart}+r{n}x@{domain}>\r\n" for n in range(start, start + 91)))
        replies += [wire.reply()[0] for _ in range(91)]
    assert all(reply.startswith("250 2.1.0 ") for reply in replies[:1000])
    assert replies[1000].startswith("452 4.5.3 ")
    assert wire.data(b"Subject: many\r\n\r\nx\r\n.\r\n").startswith("250 2.2.0 ")
    assert count(mailbox_user) == 1000


def test_a_client_that_goes_away_within_the_content_leaves_nothing(
    server: Server, wire: Wire, mailbox_user: MailboxUser
) -> None:
    wire.hello().begin(mailbox_user.address)
    assert wire.command("DATA").startswith("354 ")
    wire.send(b"Subject: x\r\n\r\n" + b"x" * 76_000_000 + b"\r\n.\r")
    while not temporary_files(server):
        os.sched_yield()
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, as of a crash
    wire.sock.close()
    wait_until_none_are_left(server)
    assert count(mailbox_user) == 0


def test_a_refused_large_message_is_not_kept_while_its_rest_comes(
    server: Server, wire: Wire, mailbox_user: MailboxUser
) -> None:
    wire.hello().begin(mailbox_user.address)
    assert wire.command("DATA").startswith("354 ")
    wire.send(b"x" * 5_000_000)
    while not temporary_files(server):
        os.sched_yield()
    wire.send(b"\rx")
    wait_until_none_are_left(server)
    wire.send(b"x" * 5_000_000 + b"\r\n.\r\n")
    assert "possible SMTP smuggling" in wire.reply()[0]
    assert wire.command("NOOP").startswith("250 ")


def test_a_message_that_never_ends_is_cut_off_at_the_limit(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.hello().begin(mailbox_user.address)
    assert wire.command("DATA").startswith("354 ")
    block = b"x" * 1_000_000
    sent = 0

    def send() -> None:
        nonlocal sent
        try:
            while sent < 300:
                wire.sock.sendall(block)
                sent += 1
        except OSError:
            pass  # the server hung up, as it should

    sender = threading.Thread(target=send)
    sender.start()
    assert wire.reply()[0].startswith("552 5.3.4 ")
    assert wire.is_closed()
    sender.join(SOON)
    assert 104 <= sent < 140
    assert count(mailbox_user) == 0


def test_a_flood_of_commands_keeps_nobody_else_waiting(server: Server, wire: Wire) -> None:
    wire.hello()
    stop = threading.Event()

    def flood() -> None:
        try:
            while not stop.is_set():
                wire.sock.sendall(b"\r\n" * 30_000)
        except OSError:
            pass  # the server stopped reading: its replies are not read either

    wire.sock.settimeout(1)
    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        slowest = 0.0
        for _ in range(20):
            began = time.monotonic()
            with Wire(server.ip, server.smtp_port) as other:
                other.hello()
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2
    finally:
        stop.set()
        flooding.join(SOON)


def test_after_ten_failed_transactions_the_client_is_sent_away(wire: Wire) -> None:
    wire.hello()
    for _ in range(11):
        wire.begin("permerror@localhost")
        assert wire.data(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("550 5.0.0 ")
    assert wire.command("MAIL FROM:<a@remote.example>").startswith("550 5.1.0 ")
    assert wire.is_closed()


def test_one_success_makes_up_for_failures(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.hello()
    wire.begin(mailbox_user.address)
    assert wire.data(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250 2.2.0 ")
    for _ in range(12):
        wire.begin("permerror@localhost")
        wire.data(b"Subject: x\r\n\r\nx\r\n.\r\n")
    assert wire.command("MAIL FROM:<a@remote.example>").startswith("250 2.1.0 ")


def test_a_recipient_that_never_answers_holds_nobody_up(server: Server, mailbox_user: MailboxUser) -> None:
    """More of them than connections are allowed from one network: those that gave up do not count."""
    for command in ("MAIL FROM:<mailfromtimeout@localhost>", "MAIL FROM:<>\r\nRCPT TO:<rcpttotimeout@localhost>"):
        for _ in range(20):
            with Wire(server.ip, server.smtp_port) as wire:
                wire.hello()
                wire.send(f"{command}\r\n")
    with Wire(server.ip, server.smtp_port) as wire:
        wire.hello().begin(mailbox_user.address)
        assert wire.data(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250 2.2.0 ")
