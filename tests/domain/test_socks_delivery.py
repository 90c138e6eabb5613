"""Direct delivery through a SOCKS proxy: what the other server sees, and what is said when the proxy is not there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from accounts.models import Account, Transport
from accounts.transports import RouteSettings, add_transport, remove_transport, save_routes
from mailqueue import ownips
from protocols.dns import MockResolver
from protocols.socks import Proxy
from server.models import ServerSettings
from tests.domain.directing import World, make_world
from tests.domain.queueing import attempts, is_queued, row, send
from tests.sinks import Sink, sink
from tests.socksproxy import needs_proxy, socks_proxy

pytestmark = [pytest.mark.database, needs_proxy]

SOURCE = "127.0.0.77"
NAME = "through-proxy"


@pytest.fixture
def world(account: Account, data_dir: Path) -> Iterator[World]:
    """Of a server that is no localserve."""
    _set(localserve=False)
    Account.objects.filter(pk=account.pk).update(keep_retired_message_period=timedelta(hours=1))
    yield make_world(MockResolver(), data_dir)
    save_routes([], account=account)
    if Transport.objects.filter(name=NAME).exists():
        remove_transport(NAME)
    _set(localserve=True)


def _set(**values: bool) -> None:
    settings = ServerSettings.objects.get()
    for name, value in values.items():
        setattr(settings, name, value)
    settings.save()


@pytest.fixture
def server() -> Iterator[Sink]:
    with sink() as started:
        yield started


def route_through(proxy: Proxy, account: Account) -> None:
    add_transport(
        NAME,
        kind="socks",
        socks_address=str(proxy),
        socks_remote_hostname="out.example.net",
        username=proxy.username,
        password=proxy.password.encode(),
    )
    save_routes([RouteSettings(transport=NAME)], account=account)


def test_the_other_server_sees_the_proxy(world: World, account: Account, server: Sink) -> None:
    world.add_hosts(server.host)
    ownips.flush()
    with socks_proxy("127.0.0.1", SOURCE, username="user", password="secret") as running:
        route_through(running.proxy, account)
        (queue_id,) = send(account, world.them)
        world.deliver()
    assert not is_queued(queue_id)
    (received,) = server.received
    assert SOURCE in received.peer
    assert received.hello == "out.example.net"
    (attempt,) = attempts(queue_id)
    assert (attempt.transport, attempt.remote_host, attempt.remote_ip) == (NAME, world.host(), server.host)
    assert world.results()[world.domain, "no-policy-found"][1] == 1, "the sink has no TLS, and reports tell it"
    assert ownips._connections == 1


def test_a_proxy_that_is_not_there_is_named_and_the_message_waits(world: World, account: Account, server: Sink) -> None:
    world.add_hosts(server.host)
    route_through(Proxy("127.0.0.9", 1), account)
    (queue_id,) = send(account, world.them)
    world.deliver()
    assert row(queue_id).attempts == 1
    (attempt,) = attempts(queue_id)
    assert "through SOCKS proxy 127.0.0.9:1: connection refused" in attempt.error
    assert (attempt.code, attempt.secode) == (0, "4.1")
    assert not server.received
