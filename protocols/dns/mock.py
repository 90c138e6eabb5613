"""A resolver that answers from memory: for tests, and for a server that is tried out without DNS.

MockResolver(
    {
        "mx example.org.": ["10 mail.example.org."],
        "a mail.example.org.": ["192.0.2.1"],
        "txt example.org.": ["v=spf1 mx -all"],
        "ptr 192.0.2.1": ["mail.example.org."],
        "cname www.example.org.": ["example.org."],
        "tlsa _25._tcp.mail.example.org.": ["3 1 1 e3b0c442"],
    },
    authentic=True,
    inauthentic=["txt example.org."],
    fail={"a broken.example.": ErrorKind.BOGUS},
)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, TypeAlias

from .errors import EDE, DNSError, ErrorKind
from .lookups import Lookups, format_name, parse_name
from .records import MX, SOA, SRV, TLSA, Answer

TTL: Final = 300  # seconds, of every answer
MAX_CNAMES: Final = 16  # as in dnspython

Value: TypeAlias = str | bytes | IPv4Address | IPv6Address | MX | SOA | SRV | TLSA
"""A record as a value, or as text like in a zone file (TXT without quotes, outside ASCII in UTF-8)."""


class MockResolver(Lookups):
    """Knows the records that it is given, keyed by "type name"; for ``ptr`` the name may be an IP address.

    ``authentic``: True for all answers, or the keys of those that are; ``inauthentic``: keys of those that are not,
    which wins. Both count for answers that there is nothing, and an answer through CNAMEs is authentic when each step
    is. ``fail``: keys of lookups that fail temporarily, or with the kind of error that a mapping gives. ``queries``
    has the keys of what was looked up, in order.

    Raises ValueError for records that make no sense.
    """

    def __init__(
        self,
        records: Mapping[str, Sequence[Value]] | None = None,
        *,
        authentic: bool | Collection[str] = False,
        inauthentic: Collection[str] = (),
        fail: Collection[str] | Mapping[str, ErrorKind] = (),
    ) -> None:
        self.queries: list[str] = []
        self._records: dict[str, tuple[Any, ...]] = {}
        self._names: set[tuple[bytes, ...]] = set()
        for key, values in (records or {}).items():
            self.add(key, *values)
        self._all_authentic = authentic is True
        self._authentic = set() if isinstance(authentic, bool) else set(map(_normalized, authentic))
        self._inauthentic = set(map(_normalized, inauthentic))
        kinds = fail if isinstance(fail, Mapping) else dict.fromkeys(fail, ErrorKind.TEMPORARY)
        self._fail = {_normalized(key): kind for key, kind in kinds.items()}

    def add(self, key: str, *values: Value) -> None:
        """More records for a key."""
        key = _normalized(key)
        rtype, _, name = key.partition(" ")
        records = tuple(_record(rtype, value) for value in values)
        if not records:
            return
        self._records[key] = self._records.get(key, ()) + records
        labels = parse_name(name, rtype)
        self._names.update(labels[start:] for start in range(len(labels)))  # parents exist too

    def remove(self, key: str) -> None:
        """No more records for a key; a name stays known."""
        self._records.pop(_normalized(key), None)

    def fail(self, key: str, kind: ErrorKind = ErrorKind.TEMPORARY) -> None:
        """This lookup fails from now on."""
        self._fail[_normalized(key)] = kind

    def doubt(self, key: str) -> None:
        """The answer to this lookup is not authentic from now on."""
        self._inauthentic.add(_normalized(key))

    async def _lookup(self, name: str, rtype: str) -> Answer[Any]:
        asked = name
        name = format_name(parse_name(name, rtype))
        self.queries.append(f"{rtype} {name}")
        authentic = True
        for _ in range(MAX_CNAMES):
            key = f"{rtype} {name}"
            alias = f"cname {name}"
            if (kind := self._fail.get(key)) is not None:
                ede = (EDE(6),) if kind is ErrorKind.BOGUS else ()
                raise DNSError(kind, asked, rtype, "made to fail", ede=ede, server="mock:53")
            if key in self._records:
                return Answer(self._records[key], authentic and self._is_authentic(key), name, TTL)
            if alias not in self._records:
                known = parse_name(name, rtype) in self._names
                raise DNSError(
                    ErrorKind.NOTFOUND if known else ErrorKind.NXDOMAIN,
                    asked,
                    rtype,
                    server="mock:53",
                    authentic=authentic and self._is_authentic(key),
                )
            authentic = authentic and self._is_authentic(alias)
            name = self._records[alias][0]
        raise DNSError(ErrorKind.TEMPORARY, asked, rtype, "too many CNAMEs", server="mock:53")

    def _is_authentic(self, key: str) -> bool:
        return (self._all_authentic or key in self._authentic) and key not in self._inauthentic


def _normalized(key: str) -> str:
    rtype, space, name = key.partition(" ")
    rtype = rtype.lower()
    if not space or rtype not in _PARSERS:
        raise ValueError(f'{key!r}: expected "type name", the type one of {", ".join(_PARSERS)}')
    if rtype == "ptr" and not name.endswith("."):
        name = f"{ip_address(name).reverse_pointer}."
    try:
        name = format_name(parse_name(name, rtype))
    except DNSError as error:
        raise ValueError(f"{key!r}: {error}") from error
    if not name.strip("."):
        raise ValueError(f"{key!r}: the root has no records here")
    return f"{rtype} {name}"


def _record(rtype: str, value: Value) -> object:
    kind = _KINDS[rtype]
    if isinstance(value, kind):
        return format_name(parse_name(value, rtype)) if isinstance(value, str) else value
    if not isinstance(value, str):
        raise ValueError(f"{rtype} record {value!r}: expected {kind.__name__} or text")
    try:
        return _PARSERS[rtype](value)
    except (TypeError, ValueError, DNSError) as error:
        raise ValueError(f"{rtype} record {value!r}: {error}") from error


def _name(text: str) -> str:
    return format_name(parse_name(text, "record"))


def _mx(text: str) -> MX:
    preference, host = text.split()
    return MX(int(preference), _name(host))


def _srv(text: str) -> SRV:
    priority, weight, port, target = text.split()
    return SRV(int(priority), int(weight), int(port), _name(target))


def _soa(text: str) -> SOA:
    mname, rname, *times = text.split()
    return SOA(_name(mname), _name(rname), *map(int, times))


def _tlsa(text: str) -> TLSA:
    usage, selector, matching, data = text.split(maxsplit=3)
    return TLSA(int(usage), int(selector), int(matching), bytes.fromhex(data))


_PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "txt": str.encode,
    "a": IPv4Address,
    "aaaa": IPv6Address,
    "mx": _mx,
    "ptr": _name,
    "cname": _name,
    "ns": _name,
    "srv": _srv,
    "tlsa": _tlsa,
    "soa": _soa,
}
_KINDS: Final[dict[str, type]] = {
    "txt": bytes,
    "a": IPv4Address,
    "aaaa": IPv6Address,
    "mx": MX,
    "ptr": str,
    "cname": str,
    "ns": str,
    "srv": SRV,
    "tlsa": TLSA,
    "soa": SOA,
}
