"""DNS blocklists (RFC 5782): whether a zone lists an address, and whether the zone can be believed."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Final, Literal
from weakref import WeakKeyDictionary

from protocols import metrics
from protocols.dns import DNSError, IPAddress, Resolver, absolute
from protocols.dns.errors import printable
from protocols.names import Domain

TIMEOUT: Final = 30.0  # seconds for one zone
HEALTH_TTL: Final = 4 * 3600.0  # seconds: a zone that was shut down or taken over is noticed the same day
MAX_HEALTH: Final = 1000  # zones; an installation uses a handful
MAX_EXPLANATION: Final = 500  # characters; it comes from the list's operator and goes to the log and the admin

_LISTED: Final = IPv4Network("127.0.0.0/8")  # RFC 5782 2.1
# What operators answer to those who ask through a public resolver or too often. To take that for "listed" would
# reject all mail.
_REFUSED: Final = IPv4Network("127.255.255.0/24")

# RFC 5782 section 5: what each list must and must not have. The texts are those for error messages.
_TEST_ADDRESSES: Final[dict[int, tuple[IPAddress, IPAddress]]] = {
    4: (IPv4Address("127.0.0.2"), IPv4Address("127.0.0.1")),
    6: (IPv6Address("::ffff:7f00:2"), IPv6Address("::ffff:7f00:1")),
}
_TEST_TEXTS: Final = {4: ("127.0.0.2", "127.0.0.1"), 6: ("::FFFF:7F00:2", "::FFFF:7F00:1")}


class DnsblStatus(StrEnum):
    """Passing the list is good news."""

    PASS = "pass"  # noqa: S105 # a result, no password # not listed
    FAIL = "fail"  # listed
    TEMPERROR = "temperror"


@dataclass(frozen=True, slots=True)
class DnsblResult:
    """``explanation``: the list's own words about a listed address, printable ASCII. ``error``: one short line."""

    status: DnsblStatus
    explanation: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class DnsblHealth:
    """``usable`` with an ``error``: the zone could not be asked, which says nothing against it."""

    usable: bool
    error: str = ""


async def dnsbl_lookup(
    resolver: Resolver,
    zone: Domain,
    ip: IPAddress,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
) -> DnsblResult:
    """Whether the zone lists ``ip``. ``timeout`` in seconds."""
    start = time.monotonic()
    deadline = asyncio.get_running_loop().time() + timeout
    name = _name(zone, getattr(ip, "ipv4_mapped", None) or ip)
    try:
        async with asyncio.timeout_at(deadline):
            result = await _ask(resolver, name)
        if result.status is DnsblStatus.FAIL:
            result = DnsblResult(DnsblStatus.FAIL, await _explanation(resolver, name, deadline))
    except DNSError as error:
        result = DnsblResult(DnsblStatus.TEMPERROR, error=str(error))
    except TimeoutError:
        result = DnsblResult(DnsblStatus.TEMPERROR, error=f"no result within {timeout:g} seconds")
    labels = {"zone": zone.ascii, "status": result.status}
    metrics.observe("mox_dnsbl_lookup_duration_seconds", time.monotonic() - start, labels)
    return result


async def dnsbl_health(resolver: Resolver, zone: Domain, version: Literal[4, 6] = 4) -> str:
    """Why the zone must not be used for addresses of this IP version; "" when it may.

    What the zone answered is remembered for HEALTH_TTL seconds. That it could not be asked is no reason, and is not
    remembered: ``check_health`` tells it.
    """
    known = _health.setdefault(resolver, {})
    key = (zone.ascii, version)
    if (entry := known.get(key)) and entry[0] > time.monotonic():
        return entry[1]
    health = await check_health(resolver, zone, version)
    if health.usable and health.error:
        return ""
    if len(known) >= MAX_HEALTH:
        known.clear()
    known[key] = (time.monotonic() + HEALTH_TTL, health.error)
    return health.error


async def check_health(
    resolver: Resolver,
    zone: Domain,
    version: Literal[4, 6] = 4,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # as in dnsbl_lookup
) -> DnsblHealth:
    """Ask for the addresses that a list must and must not have (RFC 5782 section 5)."""
    results = []
    for ip in _TEST_ADDRESSES[version]:
        try:
            async with asyncio.timeout(timeout):
                results.append(await _ask(resolver, _name(zone, ip)))
        except DNSError as error:
            return DnsblHealth(usable=True, error=str(error))
        except TimeoutError:
            return DnsblHealth(usable=True, error=f"no result within {timeout:g} seconds")
    required, unwanted = results
    required_text, unwanted_text = _TEST_TEXTS[version]
    for result in results:
        if result.status is DnsblStatus.TEMPERROR:
            return DnsblHealth(usable=False, error=result.error)
    if required.status is not DnsblStatus.FAIL:
        return DnsblHealth(usable=False, error=f"dnsbl does not contain required test address {required_text}")
    if unwanted.status is DnsblStatus.FAIL:
        return DnsblHealth(usable=False, error=f"dnsbl contains unwanted test address {unwanted_text}")
    return DnsblHealth(usable=True)


def dnsbl_lookup_sync(resolver: Resolver, zone: Domain, ip: IPAddress, timeout: float = TIMEOUT) -> DnsblResult:
    """``dnsbl_lookup`` for a thread without an event loop."""
    return asyncio.run(dnsbl_lookup(resolver, zone, ip, timeout))


def dnsbl_health_sync(resolver: Resolver, zone: Domain, version: Literal[4, 6] = 4) -> str:
    """``dnsbl_health`` for a thread without an event loop."""
    return asyncio.run(dnsbl_health(resolver, zone, version))


# Per resolver, (zone, IP version): until when it counts, and the answer.
_health: WeakKeyDictionary[Resolver, dict[tuple[str, int], tuple[float, str]]] = WeakKeyDictionary()


def _name(zone: Domain, ip: IPAddress) -> str:
    """Octets (RFC 5782 2.1) or nibbles (2.4) of the address in reverse, in the zone."""
    reverse = ip.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
    return f"{reverse}.{absolute(zone)}"


async def _ask(resolver: Resolver, name: str) -> DnsblResult:
    """What the list has for a name. Raises DNSError when it could not be asked."""
    try:
        answer = await resolver.a(name)
    except DNSError as error:
        if error.is_not_found:
            return DnsblResult(DnsblStatus.PASS)
        raise
    for address in answer.records:
        if address in _REFUSED:
            return DnsblResult(DnsblStatus.TEMPERROR, error=f"blocklist refuses our queries (answer {address})")
        if address not in _LISTED:
            # A zone whose domain has lapsed answers every name with the address of somebody's advertisements.
            return DnsblResult(DnsblStatus.TEMPERROR, error=f"blocklist gives {address}, which is not in 127.0.0.0/8")
    return DnsblResult(DnsblStatus.FAIL)


async def _explanation(resolver: Resolver, name: str, deadline: float) -> str:
    """What the list says about a listed name; "" when it does not tell."""
    try:
        async with asyncio.timeout_at(deadline):
            texts = (await resolver.txt(name)).records
    except (DNSError, TimeoutError):
        return ""
    return printable("; ".join(text.decode("utf-8", "backslashreplace") for text in texts), MAX_EXPLANATION)
