"""What a resolver does, whoever does it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from .records import MX, SOA, SRV, TLSA, Answer, IPAddress


class Resolver(Protocol):
    """Looks up records of one type.

    Names are absolute, in presentation form (RFC 1035 5.1) with the final dot: there is no search list. CNAMEs are
    followed, except by ``cname``. All raise DNSError, also for a name that cannot be looked up. Safe to share among
    tasks, threads and event loops.
    """

    async def txt(self, name: str) -> Answer[bytes]:
        """The character strings of each record, joined without anything between."""
        ...

    async def a(self, name: str) -> Answer[IPv4Address]: ...

    async def aaaa(self, name: str) -> Answer[IPv6Address]: ...

    async def ip(self, name: str) -> Answer[IPAddress]:
        """The addresses of both families, IPv6 first.

        An error only when there are none; a family that could not be looked up is not missed when the other is there.
        ``authentic`` is said of the records given.
        """
        ...

    async def mx(self, name: str) -> Answer[MX]:
        """As they came, not sorted."""
        ...

    async def ptr(self, ip: IPAddress) -> Answer[str]:
        """The names of an address, absolute and in lower case."""
        ...

    async def cname(self, name: str) -> Answer[str]:
        """The alias's target, one step."""
        ...

    async def ns(self, name: str) -> Answer[str]: ...

    async def srv(self, name: str) -> Answer[SRV]: ...

    async def tlsa(self, name: str) -> Answer[TLSA]: ...

    async def soa(self, name: str) -> Answer[SOA]: ...
