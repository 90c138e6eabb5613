"""Header text: encoded words (RFC 2047), raw UTF-8 (RFC 6532) and whatever else senders put there, as readable text.

And encoded words for text that a header cannot hold as it is.
"""

from __future__ import annotations

import re
from typing import Final

from .charset import clean_text, decode_bytes
from .transfer import decode_base64, decode_q

# Each repeat ends at a character it cannot hold, so that a search is linear.
ENCODED_WORD: Final = re.compile(rb"=\?([^?\s]{1,100})\?([bBqQ])\?([^?]*)\?=")
_CONTROLS: Final = re.compile("[\x01-\x1f\x7f]+")
_Q_PLAIN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")  # RFC 2047 5 (3)
_Q_ROOM: Final = 75 - len("=?utf-8?q??=")  # characters, RFC 2047 section 2


def decode_header(raw: bytes | str) -> str:
    """The text of a header value, on one line. Adjacent encoded words are joined before their charset is decoded."""
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogateescape")
    if b"=?" not in raw:
        return one_line(decode_bytes(raw, "utf-8") if raw.isascii() else _decode_raw(raw))
    pieces: list[str] = []
    pending = b""
    pending_charset = ""
    position = 0
    for match in ENCODED_WORD.finditer(raw):
        between = raw[position : match.start()]
        charset = match[1].decode("latin-1").partition("*")[0].lower()
        after_word = position > 0 and not between.strip(b" \t\r\n")
        if not after_word or charset != pending_charset:
            if pending_charset:
                pieces.append(decode_bytes(pending, pending_charset))
            pending = b""
            if not after_word:  # white space between encoded words is not shown, RFC 2047 6.2
                pieces.append(_decode_raw(between))
            pending_charset = charset
        pending += decode_base64(match[3]) if match[2] in b"bB" else decode_q(match[3])
        position = match.end()
    if pending_charset:
        pieces.append(decode_bytes(pending, pending_charset))
    pieces.append(_decode_raw(raw[position:]))
    return one_line("".join(pieces))


def one_line(text: str) -> str:
    """The text with control characters, line ends among them, as spaces, and fit for storing."""
    if text.isascii() and text.isprintable():
        return text
    return clean_text(_CONTROLS.sub(" ", text.replace("\0", "")))


def encode_words(text: str, taken: int = 0) -> list[str]:
    """Encoded words, fit for any place that takes them, that together stand for the text; no character is split.

    ``taken``: characters of the first word's line that stand before it, so that it need not go to the next one.
    """
    words: list[str] = []
    current = ""
    room = _Q_ROOM - min(taken, _Q_ROOM // 2)
    for character in text:
        encoded = _encode_q(character)
        if current and len(current) + len(encoded) > room:
            words.append(f"=?utf-8?q?{current}?=")
            current, room = "", _Q_ROOM
        current += encoded
    if current:
        words.append(f"=?utf-8?q?{current}?=")
    return words


def _encode_q(character: str) -> str:
    if character in _Q_PLAIN:
        return character
    if character == " ":
        return "_"
    return "".join(f"={byte:02X}" for byte in character.encode("utf-8", "replace"))


def _decode_raw(raw: bytes) -> str:
    return decode_bytes(raw.replace(b"\r\n", b""), "unknown-8bit")
