"""DKIM (RFC 6376, 8301, 8463, 8616): keys, records, canonical forms, signing; leaves DNS and stored keys to others."""

from __future__ import annotations

from .canonicalization import BodyCanonicalizer, BodyHashes, Canonicalization, canonical_field, signed_data
from .errors import DkimError, ErrorKind
from .keys import (
    PrivateKey,
    PublicKey,
    generate_ed25519,
    generate_rsa,
    load_private_key,
    load_public_key,
    private_key_pem,
    public_key_data,
)
from .record import DkimRecord, parse_record, txt_strings, zone_text
from .signature import Hash, KeyType, Signature
from .signing import DEFAULT_HEADERS, Selector, sign
from .tags import blank_tag, parse_tags

__all__ = [
    "DEFAULT_HEADERS",
    "BodyCanonicalizer",
    "BodyHashes",
    "Canonicalization",
    "DkimError",
    "DkimRecord",
    "ErrorKind",
    "Hash",
    "KeyType",
    "PrivateKey",
    "PublicKey",
    "Selector",
    "Signature",
    "blank_tag",
    "canonical_field",
    "generate_ed25519",
    "generate_rsa",
    "load_private_key",
    "load_public_key",
    "parse_record",
    "parse_tags",
    "private_key_pem",
    "public_key_data",
    "sign",
    "signed_data",
    "txt_strings",
    "zone_text",
]
