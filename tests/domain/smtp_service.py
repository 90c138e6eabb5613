"""The SMTP service in a thread of the test's process: real sockets and the worker's database, settings as wished."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import uvloop
from django.conf import settings

from accounts.hosteddns import LoopbackResolver
from protocols.dns import MockResolver, Resolver
from server.connections import ConnectionServer
from server.models import Listener, ServerSettings
from server.ratelimit import Limiter
from smtp.server import services
from store.bridge import Bridge
from tests.system.smtp_wire import Wire

STARTED = 20.0  # seconds; far more than it takes


def known_world(records: dict[str, list[str]] | None = None) -> MockResolver:
    """A DNS in which the domain of senders can get mail and lets everybody send for it, and clients have names."""
    known = {
        "mx remote.example.": ["10 mx.remote.example."],
        "a mx.remote.example.": ["192.0.2.1"],
        "txt remote.example.": ["v=spf1 +all"],
        "a client.example.": ["192.0.2.2"],
    }
    return LoopbackResolver({**known, **(records or {})})


class Service:
    """A running service. Connections are made with a listener and settings that differ from those in the database."""

    def __init__(
        self,
        name: str,
        listener: dict[str, Any],
        server: dict[str, Any],
        limiter: Limiter | None,
        resolver: Resolver | None,
    ) -> None:
        self._name = name
        self._resolver = resolver or known_world()
        self.listener = _changed(
            Listener.objects.get(name="local"), {"smtp_first_time_sender_delay": timedelta(0), **listener}
        )
        self.settings = _changed(ServerSettings.current(), {"localserve": False, "pedantic": False, **server})
        self._limiter = limiter or Limiter(settings.MOX_CACHE_URL)  # the process's own belongs to one event loop
        self._stop: Callable[[], object] | None = None
        self._address: Future[tuple[str, int]] = Future()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def connect(self, source: str | None = None) -> Wire:
        return Wire(*self._address.result(STARTED), source)

    def stop(self) -> None:
        """Shut down as at the end of a mail process, and wait for it."""
        self._address.result(STARTED)
        if self._stop is not None:
            self._stop()
            self._stop = None
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        bridge = Bridge(4)
        await bridge.start()

        async def snapshot(
            function: Callable[..., Any], listener_id: int, service: object
        ) -> tuple[Listener, ServerSettings, bool]:
            return self.listener, self.settings, False

        server = ConnectionServer(snapshot, self._limiter)
        sock = socket.create_server(("127.0.0.1", 0))
        (service,) = [service for service in services(bridge, self._resolver) if service.name == self._name]
        await server.listen(sock, service, self.listener.pk)
        self._address.set_result(sock.getsockname())
        await stop.wait()
        await server.shutdown()
        await bridge.close()


@contextlib.contextmanager
def running(
    listener: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
    limiter: Limiter | None = None,
    name: str = "smtp",
    resolver: Resolver | None = None,
) -> Iterator[Service]:
    """A service as on a public server, unless told otherwise: not localserve, and not pedantic."""
    service = Service(name, listener or {}, server or {}, limiter, resolver)
    try:
        yield service
    finally:
        service.stop()


def _changed(row: Any, columns: dict[str, Any]) -> Any:
    changed = copy.copy(row)
    for name, value in columns.items():
        assert hasattr(row, name), f"{type(row).__name__} has no {name}"
        setattr(changed, name, value)
    return changed
