"""Modified UTF-7, the encoding of mailbox names before ENABLE IMAP4rev2 (RFC 3501 5.1.3).

encode("Entwürfe & mehr")     # b"Entw&APw-rfe &- mehr"
decode(b"Entw&APw-rfe")       # "Entwürfe"
"""

from __future__ import annotations

import base64
import re
from typing import Final

_ENCODED: Final = re.compile(r"[^\x20-\x7e]+|&")
_SHIFTED: Final = re.compile(rb"&([A-Za-z0-9+,]*)-")
_PRINTABLE: Final = re.compile(rb"[\x20-\x25\x27-\x7e]*")


class BadName(ValueError):
    """A name that is not in modified UTF-7; the text says why."""


def encode(name: str) -> bytes:
    """The name in modified UTF-7."""
    return _ENCODED.sub(_shift, name).encode("ascii")


def _shift(match: re.Match[str]) -> str:
    text = match[0]
    if text == "&":
        return "&-"
    data = base64.b64encode(text.encode("utf-16-be"), b"+,").rstrip(b"=")
    return f"&{data.decode()}-"


def decode(encoded: bytes) -> str:
    """The name that was encoded. Raises BadName for what no encoder makes: each name has one encoding."""
    pieces: list[str] = []
    position = 0
    after_shift = False
    while position < len(encoded):
        plain = _PRINTABLE.match(encoded, position)
        assert plain is not None  # it matches nothing, too
        if plain.end() > position:
            pieces.append(plain[0].decode("ascii"))
            position = plain.end()
            after_shift = False
            continue
        shifted = _SHIFTED.match(encoded, position)
        if shifted is None:
            what = "base64 is bad or not ended by -" if encoded[position : position + 1] == b"&" else "8-bit byte"
            raise BadName(f"bad modified UTF-7: {what}")
        if not shifted[1]:
            pieces.append("&")
            after_shift = False
        elif after_shift:
            raise BadName("bad modified UTF-7: two encoded pieces in a row")
        else:
            pieces.append(_unshift(shifted[1]))
            after_shift = True
        position = shifted.end()
    return "".join(pieces)


def _unshift(data: bytes) -> str:
    if len(data) % 4 == 1:
        raise BadName("bad modified UTF-7: base64 of an impossible length")
    raw = base64.b64decode(data + b"=" * (-len(data) % 4), b"+,")
    if base64.b64encode(raw, b"+,").rstrip(b"=") != data:
        raise BadName("bad modified UTF-7: unused bits of base64 are not zero")
    if len(raw) % 2:
        raise BadName("bad modified UTF-7: odd number of bytes")
    try:
        text = raw.decode("utf-16-be")
    except UnicodeDecodeError:
        raise BadName("bad modified UTF-7: lone or bad surrogate") from None
    if any(" " <= char <= "~" for char in text):
        raise BadName("bad modified UTF-7: printable ASCII is encoded")
    return text
