"""The texts of a message that somebody reads: its first plain text and its first HTML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .charset import decode_bytes
from .source import Readable
from .structure import Part

TEXT_MAX: Final = 1 << 20  # bytes of each text in UTF-8


@dataclass(frozen=True, slots=True)
class Texts:
    """Lines end in LF; "" where there is none."""

    text: str = ""
    html: str = ""


def readable_texts(part: Part, content: Readable, most: int = TEXT_MAX) -> Texts:
    """The texts of a message, each cut at ``most`` bytes of UTF-8."""
    found = _find(part)
    return Texts(*(_text(each, content, most) if each is not None else "" for each in found))


def _find(part: Part) -> tuple[Part | None, Part | None]:
    """The parts with the plain text and the HTML: both of an alternative, else the first of them, depth first."""
    if part.is_text:
        return (part, None) if _subtype(part) == "PLAIN" else (None, part) if _subtype(part) == "HTML" else (None, None)
    plain = html = None
    for child in part.parts:
        if not child.is_text or child.disposition == "attachment":
            continue
        if _subtype(child) == "PLAIN" and plain is None:
            plain = child
        elif _subtype(child) == "HTML" and html is None:
            html = child
        else:
            continue
        if part.media_subtype != "ALTERNATIVE":
            return plain, html
    if plain is not None or html is not None:
        return plain, html
    for child in part.parts:
        if child.is_multipart and (found := _find(child)) != (None, None):
            return found
    return None, None


def _subtype(part: Part) -> str:
    return part.media_subtype or "PLAIN"  # RFC 2045 section 5.2


def _text(part: Part, content: Readable, most: int) -> str:
    # Decoding a part of any size must not take memory of that size. UTF-32 is the widest charset.
    taken = bytearray()
    for piece in part.reader(content):
        taken += piece
        if len(taken) > 4 * most:
            break
    text = decode_bytes(bytes(taken[: 4 * most]), part.params.get("charset", "")).replace("\r\n", "\n")
    if len(text) * 4 <= most:
        return text
    return text.encode()[:most].decode("utf-8", "ignore")
