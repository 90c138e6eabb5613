"""Signing messages (RFC 6376 section 5, RFC 8301, RFC 8463)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocols.message.source import Readable, Source, as_source, chunks
from protocols.names import Domain, format_localpart

from .canonicalization import BodyHashes, Canonicalization, header_fields, signed_data
from .errors import DkimError, ErrorKind
from .keys import PrivateKey, check_size, make_signature
from .signature import Hash, KeyType, Signature

MAX_HEADER: Final = 1 << 20  # bytes of a header section, as the parser of messages has it
HEADER_BLOCK: Final = 64 * 1024  # bytes read at once while looking for the end of the header section

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
    malformed or over 1 MiB, or a selector does not sign From or cannot be signed with.
    """
    for selector in selectors:
        _check(selector)
    source = as_source(message)
    own_section, body_at = _header_section(source)
    section = prefix + own_section
    counts: dict[str, int] = {}
    for field in header_fields(section):
        counts[field.name.lower()] = counts.get(field.name.lower(), 0) + 1
    if (from_fields := counts.get("from", 0)) != 1:
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
            algorithm_sign=KeyType.ED25519 if isinstance(selector.key, Ed25519PrivateKey) else KeyType.RSA,
            algorithm_hash=selector.hash,
            signed_headers=_signed_headers(selector, counts),
            body_hash=body_hashes[canon_body, selector.hash],
            identity=f"{format_localpart(localpart)}@{domain.ascii}",
            canon_header=canon_header,
            canon_body=canon_body,
            sign_time=sign_time,
            expire_time=sign_time + int(selector.expiration.total_seconds()) if selector.expiration else None,
        )
        unsigned = signature.compose_unsigned(utf8=smtputf8)
        data = signed_data(section, signature.signed_headers, canon_header, unsigned)
        signed = dataclasses.replace(signature, signature=make_signature(selector.key, data))
        fields.append(signed.compose(utf8=smtputf8))
    return b"".join(fields)


def _check(selector: Selector) -> None:
    if selector.hash is not Hash.SHA256:
        raise DkimError(ErrorKind.UNKNOWN_HASH, f"selector {selector.name.ascii} has {selector.hash}, must be sha256")
    check_size(selector.key)
    if selector.headers and not any(name.lower() == "from" for name in selector.headers):
        raise DkimError(ErrorKind.FROM_NOT_SIGNED, f"selector {selector.name.ascii} does not sign From")
    if selector.expiration < timedelta(0):
        raise DkimError(ErrorKind.EXPIRED, f"selector {selector.name.ascii} has a negative expiration")


def _signed_headers(selector: Selector, counts: dict[str, int]) -> tuple[str, ...]:
    names: list[str] = []
    for name in dict.fromkeys(selector.headers or DEFAULT_HEADERS):
        count = counts.get(name.lower(), 0)
        # A name that does not occur is listed once all the same: verifiers want to see Subject there.
        names += [name] * (count + 1 if selector.seal_headers else max(count, 1))
    return tuple(names)


def _header_section(source: Source) -> tuple[bytes, int]:
    """The fields, with the line end of the last one, and the offset of the body. Raises DkimError."""
    section = b""
    while True:
        block = source.read_at(len(section), min(HEADER_BLOCK, MAX_HEADER + 4 - len(section)))
        searched = max(0, len(section) - 3)
        section += block
        if section.startswith(b"\r\n"):
            return b"", 2
        end = section.find(b"\r\n\r\n", searched)
        if end >= 0:
            return section[: end + 2], end + 4
        if not block:
            if len(section) > MAX_HEADER:
                raise DkimError(ErrorKind.HEADER_MALFORMED, f"header section longer than {MAX_HEADER} bytes")
            # A header section without a body.
            return section if section.endswith(b"\r\n") or not section else section + b"\r\n", source.size


def _canonicalization(relaxed: bool) -> Canonicalization:
    return Canonicalization.RELAXED if relaxed else Canonicalization.SIMPLE
