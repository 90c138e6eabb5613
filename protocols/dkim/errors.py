"""What can be wrong with a key, a record, a signature or a message that is to be signed."""

from __future__ import annotations

from enum import StrEnum

from protocols.errors import ProtocolError


class ErrorKind(StrEnum):
    """The reasons, by the names that Authentication-Results and metrics have for them."""

    NO_RECORD = "no-record"
    MULTIPLE_RECORDS = "multiple-records"
    DNS = "dns"
    RECORD_SYNTAX = "record-syntax"
    SIGNATURE_SYNTAX = "signature-syntax"
    ALGORITHM_MISMATCH = "algorithm-mismatch"
    HASH_NOT_ALLOWED = "hash-not-allowed"
    KEY_NOT_FOR_EMAIL = "key-not-for-email"
    IDENTITY_MISMATCH = "identity-mismatch"
    EXPIRED = "expired"
    UNKNOWN_HASH = "unknown-hash"
    UNKNOWN_ALGORITHM = "unknown-algorithm"
    BODY_HASH_MISMATCH = "body-hash-mismatch"
    SIGNATURE_MISMATCH = "signature-mismatch"
    UNKNOWN_CANONICALIZATION = "unknown-canonicalization"
    HEADER_MALFORMED = "header-malformed"
    FROM_NOT_SIGNED = "from-not-signed"
    QUERY_METHOD = "query-method"
    KEY_REVOKED = "key-revoked"
    TOP_LEVEL_DOMAIN = "top-level-domain"
    POLICY = "policy"
    WEAK_KEY = "weak-key"
    BAD_KEY = "bad-key"


class DkimError(ProtocolError, ValueError):
    """``kind`` says what, the text says why."""

    def __init__(self, kind: ErrorKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind
