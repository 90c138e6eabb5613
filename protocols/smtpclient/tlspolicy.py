"""How a connection is to be secured, and what happened: modes, certificate checks, results (RFC 3207, 7435, 8460)."""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from protocols.pkix import Roots, ServerName, TLSProblem, verify_chain

# Alerts by OpenSSL's names (RFC 8446 section 6, RFC 5246 section 7.2).
_ALERTS: Final = {
    "CLOSE_NOTIFY": 0,
    "UNEXPECTED_MESSAGE": 10,
    "BAD_RECORD_MAC": 20,
    "RECORD_OVERFLOW": 22,
    "HANDSHAKE_FAILURE": 40,
    "NO_CERTIFICATE": 41,
    "BAD_CERTIFICATE": 42,
    "UNSUPPORTED_CERTIFICATE": 43,
    "CERTIFICATE_REVOKED": 44,
    "CERTIFICATE_EXPIRED": 45,
    "CERTIFICATE_UNKNOWN": 46,
    "ILLEGAL_PARAMETER": 47,
    "UNKNOWN_CA": 48,
    "ACCESS_DENIED": 49,
    "DECODE_ERROR": 50,
    "DECRYPT_ERROR": 51,
    "PROTOCOL_VERSION": 70,
    "INSUFFICIENT_SECURITY": 71,
    "INTERNAL_ERROR": 80,
    "INAPPROPRIATE_FALLBACK": 86,
    "USER_CANCELLED": 90,
    "NO_RENEGOTIATION": 100,
    "MISSING_EXTENSION": 109,
    "UNSUPPORTED_EXTENSION": 110,
    "UNRECOGNIZED_NAME": 112,
    "BAD_CERTIFICATE_STATUS_RESPONSE": 113,
    "UNKNOWN_PSK_IDENTITY": 115,
    "CERTIFICATE_REQUIRED": 116,
    "NO_APPLICATION_PROTOCOL": 120,
}
# OpenSSL names what the other side said by the first version that had it; a few alerts go without the word.
_REMOTE: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?P<alert>ALERT_)?(?P<name>[A-Z0-9_]+)")
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"})


class TLSMode(StrEnum):
    SKIP = "skip"
    OPPORTUNISTIC = "opportunistic"
    """STARTTLS if the server announces it."""
    REQUIRED = "required"
    """STARTTLS, also when it is not announced: an attacker may have removed it (RFC 8461 section 2)."""
    IMMEDIATE = "immediate"
    """TLS from the first byte (RFC 8314)."""


class CertificateCheck(Protocol):
    """One way to trust a server."""

    @property
    def name(self) -> str: ...

    def problem(self, chain: Sequence[bytes]) -> TLSProblem | None:
        """What is wrong with the chain that the server presented (DER, its own certificate first), or None."""


@dataclass(frozen=True, slots=True)
class PKIX:
    """Trusted roots and the server's name."""

    server_name: ServerName
    roots: Roots
    name: str = "pkix"

    def problem(self, chain: Sequence[bytes]) -> TLSProblem | None:
        return verify_chain(chain, self.server_name, self.roots)


@dataclass(frozen=True, slots=True)
class TLSPolicy:
    """How to secure one connection. TLS is at least 1.2 and the certificate free to be anything but for the checks."""

    mode: TLSMode
    sni: str = ""
    """The name to ask for, in A-labels; "" for none."""
    checks: tuple[CertificateCheck, ...] = ()
    """All of them must pass."""
    observed: tuple[CertificateCheck, ...] = ()
    """Checks that are made for the record only: policies in testing, or overruled by the sender (RFC 8689)."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check said."""

    name: str
    problem: TLSProblem | None


@functools.cache
def unverified_context() -> ssl.SSLContext:
    """For the handshake, which verifies nothing: any certificate is better than none for opportunistic TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Old certificates, of 1024 bits or signed with SHA-1, would break the handshake.
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def handshake_problem(reason: str) -> TLSProblem:
    """The problem in the reason of a `protocols.stream.TLSFailed`: "eof", "timeout" or OpenSSL's name."""
    remote = _REMOTE.fullmatch(reason)
    if reason == "eof":
        code = "connection-closed-during-handshake"
    elif reason == "timeout":
        code = "io-timeout-during-handshake"
    elif reason in _NOT_TLS:
        code = "tls-record-header-error"
    elif remote is not None and (remote["alert"] or remote["name"] in _ALERTS):
        code = f"tls-remote-alert-{_ALERTS.get(remote['name'], 'unknown')}-{_dashed(remote['name'])}"
    else:
        code = f"tls-local-{_dashed(reason)}"
    return TLSProblem("validation-failure", code, f"TLS handshake failed: {code.replace('-', ' ')}")


def starttls_problem(code: int, *, announced: bool) -> TLSProblem:
    """STARTTLS was refused with this code, after the server had announced it or not."""
    if not announced:
        return TLSProblem("starttls-not-supported", "", "server does not support STARTTLS")
    return TLSProblem(
        "starttls-not-supported", f"smtp-starttls-reply-code-{code}", f"STARTTLS refused with code {code}"
    )


def _dashed(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").split())
