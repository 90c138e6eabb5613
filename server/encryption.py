"""Secrets at rest: encrypted with the server's keys, of which the first encrypts and all decrypt.

stored = encrypt(b"-----BEGIN PRIVATE KEY-----...")
decrypt(stored)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models


class CannotDecrypt(Exception):
    """The keys of this installation do not open a stored secret."""


def encrypt(secret: bytes) -> bytes:
    return _keys().encrypt(secret)


def decrypt(stored: bytes) -> bytes:
    """Raises CannotDecrypt."""
    try:
        return _keys().decrypt(stored)
    except InvalidToken:
        raise CannotDecrypt(
            "a stored secret was encrypted with a key that is not in MOX_ENCRYPTION_KEYS: add the earlier key after the"
            " new one, separated by a comma"
        ) from None


def check() -> None:
    """Raises ImproperlyConfigured for keys that are none."""
    _keys()


class EncryptedField(models.BinaryField):  # type: ignore[type-arg] # generic in the stubs, not at run time
    """A column whose value is bytes in memory and encrypted in the database. Empty stays empty."""

    def get_db_prep_value(self, value: Any, connection: Any, prepared: bool = False) -> Any:
        return super().get_db_prep_value(encrypt(value) if value else b"", connection, prepared)

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> bytes:
        stored = bytes(value or b"")
        return decrypt(stored) if stored else b""


@lru_cache(maxsize=1)
def _keys() -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in settings.MOX.encryption_keys])
    except ValueError as exc:
        raise ImproperlyConfigured(f"MOX_ENCRYPTION_KEYS: each key is 32 bytes in base64url: {exc}") from exc
