"""What ties a SCRAM exchange to the TLS connection it runs over (RFC 5056, 5929)."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes

TLS_UNIQUE: Final = "tls-unique"
TLS_SERVER_END_POINT: Final = "tls-server-end-point"

_CERTIFICATES_REMEMBERED: Final = 64  # a server has a handful, a client meets a few again and again
_BEFORE_TLS13: Final = frozenset({"TLSv1", "TLSv1.1", "TLSv1.2"})


@dataclass(frozen=True, slots=True)
class ChannelBinding:
    """The binding data of one TLS connection; None where the type is not to be had on it."""

    tls_unique: bytes | None
    tls_server_end_point: bytes | None
    announce_plus: bool  # a server announces the -PLUS mechanisms: under TLS 1.2 and before only

    def data(self, name: str) -> bytes | None:
        """The data for a binding type by its registered name; None if it is unknown or not to be had."""
        return {TLS_UNIQUE: self.tls_unique, TLS_SERVER_END_POINT: self.tls_server_end_point}.get(name)


def plus_announced(tls_version: str | None) -> bool:
    """Whether a server offers the -PLUS mechanisms: Python has no channel binding that TLS 1.3 asks for (RFC 9266)."""
    return tls_version in _BEFORE_TLS13


def channel_binding(ssl_object: ssl.SSLObject | ssl.SSLSocket, certificate_der: bytes | None) -> ChannelBinding:
    """The bindings of a connection whose handshake is done; ``certificate_der`` is the one that the server presented.

    tls-unique is not defined for TLS 1.3 (RFC 9266 section 1), though Python returns a value. On a resumed session
    the triple handshake attack can forge it (RFC 7627 section 1); without a resumption it is safe.
    """
    before_tls13 = ssl_object.version() in _BEFORE_TLS13
    unique = ssl_object.get_channel_binding(TLS_UNIQUE) if before_tls13 and not ssl_object.session_reused else None
    end_point = certificate_hash(certificate_der) if certificate_der else None
    return ChannelBinding(
        tls_unique=unique,
        tls_server_end_point=end_point,
        announce_plus=before_tls13 and (unique is not None or end_point is not None),
    )


@functools.lru_cache(maxsize=_CERTIFICATES_REMEMBERED)
def certificate_hash(certificate_der: bytes) -> bytes | None:
    """tls-server-end-point (RFC 5929 section 4.1); None where the signature names no single hash (Ed25519)."""
    try:
        algorithm = x509.load_der_x509_certificate(certificate_der).signature_hash_algorithm
    except (UnsupportedAlgorithm, ValueError):
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    digest = hashes.Hash(algorithm)
    digest.update(certificate_der)
    return digest.finalize()
