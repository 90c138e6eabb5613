"""Reading signature fields (RFC 6376 section 3.5, RFC 8616): DKIM-Signature here, those of ARC with the same pieces."""

from __future__ import annotations

import re
from typing import Final

from protocols.names import BadDomain, Domain, parse_domain_lax

from .canonicalization import Canonicalization
from .errors import DkimError, ErrorKind
from .signature import Hash, Signature
from .tags import decode_base64, decode_quoted_printable, parse_tags, split_list

MAX_FIELD: Final = 16 * 1024  # bytes of a signature field; one with a key of 8192 bits has less than 4 KiB
MAX_NAME: Final = 253  # characters of the name of a key record, RFC 1035 2.3.4
MAX_TIME_DIGITS: Final = 12  # of t= and x=, RFC 6376 section 3.5
MAX_LENGTH_DIGITS: Final = 76  # of l=, RFC 6376 section 3.5

_KIND: Final = ErrorKind.SIGNATURE_SYNTAX
_ALGORITHM: Final = re.compile(r"([A-Za-z][A-Za-z0-9]*)-([A-Za-z][A-Za-z0-9]*)")
_DIGITS: Final = re.compile(r"[0-9]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_HASH_SIZES: Final[dict[str, int]] = {Hash.SHA256: 32, Hash.SHA1: 20}  # bytes


class SignatureTags:
    """The tags of a signature field, each decoded when it is asked for. All methods raise DkimError."""

    def __init__(self, field: bytes, *, utf8: bool = False) -> None:
        """``field`` with its name; ``utf8``: the message is internationalized, so that names may be U-labels."""
        if len(field) > MAX_FIELD:
            raise DkimError(_KIND, f"signature field longer than {MAX_FIELD} bytes")
        try:
            text = field.partition(b":")[2].decode("utf-8")
        except UnicodeDecodeError as exc:
            raise DkimError(_KIND, "signature field is not UTF-8") from exc
        self._tags = parse_tags(text, _KIND)
        self._utf8 = utf8

    def __contains__(self, name: str) -> bool:
        return name in self._tags

    def require(self, name: str) -> str:
        try:
            return self._tags[name]
        except KeyError:
            raise DkimError(_KIND, f"tag {name}= is missing") from None

    def algorithm(self) -> tuple[str, str]:
        """Of key and hash, in lower case; they may be any names."""
        match = _ALGORITHM.fullmatch(self.require("a"))
        if match is None:
            raise DkimError(_KIND, f"bad a={self.require('a')[:40]}")
        return match[1].lower(), match[2].lower()

    def domain(self) -> Domain:
        return self._domain("d", self.require("d"))

    def selector(self) -> Domain:
        # Never alone: all digits, as selectors may be, are no domain name.
        name = self._domain("s", f"{self.require('s')}.x")
        return Domain(name.ascii.removesuffix(".x"), name.unicode.removesuffix(".x"))

    def key_names(self) -> tuple[Domain, Domain]:
        """Selector and domain, which together make the name of a record."""
        selector, domain = self.selector(), self.domain()
        if len(key_record_name(selector, domain)) > MAX_NAME + 1:
            raise DkimError(_KIND, f"s= and d= make a name longer than {MAX_NAME} bytes")
        return selector, domain

    def identity(self, domain: Domain) -> str | None:
        """``i=`` decoded, at or below the domain of ``d=``."""
        if "i" not in self._tags:
            return None
        identity = decode_quoted_printable(self._ascii("i", self._tags["i"]))
        _, at, name = identity.rpartition("@")
        if not at or _CONTROL.search(identity):
            raise DkimError(_KIND, f"bad i={identity[:100]!a}")
        identity_domain = self._domain("i", name)
        if not f".{identity_domain.ascii}".endswith(f".{domain.ascii}"):
            raise DkimError(ErrorKind.IDENTITY_MISMATCH, "domain of i= is not at or below that of d=")
        return identity

    def canonicalizations(self, default: str = "simple/simple") -> tuple[Canonicalization, Canonicalization]:
        """Of header and body."""
        header, slash, body = self._tags.get("c", default).lower().partition("/")
        try:
            return Canonicalization(header), Canonicalization(body) if slash else Canonicalization.SIMPLE
        except ValueError:
            raise DkimError(ErrorKind.UNKNOWN_CANONICALIZATION, f"unknown c={self._tags['c'][:40]!a}") from None

    def binary(self, name: str) -> bytes:
        """The bytes of a base64 value, at least one."""
        data = decode_base64(self.require(name), _KIND, name)
        if not data:
            raise DkimError(_KIND, f"{name}= is empty")
        return data

    def body_hash(self, hash_name: str) -> bytes:
        digest = self.binary("bh")
        size = _HASH_SIZES.get(hash_name, len(digest))
        if len(digest) != size:
            raise DkimError(_KIND, f"bh= has {len(digest)} bytes, must be {size} for {hash_name}")
        return digest

    def number(self, name: str, digits: int = MAX_TIME_DIGITS) -> int | None:
        value = self._tags.get(name)
        if value is None:
            return None
        if len(value) > digits or _DIGITS.fullmatch(value) is None:
            raise DkimError(_KIND, f"{name}={value[:40]!a} is no number of at most {digits} digits")
        return int(value)

    def times(self) -> tuple[int | None, int | None]:
        """Of signing and expiration."""
        sign_time, expire_time = self.number("t"), self.number("x")
        if sign_time is not None and expire_time is not None and expire_time <= sign_time:
            raise DkimError(ErrorKind.EXPIRED, "x= is not after t=")
        return sign_time, expire_time

    def items(self, name: str) -> tuple[str, ...]:
        """The items of a colon-separated value, () without the tag."""
        return split_list(self._tags[name]) if name in self._tags else ()

    def copied_headers(self) -> tuple[str, ...]:
        return tuple(map(decode_quoted_printable, self._tags["z"].split("|"))) if "z" in self._tags else ()

    def _domain(self, name: str, value: str) -> Domain:
        try:
            return parse_domain_lax(self._ascii(name, value))
        except BadDomain as exc:
            raise DkimError(_KIND, f"bad domain name in {name}=: {exc}") from exc

    def _ascii(self, name: str, value: str) -> str:
        if not self._utf8 and not value.isascii():
            raise DkimError(_KIND, f"{name}= is not ASCII")
        return value


def parse_signature(field: bytes, *, smtputf8: bool = False) -> Signature:
    """The signature of a DKIM-Signature field, given with its name.

    Key and hash algorithm may be unknown ones. Raises DkimError for what is no signature whatever the key says: bad
    syntax, a tag missing or given twice, another version, an unknown canonicalization, ``i=`` outside ``d=``, ``x=``
    not after ``t=``.
    """
    tags = SignatureTags(field, utf8=smtputf8)
    if tags.require("v") != "1":
        raise DkimError(_KIND, f"v={tags.require('v')[:40]!a}, must be 1")
    return message_signature(tags)


def message_signature(tags: SignatureTags, *, arc: bool = False) -> Signature:
    """The signature that tags say; in ARC ``i=`` is no identity and ``c=`` is relaxed by default. Raises DkimError."""
    algorithm_sign, algorithm_hash = tags.algorithm()
    selector, domain = tags.key_names()
    # RFC 8617 section 4.1.2 names no other default than that of RFC 6376, but what verifies ARC has this one.
    canon_header, canon_body = tags.canonicalizations("relaxed/relaxed" if arc else "simple/simple")
    sign_time, expire_time = tags.times()
    tags.require("h")
    return Signature(
        domain=domain,
        selector=selector,
        algorithm_sign=algorithm_sign,
        algorithm_hash=algorithm_hash,
        signed_headers=tags.items("h"),
        body_hash=tags.body_hash(algorithm_hash),
        signature=tags.binary("b"),
        identity=None if arc else tags.identity(domain),
        canon_header=canon_header,
        canon_body=canon_body,
        sign_time=sign_time,
        expire_time=expire_time,
        length=tags.number("l", MAX_LENGTH_DIGITS),
        query_methods=tags.items("q"),
        copied_headers=tags.copied_headers(),
    )


def key_record_name(selector: Domain, domain: Domain) -> str:
    """The absolute name of the key's TXT record (RFC 6376 section 3.6.2.1)."""
    return f"{selector.ascii}._domainkey.{domain.ascii}."
