"""Tokens for the subject, by which somebody who was wrongly taken for a spammer gets through (junk.md section 11).

key = key_of(account_id, "info@example.org")
token = generate(key, from_address, now)            # "(pass:AGVT8Ylw_mRS-SOfwdxM_Q)"
verify(key, subject, from_address, period, now)     # True
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import string
from datetime import UTC, datetime, timedelta
from typing import Final

from protocols.names import Address

from .models import SubjectPassKey

KEY_LENGTH: Final = 16
TOKEN_BYTES: Final = 16
TIME_BYTES: Final = 4
VERSION: Final = 0
_PREFIX: Final = "(pass:"
_ALPHABET: Final = string.ascii_letters + string.digits


def key_of(account_id: int, canonical: str) -> str:
    """The key of an address (canonical; ``@domain`` for a catchall), made at its first use, in a transaction."""
    fresh = "".join(secrets.choice(_ALPHABET) for _ in range(KEY_LENGTH))
    found, _ = SubjectPassKey.objects.get_or_create(
        account_id=account_id, canonical_address=canonical, defaults={"key": fresh}
    )
    return found.key


def known_key(account_id: int, canonical: str) -> str:
    """The key of an address, "" while it has none: then no token was given out either."""
    keys = SubjectPassKey.objects.filter(account_id=account_id, canonical_address=canonical)
    return keys.values_list("key", flat=True).first() or ""


def generate(key: str, author: Address, now: datetime) -> str:
    """A token for a sender."""
    return f"{_PREFIX}{_token(key, author, _time_bytes(now))})"


def verify(key: str, subject: str, author: Address, period: timedelta, now: datetime) -> bool:
    """Whether a subject (decoded) has a token for this sender that is not older than the period."""
    start = subject.find(_PREFIX)
    end = subject.find(")", start)
    if not key or start < 0 or end < 0:
        return False
    token = "".join(subject[start + len(_PREFIX) : end].split())  # a subject may have been folded in it
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        return False
    if len(raw) != TOKEN_BYTES or raw[0] >> 4 != VERSION:
        return False
    expected = _token(key, author, raw[:TIME_BYTES])
    if not hmac.compare_digest(expected.encode(), token.encode()):
        return False
    return _time_of(raw[:TIME_BYTES]) + period >= now


def _token(key: str, author: Address, when: bytes) -> str:
    signature = hmac.digest(key.encode(), when + str(author).encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(when + signature[: TOKEN_BYTES - TIME_BYTES]).decode().rstrip("=")


def _time_bytes(now: datetime) -> bytes:
    """The version, and the time without its last byte: to 256 seconds."""
    seconds = int(now.timestamp()) >> 8
    return bytes([VERSION << 4 | seconds >> 24 & 0x0F]) + (seconds & 0xFFFFFF).to_bytes(3, "big")


def _time_of(raw: bytes) -> datetime:
    seconds = ((raw[0] & 0x0F) << 24 | int.from_bytes(raw[1:], "big")) << 8
    return datetime.fromtimestamp(seconds, UTC)
