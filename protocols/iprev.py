"""Whether the name that an address claims in reverse DNS leads back to it (iprev, RFC 8601 section 3)."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final

from protocols import metrics
from protocols.dns import DNSError, IPAddress, Resolver, absolute
from protocols.names import BadDomain, Domain, parse_domain_lax

MAX_NAMES: Final = 10  # RFC 8601 section 3: a limit is advised; who holds the reverse zone can list any number
TIMEOUT: Final = 30.0  # seconds, for all lookups together


class IprevStatus(StrEnum):
    """The results of RFC 8601 section 2.7.3."""

    PASS = "pass"  # noqa: S105 # a result, no password
    FAIL = "fail"  # there are names, and none has the address
    TEMPERROR = "temperror"
    PERMERROR = "permerror"  # there is no name


@dataclass(frozen=True, slots=True)
class IprevResult:
    """``name`` is the one that has the address, ``names`` are all that were looked at, ``error`` is one short line."""

    status: IprevStatus
    name: Domain | None = None
    names: tuple[Domain, ...] = ()
    authentic: bool = False
    """Whether DNSSEC verified every answer that the result rests on."""
    error: str = ""


async def iprev(
    resolver: Resolver,
    ip: IPAddress,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
) -> IprevResult:
    """The names of ``ip``, each resolved until one gives ``ip``. ``timeout`` in seconds, for all of it."""
    start = time.monotonic()
    try:
        async with asyncio.timeout(timeout):
            result = await _verify(resolver, getattr(ip, "ipv4_mapped", None) or ip)
    except TimeoutError:
        result = IprevResult(IprevStatus.TEMPERROR, error=f"no result within {timeout:g} seconds")
    metrics.observe("mox_iprev_lookup_total", time.monotonic() - start, {"status": result.status})
    return result


def iprev_sync(resolver: Resolver, ip: IPAddress, timeout: float = TIMEOUT) -> IprevResult:
    """``iprev`` for a thread without an event loop."""
    return asyncio.run(iprev(resolver, ip, timeout))


async def _verify(resolver: Resolver, ip: IPAddress) -> IprevResult:
    try:
        pointers = await resolver.ptr(ip)
    except DNSError as error:
        status = IprevStatus.PERMERROR if error.is_not_found else IprevStatus.TEMPERROR
        return IprevResult(status, authentic=error.authentic, error=str(error))
    names = _domains(pointers.records[:MAX_NAMES])
    authentic, problem = pointers.authentic, ""
    for name in names:
        try:
            has_it, is_authentic = await _has_address(resolver, name, ip)
        except DNSError as error:
            problem = problem or str(error)
            continue
        if has_it:
            return IprevResult(IprevStatus.PASS, name, names, pointers.authentic and is_authentic)
        authentic = authentic and is_authentic
    if problem:  # that name may have it
        return IprevResult(IprevStatus.TEMPERROR, names=names, error=problem)
    return IprevResult(
        IprevStatus.FAIL, names=names, authentic=authentic, error=f"no reverse name has the address {ip}"
    )


def _domains(names: tuple[str, ...]) -> tuple[Domain, ...]:
    """The names without those that cannot be a host's, each once."""
    domains: dict[Domain, None] = {}
    for name in names:
        try:
            domains[parse_domain_lax(name.removesuffix("."))] = None
        except BadDomain:
            continue
    return tuple(domains)


async def _has_address(resolver: Resolver, name: Domain, ip: IPAddress) -> tuple[bool, bool]:
    """Whether ``name`` has the address, and whether that is authentic. Raises DNSError when it cannot be known."""
    try:
        if isinstance(ip, IPv4Address):
            v4 = await resolver.a(absolute(name))
            return ip in v4.records, v4.authentic
        v6 = await resolver.aaaa(absolute(name))
        return ip in v6.records, v6.authentic
    except DNSError as error:
        if error.is_not_found:
            return False, error.authentic
        raise
