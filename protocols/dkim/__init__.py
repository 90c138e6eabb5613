"""DKIM (RFC 6376, 8301, 8463, 8616): signing, verifying, keys and records; leaves DNS and stored keys to others."""

from __future__ import annotations

from .canonicalization import BodyCanonicalizer, BodyHashes, Canonicalization, canonical_field
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
from .lookup import LookupResult, lookup
from .parsing import parse_signature
from .record import DkimRecord, parse_record, txt_strings, zone_text
from .results import DkimResult, DkimStatus, auth_methods
from .section import HeaderSection
from .signature import Hash, KeyType, Signature
from .signing import DEFAULT_HEADERS, Selector, sign
from .tags import blank_tag, parse_tags
from .verification import Policy, default_policy, verify, verify_sync

__all__ = [
    "DEFAULT_HEADERS",
    "BodyCanonicalizer",
    "BodyHashes",
    "Canonicalization",
    "DkimError",
    "DkimRecord",
    "DkimResult",
    "DkimStatus",
    "ErrorKind",
    "Hash",
    "HeaderSection",
    "KeyType",
    "LookupResult",
    "Policy",
    "PrivateKey",
    "PublicKey",
    "Selector",
    "Signature",
    "auth_methods",
    "blank_tag",
    "canonical_field",
    "default_policy",
    "generate_ed25519",
    "generate_rsa",
    "load_private_key",
    "load_public_key",
    "lookup",
    "parse_record",
    "parse_signature",
    "parse_tags",
    "private_key_pem",
    "public_key_data",
    "sign",
    "txt_strings",
    "verify",
    "verify_sync",
    "zone_text",
]
