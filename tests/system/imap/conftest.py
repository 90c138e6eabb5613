"""Users whose mailboxes show nothing but what the test put there."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from accounts.models import Account
from tests.system.conftest import MailboxUser
from tests.system.imap.wire import Wire
from tests.system.servers import Server


@dataclass(slots=True)
class User:
    """An account on the running server, and the connections made to it."""

    server: Server
    account: Account
    address: str
    password: str
    connections: list[Wire] = field(default_factory=list)

    def connect(self) -> Wire:
        """A connection without TLS that has read its greeting."""
        self.connections.append(Wire(self.server.ip, self.server.imap_port))
        return self.connections[-1]

    def connect_tls(self, version: ssl.TLSVersion) -> Wire:
        self.connections.append(Wire(self.server.ip, self.server.imaps_port, tls=tls_context(self.server, version)))
        return self.connections[-1]

    def session(self, select: str = "", *, enable: str = "") -> Wire:
        """A logged in connection."""
        wire = self.connect()
        wire.login(self.address, self.password)
        if enable:
            wire.ok(f"ENABLE {enable}")
            wire.utf8 = "IMAP4rev2" in enable or "UTF8" in enable
        if select:
            wire.ok(f"SELECT {select}")
        return wire

    def forget_closed(self) -> None:
        """Drop connections that are closed: long runs make thousands."""
        self.connections = [wire for wire in self.connections if wire.socket.fileno() >= 0]

    def close(self) -> None:
        for wire in self.connections:
            wire.close()


def tls_context(server: Server, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """One that trusts the server's certificate, and speaks one version only if one is given."""
    context = ssl.create_default_context(cafile=server.certificate)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@pytest.fixture
def new_imap_user(server: Server, new_user: Callable[[], MailboxUser]) -> Iterator[Callable[[], User]]:
    """Makes users whose mailboxes have no flags or subscriptions of the server's making."""
    made: list[User] = []

    def make() -> User:
        made.append(make_user(server, new_user()))
        return made[-1]

    yield make
    for user in made:
        user.close()


@pytest.fixture
def imap_user(new_imap_user: Callable[[], User]) -> User:
    return new_imap_user()


def make_user(server: Server, made: MailboxUser) -> User:
    Account.objects.filter(pk=made.account.pk).update(subscribe_on_create=False, automatic_junk_flags=False)
    return User(server, made.account, made.address, made.password)
