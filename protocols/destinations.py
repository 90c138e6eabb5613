"""Where mail for a domain goes: the hosts of its MX records, and their addresses (RFC 5321 section 5, 7505, 7672).

    destination = await find_hosts(resolver, IPDomain(domain=recipient_domain))
    for host in destination.hosts:
        addresses = await find_addresses(resolver, host)

Each step says whether DNSSEC vouches for it, on which DANE depends; what DNS said where it failed is kept, for reports.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final, TypeVar

from protocols.dns import MX, Answer, DNSError, ErrorKind, IPAddress, Resolver, absolute
from protocols.errors import ProtocolError
from protocols.names import BadDomain, Domain, IPDomain, parse_domain, parse_domain_lax

MAX_CNAMES: Final = 16  # from a recipient domain; real ones have one or two
MAX_HOST_CNAMES: Final = 10  # from an MX host, which should have none (RFC 5321 section 5.1)
LOOKUP_TIMEOUT: Final = 30.0  # seconds for each lookup
HOSTS_TIMEOUT: Final = 120.0  # seconds for all that lead to the hosts: slow name servers of one domain hold a worker
MAX_HOSTS: Final = 20  # that are tried of a domain: the best ones
MAX_ADDRESSES: Final = 20  # that are tried of a host
NULL_MX: Final = "."  # RFC 7505

T = TypeVar("T")


class DestinationError(ProtocolError):
    """Mail cannot be delivered there, for good or for now. The text is one line that can be printed."""

    def __init__(self, text: str, *, enhanced: str, permanent: bool = False, cause: DNSError | None = None) -> None:
        super().__init__(text)
        self.enhanced = enhanced
        """The enhanced status code that stands for it (RFC 3463)."""
        self.permanent = permanent
        self.cause = cause
        """What DNS said, where it was asked in vain."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The hosts that take mail for a domain, in the order in which to try them."""

    hosts: tuple[IPDomain, ...]
    has_mx: bool = False
    """The hosts are of MX records; else it is the domain itself, or an address."""
    expanded: Domain | None = None
    """The domain at the end of its CNAMEs; None for an address."""
    original_authentic: bool = False
    """DNSSEC vouches for the answer about the domain as given."""
    authentic: bool = False
    """DNSSEC vouches for all answers that led to the hosts."""


@dataclass(frozen=True, slots=True)
class HostAddresses:
    """The addresses of a host, in the order that DNS gives."""

    addresses: tuple[IPAddress, ...]
    dual_stack: bool = False
    """There are addresses of both families."""
    expanded: Domain | None = None
    """The host at the end of its CNAMEs; None for an address."""
    authentic: bool = False
    """DNSSEC vouches for the answer about the host as named: its addresses, or that it is an alias."""
    expanded_authentic: bool = False
    """DNSSEC vouches for the whole way to the addresses."""


async def find_hosts(
    resolver: Resolver, domain: IPDomain, *, pedantic: bool = False, rng: random.Random | None = None
) -> Destination:
    """The hosts for a recipient domain. Raises DestinationError.

    Targets of MX records that are no names are passed over where there are others; ``pedantic``: so are names with
    underscores. Hosts of equal preference come in random order (RFC 5321 section 5.1).
    """
    if domain.domain is None:
        return Destination((domain,))
    try:
        async with asyncio.timeout(HOSTS_TIMEOUT):
            return await _find_hosts(resolver, domain.domain, pedantic, rng or random.Random())
    except TimeoutError:
        text = f"hosts of {domain.domain.ascii} not found within {HOSTS_TIMEOUT:g} seconds"
        raise DestinationError(text, enhanced="4.4.3") from None


async def _find_hosts(resolver: Resolver, domain: Domain, pedantic: bool, rng: random.Random) -> Destination:
    alias = await _follow(resolver, domain, MAX_CNAMES)
    name = absolute(alias.name)
    original_authentic, authentic = alias.first_authentic, alias.authentic
    try:
        answer = await _asked(resolver.mx(name), name, "mx")
    except DNSError as exc:
        if not exc.is_not_found:
            raise _not_now(exc) from exc
        # RFC 5321 section 5.1: as if there were an MX record with the domain itself.
        answer = Answer((), exc.authentic, name, 0)
    authentic = authentic and answer.authentic
    if alias.steps == 0:
        original_authentic = original_authentic and answer.authentic
    hosts = _hosts(answer.records, alias.name, pedantic, rng)
    return Destination(hosts, bool(answer.records), alias.name, original_authentic, authentic)


async def find_addresses(resolver: Resolver, host: IPDomain, *, ipv4: bool = True, ipv6: bool = True) -> HostAddresses:
    """The addresses of a host, of one family or both. Raises DestinationError."""
    if host.domain is None:
        assert host.ip is not None, "a host is a name or an address"
        return HostAddresses((host.ip,))
    alias = await _follow(resolver, host.domain, MAX_HOST_CNAMES)
    name = absolute(alias.name)
    try:
        if ipv4 and ipv6:
            answer = await _asked(resolver.ip(name), name, "ip")
        else:
            answer = (
                await _asked(resolver.a(name), name, "a") if ipv4 else await _asked(resolver.aaaa(name), name, "aaaa")
            )
    except DNSError as exc:
        raise _not_now(exc) from exc
    authentic = alias.first_authentic and (answer.authentic or alias.steps > 0)
    return HostAddresses(
        tuple(dict.fromkeys(answer.records))[:MAX_ADDRESSES],
        len({address.version for address in answer.records}) > 1,
        alias.name,
        authentic,
        alias.authentic and answer.authentic,
    )


@dataclass(frozen=True, slots=True)
class _Alias:
    """Where CNAMEs lead, and whether the first answer, and all of them, are authentic."""

    name: Domain
    steps: int
    first_authentic: bool
    authentic: bool


async def _follow(resolver: Resolver, name: Domain, most: int) -> _Alias:
    """Follow CNAMEs one by one, so that it is known of each whether it is authentic."""
    seen = {name.ascii}
    first_authentic = authentic = True
    for steps in range(most + 1):
        try:
            answer = await _asked(resolver.cname(absolute(name)), absolute(name), "cname")
        except DNSError as exc:
            if not exc.is_not_found:
                raise _not_now(exc) from exc
            if steps == 0:
                first_authentic = exc.authentic
            return _Alias(name, steps, first_authentic, authentic and exc.authentic)
        if steps == 0:
            first_authentic = answer.authentic
        authentic = authentic and answer.authentic
        try:
            name = parse_domain_lax(answer.records[0].removesuffix("."))
        except BadDomain as exc:
            text = f"cname of {name.ascii} leads to what is no domain: {exc}"
            raise DestinationError(text, enhanced="4.4.3") from exc
        if name.ascii in seen:
            raise DestinationError(f"cnames of {name.ascii} go in a circle", enhanced="4.4.3")
        seen.add(name.ascii)
    raise DestinationError(f"more than {most} cnames, last at {name.ascii}", enhanced="4.4.3")


async def _asked(lookup: Awaitable[T], name: str, rtype: str) -> T:
    """The answer to a lookup within its time. Raises DNSError."""
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT):
            return await lookup
    except TimeoutError:
        raise DNSError(ErrorKind.TIMEOUT, name, rtype) from None


def _not_now(error: DNSError) -> DestinationError:
    # A name that does not exist, too: it may be the mistake of an hour in somebody's zone.
    return DestinationError(str(error), enhanced="4.4.3", cause=error)


def _hosts(records: Sequence[MX], domain: Domain, pedantic: bool, rng: random.Random) -> tuple[IPDomain, ...]:
    if not records:
        return (IPDomain(domain=domain),)
    targets = [record for record in records if record.host != NULL_MX]
    if not targets:
        raise DestinationError(f"domain {domain.ascii} accepts no mail (null mx)", enhanced="5.1.10", permanent=True)
    parse = parse_domain if pedantic else parse_domain_lax
    hosts: dict[Domain, None] = {}
    problem = ""
    for _, equals in groupby(sorted(targets, key=attrgetter("preference")), key=attrgetter("preference")):
        shuffled = list(equals)
        rng.shuffle(shuffled)
        for record in shuffled:
            try:
                hosts[parse(record.host.removesuffix("."))] = None
            except BadDomain as exc:
                problem = str(exc)
    if not hosts:
        text = f"mx records of {domain.ascii} name no host: {problem}"
        raise DestinationError(text, enhanced="5.4.4", permanent=True)
    return tuple(IPDomain(domain=host) for host in list(hosts)[:MAX_HOSTS])
