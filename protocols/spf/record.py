"""SPF records (RFC 7208 sections 4.5, 4.6, 5, 6): their terms as values, read from TXT records and written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from .errors import BadRecord
from .macros import MacroString, parse_domain_spec, parse_macro_string

VERSION: Final = "v=spf1"
MAX_RECORD: Final = 16 * 1024  # bytes; RFC 7208 3.4 wants answers under 512, the longest in use have some thousand
RECORD_CACHE: Final = 4096  # records; the same few large senders and their includes come over and over

_TERM: Final = re.compile(r"([A-Za-z][A-Za-z0-9._-]*)(.*)", re.DOTALL)
_MECHANISM: Final = re.compile(r"([+?~-]?)([A-Za-z0-9]+)(.*)", re.DOTALL)
_PREFIXES: Final = re.compile(r"(?:/(0|[1-9]\d{0,2}))?(?://(0|[1-9]\d{0,2}))?\Z", re.ASCII)
_PREFIX: Final = re.compile(r"0|[1-9]\d{0,2}", re.ASCII)


class Qualifier(StrEnum):
    """The result when a mechanism matches."""

    PASS = "+"  # noqa: S105 # a result
    FAIL = "-"
    SOFTFAIL = "~"
    NEUTRAL = "?"


class Kind(StrEnum):
    """The mechanisms."""

    ALL = "all"
    INCLUDE = "include"
    A = "a"
    MX = "mx"
    PTR = "ptr"
    IP4 = "ip4"
    IP6 = "ip6"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Mechanism:
    """One mechanism. ``domain`` is None where the current domain is meant, and for all, ip4 and ip6."""

    kind: Kind
    qualifier: Qualifier = Qualifier.PASS
    domain: MacroString | None = None
    network: IPv4Network | IPv6Network | None = None
    """Of ip4 and ip6."""
    prefix4: int = 32
    """Bits that count, for a and mx, of an IPv4 address."""
    prefix6: int = 128

    @property
    def text(self) -> str:
        """The mechanism without its qualifier, as it is written."""
        parts: list[str] = [self.kind]
        if self.network is not None:
            whole = self.network.prefixlen == self.network.max_prefixlen
            parts.append(f":{self.network.network_address if whole else self.network}")
        if self.domain is not None:
            parts.append(f":{self.domain.text}")
        if self.prefix4 != 32:
            parts.append(f"/{self.prefix4}")
        if self.prefix6 != 128:
            parts.append(f"//{self.prefix6}")
        return "".join(parts)

    def __str__(self) -> str:
        return self.text if self.qualifier is Qualifier.PASS else f"{self.qualifier}{self.text}"


@dataclass(frozen=True, slots=True)
class SpfRecord:
    """A domain's policy: the mechanisms in order, and modifiers."""

    mechanisms: tuple[Mechanism, ...] = ()
    redirect: MacroString | None = None
    explanation: MacroString | None = None
    """Of ``exp=``: where the explanation is."""
    others: tuple[tuple[str, str], ...] = ()
    """Modifiers that have no meaning here, and their values."""

    def compose(self) -> str:
        """The text of the record."""
        terms = [VERSION, *map(str, self.mechanisms)]
        if self.redirect is not None:
            terms.append(f"redirect={self.redirect.text}")
        if self.explanation is not None:
            terms.append(f"exp={self.explanation.text}")
        terms += [f"{name}={value}" for name, value in self.others]
        return " ".join(terms)


def is_spf(txt: bytes) -> bool:
    """Whether a TXT record is one of SPF, be it good or bad (RFC 7208 section 4.5)."""
    return txt[:6].lower() == b"v=spf1" and txt[6:7] in (b"", b" ")


@lru_cache(maxsize=RECORD_CACHE)
def parse_record(txt: bytes) -> SpfRecord:
    """The record in the joined strings of a TXT record. Raises BadRecord: all of it must be right (section 4.6)."""
    if not is_spf(txt):
        raise BadRecord(f"record does not begin with {VERSION}")
    if len(txt) > MAX_RECORD:
        raise BadRecord(f"record longer than {MAX_RECORD} bytes")
    try:
        text = txt.decode("ascii")
    except UnicodeDecodeError:
        raise BadRecord("record is not ASCII") from None
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, MacroString] = {}
    others: list[tuple[str, str]] = []
    for term in text[len(VERSION) :].split(" "):
        if not term:
            continue
        match = _TERM.match(term)
        if match is None or not match[2].startswith("="):
            mechanisms.append(_mechanism(term))
            continue
        name, value = match[1].lower(), match[2][1:]
        if name not in ("redirect", "exp"):
            others.append((match[1], parse_macro_string(value).text))
        elif name in modifiers:
            raise BadRecord(f"{name}= given twice")
        else:
            modifiers[name] = parse_domain_spec(value)
    return SpfRecord(tuple(mechanisms), modifiers.get("redirect"), modifiers.get("exp"), tuple(others))


def _mechanism(term: str) -> Mechanism:
    match = _MECHANISM.match(term)
    if match is None or match[2].lower() not in _KINDS:
        raise BadRecord(f"unknown mechanism {term[:40]!r}")
    qualifier, kind, rest = Qualifier(match[1] or "+"), Kind(match[2].lower()), match[3]
    if kind is Kind.ALL:
        if rest:
            raise BadRecord(f"nothing may follow all, but {rest[:40]!r} does")
        return Mechanism(kind, qualifier)
    if kind in (Kind.IP4, Kind.IP6):
        return Mechanism(kind, qualifier, network=_network(kind, rest))
    if kind in (Kind.A, Kind.MX):
        return _address_mechanism(kind, qualifier, rest)
    if kind is Kind.PTR and not rest:
        return Mechanism(kind, qualifier)
    if not rest.startswith(":"):
        raise BadRecord(f"{kind} needs a domain, not {rest[:40]!r}")
    return Mechanism(kind, qualifier, parse_domain_spec(rest[1:]))


def _address_mechanism(kind: Kind, qualifier: Qualifier, rest: str) -> Mechanism:
    prefixes = _PREFIXES.search(rest)
    assert prefixes is not None  # it matches nothing at the end
    domain = rest[: prefixes.start()]
    if domain and not domain.startswith(":"):
        raise BadRecord(f"cannot read {rest[:40]!r} after {kind}")
    prefix4, prefix6 = int(prefixes[1] or 32), int(prefixes[2] or 128)
    if prefix4 > 32 or prefix6 > 128:
        raise BadRecord(f"prefix length too large in {rest[-40:]!r}")
    return Mechanism(
        kind, qualifier, parse_domain_spec(domain[1:]) if domain else None, prefix4=prefix4, prefix6=prefix6
    )


def _network(kind: Kind, rest: str) -> IPv4Network | IPv6Network:
    address, slash, prefix = rest[1:].partition("/")
    if not rest.startswith(":") or (slash and not _PREFIX.fullmatch(prefix)) or "%" in address:
        raise BadRecord(f"bad network in {kind}{rest[:60]!r}")
    try:
        if kind is Kind.IP4:
            return IPv4Network((IPv4Address(address), int(prefix or 32)), strict=False)
        return IPv6Network((IPv6Address(address), int(prefix or 128)), strict=False)
    except (AddressValueError, ValueError):
        raise BadRecord(f"bad network in {kind}{rest[:60]!r}") from None


_KINDS: Final = frozenset(Kind)
