"""Why a lookup gave no records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocols.errors import ProtocolError

MAX_TEXT: Final = 200  # characters of a name server's own words; it may have them from anybody

# RFC 8914 section 4: the codes that say that the answer could not be verified. 1 and 2 stand beside answers too.
_DNSSEC_CODES: Final = frozenset({1, 2, 5, 6, 7, 8, 9, 10, 11, 12})

# https://www.iana.org/assignments/dns-parameters, "Extended DNS Error Codes"
_EDE_NAMES: Final = {
    0: "Other Error",
    1: "Unsupported DNSKEY Algorithm",
    2: "Unsupported DS Digest Type",
    3: "Stale Answer",
    4: "Forged Answer",
    5: "DNSSEC Indeterminate",
    6: "DNSSEC Bogus",
    7: "Signature Expired",
    8: "Signature Not Yet Valid",
    9: "DNSKEY Missing",
    10: "RRSIGs Missing",
    11: "No Zone Key Bit Set",
    12: "NSEC Missing",
    13: "Cached Error",
    14: "Not Ready",
    15: "Blocked",
    16: "Censored",
    17: "Filtered",
    18: "Prohibited",
    19: "Stale NXDOMAIN Answer",
    20: "Not Authoritative",
    21: "Not Supported",
    22: "No Reachable Authority",
    23: "Network Error",
    24: "Invalid Data",
    25: "Signature Expired before Valid",
    26: "Too Early",
    27: "Unsupported NSEC3 Iterations Value",
    28: "Unable to conform to policy",
    29: "Synthesized",
    30: "Invalid Query Type",
    31: "Rate Limited",
    32: "Over Quota",
}


class ErrorKind(StrEnum):
    """The reasons that callers tell apart."""

    NOTFOUND = "notfound"  # the name exists, without records of this type
    NXDOMAIN = "nxdomain"  # there is no such name
    TEMPORARY = "temporary"  # the name servers failed, refused or made no sense
    TIMEOUT = "timeout"  # no name server answered in time
    BOGUS = "bogus"  # the answer did not pass DNSSEC
    INVALID = "invalid"  # the name cannot be looked up: nothing was asked


@dataclass(frozen=True, slots=True)
class EDE:
    """An extended DNS error (RFC 8914)."""

    code: int
    text: str = ""
    """The name server's own words: printable ASCII, at most MAX_TEXT characters."""

    @property
    def name(self) -> str:
        """The registered name of the code, "" when there is none."""
        return _EDE_NAMES.get(self.code, "")

    @property
    def is_dnssec(self) -> bool:
        """Whether it says that DNSSEC is the reason."""
        return self.code in _DNSSEC_CODES

    def __str__(self) -> str:
        """For reports: ``dns-extended-error-6-dnssec-bogus``."""
        return "-".join(["dns-extended-error", str(self.code), *self.name.lower().split()])


def is_dnssec_error(ede: Iterable[EDE]) -> bool:
    """Whether any of them says that the answer could not be verified by DNSSEC."""
    return any(error.is_dnssec for error in ede)


class DNSError(ProtocolError):
    """A lookup gave no records. The text is one short line of ASCII, fit for a header or a reply."""

    def __init__(
        self,
        kind: ErrorKind,
        name: str,
        rtype: str,
        detail: str = "",
        *,
        ede: tuple[EDE, ...] = (),
        server: str = "",
        authentic: bool = False,
    ) -> None:
        super().__init__(kind, name, rtype, detail)
        self.kind = kind
        self.name = name
        """What was looked up; may be no name at all when the kind is ``invalid``."""
        self.rtype = rtype
        """The type in lower case, ``txt``."""
        self.detail = detail
        self.ede = ede
        self.server = server
        """``address:port`` of the name server that answered last, "" when none did or it is not known which."""
        self.authentic = authentic
        """Whether DNSSEC has proven that there is nothing. Only with ``is_not_found``."""

    @property
    def is_not_found(self) -> bool:
        """Whether there is no such record: as final an answer as records are."""
        return self.kind in (ErrorKind.NOTFOUND, ErrorKind.NXDOMAIN)

    @property
    def is_temporary(self) -> bool:
        """Whether a later try may give an answer."""
        return self.kind in (ErrorKind.TEMPORARY, ErrorKind.TIMEOUT, ErrorKind.BOGUS)

    def __str__(self) -> str:
        if self.kind is ErrorKind.INVALID:
            return printable(f"dns: {self.detail}: {self.rtype} {self.name or '(empty name)'}", 2 * MAX_TEXT)
        reason = _REASONS[self.kind] + (f": {self.detail}" if self.detail else "")
        codes = f" ({', '.join(str(error) for error in self.ede)})" if self.ede else ""
        return printable(f"dns: {self.rtype} {self.name}: {reason}", 2 * MAX_TEXT) + codes


_REASONS: Final = {
    ErrorKind.NOTFOUND: "no such record",
    ErrorKind.NXDOMAIN: "no such name",
    ErrorKind.TEMPORARY: "temporary failure",
    ErrorKind.TIMEOUT: "no answer in time",
    ErrorKind.BOGUS: "dnssec verification failed",
}


def printable(text: str, limit: int = MAX_TEXT) -> str:
    """``text`` as one line of printable ASCII, other characters as escapes, cut at ``limit`` characters."""
    shown = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text[:limit])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."
