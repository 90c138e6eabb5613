"""The DKIM-Signature field (RFC 6376 section 3.5) as a value, and how it is written."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocols.message.headerwriter import HeaderWriter
from protocols.names import Domain

from .canonicalization import Canonicalization
from .tags import encode_quoted_printable

BASE64_WIDTH: Final = 72  # characters of a line of the signature's value


class KeyType(StrEnum):
    RSA = "rsa"
    ED25519 = "ed25519"


class Hash(StrEnum):
    SHA256 = "sha256"
    SHA1 = "sha1"  # read, never signed with: RFC 8301 section 3.1


@dataclass(frozen=True, slots=True)
class Signature:
    """What a DKIM-Signature field says. Times are Unix times in seconds."""

    domain: Domain
    selector: Domain
    algorithm_sign: str
    algorithm_hash: str
    signed_headers: tuple[str, ...]
    body_hash: bytes
    signature: bytes = b""
    identity: str | None = None
    """``i=``, decoded: localpart (or nothing), @, domain."""
    canon_header: Canonicalization = Canonicalization.SIMPLE
    canon_body: Canonicalization = Canonicalization.SIMPLE
    sign_time: int | None = None
    expire_time: int | None = None
    length: int | None = None
    query_methods: tuple[str, ...] = ()
    copied_headers: tuple[str, ...] = ()
    version: int = 1

    @property
    def algorithm(self) -> str:
        """The value of ``a=``."""
        return f"{self.algorithm_sign}-{self.algorithm_hash}"

    def compose_unsigned(self, *, utf8: bool = False) -> bytes:
        """The field up to its ``b=``, without line end: the form that is signed (RFC 6376 section 3.7)."""
        field = HeaderWriter("DKIM-Signature:")
        field.add(" ", f"v={self.version};", f"d={self.domain.ascii};", f"s={self.selector.ascii};")
        if self.identity is not None:
            field.add(" ", f"i={encode_quoted_printable(self.identity, utf8=utf8)};")
        field.add(" ", f"a={self.algorithm};")
        if (self.canon_header, self.canon_body) != (Canonicalization.SIMPLE, Canonicalization.SIMPLE):
            field.add(" ", f"c={self.canon_header}/{self.canon_body};")
        if self.sign_time is not None:
            field.add(" ", f"t={self.sign_time};")
        if self.expire_time is not None:
            field.add(" ", f"x={self.expire_time};")
        first, *more = self.signed_headers
        names = [f"h={first}", *(f":{name}" for name in more)]
        names[-1] += ";"
        field.add(" ", names[0])
        field.add("", *names[1:])
        field.add(" ", f"bh={base64.b64encode(self.body_hash).decode('ascii')};")
        # On a line of its own: the first line of the value is known to have room.
        return field.bytes().removesuffix(b"\r\n") + b"\r\n\tb="

    def compose(self, *, utf8: bool = False, unsigned: bytes = b"") -> bytes:
        """The whole field with its line end; ``unsigned``: up to its ``b=``, where that was composed already."""
        value = base64.b64encode(self.signature)
        lines = [value[at : at + BASE64_WIDTH] for at in range(0, len(value), BASE64_WIDTH)]
        return (unsigned or self.compose_unsigned(utf8=utf8)) + b"\r\n\t".join(lines) + b"\r\n"
