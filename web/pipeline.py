"""One ASGI application for all listeners: from a request to the endpoint that answers it (webserver.md 2).

A socket serves what its listener enables there, and nothing else: 404. Static files are answered here; pages and calls
by Django, each endpoint with its own views. Every request is measured and logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from django.contrib.staticfiles.storage import staticfiles_storage
from prometheus_client import Histogram

from protocols.stream import TLSState
from server.cids import next_cid, received_id
from server.connections import current_cid, panic_total
from server.models import EndpointKind
from server.ratelimit import Limiter

from .handler import (
    IN_MEMORY,
    Admit,
    BodyTimeout,
    BodyTooLarge,
    Disconnected,
    DjangoHandler,
    Message,
    Overloaded,
    Receive,
    Scope,
    Send,
)
from .listeners import HTTPSocket, Listeners
from .requests import (
    MAX_HEADER_SIZE,
    MAX_HEADERS,
    MAX_TARGET,
    BadRequest,
    Client,
    RequestInfo,
    clean_path,
    endpoint_for,
    forwarded_client,
    known_method,
)
from .static_files import PREFIX, MemoryStaticStorage

log = logging.getLogger(__name__)

LOGGED_TEXT: Final = 300  # characters of what a client sent, in a line of the log
_NO_MATCH: Final = "(nomatch)"
_RATE_LIMITED: Final = "(ratelimited)"
_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 60, 120)

_first_byte = Histogram(
    "mox_httpserver_request_duration_seconds",
    "Until the first header of the answer.",
    ["handler", "proto", "method", "code"],
    buckets=_BUCKETS,
)
_all_sent = Histogram(
    "mox_httpserver_response_duration_seconds",
    "Until the end of the answer.",
    ["handler", "proto", "method", "code"],
    buckets=_BUCKETS,
)


@dataclass(frozen=True, slots=True)
class Site:
    """What answers the requests of one kind of endpoint."""

    urlconf: str
    static: tuple[str, ...] = ()  # folders of static files that it serves
    max_body: int = IN_MEMORY
    admit: Admit | None = None
    """Whether a request may have a body that memory has no room for, which needs this."""


class Pipeline:
    """The ASGI application; its server puts an HTTPSocket, and the TLSState if there is one, into the scope's state."""

    def __init__(
        self,
        sites: Mapping[EndpointKind, Site],
        listeners: Listeners,
        django: DjangoHandler,
        limiter: Limiter,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
    ) -> None:
        self._sites = sites
        self._listeners = listeners
        self._django = django
        self._limiter = limiter
        self._trusted = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cid = next_cid()
        current_cid.set(cid)
        exchange = _Exchange(scope, send, received_id(cid))
        try:
            await self._answer(exchange, receive)
        except BadRequest as exc:
            await exchange.plain(HTTPStatus.BAD_REQUEST, str(exc))
        except BodyTooLarge:
            await exchange.plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the request is too large", close=True)
        except BodyTimeout:
            await exchange.plain(HTTPStatus.REQUEST_TIMEOUT, "the rest of the request did not come", close=True)
        except Overloaded:
            log.warning("too much is sent at a time, request refused", extra={"remote": exchange.remote})
            await exchange.plain(HTTPStatus.SERVICE_UNAVAILABLE, "too busy, try again in a moment", close=True)
        except Disconnected:
            log.debug("client went away", extra={"remote": exchange.remote})
        except Exception:
            panic_total.labels("web").inc()
            log.exception("unhandled exception in a request", extra={"path": exchange.path, "id": exchange.id})
            if not exchange.status:
                await exchange.plain(HTTPStatus.INTERNAL_SERVER_ERROR, f"server error (id {exchange.id})")
            else:
                raise  # the server ends the connection: the answer is not complete
        finally:
            exchange.account_for()

    async def _answer(self, exchange: _Exchange, receive: Receive) -> None:
        scope = exchange.scope
        if len(scope["headers"]) > MAX_HEADERS:
            raise BadRequest(f"the request has more than {MAX_HEADERS} header fields")
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_SIZE:
            text = f"the header fields have more than {MAX_HEADER_SIZE} bytes"
            await exchange.plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text, close=True)
            return
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
            await exchange.plain(HTTPStatus.REQUEST_URI_TOO_LONG, f"the address has more than {MAX_TARGET} bytes")
            return
        path = exchange.path = clean_path(scope["raw_path"])
        snapshot = await self._listeners.current()
        endpoint = endpoint_for(path, snapshot.endpoints_at(exchange.where))
        client = Client(exchange.remote, exchange.where.tls)
        if endpoint is not None and endpoint.forwarded:
            client = forwarded_client(client, exchange.headers, self._trusted)
            exchange.remote = client.ip
        if snapshot.settings.http_rate_limits and not await self._limiter.count_request(client.ip):
            exchange.handler = _RATE_LIMITED
            await exchange.plain(HTTPStatus.TOO_MANY_REQUESTS, "too many requests", close=True)
            return
        site = self._sites.get(endpoint.kind) if endpoint is not None else None
        if endpoint is None or site is None:
            await exchange.plain(HTTPStatus.NOT_FOUND, "not found")
            return
        exchange.handler = endpoint.kind.value
        if path == endpoint.path[:-1]:
            await exchange.redirect(endpoint.path)
            return
        inside = path.removeprefix(endpoint.path)
        if site.static and inside.startswith(PREFIX):
            await _send_static(exchange, inside.removeprefix(PREFIX), site.static)
            return
        exchange.info = RequestInfo(
            id=exchange.id,
            endpoint=endpoint,
            client_ip=client.ip,
            local_ip=scope["server"][0],
            is_secure=client.is_secure,
            tls=exchange.tls,
            user_agent=exchange.user_agent,
        )
        scope["path"] = path
        scope["root_path"] = endpoint.path[:-1]
        scope["client"] = (client.ip, 0)
        scope["scheme"] = "https" if client.is_secure else "http"
        await self._django.answer(scope, receive, exchange.send, exchange.info, site.urlconf, site.max_body, site.admit)


async def _send_static(exchange: _Exchange, name: str, folders: tuple[str, ...]) -> None:
    assert isinstance(staticfiles_storage, MemoryStaticStorage)
    file = staticfiles_storage.file(name) if name.startswith(tuple(f"{folder}/" for folder in folders)) else None
    if file is None:
        await exchange.plain(HTTPStatus.NOT_FOUND, "not found")
        return
    if exchange.scope["method"] not in ("GET", "HEAD"):
        await exchange.plain(HTTPStatus.METHOD_NOT_ALLOWED, "use GET", headers=[(b"allow", b"GET, HEAD")])
        return
    headers = [
        (b"cache-control", b"public, max-age=31536000, immutable"),
        (b"content-type", file.content_type.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    content = file.content
    if file.compressed is not None:
        headers.append((b"vary", b"Accept-Encoding"))
        if b"gzip" in exchange.headers.get(b"accept-encoding", b""):
            content = file.compressed
            headers.append((b"content-encoding", b"gzip"))
    await exchange.whole(HTTPStatus.OK, headers, content)


class _Exchange:
    """A request, and what was answered so far."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope = scope
        self.id = request_id
        self.where: HTTPSocket = scope["state"]["socket"]
        state: TLSState | None = scope["state"].get("tls")
        self.tls = f"{state.version} {state.cipher}" if state is not None else ""
        self.remote: str = scope["client"][0]
        self.path: str = scope["path"]
        self.handler = _NO_MATCH
        self.info: RequestInfo | None = None
        self.status = 0
        self._send = send
        self._size = 0
        self._started = time.monotonic()
        self.headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            # Proxies may add a field of their own instead of appending to the one that is there.
            self.headers[name] = self.headers[name] + b", " + value if name in self.headers else value
        self.user_agent = self.headers.get(b"user-agent", b"").decode("latin-1")

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            _first_byte.labels(*self._labels()).observe(time.monotonic() - self._started)
        else:
            self._size += len(message.get("body", b""))
        await self._send(message)

    async def whole(self, status: HTTPStatus, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        """Answer all at once."""
        headers.append((b"content-length", str(len(content)).encode()))
        await self.send({"type": "http.response.start", "status": status.value, "headers": headers})
        await self.send({"type": "http.response.body", "body": content})

    async def plain(
        self, status: HTTPStatus, text: str, *, close: bool = False, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Answer with a line of text."""
        fields = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
            *headers,
        ]
        if close:
            fields.append((b"connection", b"close"))
        await self.whole(status, fields, f"{text}\n".encode())

    async def redirect(self, path: str) -> None:
        query = self.scope["query_string"]
        location = path.encode() + (b"?" + query if query else b"")
        await self.plain(HTTPStatus.SEE_OTHER, f"see {path}", headers=[(b"location", location)])

    def account_for(self) -> None:
        """Measure and log it."""
        if not self.status:
            return
        duration = time.monotonic() - self._started
        _all_sent.labels(*self._labels()).observe(duration)
        if self.handler == _RATE_LIMITED:
            return  # its log would be the flood that the limit is for
        is_probe = self.handler == EndpointKind.METRICS.value and self.status < HTTPStatus.BAD_REQUEST
        log.log(
            logging.DEBUG if is_probe else logging.INFO,
            "request",
            extra={
                "method": self.scope["method"],
                "host": self.headers.get(b"host", b"").decode("latin-1")[:LOGGED_TEXT],
                "path": self.path[:LOGGED_TEXT],
                "proto": f"HTTP/{self.scope['http_version']}",
                "status": self.status,
                "size": self._size,
                "duration": duration,
                "handler": self.handler,
                "tls": self.tls,
                "remote": self.remote,
                "user_agent": self.user_agent[:LOGGED_TEXT],
                "account": self.info.account if self.info is not None else "",
            },
        )

    def _labels(self) -> tuple[str, str, str, str]:
        proto = "https" if self.where.tls else "http"
        return self.handler, proto, known_method(self.scope["method"]), str(self.status)
