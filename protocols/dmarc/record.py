"""DMARC policy records (RFC 7489 section 6.3): reading what others publish, and writing one's own."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from urllib.parse import quote, unquote

from protocols.errors import ProtocolError
from protocols.names import Address, BadAddress, pack, parse_address
from protocols.taglist import WHITE_SPACE, BadTagList, split_tags

VERSION: Final = "DMARC1"
MAX_RECORD: Final = 8 * 1024  # bytes; long ones in use have some hundred
MAX_INTERVAL: Final = 2**32 - 1  # seconds, RFC 7489 section 6.3

_UNITS: Final = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_NUMBER: Final = re.compile(r"[0-9]{1,10}")
_URI: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*+:[^\s!,;]+)(?:!([0-9]{1,18})([kmgt]?))?", re.IGNORECASE)
_KEYWORD: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_FAILURE_OPTIONS: Final = frozenset({"0", "1", "d", "s"})


class BadRecord(ProtocolError, ValueError):
    """A TXT record is no DMARC record, or a broken one: ``claims_dmarc``. The text is a line of ASCII."""

    def __init__(self, text: str, *, claims_dmarc: bool) -> None:
        super().__init__(text)
        self.claims_dmarc = claims_dmarc


class DmarcPolicy(StrEnum):
    """What a domain asks to be done with what fails."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"


class AlignmentMode(StrEnum):
    """Which names count as the From domain's."""

    RELAXED = "r"
    """Those with the same organizational domain."""
    STRICT = "s"


@dataclass(frozen=True, slots=True)
class ReportURI:
    """Where reports go to. ``max_size`` in ``unit`` ("", k, m, g, t); 0 for no limit."""

    address: str
    """The URI, with its scheme and escapes."""
    max_size: int = 0
    unit: str = ""

    @classmethod
    def of_mailbox(cls, address: Address, max_size: int = 0, unit: str = "") -> ReportURI:
        """The mailto: URI for an address, what has a meaning in records escaped."""
        return cls(f"mailto:{quote(pack(address, smtputf8=False), safe='@._+-=~')}", max_size, unit)

    @property
    def max_bytes(self) -> int:
        """The size limit of a report in bytes, 0 for none."""
        return self.max_size * _UNITS[self.unit]

    @property
    def mailbox(self) -> Address | None:
        """The address of a mailto: URI, None for another scheme or a bad address."""
        scheme, _, rest = self.address.partition(":")
        if scheme.lower() != "mailto":
            return None
        try:
            return parse_address(unquote(rest.partition("?")[0], errors="strict"))
        except (BadAddress, UnicodeDecodeError):
            return None

    def __str__(self) -> str:
        return f"{self.address}!{self.max_size}{self.unit}" if self.max_size else self.address


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """A domain's policy."""

    policy: DmarcPolicy = DmarcPolicy.NONE
    subdomain_policy: DmarcPolicy | None = None
    """For names under the domain; None: ``policy``."""
    rua: tuple[ReportURI, ...] = ()
    """For aggregate reports."""
    ruf: tuple[ReportURI, ...] = ()
    """For failure reports."""
    adkim: AlignmentMode = AlignmentMode.RELAXED
    aspf: AlignmentMode = AlignmentMode.RELAXED
    interval: int = 86400
    """Seconds between aggregate reports."""
    fo: tuple[str, ...] = ("0",)
    rf: tuple[str, ...] = ("afrf",)
    pct: int = 100
    """Of so many in a hundred failing messages the policy is to be applied."""

    def compose(self) -> str:
        """The text of the record, values that are the default left out."""
        tags = [f"v={VERSION}", f"p={self.policy}"]
        if self.subdomain_policy is not None:
            tags.append(f"sp={self.subdomain_policy}")
        if self.rua:
            tags.append(f"rua={','.join(map(str, self.rua))}")
        if self.ruf:
            tags.append(f"ruf={','.join(map(str, self.ruf))}")
        values = [
            ("adkim", self.adkim.value, "r"),
            ("aspf", self.aspf.value, "r"),
            ("ri", str(self.interval), "86400"),
            ("fo", ":".join(self.fo), "0"),
            ("rf", ":".join(self.rf), "afrf"),
            ("pct", str(self.pct), "100"),
        ]
        tags += [f"{name}={value}" for name, value, default in values if value != default]
        return ";".join(tags)


def parse_record(txt: bytes, *, required: bool = True) -> DmarcRecord:
    """The policy in the joined strings of a TXT record. Raises BadRecord.

    Without ``required`` a policy may be missing, as in the records that accept reports for others (section 7.1); the
    examples for these have no semicolon either (erratum 5440).
    """
    tags = _tags(txt, needs_semicolon=required)
    if tags.get("p") is not None and list(tags)[1] != "p":
        raise BadRecord("p= must be the first tag after v=", claims_dmarc=True)
    policy, subdomain = _policy(tags.get("p")), _policy(tags.get("sp"))
    rua, ruf = _uris(tags.get("rua", "")), _uris(tags.get("ruf", ""))
    if required and (policy is None or (subdomain is None and "sp" in tags)):
        # Section 6.6.3, step 6: whoever wants reports gets them, whatever else is wrong.
        if not rua:
            what = "p= is missing or bad" if policy is None else "sp= is bad"
            raise BadRecord(f"{what}, and there is no address for reports", claims_dmarc=True)
        policy, subdomain = DmarcPolicy.NONE, None
    # Section 6.3: what is wrong in the rest of the record is as if it were not there.
    return DmarcRecord(
        policy or DmarcPolicy.NONE,
        subdomain,
        rua,
        ruf,
        _mode(tags.get("adkim")),
        _mode(tags.get("aspf")),
        _number(tags.get("ri"), MAX_INTERVAL, 86400),
        _words(tags.get("fo"), _FAILURE_OPTIONS) or ("0",),
        _words(tags.get("rf")) or ("afrf",),
        _number(tags.get("pct"), 100, 100),
    )


def _tags(txt: bytes, *, needs_semicolon: bool) -> dict[str, str]:
    """The values by the names of tags, which are in lower case; the first is ``v``."""
    head, semicolon, _ = txt[:64].decode("utf-8", "replace").partition(";")
    name, equals, version = head.partition("=")
    is_dmarc = equals and name.strip(WHITE_SPACE) == "v" and version.strip(WHITE_SPACE) == VERSION
    if not is_dmarc or (needs_semicolon and not semicolon):
        raise BadRecord(f"record does not begin with v={VERSION};", claims_dmarc=False)
    if len(txt) > MAX_RECORD:
        raise BadRecord(f"record longer than {MAX_RECORD} bytes", claims_dmarc=True)
    tags: dict[str, str] = {}
    try:
        for name, value in split_tags(txt.decode("utf-8")):
            if name.lower() in tags:
                raise BadRecord(f"tag {name[:20]!a} given twice", claims_dmarc=True)
            tags[name.lower()] = value
    except (BadTagList, UnicodeDecodeError) as exc:
        text = str(exc) if isinstance(exc, BadTagList) else "record is not UTF-8"
        raise BadRecord(text, claims_dmarc=True) from exc
    return tags


def _policy(value: str | None) -> DmarcPolicy | None:
    try:
        return DmarcPolicy((value or "").lower())
    except ValueError:
        return None


def _mode(value: str | None) -> AlignmentMode:
    return AlignmentMode.STRICT if (value or "").lower() == "s" else AlignmentMode.RELAXED


def _number(value: str | None, most: int, default: int) -> int:
    return int(value) if value and _NUMBER.fullmatch(value) and int(value) <= most else default


def _words(value: str | None, known: Collection[str] = ()) -> tuple[str, ...]:
    """The words of a list with colons, or nothing if one of them cannot be."""
    words = tuple(word.strip(WHITE_SPACE).lower() for word in (value or "").split(":"))
    return words if all(word in known if known else _KEYWORD.fullmatch(word) for word in words) else ()


def _uris(value: str) -> tuple[ReportURI, ...]:
    """The URIs that are ones."""
    matches = (_URI.fullmatch(text.strip(WHITE_SPACE)) for text in value.split(","))
    return tuple(_uri(match[1], int(match[2] or 0), match[3] or "") for match in matches if match)


def _uri(address: str, max_size: int, unit: str) -> ReportURI:
    """A limit of nothing is none, whatever its unit."""
    return ReportURI(address, max_size, unit.lower()) if max_size else ReportURI(address)
