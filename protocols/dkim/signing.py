"""Signing messages (RFC 6376 section 5, RFC 8301, RFC 8463)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.message.source import Readable, as_source, chunks
from protocols.names import Domain, format_localpart

from .canonicalization import BodyHashes, Canonicalization
from .errors import DkimError, ErrorKind
from .keys import PrivateKey, check_size, make_signature
from .parsing import MAX_FIELD
from .section import HeaderSection, check_start, read_header_section
from .signature import Hash, KeyType, Signature

DEFAULT_HEADERS: Final = (
    "From",
    "To",
    "Cc",
    "Bcc",
    "Reply-To",
    "References",
    "In-Reply-To",
    "Subject",
    "Date",
    "Message-Id",
    "Content-Type",
)


@dataclass(frozen=True, slots=True)
class Selector:
    """A key and how to sign with it."""

    name: Domain
    key: PrivateKey
    hash: Hash = Hash.SHA256
    header_relaxed: bool = False
    body_relaxed: bool = False
    headers: tuple[str, ...] = ()
    """Names of the fields to sign; empty: DEFAULT_HEADERS."""
    seal_headers: bool = True
    """Name each field once more than it occurs, so that none can be added (RFC 6376 section 8.15)."""
    expiration: timedelta = timedelta(0)
    """Time from signing to ``x=``; zero: none."""

    @property
    def canonicalizations(self) -> tuple[Canonicalization, Canonicalization]:
        """Of header and body."""
        return _canonicalization(self.header_relaxed), _canonicalization(self.body_relaxed)

    @property
    def key_type(self) -> KeyType:
        return KeyType.ED25519 if isinstance(self.key, Ed25519PrivateKey) else KeyType.RSA

    def signed_headers(self, header: HeaderSection) -> tuple[str, ...]:
        """The names for ``h=``, each as often as it stands there."""
        names: list[str] = []
        for name in dict.fromkeys(self.headers or DEFAULT_HEADERS):
            count = len(header.named(name.lower()))
            # A name that does not occur is listed once all the same: verifiers want to see Subject there.
            names += [name] * (count + 1 if self.seal_headers else max(count, 1))
        return tuple(names)

    def check(self) -> None:
        """Raises DkimError for what no verifier should trust."""
        if self.hash is not Hash.SHA256:
            raise DkimError(ErrorKind.UNKNOWN_HASH, f"selector {self.name.ascii} has {self.hash}, must be sha256")
        check_size(self.key)
        if self.headers and not any(name.lower() == "from" for name in self.headers):
            raise DkimError(ErrorKind.FROM_NOT_SIGNED, f"selector {self.name.ascii} does not sign From")
        if self.expiration < timedelta(0):
            raise DkimError(ErrorKind.EXPIRED, f"selector {self.name.ascii} has a negative expiration")


def sign(
    message: Readable,
    localpart: str,
    domain: Domain,
    selectors: Sequence[Selector],
    *,
    prefix: bytes = b"",
    smtputf8: bool = False,
    now: int | None = None,
) -> bytes:
    """DKIM-Signature fields to put in front of a message, one for each selector in order.

    ``localpart`` is the canonical one of the author's address, for ``i=``; ``prefix``: header fields that go in front
    of the message and are signed with it; ``now``: Unix time, in seconds. Line ends must be CRLF. The body is read
    once, in blocks. Raises DkimError when the message does not have exactly one From field, its header section is
    malformed or over 1 MiB, so many fields are signed that no verifier would take it, or a selector does not sign From
    or cannot be signed with.
    """
    for selector in selectors:
        selector.check()
    source = as_source(message)
    own_section, body_at = read_header_section(source)
    check_start(own_section)
    header = HeaderSection(prefix + own_section)
    header.check_line_ends()
    if (from_fields := len(header.named("from"))) != 1:
        raise DkimError(ErrorKind.HEADER_MALFORMED, f"message has {from_fields} From fields, must be one")

    bodies = BodyHashes((selector.canonicalizations[1], selector.hash) for selector in selectors)
    for block in chunks(source, body_at, source.size):
        bodies.update(block)
    body_hashes = bodies.finish()

    sign_time = int(time.time()) if now is None else now
    fields: list[bytes] = []
    for selector in selectors:
        canon_header, canon_body = selector.canonicalizations
        signature = Signature(
            domain=domain,
            selector=selector.name,
            algorithm_sign=selector.key_type,
            algorithm_hash=selector.hash,
            signed_headers=selector.signed_headers(header),
            body_hash=body_hashes[canon_body, selector.hash],
            identity=f"{format_localpart(localpart)}@{domain.ascii}",
            canon_header=canon_header,
            canon_body=canon_body,
            sign_time=sign_time,
            expire_time=sign_time + int(selector.expiration.total_seconds()) if selector.expiration else None,
        )
        unsigned = signature.compose_unsigned(utf8=smtputf8)
        data = header.signed_data(signature.signed_headers, canon_header, unsigned)
        signed = dataclasses.replace(signature, signature=make_signature(selector.key, data))
        fields.append(check_length(signed.compose(unsigned=unsigned)))
    return b"".join(fields)


def check_length(field: bytes) -> bytes:
    """The signature field as it is. Raises DkimError if it is longer than one that `verify` takes."""
    if len(field) > MAX_FIELD:
        text = f"signature field longer than {MAX_FIELD} bytes: the message has too many header fields that are signed"
        raise DkimError(ErrorKind.HEADER_MALFORMED, text)
    return field


def _canonicalization(relaxed: bool) -> Canonicalization:
    return Canonicalization.RELAXED if relaxed else Canonicalization.SIMPLE
