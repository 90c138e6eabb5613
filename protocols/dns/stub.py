"""The resolver that asks recursive name servers, with dnspython: over UDP, and TCP for what is too long for that.

    resolver = StubResolver()                     # the servers of resolv.conf
    resolver = StubResolver(parse_servers("127.0.0.1:5353"), trust_ad=True)
    answer = await resolver.for_package("spf").txt("example.org.")

It verifies no signatures: it believes the AD bit of a server that is trusted (RFC 6840 5.8), and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeAlias

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.query
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TLSA
import dns.resolver
from dns._asyncio_backend import Backend  # the public way to it, get_backend(), gives an instance only

from protocols import metrics

from .cache import Cache
from .errors import EDE, DNSError, ErrorKind, is_dnssec_error, printable
from .lookups import Lookups, format_name, parse_name
from .records import MX, SOA, SRV, TLSA, Answer
from .servers import NameServer, Servers, SystemServers

TIMEOUT: Final = 5.0  # seconds for each try, as in the C library
TRIES: Final = 2  # for each server, as in the C library
LIFETIME: Final = 15.0  # seconds for a lookup: callers have whole protocols to get through
PAYLOAD: Final = 1232  # bytes of an answer over UDP: never in fragments, which can be forged (DNS flag day 2020)
MAX_TTL: Final = 3600  # seconds that an answer is kept: a mistake in somebody's zone is over within an hour
MAX_NEGATIVE_TTL: Final = 300  # seconds; who adds a missing record wants to see it work
OBJECT_BYTES: Final = 100  # about what a record takes that is no text

HINT: Final = "does resolv.conf point to a running, dnssec-verifying resolver such as unbound?"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Nothing:
    """A name server's word that there is no such record."""

    kind: ErrorKind
    authentic: bool
    server: str


_Key: TypeAlias = tuple[Servers, tuple[bytes, ...], str]
"""With the servers, since their word counts no longer when others take their place."""
_Value: TypeAlias = Answer[Any] | _Nothing


class StubResolver(Lookups):
    """Asks ``servers`` in their order, or those of resolv.conf.

    ``trust_ad``: whether their word that DNSSEC verified an answer counts. None: when all of them are on this machine,
    or resolv.conf has ``options trust-ad``. ``timeout`` and ``lifetime`` in seconds.
    """

    def __init__(
        self,
        servers: Sequence[NameServer] = (),
        *,
        trust_ad: bool | None = None,
        timeout: float = TIMEOUT,
        lifetime: float = LIFETIME,
        system: Callable[[], Servers] | None = None,
    ) -> None:
        given = Servers(tuple(servers))
        self._servers: Callable[[], Servers] = (lambda: given) if servers else (system or SystemServers())
        self._trust_ad = trust_ad
        self._timeout = timeout
        self._lifetime = lifetime
        self._cache: Cache[_Key, _Value] = Cache()
        self._reads_cache = True
        self._package = ""

    @property
    def servers(self) -> tuple[NameServer, ...]:
        """Those that would be asked now."""
        return self._servers().servers

    @property
    def is_trusted(self) -> bool:
        """Whether an answer can be authentic."""
        return self._servers().is_trusted if self._trust_ad is None else self._trust_ad

    def for_package(self, package: str) -> StubResolver:
        """The same resolver, with its cache, whose lookups are counted under this name."""
        return self._variant(package, reads_cache=self._reads_cache)

    def without_cache(self) -> StubResolver:
        """The same resolver, asking anew each time; the others get to see what it finds."""
        return self._variant(self._package, reads_cache=False)

    def clear_cache(self) -> None:
        self._cache.clear()

    def _variant(self, package: str, *, reads_cache: bool) -> StubResolver:
        variant = StubResolver.__new__(StubResolver)
        variant.__dict__.update(self.__dict__)
        variant._package = package
        variant._reads_cache = reads_cache
        return variant

    async def _lookup(self, name: str, rtype: str) -> Answer[Any]:
        start = time.monotonic()
        result = "canceled"
        try:
            key = (self._servers(), parse_name(name, rtype), rtype)
            answer = self._from_cache(key, name)
            if answer is None:
                answer = await self._ask(key, name)
            result = "ok"
            return answer
        except DNSError as error:
            result = _METRIC_RESULTS[error.kind]
            raise
        finally:
            seconds = time.monotonic() - start
            _log.debug(
                "dns lookup", extra={"lookup": printable(name), "type": rtype, "result": result, "duration": seconds}
            )
            labels = {"pkg": self._package, "type": rtype, "result": result}
            metrics.observe("mox_dns_lookup_duration_seconds", seconds, labels)

    def _from_cache(self, key: _Key, name: str) -> Answer[Any] | None:
        entry = self._cache.get(key) if self._reads_cache else None
        if entry is None:
            return None
        value, seconds = entry
        if isinstance(value, _Nothing):
            raise _not_found(value, name, key[-1])
        return Answer(value.records, value.authentic, value.canonical, int(seconds))

    async def _ask(self, key: _Key, name: str) -> Answer[Any]:
        servers, labels, rtype = key
        is_trusted = servers.is_trusted if self._trust_ad is None else self._trust_ad
        lifetime = min(self._lifetime, TRIES * self._timeout * len(servers.servers))
        question = dns.name.Name(labels)
        try:
            # dnspython goes by the wall clock; this bound holds when that is set.
            async with asyncio.timeout(lifetime + 1):
                found = await self._client(servers).resolve(
                    question,
                    _TYPES[rtype],
                    search=False,
                    raise_on_no_answer=False,
                    lifetime=lifetime,
                    backend=_BACKEND,
                )
        except dns.resolver.NXDOMAIN as error:
            response = error.kwargs["responses"][question]
            nothing = _Nothing(ErrorKind.NXDOMAIN, _has_ad(response, is_trusted), _only(servers))
            self._keep_nothing(key, nothing, response.resolve_chaining().minimum_ttl)
            raise _not_found(nothing, name, rtype) from None
        except dns.resolver.LifetimeTimeout as error:
            raise _failure(ErrorKind.TIMEOUT, name, rtype, servers, error.kwargs["errors"]) from error
        except dns.resolver.NoNameservers as error:
            raise _failure(ErrorKind.TEMPORARY, name, rtype, servers, error.kwargs["errors"]) from error
        except TimeoutError as error:
            raise DNSError(ErrorKind.TIMEOUT, name, rtype, f"after {lifetime:g} seconds") from error
        except dns.exception.DNSException as error:
            raise DNSError(ErrorKind.TEMPORARY, name, rtype, printable(str(error)), server=_only(servers)) from error
        authentic = _has_ad(found.response, is_trusted)
        ttl = found.chaining_result.minimum_ttl
        if found.rrset is None:
            nothing = _Nothing(ErrorKind.NOTFOUND, authentic, _server_of(found))
            self._keep_nothing(key, nothing, ttl)
            raise _not_found(nothing, name, rtype)
        ttl = min(ttl, MAX_TTL)
        records = tuple(map(_CONVERTERS[rtype], found.rrset))
        answer = Answer(records, authentic, format_name(found.canonical_name.labels), ttl)
        self._cache.put(key, answer, ttl, _size(records))
        return answer

    def _keep_nothing(self, key: _Key, nothing: _Nothing, ttl: int) -> None:
        self._cache.put(key, nothing, min(ttl, MAX_NEGATIVE_TTL))

    def _client(self, servers: Servers) -> dns.asyncresolver.Resolver:
        client = dns.asyncresolver.Resolver(configure=False)
        client.nameservers = [_Do53(server) for server in servers.servers]
        client.timeout = self._timeout
        # AD in the query asks for AD in the answer (RFC 6840 5.7); the signatures themselves are of no use here.
        client.flags = dns.flags.RD | dns.flags.AD
        client.use_edns(0, 0, PAYLOAD)
        return client


class _LenientTLSA(dns.rdtypes.ANY.TLSA.TLSA):
    """TLSA data of any length: one malformed record must not hide the others (RFC 7672 2.1: it is unusable).

    dnspython takes a message with such a record for no answer at all.
    """

    _cert_length_by_mtype: dict[int, int] = {}


# register_type() is for types that dnspython does not know.
dns.rdata._rdata_classes[(dns.rdataclass.IN, dns.rdatatype.TLSA)] = _LenientTLSA


class _Connected(Backend):
    """UDP sockets that are connected: a closed port is an error at once, and the kernel drops what others send."""

    def datagram_connection_required(self) -> bool:
        return True


_BACKEND: Final = _Connected()


class _Do53(dns.nameserver.Do53Nameserver):
    def __init__(self, server: NameServer) -> None:
        super().__init__(str(server.ip), server.port)
        self.server = server

    def __str__(self) -> str:
        return str(self.server)

    async def async_query(
        self,
        request: dns.message.QueryMessage,
        timeout: float,  # noqa: ASYNC109 # dnspython's signature
        source: str | None,
        source_port: int,
        max_size: bool,
        backend: Any,
        one_rr_per_rrset: bool = False,
        ignore_trailing: bool = False,
    ) -> dns.message.Message:
        if not max_size:
            return await super().async_query(request, timeout, source, source_port, max_size, backend)
        try:
            async with asyncio.timeout(timeout):
                wire = await self._ask_over_tcp(request.to_wire())
        except TimeoutError as error:
            raise dns.exception.Timeout from error
        # A message of 64 kB has thousands of records, which somebody chose: other connections don't wait for those.
        response = await asyncio.to_thread(dns.message.from_wire, wire)
        if not request.is_response(response):
            raise dns.query.BadResponse
        return response

    async def _ask_over_tcp(self, query: bytes) -> bytes:
        """RFC 1035 4.2.2. Raises OSError, EOFError."""
        reader, writer = await asyncio.open_connection(str(self.server.ip), self.server.port)
        try:
            writer.write(len(query).to_bytes(2, "big") + query)
            return await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()


def _has_ad(response: dns.message.Message, is_trusted: bool) -> bool:
    return is_trusted and bool(response.flags & dns.flags.AD)


def _only(servers: Servers) -> str:
    """The server that answered, where dnspython does not tell: known when there is but one."""
    return str(servers.servers[0]) if len(servers.servers) == 1 else ""


def _server_of(found: dns.resolver.Answer) -> str:
    return f"[{found.nameserver}]:{found.port}" if ":" in str(found.nameserver) else f"{found.nameserver}:{found.port}"


def _not_found(nothing: _Nothing, name: str, rtype: str) -> DNSError:
    return DNSError(nothing.kind, name, rtype, server=nothing.server, authentic=nothing.authentic)


def _failure(
    kind: ErrorKind, name: str, rtype: str, servers: Servers, errors: Sequence[dns.resolver.ErrorTuple]
) -> DNSError:
    """The error when no server gave an answer, from what dnspython noted of each try."""
    responses = [response for *_, response in errors if response is not None]
    ede = tuple(dict.fromkeys(_extended_errors(responses)))
    if responses:
        kind = ErrorKind.BOGUS if is_dnssec_error(ede) else ErrorKind.TEMPORARY
    reasons = [f"{server} {_reason(what)}" for server, _, _, what, _ in errors]
    reasons += [error.text for error in ede if error.text]
    local = {str(server) for server in servers.servers if server.ip.is_loopback}
    if any(server in local and isinstance(what, ConnectionRefusedError) for server, _, _, what, _ in errors):
        reasons.append(HINT)
    detail = printable("; ".join(dict.fromkeys(reasons)))
    answered = [str(server) for server, _, _, _, response in errors if response is not None]
    return DNSError(kind, name, rtype, detail, ede=ede, server=answered[-1] if answered else "")


def _extended_errors(responses: Iterable[dns.message.Message]) -> Iterable[EDE]:
    for response in responses:
        for option in response.extended_errors():
            yield EDE(int(option.code), printable(option.text or ""))


def _reason(what: Exception | str) -> str:
    """What a server did: its response code, or an exception of ours."""
    if isinstance(what, str):
        return f"answered {what}"
    if isinstance(what, dns.exception.Timeout):
        return "did not answer"
    if isinstance(what, OSError):
        return f"could not be asked: {(os.strerror(what.errno) if what.errno else str(what)).lower()}"
    return f"made no sense: {str(what) or type(what).__name__}"


def _size(records: Iterable[object]) -> int:
    """About what the records take, in bytes."""
    return sum(len(record) if isinstance(record, bytes | str) else OBJECT_BYTES for record in records)


def _name(name: dns.name.Name) -> str:
    return format_name(name.labels)


def _soa(data: Any) -> SOA:
    return SOA(_name(data.mname), _name(data.rname), data.serial, data.refresh, data.retry, data.expire, data.minimum)


_CONVERTERS: Final[dict[str, Callable[[Any], object]]] = {
    "txt": lambda data: b"".join(data.strings),
    "a": lambda data: IPv4Address(data.address),
    "aaaa": lambda data: IPv6Address(data.address),
    "mx": lambda data: MX(data.preference, _name(data.exchange)),
    "ptr": lambda data: _name(data.target),
    "cname": lambda data: _name(data.target),
    "ns": lambda data: _name(data.target),
    "srv": lambda data: SRV(data.priority, data.weight, data.port, _name(data.target)),
    "tlsa": lambda data: TLSA(data.usage, data.selector, data.mtype, data.cert),
    "soa": _soa,
}
_TYPES: Final = {rtype: dns.rdatatype.from_text(rtype) for rtype in _CONVERTERS}
_METRIC_RESULTS: Final = {
    ErrorKind.NOTFOUND: "nxdomain",
    ErrorKind.NXDOMAIN: "nxdomain",
    ErrorKind.TEMPORARY: "temporary",
    ErrorKind.BOGUS: "temporary",
    ErrorKind.TIMEOUT: "timeout",
    ErrorKind.INVALID: "error",
}
