"""Accepting connections for SMTP and IMAP alike: limits, implicit TLS, logging, and the end of all of them.

    server = ConnectionServer(call=bridge.call)
    await server.listen(sock, service, listener_id)
    ...
    await server.shutdown()

What a connection says is its handler's: a Service names it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from prometheus_client import Counter, Gauge

from protocols.sasl import ChannelBinding, channel_binding
from protocols.stream import Stream, StreamClosed, TLSFailed

from . import ratelimit, tls
from .cids import next_cid
from .clientkeys import presented_key
from .models import Listener, ServerSettings
from .ratelimit import Limiter, Refusal

log = logging.getLogger(__name__)

BACKLOG: Final = 512
HANDSHAKE_TIMEOUT: Final = 60.0  # seconds (smtp.md 3, imap.md 1)
REFUSAL_TIMEOUT: Final = 5.0  # seconds that a refusing line may take: who is refused gets no more of us
STOP_GRACE: Final = 3.0  # seconds for connections to finish at shutdown
STOP_CLEANUP: Final = 1.0  # and for their tasks to clean up after that
SNAPSHOT_AGE: Final = 1.0  # seconds that new connections may use settings that were just changed
KEEPALIVE_IDLE: Final = 300  # seconds, TCP keep-alive: finds peers that vanished (imap.md 1)

T = TypeVar("T")

current_cid: contextvars.ContextVar[int] = contextvars.ContextVar("cid", default=0)
"""The id of the connection, request or task that is being worked for; every log line carries it."""

panic_total = Counter("mox_panic", "Unhandled exceptions.", ["pkg"])
_connections = Gauge(
    "mox_connections_count", "Open connections.", ["protocol", "listener"], multiprocess_mode="livesum"
)
tls_failures = Counter("mox_tls_handshake_failures", "TLS handshakes that failed.", ["protocol", "reason"])


class Stopping(Exception):
    """The server is shutting down; with a text, this connection alone is to end, for that reason."""


@dataclass(frozen=True, slots=True)
class Service:
    """One protocol on one kind of port.

    ``refusal`` gives the line that refuses a connection: for a limit, or for None because the server is stopping.
    """

    name: str  # smtp, submission, submissions, imap, imaps
    kind: ratelimit.Service
    implicit_tls: bool
    refuse_failed_logins: bool
    handler: Callable[[Connection], Awaitable[None]]
    refusal: Callable[[Refusal | None, Connection], bytes]
    session_tickets: bool = True  # off for SMTP: some large senders fail to resume
    wants_client_keys: Callable[[], bool] | None = (
        None  # whether clients with TLS are asked for a key; uses the database
    )


class ConnectionLog(logging.LoggerAdapter[logging.Logger]):
    """A logger whose lines say which connection they are about."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


@dataclass(slots=True, eq=False)
class Connection:
    """An accepted connection; the settings are those of the moment it was accepted."""

    stream: Stream
    cid: int
    service: Service
    listener: Listener
    settings: ServerSettings
    stopping: asyncio.Event
    log: ConnectionLog
    client_keys: bool = False  # clients with TLS are asked for a key
    client_key: str = ""  # fingerprint of the key that the client showed
    started: float = field(default_factory=time.monotonic)
    end_reason: str = ""
    """Why this connection is to end though the server goes on; "" while it is not."""
    _waiter: asyncio.Task[Any] | None = None
    _woken: bool = False

    @property
    def hostname(self) -> str:
        """The name that this listener presents."""
        return self.listener.hostname or self.settings.hostname

    @property
    def has_tls(self) -> bool:
        """Whether the listener can do TLS."""
        return tls.available(self.listener)

    async def start_tls(self) -> None:
        """The handshake with the listener's certificate. Raises TLSFailed."""
        context = tls.server_context(self.listener, tickets=self.service.session_tickets, client_keys=self.client_keys)
        if context is None:
            raise TLSFailed("no certificate")
        try:
            await self.stream.start_tls(context, HANDSHAKE_TIMEOUT)
        except TLSFailed as exc:
            tls_failures.labels(self.service.name, exc.reason).inc()
            raise
        if self.client_keys and self.stream.tls is not None:
            self.client_key = presented_key(self.stream.tls.ssl_object)

    def channel_binding(self) -> ChannelBinding | None:
        """What SCRAM -PLUS binds to; None without TLS."""
        state = self.stream.tls
        if state is None:
            return None
        return channel_binding(state.ssl_object, tls.certificate_der(self.listener))

    async def pause(self, seconds: float) -> None:
        """Wait; ends at once when the server stops."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), seconds)

    async def until_stopping(self, waiting: Coroutine[Any, Any, T]) -> T:
        """Wait for something, typically the next command. Raises Stopping when the server stops first, or end()."""
        if self.stopping.is_set() or self.end_reason:
            waiting.close()
            raise Stopping(self.end_reason)
        task = asyncio.current_task()
        self._waiter = task
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._woken:
                self._woken = False
                if task is not None and task.uncancel() == 0:
                    raise Stopping(self.end_reason) from None
            raise
        finally:
            self._waiter = None

    def end(self, reason: str) -> None:
        """Have the handler say goodbye instead of waiting for the next command. On the connection's event loop."""
        self.end_reason = reason
        self.wake_for_stop()

    def wake_for_stop(self) -> None:
        """Interrupt until_stopping()."""
        if self._waiter is not None and not self._woken:
            self._woken = True
            self._waiter.cancel()


class _Snapshot(NamedTuple):
    """What is configured at one moment."""

    listener: Listener
    settings: ServerSettings
    client_keys: bool


class ConnectionServer:
    """All listening sockets of a process and the connections accepted on them. Lives on one event loop.

    ``call`` runs a function that uses the database in a thread.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]], limiter: Limiter | None = None) -> None:
        self._call = call
        self._limiter = limiter or ratelimit.limiter()
        self._servers: list[asyncio.Server] = []
        self._tasks: dict[asyncio.Task[None], Connection | None] = {}
        self._stopping = asyncio.Event()
        self._snapshots: dict[tuple[int, str], tuple[float, _Snapshot]] = {}
        self._lease = asyncio.get_running_loop().create_task(self._limiter.keep_lease(), name="connection-lease")

    @property
    def open_connections(self) -> int:
        return len(self._tasks)

    async def listen(self, sock: socket.socket, service: Service, listener_id: int) -> None:
        """Accept connections on a bound socket, which may be shared with other processes."""
        loop = asyncio.get_running_loop()

        def accepted() -> Stream:
            return _AcceptedStream(lambda stream: self._accepted(stream, service, listener_id))

        self._servers.append(await loop.create_server(accepted, sock=sock, backlog=BACKLOG))

    async def shutdown(self) -> None:
        """Stop accepting, let handlers say goodbye, and after 3 seconds end what is left."""
        self._stopping.set()
        for server in self._servers:
            server.close()
        for connection in list(self._tasks.values()):
            if connection is not None:
                connection.wake_for_stop()
        await self._wait_for_tasks(STOP_GRACE)
        for connection in list(self._tasks.values()):
            if connection is not None:
                connection.stream.abort()
        await self._wait_for_tasks(STOP_CLEANUP)
        for task in list(self._tasks):
            task.cancel()
        self._lease.cancel()
        await asyncio.gather(self._lease, *self._tasks, return_exceptions=True)
        await self._limiter.aclose()

    async def _wait_for_tasks(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)

    def _accepted(self, stream: Stream, service: Service, listener_id: int) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream, service, listener_id))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _serve(self, stream: Stream, service: Service, listener_id: int) -> None:
        cid = next_cid()
        current_cid.set(cid)
        extra = {"cid": cid, "remote": stream.remote_ip}
        connection_log = ConnectionLog(logging.getLogger(service.handler.__module__), extra)
        try:
            listener, settings, client_keys = await self._snapshot(listener_id, service)
            connection = Connection(
                stream, cid, service, listener, settings, self._stopping, connection_log, client_keys
            )
            task = asyncio.current_task()
            assert task is not None
            self._tasks[task] = connection
            await self._admit_and_handle(connection)
        except (StreamClosed, TimeoutError, ConnectionError) as exc:
            connection_log.debug("connection ended", extra={"err": str(exc) or type(exc).__name__})
        except TLSFailed as exc:
            connection_log.info("tls handshake failed", extra={"reason": exc.reason, "service": service.name})
        except Exception:
            panic_total.labels(service.name).inc()
            connection_log.exception("unhandled exception in a connection", extra={"service": service.name})
        finally:
            stream.close()

    async def _admit_and_handle(self, connection: Connection) -> None:
        service, stream = connection.service, connection.stream
        if self._stopping.is_set():
            await self._refuse(connection, None)
            return
        admission = await self._limiter.admit(
            service.kind, stream.remote_ip, refuse_failed_logins=service.refuse_failed_logins
        )
        if admission.connection is None:
            await self._refuse(connection, admission.refusal)
            return
        gauge = _connections.labels(service.name, connection.listener.name)
        gauge.inc()
        try:
            if service.implicit_tls:
                await connection.start_tls()
            await service.handler(connection)
            stream.close()
            with contextlib.suppress(TimeoutError):
                # Counted until the socket is gone, so that clients who never close cannot pile up.
                await asyncio.wait_for(stream.wait_closed(), REFUSAL_TIMEOUT)
        finally:
            gauge.dec()
            admission.connection.close()
            if not stream.closed:
                stream.abort()

    async def _refuse(self, connection: Connection, refusal: Refusal | None) -> None:
        if connection.service.implicit_tls:
            context = tls.server_context(connection.listener, tickets=connection.service.session_tickets)
            if context is None:
                return
            await connection.stream.start_tls(context, REFUSAL_TIMEOUT)
        connection.log.info("connection refused", extra={"reason": refusal.name.lower() if refusal else "stopping"})
        connection.stream.write(connection.service.refusal(refusal, connection))
        await connection.stream.flush(REFUSAL_TIMEOUT)

    async def _snapshot(self, listener_id: int, service: Service) -> _Snapshot:
        """The listener and the settings, at most a second old; with the database away, as they were."""
        known = self._snapshots.get((listener_id, service.name))
        if known is not None and time.monotonic() - known[0] < SNAPSHOT_AGE:
            return known[1]
        try:
            snapshot: _Snapshot = await self._call(_read_snapshot, listener_id, service)
        except Exception as exc:
            if known is None:
                raise
            log.warning("settings cannot be read, the last ones stay in force", extra={"err": str(exc)})
            snapshot = known[1]
        self._snapshots[listener_id, service.name] = (time.monotonic(), snapshot)
        return snapshot


class _AcceptedStream(Stream):
    """A stream that tells when it is connected."""

    def __init__(self, accepted: Callable[[Stream], None]) -> None:
        super().__init__()
        self._accepted: Callable[[Stream], None] | None = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._accepted is not None:
            _keep_alive(transport.get_extra_info("socket"))
            accepted, self._accepted = self._accepted, None
            accepted(self)


def _read_snapshot(listener_id: int, service: Service) -> _Snapshot:
    wants = service.wants_client_keys
    client_keys = wants is not None and wants()
    return _Snapshot(Listener.objects.get(pk=listener_id), ServerSettings.current(), client_keys)


def _keep_alive(sock: socket.socket | None) -> None:
    if sock is None:
        return
    with contextlib.suppress(OSError):  # the peer is gone already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE)
