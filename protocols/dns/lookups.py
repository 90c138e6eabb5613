"""The methods of a resolver on top of one: the lookup of any name and type."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from .errors import DNSError, ErrorKind
from .records import MX, SOA, SRV, TLSA, Answer, IPAddress

MAX_NAME: Final = 255  # octets on the wire, RFC 1035 2.3.4
MAX_LABEL: Final = 63  # octets, RFC 1035 2.3.4


class Lookups(ABC):
    """A resolver, but for how it comes by its answers."""

    @abstractmethod
    async def _lookup(self, name: str, rtype: str) -> Answer[Any]:
        """The answer for a type in lower case, with the records that this type has in ``Resolver``; or DNSError."""

    async def txt(self, name: str) -> Answer[bytes]:
        return await self._lookup(name, "txt")

    async def a(self, name: str) -> Answer[IPv4Address]:
        return await self._lookup(name, "a")

    async def aaaa(self, name: str) -> Answer[IPv6Address]:
        return await self._lookup(name, "aaaa")

    async def ip(self, name: str) -> Answer[IPAddress]:
        v6, v4 = await asyncio.gather(self._address_lookup(name, "aaaa"), self._address_lookup(name, "a"))
        if isinstance(v6, DNSError):
            if isinstance(v4, DNSError):
                # What is unknown outweighs what is known not to be there; so does an unproven absence a proven one.
                raise max(v4, v6, key=lambda error: (not error.is_not_found, not error.authentic))
            return v4
        if isinstance(v4, DNSError):
            return v6
        return Answer(v6.records + v4.records, v6.authentic and v4.authentic, v4.canonical, min(v6.ttl, v4.ttl))

    async def mx(self, name: str) -> Answer[MX]:
        return await self._lookup(name, "mx")

    async def ptr(self, ip: IPAddress) -> Answer[str]:
        return await self._lookup(f"{ip.reverse_pointer}.", "ptr")

    async def cname(self, name: str) -> Answer[str]:
        return await self._lookup(name, "cname")

    async def ns(self, name: str) -> Answer[str]:
        return await self._lookup(name, "ns")

    async def srv(self, name: str) -> Answer[SRV]:
        return await self._lookup(name, "srv")

    async def tlsa(self, name: str) -> Answer[TLSA]:
        return await self._lookup(name, "tlsa")

    async def soa(self, name: str) -> Answer[SOA]:
        return await self._lookup(name, "soa")

    async def _address_lookup(self, name: str, rtype: str) -> Answer[IPAddress] | DNSError:
        try:
            return await self._lookup(name, rtype)
        except DNSError as error:
            return error


def parse_name(name: str, rtype: str) -> tuple[bytes, ...]:
    """The labels of an absolute name in presentation form (RFC 1035 5.1), in lower case, the last one empty.

    Raises DNSError (invalid).
    """
    reason, labels = "", []
    if not name.endswith("."):
        reason = "host to lookup must be absolute, ending with a dot"
    elif not name.isascii():
        reason = "not ascii"
    elif len(name) > 4 * MAX_NAME:  # every octet as an escape of four characters
        reason = f"name longer than {MAX_NAME} bytes"
    else:
        labels = _split(name) if "\\" in name else name.lower().encode("ascii").split(b".")
        if labels == [b"", b""]:  # the root
            return (b"",)
        if not labels or labels[-1] != b"":
            reason = "bad escape"
        elif b"" in labels[:-1]:
            reason = "empty label"
        elif max(map(len, labels)) > MAX_LABEL:
            reason = f"label longer than {MAX_LABEL} bytes"
        elif sum(map(len, labels)) + len(labels) > MAX_NAME:
            reason = f"name longer than {MAX_NAME} bytes"
    if reason:
        raise DNSError(ErrorKind.INVALID, name, rtype, reason)
    return tuple(labels)


def _split(name: str) -> list[bytes]:
    r"""The labels of a name with escapes, ``\X`` or ``\DDD``; none when an escape is bad."""
    labels, label, position = [], bytearray(), 0
    while position < len(name):
        character = name[position]
        position += 1
        if character == ".":
            labels.append(bytes(label).lower())
            label.clear()
        elif character != "\\":
            label += character.encode("ascii")
        elif (digits := name[position : position + 3]).isdigit() and len(digits) == 3:
            if int(digits) > 255:
                return []
            label.append(int(digits))
            position += 3
        elif position < len(name) and not name[position].isdigit():
            label += name[position].encode("ascii")
            position += 1
        else:
            return []
    labels.append(bytes(label).lower())
    return labels


def format_name(labels: tuple[bytes, ...]) -> str:
    """The presentation form of a name in lower case, with the final dot; what is no printable ASCII is escaped."""
    if labels in ((), (b"",)):
        return "."
    return "".join("".join(map(_ESCAPES.__getitem__, label.lower())) + "." for label in labels if label)


def _escape(octet: int) -> str:
    if chr(octet) in '."\\;()@$':  # RFC 1035 5.1
        return "\\" + chr(octet)
    return chr(octet) if 0x21 <= octet <= 0x7E else f"\\{octet:03d}"


_ESCAPES: Final = tuple(map(_escape, range(256)))
