"""Domain names and email addresses as values: parsing, comparison and writing (RFC 5321, 6531, 5890 to 5895, 6533)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import idna

from .errors import ProtocolError

MAX_DOMAIN_INPUT: Final = 1000  # characters looked at; mapping may shorten a name, but no legal name needs more
MAX_DOMAIN: Final = 253  # bytes of the A-label form without trailing dot, RFC 1035 2.3.4
MAX_LABEL: Final = 63  # bytes, RFC 1035 2.3.4
MAX_LOCALPART: Final = 128  # octets; bounce addresses of others are longer than the RFC allows
MAX_LOCALPART_STRICT: Final = 64  # octets, RFC 5321 4.5.3.1.1
DOMAIN_CACHE: Final = 8192  # names; one server meets the same few thousand over and over

_LABEL_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
_ATEXT: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-/=?^_`{|}~")
_DOT_ATEXT: Final = _ATEXT | {"."}


class BadDomain(ProtocolError, ValueError):
    """The text is not a domain name; the message says why."""


class BadAddress(ProtocolError, ValueError):
    """The text is not an email address or localpart; the message says why."""


@dataclass(frozen=True, order=True, slots=True)
class Domain:
    """A domain name. Two are equal when their A-label forms are."""

    ascii: str
    """A-label form in lower case without trailing dot: for DNS and comparison."""
    unicode: str = field(default="", compare=False)
    """U-label form in NFC, "" when that is no different."""

    def name(self) -> str:
        """The form for people: U-labels where there are any."""
        return self.unicode or self.ascii

    def xname(self, utf8: bool) -> str:
        """The form for the wire: U-labels only when the peer takes UTF-8."""
        return self.unicode if utf8 and self.unicode else self.ascii

    def log(self) -> str:
        """The form for logs, `bücher.example/xn--bcher-kva.example`: readable and searchable."""
        return f"{self.unicode}/{self.ascii}" if self.unicode else self.ascii


@dataclass(frozen=True, slots=True)
class IPDomain:
    """What stands after EHLO or the @ of a path: an address literal or a name; at most one of the two is set."""

    ip: IPv4Address | IPv6Address | None = None
    domain: Domain | None = None


@dataclass(frozen=True, order=True, slots=True)
class Address:
    """An email address. The localpart is decoded (no quotes), in NFC, with its case kept."""

    localpart: str
    domain: Domain

    def __str__(self) -> str:
        """The address with U-labels, the localpart quoted where it must be."""
        return pack(self, smtputf8=True)


@lru_cache(maxsize=DOMAIN_CACHE)
def parse_domain(s: str) -> Domain:
    """A domain name from A-labels or U-labels, by IDNA 2008 with the non-transitional mapping of UTS #46.

    Raises BadDomain: trailing dot, empty label, a label or name too long, an IPv4 address, a character not allowed.
    """
    if len(s) > MAX_DOMAIN_INPUT:
        raise BadDomain(f"name longer than {MAX_DOMAIN} bytes")
    name = s.lower() if s.isascii() else s
    if _LABEL_CHARACTERS.issuperset(name) and "xn--" not in name:
        _check_labels(name)
        return Domain(name)
    return _parse_internationalized(name)


def parse_domain_lax(s: str) -> Domain:
    """Like `parse_domain`, with underscores in plain ASCII names: MX targets, SPF names. Raises BadDomain."""
    if "_" not in s:
        return parse_domain(s)
    if not s.isascii() or any(label.startswith("xn--") for label in s.lower().split(".")):
        raise BadDomain("underscore and non-ascii not allowed")
    lowered = s.lower()
    stand_in = lowered.replace("_", "a")  # a letter is allowed wherever an underscore is
    if parse_domain(stand_in).ascii != stand_in:
        raise BadDomain("underscore and non-ascii not allowed")
    return Domain(lowered)


def own_hostname(name: str) -> Domain:
    """A name that this server was given, also one that is set wrongly: mail goes on under it as it stands."""
    try:
        return parse_domain(name)
    except BadDomain:
        return Domain(name)


def parse_address(s: str, *, strict: bool = False) -> Address:
    """An address, `localpart@domain` without angle brackets. Raises BadAddress; `strict` as in `parse_localpart`."""
    if s.startswith('"'):
        end = _quoted_end(s)
        if not s.startswith("@", end):
            raise BadAddress("invalid email address: expected @")
        local, domain = s[:end], s[end + 1 :]
    else:
        local, at, domain = s.partition("@")
        if not at:
            raise BadAddress("invalid email address: expected @")
    localpart = parse_localpart(local, strict=strict)
    try:
        return Address(localpart, parse_domain(domain))
    except BadDomain as error:
        raise BadAddress(f"invalid email address: domain: {error}") from error


def parse_localpart(s: str, *, strict: bool = False) -> str:
    """The decoded localpart, in NFC, of a dot-string or quoted-string (RFC 5321 4.1.2, RFC 6531 3.3).

    At most 128 octets; `strict` keeps the 64 of RFC 5321. `""` (quoted) is a legal, empty localpart. Raises BadAddress.
    """
    limit = MAX_LOCALPART_STRICT if strict else MAX_LOCALPART
    if len(s) > 2 * limit + 2:  # every character escaped, and the quotes
        raise BadAddress(f"invalid email address: localpart longer than {limit} octets")
    localpart = _unquote(s) if s.startswith('"') else _dot_string(s)
    if not localpart.isascii():
        localpart = unicodedata.normalize("NFC", localpart)
    if len(localpart.encode()) > limit:
        raise BadAddress(f"invalid email address: localpart longer than {limit} octets")
    return localpart


def format_localpart(localpart: str) -> str:
    """The localpart as written in mail: a dot-string, or a quoted-string with escapes where that is needed."""
    dot_string = (_DOT_ATEXT.issuperset(localpart) or all(c in _DOT_ATEXT or c >= "\x80" for c in localpart)) and not (
        localpart == "" or localpart.startswith(".") or localpart.endswith(".") or ".." in localpart
    )
    if dot_string:
        return localpart
    return '"' + localpart.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pack(address: Address, smtputf8: bool) -> str:
    """The address for the wire; U-labels with `smtputf8`. A localpart outside ASCII has no other form."""
    return f"{format_localpart(address.localpart)}@{address.domain.xname(smtputf8)}"


def dsn_localpart(localpart: str, utf8: bool) -> str:
    r"""The localpart for a DSN: as it is with `utf8`, else as utf-8-addr-xtext, `\x{e9}` for é (RFC 6533 section 3)."""
    formatted = format_localpart(localpart)
    if utf8:
        return formatted
    return "".join(c if "!" <= c <= "~" and c not in "+=\\" else f"\\x{{{ord(c):x}}}" for c in formatted)


def address_literal(ip: IPv4Address | IPv6Address) -> str:
    """The address literal of RFC 5321 4.1.3: `[192.0.2.1]`, `[IPv6:2001:db8::1]`."""
    return f"[{ip}]" if isinstance(ip, IPv4Address) else f"[IPv6:{ip.compressed}]"


def _check_labels(name: str) -> None:
    """Raise BadDomain unless `name`, lower-case ASCII, is made of labels of the right form."""
    labels = name.split(".")
    if "" in labels:
        raise BadDomain("trailing dot" if len(labels) > 1 and name.endswith(".") else "empty label")
    if len(name) > MAX_DOMAIN:
        raise BadDomain(f"name longer than {MAX_DOMAIN} bytes")
    for label in labels:
        if len(label) > MAX_LABEL:
            raise BadDomain(f"label longer than {MAX_LABEL} bytes")
        if label[0] == "-" or label[-1] == "-":
            raise BadDomain(f"label {label!r} starts or ends with a hyphen")
    if labels[-1].isdigit() and all(label.isdigit() for label in labels):
        # Shorter forms too: the system's resolver takes 127.1 for an address.
        raise BadDomain("ipv4 address is not a domain")


def _parse_internationalized(name: str) -> Domain:
    if name.isascii() and "_" in name:
        raise BadDomain("underscore not allowed")
    try:
        mapped = idna.uts46_remap(name, std3_rules=True, transitional=False)
        if mapped.endswith("."):
            raise BadDomain("trailing dot")
        if not mapped or ".." in mapped or mapped.startswith("."):
            raise BadDomain("empty label")
        # One label at a time: a plain label with hyphens in third and fourth place is fine in DNS, not in IDNA.
        a_labels = [_a_label(label) for label in mapped.split(".")]
        u_labels = [idna.ulabel(label) if label.startswith("xn--") else label for label in a_labels]
    except idna.IDNAError as error:
        reason = "label longer than 63 bytes" if "too long" in str(error).lower() else f"not allowed: {error}"
        raise BadDomain(reason) from error
    except UnicodeError as error:
        raise BadDomain(f"not allowed: {error}") from error
    ascii_name = ".".join(a_labels)
    _check_labels(ascii_name)
    unicode_name = unicodedata.normalize("NFC", ".".join(u_labels))
    return Domain(ascii_name, unicode_name if unicode_name != ascii_name else "")


def _a_label(label: str) -> str:
    if label.isascii() and not label.startswith("xn--"):
        if not _LABEL_CHARACTERS.issuperset(label):
            raise BadDomain(f"character not allowed in label {label!r}")
        return label
    return idna.alabel(label).decode("ascii").lower()


def _quoted_end(s: str) -> int:
    """The offset after the quoted-string at the start of `s`."""
    position = 1
    while position < len(s):
        if s[position] == "\\":
            position += 2
        elif s[position] == '"':
            return position + 1
        else:
            position += 1
    raise BadAddress("invalid email address: missing closing quote")


def _unquote(s: str) -> str:
    if _quoted_end(s) != len(s):
        raise BadAddress("invalid email address: invalid character")
    text = []
    characters = iter(s[1:-1])
    for character in characters:
        value = next(characters) if character == "\\" else character
        if not _is_quotable(value):
            raise BadAddress("invalid email address: invalid character")
        text.append(value)
    return "".join(text)


def _dot_string(s: str) -> str:
    if s == "":
        raise BadAddress("invalid email address: empty localpart")
    if not _DOT_ATEXT.issuperset(s) and not all(c in _DOT_ATEXT or (c >= "\x80" and _is_quotable(c)) for c in s):
        raise BadAddress("invalid email address: invalid character")
    if s[0] == "." or s[-1] == "." or ".." in s:
        raise BadAddress("invalid email address: empty atom between dots")
    return s


def _is_quotable(character: str) -> bool:
    """Whether it may stand in a quoted-string: no control characters, line separators or lone surrogates."""
    if character < "\x80":
        return " " <= character <= "~"
    return unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")
