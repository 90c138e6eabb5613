"""HTTP on the sockets of the supervisor, by uvicorn: deadlines, limits, TLS with the listener's newest certificate.

    await Server(application, sockets, ready).serve()

uvicorn itself waits for a request's header for ever, and its TLS context is one for good; both are made good here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from protocols.stream import Stream, StreamClosed, TLSFailed, TLSState
from server import tls
from server.connections import tls_failures

from .handler import Receive, Scope, Send
from .listeners import HTTPSocket, Listeners
from .requests import MAX_HEADER_SIZE

log = logging.getLogger(__name__)

BACKLOG: Final = 512
HEADER_TIMEOUT: Final = 30.0  # seconds for a request's line and header fields (webserver.md 2)
IDLE_TIMEOUT: Final = 65  # seconds between requests: more than proxies keep connections, so that they close first
WRITE_TIMEOUT: Final = 60.0  # seconds for a client to take 64 KiB of an answer
HANDSHAKE_TIMEOUT: Final = 10.0  # seconds
MAX_HANDSHAKES: Final = 4096  # at a time; 64 of one address
MAX_HANDSHAKES_PER_IP: Final = 64
STOP_GRACE: Final = 3  # seconds for requests to finish at shutdown
_TLS_HANDSHAKE: Final = 0x16  # type of the first TLS record (RFC 8446 5.1)
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_METHOD_LETTERS: Final = frozenset(b"GPHDOCT")  # first letters of GET, POST, PUT, PATCH, HEAD, DELETE, OPTIONS ...


class HTTPProtocol(H11Protocol):
    """uvicorn's protocol with deadlines for what the client sends and takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._header_deadline = self.loop.call_later(HEADER_TIMEOUT, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if self._header_deadline is None and self._between_requests():
            self._header_deadline = self.loop.call_later(HEADER_TIMEOUT, self._too_slow)
        super().data_received(data)
        if not self._between_requests():
            self._stop_header_deadline()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._between_requests() and self.conn.trailing_data[0] and self._header_deadline is None:
            # The next request has begun already.
            self._header_deadline = self.loop.call_later(HEADER_TIMEOUT, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_header_deadline()
        self._stop_write_deadline()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = self.loop.call_later(WRITE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_deadline()

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP request, and for header fields that are too large."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()  # the answer to an earlier request is on its way
            return
        too_large = len(self.conn.trailing_data[0]) >= MAX_HEADER_SIZE
        status = 431 if too_large else 400
        text = f"the header fields have more than {MAX_HEADER_SIZE} bytes" if too_large else "this is no HTTP request"
        log.debug("bad request", extra={"remote": self.client, "err": text})
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        for event in (
            h11.Response(status_code=status, headers=headers, reason=b""),
            h11.Data(data=f"{text}\n".encode()),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _stop_header_deadline(self) -> None:
        if self._header_deadline is not None:
            self._header_deadline.cancel()
            self._header_deadline = None

    def _stop_write_deadline(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _between_requests(self) -> bool:
        return self.conn.their_state is h11.IDLE

    def _too_slow(self) -> None:
        self._header_deadline = None
        if not self.transport.is_closing():
            log.debug("no request in time", extra={"remote": self.client})
            self.transport.close()


class _TLSConnection(Stream):
    """A connection until its handshake is done; then it is an HTTPProtocol's."""

    def __init__(self, accepted: Callable[[_TLSConnection], None]) -> None:
        super().__init__()
        self._accepted: Callable[[_TLSConnection], None] | None = accepted

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._accepted is not None:
            accepted, self._accepted = self._accepted, None
            accepted(self)


class Server(uvicorn.Server):
    """Serves an application on sockets until SIGTERM. ``ready`` is called when connections are accepted."""

    def __init__(
        self, application: Application, sockets: Sequence[HTTPSocket], listeners: Listeners, ready: Callable[[], None]
    ) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=HTTPProtocol,
                ws="none",
                interface="asgi3",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # the endpoint says whether a proxy is trusted
                h11_max_incomplete_event_size=MAX_HEADER_SIZE,
                timeout_keep_alive=IDLE_TIMEOUT,
                timeout_graceful_shutdown=STOP_GRACE,
            )
        )
        self._sockets = sockets
        self._listeners = listeners
        self._ready = ready
        self._handshakes: set[asyncio.Task[None]] = set()
        self._handshakes_by_ip: Counter[str] = Counter()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.servers: list[asyncio.base_events.Server] = []
        for where in self._sockets:
            factory = self._tls_factory(where) if where.tls else self._plain_factory(where)
            self.servers.append(await loop.create_server(factory, sock=where.sock, backlog=BACKLOG))
        self.started = True
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for task in self._handshakes:
            task.cancel()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal anew at the end: that would make every stop look like a crash."""
        if threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop)
        yield

    def _stop(self) -> None:
        self.should_exit = True

    def _plain_factory(self, where: HTTPSocket) -> Callable[[], asyncio.BaseProtocol]:
        return lambda: self._http(where, None)

    def _tls_factory(self, where: HTTPSocket) -> Callable[[], asyncio.BaseProtocol]:
        return lambda: _TLSConnection(lambda stream: self._begin_handshake(stream, where))

    def _http(self, where: HTTPSocket, state: TLSState | None) -> HTTPProtocol:
        return HTTPProtocol(self.config, self.server_state, {"socket": where, "tls": state})

    def _begin_handshake(self, stream: _TLSConnection, where: HTTPSocket) -> None:
        ip = stream.remote_ip
        if len(self._handshakes) >= MAX_HANDSHAKES or self._handshakes_by_ip[ip] >= MAX_HANDSHAKES_PER_IP:
            log.info("too many handshakes at a time, connection refused", extra={"remote": ip})
            stream.abort()
            return
        task = asyncio.get_running_loop().create_task(self._handshake(stream, where))
        self._handshakes.add(task)
        self._handshakes_by_ip[ip] += 1
        task.add_done_callback(lambda done: self._handshake_over(done, ip))

    def _handshake_over(self, task: asyncio.Task[None], ip: str) -> None:
        self._handshakes.discard(task)
        self._handshakes_by_ip[ip] -= 1
        if not self._handshakes_by_ip[ip]:
            del self._handshakes_by_ip[ip]

    async def _handshake(self, stream: _TLSConnection, where: HTTPSocket) -> None:
        try:
            first = await stream.read_block(HANDSHAKE_TIMEOUT)
            if first[0] != _TLS_HANDSHAKE:
                if first[0] in _METHOD_LETTERS:
                    stream.write(_PLAIN_HTTP)
                    await stream.flush(HANDSHAKE_TIMEOUT)
                stream.close()
                return
            stream.unread(first)
            listener = (await self._listeners.current()).listeners.get(where.listener_id)
            context = tls.server_context(listener, tickets=True, http=True) if listener is not None else None
            if context is None:
                raise TLSFailed("no certificate")
            await stream.start_tls(context, HANDSHAKE_TIMEOUT)
            stream.hand_over(self._http(where, stream.tls))
        except TLSFailed as exc:
            tls_failures.labels("https", exc.reason).inc()
            log.debug("tls handshake failed", extra={"remote": stream.remote_ip, "reason": exc.reason})
            stream.abort()
        except (StreamClosed, TimeoutError, ConnectionError):
            stream.abort()
        except asyncio.CancelledError:
            stream.abort()
            raise
        except Exception:
            log.exception("tls handshake failed", extra={"remote": stream.remote_ip})
            stream.abort()


_PLAIN_HTTP: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"Bad Request: plain HTTP request sent to HTTPS port\n"
)
