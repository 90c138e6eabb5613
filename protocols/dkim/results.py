"""What verifying a signature gives, and how it is told in Authentication-Results (RFC 8601 section 2.7.1)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from protocols.message.authresults import AuthMethod, AuthProp

from .errors import DkimError, ErrorKind
from .record import DkimRecord
from .signature import Signature
from .tags import encode_quoted_printable

MAX_ERROR: Final = 200  # characters; errors may have the sender's words in them
HEADER_B: Final = 12  # characters of header.b, RFC 6008 section 4: at least 8


class DkimStatus(StrEnum):
    """RFC 8601 section 2.7.1."""

    NONE = "none"
    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    POLICY = "policy"
    NEUTRAL = "neutral"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


@dataclass(frozen=True, slots=True)
class DkimResult:
    """What is known of one signature; ``sig`` is None for a field that cannot be read as one."""

    status: DkimStatus
    sig: Signature | None = None
    record: DkimRecord | None = None
    authentic: bool = False
    """Whether DNSSEC has verified the record, or that there is none."""
    error_kind: ErrorKind | None = None
    """Why it is no pass; None for a pass."""
    error: str = ""
    """One short line of ASCII, fit for a header."""


def auth_methods(results: Sequence[DkimResult], *, smtputf8: bool = False) -> list[AuthMethod]:
    """The results for Authentication-Results, one for each signature; `dkim=none` when there is no signature.

    ``smtputf8``: the message is internationalized: names are written in U-labels. Of results without a signature that
    say the same, only one is written: a message may have thousands.
    """
    if not results:
        return [AuthMethod("dkim", DkimStatus.NONE, reason="no dkim signatures")]
    methods: list[AuthMethod] = []
    last: DkimResult | None = None
    for result in results:
        if result.sig is not None or result != last:
            methods.append(_auth_method(result, smtputf8))
        last = result
    return methods


def one_line(text: str) -> str:
    """A text as one short line of printable ASCII."""
    shown = "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text[:MAX_ERROR])
    return shown if len(shown) <= MAX_ERROR else f"{shown[: MAX_ERROR - 3]}..."


def _auth_method(result: DkimResult, smtputf8: bool) -> AuthMethod:
    sig = result.sig
    if sig is None:
        return AuthMethod("dkim", result.status, reason=result.error)
    props = [
        AuthProp.of_domain("header", "d", sig.domain, smtputf8=smtputf8),
        AuthProp.of_domain("header", "s", sig.selector, smtputf8=smtputf8),
        AuthProp("header", "a", sig.algorithm),
        AuthProp("header", "b", base64.b64encode(sig.signature).decode("ascii")[:HEADER_B]),
    ]
    if sig.identity is not None:
        identity = sig.identity if smtputf8 or sig.identity.isascii() else encode_quoted_printable(sig.identity)
        props.append(AuthProp("header", "i", identity, is_addr=True))
    key = f"{bits} bit rsa, " if (bits := _rsa_bits(result.record)) else ""
    comment = f"{key}{'with' if result.authentic else 'without'} dnssec"
    return AuthMethod("dkim", result.status, comment=comment, reason=result.error, props=tuple(props))


def _rsa_bits(record: DkimRecord | None) -> int:
    """The size of the key, 0 for another type or for what is no key."""
    try:
        key = record.key() if record is not None else None
    except DkimError:
        return 0
    return key.key_size if isinstance(key, RSAPublicKey) else 0
