"""What a lookup gives: the records, and what is known of the answer."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeAlias, TypeVar

from protocols.names import Domain

T = TypeVar("T", covariant=True)
IPAddress: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The records of a name and type; there is at least one (no record is a DNSError that ``is_not_found``)."""

    records: tuple[T, ...]
    authentic: bool
    """A resolver that is trusted has verified all of it by DNSSEC, with every CNAME that led here."""
    canonical: str
    """The name that has the records, in lower case with the final dot: the end of the CNAMEs, else the name itself."""
    ttl: int
    """Seconds for which the answer may still be used."""


@dataclass(frozen=True, slots=True, order=True)
class MX:
    """RFC 1035 3.3.9. ``host`` is absolute and in lower case, "." for a null MX (RFC 7505)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class SRV:
    """RFC 2782. ``target`` is absolute and in lower case, "." when the service is not there."""

    priority: int
    weight: int
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class SOA:
    """RFC 1035 3.3.13. Times in seconds; ``minimum`` bounds how long "no such record" may be kept (RFC 2308)."""

    mname: str
    rname: str
    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


@dataclass(frozen=True, slots=True)
class TLSA:
    """RFC 6698 section 2. The numbers are as they came: also such as nobody has given a meaning."""

    usage: int
    selector: int
    matching: int
    data: bytes

    def __str__(self) -> str:
        """As in a zone file: ``3 1 1 <hex>``."""
        return f"{self.usage} {self.selector} {self.matching} {self.data.hex()}"


def absolute(domain: Domain) -> str:
    """The name to look up for a domain: its A-labels and a final dot."""
    return f"{domain.ascii}."
