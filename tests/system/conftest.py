"""A running server for each worker, and accounts on it. Both use the worker's data directory and database."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from accounts.models import Account
from accounts.passwords import set_password
from mox_project import localserve
from tests import installation
from tests.nameservers import NameServers, name_servers
from tests.system.servers import Server, running
from tests.system.zones import ZONES

_own_servers = itertools.count(2)


@dataclass(frozen=True, slots=True)
class MailboxUser:
    """An account that a client can log in to."""

    account: Account
    address: str
    password: str = localserve.PASSWORD


@pytest.fixture(scope="session")
def server(database: None, data_dir: Path, server_ip: str) -> Iterator[Server]:
    """The worker's running server; it is stopped cleanly at the end of the session."""
    shared = Server(data_dir, server_ip)
    with running(shared):
        yield shared
        assert shared.stop() == 0, shared.tail()


@pytest.fixture(scope="session")
def dns_servers(directory: Path) -> Iterator[NameServers]:
    """A resolver that verifies and a server of the tests' zones; for tests that are marked ``needs_name_servers``."""
    with name_servers(directory / "dns", f"127.0.{installation.worker_number()}.53", ZONES) as running_servers:
        yield running_servers


@pytest.fixture
def new_server(directory: Path) -> Iterator[Callable[[], Server]]:
    """Makes servers with an address of their own and a directory that is not there yet, not started."""
    made: list[Server] = []

    def make() -> Server:
        number = next(_own_servers)
        made.append(Server(directory / f"own{number}", f"127.0.{installation.worker_number()}.{number}"))
        return made[-1]

    yield make
    for own in made:
        if own.is_running():
            own.kill()


@pytest.fixture
def own_server(database: None, template: Path, new_server: Callable[[], Server]) -> Callable[[], Server]:
    """The same with a directory as a first start leaves it: for tests that kill, restart or configure a server."""

    def make() -> Server:
        server = new_server()
        installation.copy_template(template, server.directory, server.ip)
        return server

    return make


@pytest.fixture
def mailbox_user(new_account: Callable[[], Account]) -> MailboxUser:
    """A fresh account on the worker's server, checked for consistency after the test."""
    return make_user(new_account)


@pytest.fixture
def new_user(new_account: Callable[[], Account]) -> Callable[[], MailboxUser]:
    """Makes accounts that a client can log in to."""
    return lambda: make_user(new_account)


def make_user(new_account: Callable[[], Account]) -> MailboxUser:
    account = new_account()
    set_password(account, localserve.PASSWORD)
    return MailboxUser(account, f"{account.name}@{localserve.DOMAIN}")
