"""SASL messages on the lines of a protocol: base64 (RFC 4954 section 4, RFC 9051 section 6.2.2)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]*={0,2}")


def decode_response(text: bytes) -> bytes | None:
    """What a client's line stands for; None if it is not base64, which must have its padding and nothing else."""
    if _BASE64.fullmatch(text) is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
