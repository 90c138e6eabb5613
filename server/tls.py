"""TLS contexts of the listeners, rebuilt when their certificate files change."""

from __future__ import annotations

import ssl
import threading
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from django.conf import settings

from .clientkeys import ClientKeys
from .models import Listener, TLSMode

# Compression leaks (CRIME), renegotiation is of no use to mail, and the server's order prefers forward secrecy.
_OPTIONS: Final = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE


@dataclass(frozen=True, slots=True)
class _Pair:
    certificate: Path
    key: Path

    def stamp(self) -> tuple[int, int]:
        return self.certificate.stat().st_mtime_ns, self.key.stat().st_mtime_ns


@dataclass(frozen=True, slots=True)
class _Cached:
    stamp: tuple[int, int]
    context: ssl.SSLContext
    client_keys: ClientKeys | None


_lock = threading.Lock()
_contexts: dict[tuple[str, bool, bool, bool], _Cached] = {}


def self_signed_pair() -> tuple[Path, Path]:
    """Where the self-signed certificate and its key are kept (webserver.md: localhost.crt is for clients to trust)."""
    directory = Path(settings.MOX.data_dir)
    return directory / "localhost.crt", directory / "localhost.key"


def available(listener: Listener) -> bool:
    """Whether connections to a listener can use TLS."""
    return listener.tls_mode != TLSMode.NONE


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """A certificate that is served: its file, whom it is for, and until when it holds."""

    file: Path
    names: list[str]
    not_after: datetime


def certificates() -> list[CertificateInfo]:
    """What this installation has for its listeners."""
    file = _pair().certificate
    if not file.is_file():
        return []
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        shown = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    except x509.ExtensionNotFound:
        shown = []
    return [CertificateInfo(file, shown, certificate.not_valid_after_utc)]


def missing_files(listener: Listener) -> list[Path]:
    """Certificate and key of a listener with TLS that are not there."""
    pair = _pair()
    return [path for path in (pair.certificate, pair.key) if available(listener) and not path.is_file()]


def forget() -> None:
    """Read certificates and keys again at their next use, whatever the time of their files says."""
    with _lock:
        _contexts.clear()


def server_context(
    listener: Listener, *, tickets: bool, http: bool = False, client_keys: bool = False
) -> ssl.SSLContext | None:
    """The context for connections to a listener; None when it has no TLS.

    ``tickets``: whether sessions can be resumed; off for SMTP, where some large senders fail to resume.
    ``http``: HTTP/1.1 is offered by its name (RFC 7301), so that no browser tries another version.
    ``client_keys``: clients are asked for a certificate, whichever they have (see server.clientkeys).
    """
    if not available(listener):
        return None
    pair = _pair()
    stamp = pair.stamp()
    key = (listener.tls_min_version, tickets, http, client_keys)
    with _lock:
        cached = _contexts.get(key)
        if cached is None or cached.stamp != stamp or (cached.client_keys is not None and cached.client_keys.spent):
            context = _context(listener, pair, tickets, http)
            cached = _Cached(stamp, context, ClientKeys(context) if client_keys else None)
            _contexts[key] = cached
        return cached.context


def certificate_der(listener: Listener) -> bytes | None:
    """The certificate that connections to a listener are served, for channel binding (RFC 5929 4)."""
    if not available(listener):
        return None
    return ssl.PEM_cert_to_DER_cert(_pair().certificate.read_text())


def _pair() -> _Pair:
    return _Pair(*self_signed_pair())


def _context(listener: Listener, pair: _Pair, tickets: bool, http: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion[listener.tls_min_version.replace(".", "_")]
    context.options |= _OPTIONS
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    if http:
        context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(pair.certificate, pair.key)
    return context
