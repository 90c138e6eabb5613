"""Asking TLS clients for a certificate of which only the key counts: it is somebody's if it was registered before.

Whoever signed a certificate, what names it has and how old it is says nothing: that a client has the key is what the
handshake proves. Python can only have OpenSSL check a certificate against trusted ones, without a say in the verdict.
So the certificate that a client presents is trusted by the context of its handshake as it arrives, before it is looked
at; a context that did so is not used for further connections. What it was worth is looked up by its fingerprint.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
from typing import Any, Final

from cryptography import x509

from protocols.dane import subject_public_key_info

_HANDSHAKE: Final = 22  # content type of TLS records (RFC 8446 5.1)
_CERTIFICATE: Final = 11  # handshake message (RFC 8446 4)
_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for


class ClientKeys:
    """Lets a context take certificates from its clients. ``spent`` once one of them has presented one."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.spent = False
        self._context = context
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
        # The hook under the one of the ssl module, which makes enums of all arguments: it is called for each record.
        ssl.SSLContext.__base__._msg_callback.__set__(context, self._message)  # type: ignore[union-attr]  # private

    def _message(
        self, _connection: Any, direction: str, version: int, content_type: int, message: int, data: bytes
    ) -> None:
        """OpenSSL has read or written something. A client's certificate comes by here before it is judged."""
        if content_type != _HANDSHAKE or message != _CERTIFICATE or direction != "read":
            return
        certificate = first_certificate(data, tls_1_3=version >= ssl.TLSVersion.TLSv1_3)
        if certificate:
            self.spent = True
            try:
                self._context.load_verify_locations(cadata=certificate)
            except ssl.SSLError:
                return  # it is no certificate: OpenSSL says so itself


def supported() -> bool:
    """Whether this Python has the hook that is needed."""
    return hasattr(ssl.SSLContext.__base__, "_msg_callback")


def first_certificate(message: bytes, *, tls_1_3: bool) -> bytes:
    """The DER of the sender's own certificate in a Certificate message (RFC 8446 4.4.2, RFC 5246 7.4.6), if any."""
    body = message[4:]  # behind type and length
    if tls_1_3:
        body = body[1 + body[0] :] if body else b""  # behind the context of the request
    size = int.from_bytes(body[3:6], "big")
    certificate = body[6 : 6 + size]
    return certificate if len(certificate) == size else b""


def presented_key(ssl_object: ssl.SSLObject) -> str:
    """The fingerprint of the key that a client proved to have; empty if it has shown none."""
    certificate = ssl_object.getpeercert(binary_form=True)
    if certificate is None:
        return ""
    try:
        return fingerprint(x509.load_der_x509_certificate(certificate))
    except ValueError:
        return ""


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, in base64url without padding: 43 characters."""
    digest = hashlib.sha256(subject_public_key_info(certificate.tbs_certificate_bytes)).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
