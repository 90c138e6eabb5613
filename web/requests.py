"""What a request is, before any page looks at it: its path made plain, the client it comes from, who answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, TypeVar
from urllib.parse import unquote_to_bytes

from django.http import HttpRequest

from server.models import EndpointKind
from store.db import Tx
from store.writer import GroupWriter

MAX_HEADERS: Final = 100  # fields of a request: a browser sends about 20
MAX_HEADER_SIZE: Final = 64 << 10  # bytes of all of them
MAX_TARGET: Final = 8 << 10  # bytes of path and query (webserver.md 2)
UNKNOWN_METHOD: Final = "(unknown)"  # in metrics: clients cannot make up labels
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

T = TypeVar("T")


class BadRequest(Exception):
    """A request that no page can answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of ListenerEndpoint as the pipeline needs it. ``path`` ends in a slash."""

    kind: EndpointKind
    path: str
    forwarded: bool
    max_message_size: int = 100 << 20
    """Bytes of a message that its listener takes."""


@dataclass(slots=True)
class RequestInfo:
    """What the pipeline knows of a request; pages reach it with ``info(request)``."""

    id: str
    """For the client to quote and the operator to find in the log."""
    endpoint: Endpoint
    client_ip: str
    local_ip: str
    is_secure: bool
    tls: str
    """Version and cipher; empty without TLS to this server."""
    user_agent: str
    account: str = ""
    """Whose session it is, for the access log; set by the page."""
    delay: float = 0.0
    """Seconds to wait before the answer is sent; set by the page. No thread waits for it."""
    login: object = None
    """What the page found of the client's credentials before the body was read."""
    is_unread: bool = False
    """The body is more than was taken: the answer says why."""
    writer: GroupWriter | None = None

    def write(self, account_ids: Sequence[int], job: Callable[[Tx], T]) -> T:
        """Have the group commit of this process run ``job(tx)``; see GroupWriter.submit()."""
        assert self.writer is not None  # the handler gives it to each request
        return self.writer.submit(account_ids, job).result()


def info(request: HttpRequest) -> RequestInfo:
    found: RequestInfo = request.scope["mox"]  # type: ignore[attr-defined]  # every request here is an ASGIRequest
    return found


def clean_path(raw: bytes) -> str:
    """The path of a request target without dot segments and doubled slashes, decoded; a final slash stays.

    Raises BadRequest for what is not UTF-8, and for NUL.
    """
    if raw.lower().startswith((b"http://", b"https://")):
        raw = b"/" + raw.split(b"/", 3)[3] if raw.count(b"/") > 2 else b"/"  # absolute form (RFC 9112 3.2.2)
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise BadRequest("the path is not UTF-8") from None
    if "\0" in path:
        raise BadRequest("the path has a NUL character")
    if path and not path.startswith("/"):
        raise BadRequest("the path does not start with a slash")
    parts: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            del parts[-1:]
        elif segment not in ("", "."):
            parts.append(segment)
    ends_in_slash = segments[-1] in ("", ".", "..")
    return "/" + "/".join(parts) + ("/" if parts and ends_in_slash else "")


def endpoint_for(path: str, endpoints: Iterable[Endpoint]) -> Endpoint | None:
    """The endpoint with the longest path that this path is below; also for its path without the final slash."""
    matching = [e for e in endpoints if path.startswith(e.path) or path == e.path[:-1]]
    return max(matching, key=lambda e: len(e.path), default=None)


@dataclass(frozen=True, slots=True)
class Client:
    """Whom a request comes from, and whether it came over TLS."""

    ip: str
    is_secure: bool


def forwarded_client(peer: Client, headers: dict[bytes, bytes], trusted: Sequence[IPv4Network | IPv6Network]) -> Client:
    """The client behind a reverse proxy. Headers of a peer that is no trusted proxy are its own claim, and ignored.

    Trusted are loopback and the networks given. Raises BadRequest where the proxy leaves out what it must say.
    """
    if not _is_trusted(peer.ip, trusted):
        return peer
    if not (chain := headers.get(b"x-forwarded-for", b"").decode("latin-1")):
        raise BadRequest("header X-Forwarded-For is missing: the reverse proxy in front of this server must set it")
    if not (scheme := headers.get(b"x-forwarded-proto", b"").decode("latin-1").strip().lower()):
        raise BadRequest("header X-Forwarded-Proto is missing: the reverse proxy in front of this server must set it")
    # Each proxy appends whom it heard from; what stands before the last untrusted address is the client's own claim.
    for ip in (item.strip() for item in reversed(chain.split(","))):
        try:
            parsed = ip_address(ip)
        except ValueError:
            raise BadRequest(f"header X-Forwarded-For has {ip[:40]!r}, which is not an IP address") from None
        if not _is_trusted(ip, trusted):
            break
    return Client(str(parsed), scheme == "https")


def _is_trusted(ip: str, trusted: Sequence[IPv4Network | IPv6Network]) -> bool:
    address = ip_address(ip)
    return address.is_loopback or any(address in network for network in trusted)


def known_method(method: str) -> str:
    """The method as a label of metrics."""
    return method if method in _METHODS else UNKNOWN_METHOD
