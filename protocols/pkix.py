"""Certificate chains of TLS servers: as presented, to trusted roots, and the names they are for (RFC 5280, 6125, 8460).

    problem = verify_chain(peer_chain(ssl_object), domain, roots)

Handshakes run without verification, so that PKIX and DANE are looked at side by side; nothing is sent before that.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, TypeAlias

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from .names import BadDomain, Domain, parse_domain_lax

MAX_CERTIFICATES: Final = 20  # of a chain: real ones have up to five
MAX_CHAIN: Final = 100 * 1024  # bytes of a chain

# Results and reasons of RFC 8460 section 4.3, by OpenSSL's numbers (openssl-verify(1)).
_HOST_MISMATCH: Final = 62
_EXPIRED: Final = {9: "certificate-not-yet-valid", 10: ""}
_NOT_TRUSTED: Final = {
    2: "unknown-issuer",
    18: "self-signed",
    19: "self-signed-in-chain",
    20: "unknown-issuer",
    21: "missing-intermediate",
    24: "not-a-ca",
    79: "not-a-ca",  # what OpenSSL 3 says in place of 24
    25: "path-too-long",
    26: "incompatible-key-usage",
}

# What reading a certificate can end in: a peer may send anything.
_UNREADABLE: Final = (ValueError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)

ServerName: TypeAlias = Domain | IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class TLSProblem:
    """Why TLS failed, in the terms of TLS reports (RFC 8460 section 4.3), and for people."""

    result_type: str
    reason: str
    """The failure-reason-code; may be empty."""
    text: str
    openssl: int = 0
    """OpenSSL's number for it (openssl-verify(1)); 0 where it was not OpenSSL."""

    def __str__(self) -> str:
        return self.text


class Roots:
    """Certificates that are trusted: the system's, more of one's own, or both. Making one costs some milliseconds."""

    def __init__(self, extra_pem: str = "", *, system: bool = True) -> None:
        """Raises ValueError if ``extra_pem`` holds something else than certificates."""
        self._store = crypto.X509Store()
        paths = ssl.get_default_verify_paths()
        if system and (paths.cafile or paths.capath):
            self._store.load_locations(paths.cafile, paths.capath)
        for certificate in x509.load_pem_x509_certificates(extra_pem.encode()) if extra_pem else ():
            self._store.add_cert(crypto.X509.from_cryptography(certificate))

    @classmethod
    def only(cls, anchors: Iterable[x509.Certificate], now: datetime | None = None) -> Roots:
        """These certificates, be they self-signed or not (RFC 7671 section 5.2.2); ``now``: another time to be at."""
        roots = cls(system=False)
        roots._store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
        if now is not None:
            roots._store.set_time(now.astimezone(UTC))
        for certificate in anchors:
            with contextlib.suppress(crypto.Error):  # OpenSSL reads with stricter eyes: then it vouches for nothing
                roots._store.add_cert(crypto.X509.from_cryptography(certificate))
        return roots

    def path(self, chain: Sequence[x509.Certificate]) -> list[x509.Certificate] | TLSProblem:
        """The certificates from the first of the chain to a trusted one; else why none vouches for it."""
        try:
            leaf, *others = (crypto.X509.from_cryptography(certificate) for certificate in chain)
            verified = crypto.X509StoreContext(self._store, leaf, others).get_verified_chain()
        except crypto.X509StoreContextError as exc:
            return _verify_problem(int(exc.errors[0]), str(exc))
        except crypto.Error as exc:  # OpenSSL reads with stricter eyes
            return _bad_certificate(exc)
        return [certificate.to_cryptography() for certificate in verified]

    def problem(self, chain: Sequence[x509.Certificate]) -> TLSProblem | None:
        """Why no trusted root vouches for the first certificate; None if one does."""
        path = self.path(chain)
        return path if isinstance(path, TLSProblem) else None


def peer_chain(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> list[bytes]:
    """The certificates in DER that a server presented, its own first; not verified."""
    if hasattr(ssl_object, "get_unverified_chain"):  # Python 3.13
        return list(ssl_object.get_unverified_chain() or ())
    inner: Any = ssl_object._sslobj  # type: ignore[union-attr]  # what 3.13 wraps; 3.11 has no public way
    return [certificate.public_bytes(ssl._ssl.ENCODING_DER) for certificate in inner.get_unverified_chain() or ()]  # type: ignore[attr-defined]  # as above


def verify_chain(chain: Sequence[bytes], name: ServerName, roots: Roots) -> TLSProblem | None:
    """What is wrong with a chain for a server of this name, None if nothing is."""
    certificates = parse_chain(chain)
    if isinstance(certificates, TLSProblem):
        return certificates
    return roots.problem(certificates) or server_problem(certificates[0], [name])


def server_problem(certificate: x509.Certificate, names: Sequence[ServerName]) -> TLSProblem | None:
    """What is wrong with a certificate for a server that has one of these names, None if nothing is."""
    if not is_for_servers(certificate):
        text = "certificate is not for TLS servers"
        return TLSProblem("certificate-not-trusted", "incompatible-key-usage", text)
    if not any(has_name(certificate, name) for name in names):
        return _verify_problem(_HOST_MISMATCH, f"certificate is not for {', '.join(map(_text, names))}")
    return None


def parse_chain(chain: Sequence[bytes]) -> list[x509.Certificate] | TLSProblem:
    """The certificates of a chain in DER; a problem if there are none, too many, or one cannot be read."""
    if not chain:
        return TLSProblem("certificate-not-trusted", "no-certificate", "server has no certificate")
    if len(chain) > MAX_CERTIFICATES or sum(map(len, chain)) > MAX_CHAIN:
        return TLSProblem("validation-failure", "chain-too-long", "certificate chain is too long")
    try:
        return [x509.load_der_x509_certificate(der) for der in chain]
    except _UNREADABLE as exc:
        return _bad_certificate(exc)


def has_name(certificate: x509.Certificate, name: ServerName) -> bool:
    """Whether it is for this server: alternative names only, a wildcard only as the whole first label (RFC 6125)."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *_UNREADABLE):
        return False
    if not isinstance(name, Domain):
        return name in names.get_values_for_type(x509.IPAddress)
    return any(_matches(pattern, name.ascii) for pattern in names.get_values_for_type(x509.DNSName))


def is_for_servers(certificate: x509.Certificate) -> bool:
    """Whether it may be used by TLS servers (RFC 5280 section 4.2.1.12)."""
    try:
        usage: Iterable[x509.ObjectIdentifier] = certificate.extensions.get_extension_for_class(
            x509.ExtendedKeyUsage
        ).value
    except x509.ExtensionNotFound:
        return True
    except _UNREADABLE:
        return False
    return bool({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}.intersection(usage))


def _matches(pattern: str, name: str) -> bool:
    wildcard = pattern.startswith("*.")
    try:
        presented = parse_domain_lax(pattern[2:] if wildcard else pattern).ascii
    except BadDomain:
        return False
    return name.partition(".")[2] == presented if wildcard else name == presented


def _text(name: ServerName) -> str:
    return name.log() if isinstance(name, Domain) else str(name)


def _bad_certificate(exc: Exception) -> TLSProblem:
    return TLSProblem("validation-failure", "bad-certificate", f"certificate cannot be read: {exc}")


def _verify_problem(number: int, text: str) -> TLSProblem:
    if number == _HOST_MISMATCH:
        return TLSProblem("certificate-host-mismatch", "", text, number)
    if number in _EXPIRED:
        return TLSProblem("certificate-expired", _EXPIRED[number], text, number)
    if number in _NOT_TRUSTED:
        return TLSProblem("certificate-not-trusted", _NOT_TRUSTED[number], text, number)
    return TLSProblem("validation-failure", f"openssl-verify-{number}", text, number)
