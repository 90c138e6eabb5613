"""Receiving on a public server: recipients, limits and settings that localserve does not have."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from accounts.accounts import add_address, create_account
from accounts.models import Account, Address, Domain
from server import db
from server.models import TLSMode
from server.ratelimit import Limit, Limiter, LimitTable
from store.content import message_reader
from store.models import Blob, Message
from tests.domain.smtp_service import Service, running
from tests.system.servers import source_ip
from tests.system.smtp_wire import Wire

pytestmark = pytest.mark.database

MESSAGE = b"Subject: x\r\n\r\nbody\r\n.\r\n"
LARGE = b"Subject: x\r\n\r\n" + b"a line of a message that is kept in a file\r\n" * 5000 + b".\r\n"


@pytest.fixture(scope="module")
def service(database: None) -> Iterator[Service]:
    with running() as started:
        yield started


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    with service.connect() as connected:
        yield connected.hello()


@contextlib.contextmanager
def environment(**changes: Any) -> Iterator[None]:
    with override_settings(MOX=dataclasses.replace(settings.MOX, **changes)):
        yield


def address(account: Account) -> str:
    return f"{account.name}@localhost"


def inbox(account: Account) -> list[Message]:
    return list(Message.objects.filter(account=account, expunged=False))


def content(message: Message) -> bytes:
    with message_reader(message.pk) as reader:
        return reader.read()[len(bytes(message.prefix)) :]


def stored_files() -> set[Path]:
    return {path for path in (settings.MOX.data_dir / "msg").rglob("*") if path.is_file()}


# Recipients.


def test_an_unknown_address_is_told_only_after_the_message(wire: Wire) -> None:
    with environment(smtp_unknown_rcpt_delay=timedelta(seconds=0.4)):
        wire.begin("nobody-of-that-name@localhost")
        began = time.monotonic()
        assert wire.data(MESSAGE).startswith("550 5.1.1 no such user (")
        assert time.monotonic() - began >= 0.4
    assert wire.command("NOOP").startswith("250 ")


def test_mail_for_other_domains_is_not_relayed(wire: Wire) -> None:
    wire.begin()
    assert wire.command("RCPT TO:<somebody@elsewhere.example>").startswith("550 5.1.1 ")
    assert wire.command("RCPT TO:<postmaster@elsewhere.example>").startswith("550 5.1.1 ")
    assert wire.command("RCPT TO:<@localhost:somebody@elsewhere.example>").startswith("550 5.1.1 ")
    assert wire.command("RCPT TO:<somebody%elsewhere.example@[127.0.0.1]>").startswith("550 5.1.1 ")
    assert wire.command("DATA").startswith("503 5.5.1 ")


def test_case_and_what_follows_the_separator_do_not_matter(wire: Wire, account: Account) -> None:
    localpart = account.name
    wire.begin(f"{localpart.upper()}@LOCALHOST", f"{localpart}+Sales@localhost", f'"{localpart}"@localhost')
    assert wire.data(MESSAGE).startswith("250 2.2.0 ")
    assert {m.rcpt_to_localpart for m in inbox(account)} == {localpart.upper(), f"{localpart}+Sales", localpart}


def test_postmaster_is_always_there(wire: Wire) -> None:
    before = Message.objects.filter(mailbox__name="Postmaster", expunged=False).count()
    wire.begin("postmaster", "POSTMASTER@localhost")
    assert wire.data(MESSAGE).startswith("250 2.2.0 ")
    messages = Message.objects.filter(mailbox__name="Postmaster", expunged=False).order_by("pk")[before:]
    names = [re.findall(rb"^Delivered-To: (.*)\r$", bytes(message.prefix), re.MULTILINE) for message in messages]
    assert names == [[b"postmaster"], [b"POSTMASTER@localhost"]]


def test_a_catchall_takes_what_no_address_takes(wire: Wire, account: Account) -> None:
    with db.write():
        domain = Domain.objects.create(name=f"{account.name}.example")
        add_address(account, "", domain)
    try:
        wire.begin(f"anything@{domain.name}", f'""@{domain.name}')
        assert wire.data(MESSAGE).startswith("250 2.2.0 ")
        assert len(inbox(account)) == 2
        with db.write():
            Domain.objects.filter(pk=domain.pk).update(disabled=True)
        wire.begin()
        assert wire.command(f"RCPT TO:<anything@{domain.name}>").startswith("450 4.2.1 ")
    finally:
        with db.write():
            Address.objects.filter(domain=domain).delete()
            domain.delete()


def test_an_internationalised_domain_is_one_in_both_forms(wire: Wire, account: Account) -> None:
    with db.write():
        domain = Domain.objects.create(name="xn--bcher-kva.example", unicode_name="bücher.example")
        add_address(account, "é", domain)
        add_address(account, "plain", domain)
    try:
        wire.begin("plain@xn--bcher-kva.example")
        assert wire.command("RCPT TO:<é@xn--bcher-kva.example>").startswith("553 5.6.7 ")
        assert wire.data(MESSAGE).startswith("250 2.2.0 ")
        wire.send("MAIL FROM:<ü@remote.example> SMTPUTF8\r\nRCPT TO:<e\u0301@BÜCHER.example>\r\n")
        assert wire.reply()[0].startswith("250 ")
        assert wire.reply()[0].startswith("250 ")
        assert wire.data(MESSAGE).startswith("250 2.2.0 ")
        assert {(m.rcpt_to_localpart, m.rcpt_to_domain) for m in inbox(account)} == {
            ("plain", "bücher.example"),
            ("é", "bücher.example"),
        }
    finally:
        with db.write():
            Address.objects.filter(domain=domain).delete()
            domain.delete()


# What cannot be stored.


def test_over_quota_is_refused_for_now_and_nothing_stays(
    wire: Wire, account: Account, new_account: Callable[[], Account]
) -> None:
    other = new_account()
    with db.write():
        Account.objects.filter(pk__in=(account.pk, other.pk)).update(quota_message_size=100_000)
    files, blobs = stored_files(), Blob.objects.count()
    wire.begin(address(other), address(account))
    assert wire.command("DATA").startswith("354 ")
    wire.send(LARGE)
    assert wire.reply()[0].startswith("452 4.2.2 mailbox is full, try again later (")
    assert (inbox(account), inbox(other)) == ([], [])
    assert (stored_files(), Blob.objects.count()) == (files, blobs)
    wire.begin(address(account))
    assert wire.data(MESSAGE).startswith("250 2.2.0 ")


def test_an_account_that_is_removed_meanwhile(wire: Wire) -> None:
    account = create_account("leaving", "leaving", Domain.objects.get(name="localhost"))
    wire.begin(address(account))
    assert wire.command("DATA").startswith("354 ")
    with db.write():
        account.delete()
    files = stored_files()
    wire.send(LARGE)
    assert wire.reply()[0].startswith("451 4.3.0 account cannot be opened (")
    assert stored_files() == files


def test_a_spool_that_cannot_be_written_refuses_for_now(wire: Wire, account: Account, tmp_path: Path) -> None:
    file = tmp_path / "no-directory"
    file.touch()
    wire.begin(address(account))
    with environment(data_dir=file):
        assert wire.data(b"x" * 5_000_000 + b"\r\n.\r\n").startswith("451 4.3.0 ")
    assert wire.command("NOOP").startswith("250 ")
    assert inbox(account) == []


# Outside pedantic mode.


def test_common_violations_are_forgiven(wire: Wire, account: Account) -> None:
    wire.send(b"MAIL FROM: <a@remote.example>\nRCPT TO: <" + address(account).encode() + b">  \nDATA\n")
    assert [wire.reply()[0][:3] for _ in range(3)] == ["250", "250", "354"]
    wire.send(b"Subject: b\xc3\xbccher\n\nbare\n\r\n.\r\n")
    assert wire.reply()[0].startswith("250 2.2.0 ")
    (message,) = inbox(account)
    assert content(message) == b"Subject: b\xc3\xbccher\r\n\r\nbare\r\n\r\n"
    assert b"with UTF8SMTP" in bytes(message.prefix)  # needed, whatever the client said


@pytest.mark.parametrize("end", [b"\r\n.\n", b"\n.\n", b"\n.\r\n", b"\r.\r"])
def test_smuggling_is_never_forgiven(wire: Wire, account: Account, end: bytes) -> None:
    wire.begin(address(account))
    smuggled = f"MAIL FROM:<evil@remote.example>\r\nRCPT TO:<{address(account)}>\r\nDATA\r\nx\r\n.\r\n".encode()
    assert wire.command("DATA").startswith("354 ")
    wire.send(b"Subject: x\r\n\r\nfirst" + end + smuggled)
    assert wire.reply()[0].startswith("500 5.5.2 ")
    assert wire.command("NOOP").startswith("250 ")
    assert inbox(account) == []


# The listener's settings.


def test_a_lower_size_limit(account: Account) -> None:
    with running(listener={"max_message_size": 2000}) as service, service.connect() as wire:
        wire.reply()
        wire.send("EHLO client.example\r\n")
        assert "250-SIZE 2000" in wire.reply()
        assert wire.command("MAIL FROM:<a@remote.example> SIZE=2001").startswith("552 5.2.3 ")
        assert wire.command("MAIL FROM:<a@remote.example> SIZE=104857600").startswith("552 5.3.4 ")
        wire.begin(address(account))
        assert wire.data(b"x" * 1998 + b"\r\n.\r\n").startswith("250 2.2.0 ")
        wire.begin(address(account))
        assert wire.data(b"x" * 1999 + b"\r\n.\r\n").startswith("552 5.2.3 ")
        assert wire.is_closed()
    assert len(inbox(account)) == 1


def test_tls_can_be_required_before_recipients(account: Account) -> None:
    with running(listener={"smtp_require_starttls": True}) as service:
        with service.connect() as wire:
            wire.hello().begin()
            assert wire.command(f"RCPT TO:<{address(account)}>").startswith("530 5.7.0 ")
        with service.connect() as wire:
            wire.hello()
            assert wire.command("STARTTLS").startswith("220 ")
            wire.start_tls(settings.MOX.data_dir / "localhost.crt")
            assert wire.command("EHLO client.example").startswith("250 ")
            wire.begin(address(account))


@pytest.mark.parametrize("listener", [{"smtp_no_starttls": True}, {"tls_mode": TLSMode.NONE}])
def test_tls_can_be_off(service: Service, listener: dict[str, Any]) -> None:
    with running(listener=listener) as without, without.connect() as wire:
        wire.reply()
        wire.send("EHLO client.example\r\n")
        assert not {"250-STARTTLS", "250-REQUIRETLS"} & set(wire.reply())
        assert wire.command("STARTTLS").startswith("503 5.5.1 ")
        assert wire.command("MAIL FROM:<a@remote.example> REQUIRETLS").startswith("530 5.7.10 ")


def test_requiretls_can_be_off(database: None) -> None:
    with running(listener={"smtp_no_requiretls": True}) as service, service.connect() as wire:
        wire.hello()
        assert wire.command("STARTTLS").startswith("220 ")
        wire.start_tls(settings.MOX.data_dir / "localhost.crt")
        wire.send("EHLO client.example\r\n")
        assert "250-REQUIRETLS" not in wire.reply()
        assert wire.command("MAIL FROM:<a@remote.example> REQUIRETLS").startswith("555 5.3.3 ")


def test_the_listeners_name_is_the_one_in_the_greeting(database: None) -> None:
    with running(listener={"hostname": "mx.bücher.example"}) as service, service.connect() as wire:
        assert wire.reply() == ["220 mx.xn--bcher-kva.example ESMTP mox"]


# Time, and the end.


def test_an_idle_client_is_left_without_a_word(service: Service) -> None:
    with environment(smtp_idle_timeout=timedelta(seconds=0.3)), service.connect() as wire:
        wire.hello()
        began = time.monotonic()
        assert wire.is_closed()
        assert 0.2 < time.monotonic() - began < 10


@pytest.mark.parametrize("limit", ["smtp_idle_timeout", "smtp_data_timeout"])
def test_content_that_stops_coming_ends_the_connection(service: Service, account: Account, limit: str) -> None:
    with environment(**{limit: timedelta(seconds=0.5)}), service.connect() as wire:
        wire.hello().begin(address(account))
        assert wire.command("DATA").startswith("354 ")
        wire.send(b"Subject: x\r\n")
        assert wire.is_closed()
    assert inbox(account) == []


def test_content_that_comes_too_slowly_ends_the_connection(service: Service, account: Account) -> None:
    """A byte now and then keeps no connection for good: the whole of DATA has one deadline."""
    with environment(smtp_data_timeout=timedelta(seconds=0.5)), service.connect() as wire:
        wire.hello().begin(address(account))
        assert wire.command("DATA").startswith("354 ")
        began = time.monotonic()
        wire.sock.settimeout(0.05)
        closed = False
        while not closed and time.monotonic() - began < 10:
            try:
                wire.send(b"x")
                closed = wire.sock.recv(1) == b""
            except TimeoutError:
                pass
            except OSError:
                closed = True
        assert closed
    assert inbox(account) == []


def test_at_shutdown_a_waiting_client_is_told(account: Account) -> None:
    with running() as service, service.connect() as idle, service.connect() as other:
        idle.hello()
        other.hello().begin(address(account))
        service.stop()
        for wire in (idle, other):
            assert wire.reply()[0].startswith("421 4.3.2 ")
            assert wire.is_closed()


def test_connections_over_a_limit_are_refused(database: None) -> None:
    limiter = Limiter(settings.MOX_CACHE_URL, LimitTable(open_connections=Limit(None, 2, 2, 2)))
    source = source_ip()
    with running(limiter=limiter) as service, service.connect(source) as first, service.connect(source) as second:
        first.hello()
        second.hello()
        with service.connect(source) as third:
            assert third.reply()[0].startswith("421 4.7.0 ")
            assert third.is_closed()
        with service.connect() as elsewhere:
            elsewhere.hello()
        assert first.command("QUIT").startswith("221 ")
        assert first.is_closed()
        first.sock.close()
        deadline = time.monotonic() + 10
        while True:  # it counts until the server has noticed the end
            with service.connect(source) as again:
                if again.reply()[0].startswith("220 "):
                    break
            assert time.monotonic() < deadline
