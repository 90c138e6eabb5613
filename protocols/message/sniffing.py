"""The media type of content that came without one, by its first bytes."""

from __future__ import annotations

import re
from typing import Final

SNIFFED: Final = 512  # bytes that are looked at

_OTHER: Final = "application/octet-stream"
_SIGNATURES: Final = (
    (b"%PDF-", "application/pdf"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b\x08", "application/x-gzip"),
    (b"Rar!\x1a\x07\x00", "application/x-rar-compressed"),
    (b"Rar!\x1a\x07\x01\x00", "application/x-rar-compressed"),
    (b"ID3", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"OggS\x00", "application/ogg"),
    (b"\xef\xbb\xbf", "text/plain; charset=utf-8"),
    (b"\xfe\xff", "text/plain; charset=utf-16be"),
    (b"\xff\xfe", "text/plain; charset=utf-16le"),
)
_RIFF: Final = {b"WEBPVP": "image/webp", b"WAVE": "audio/wave", b"AVI ": "video/avi"}
_HTML: Final = re.compile(
    rb"\s*<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|!--)[ >]", re.IGNORECASE
)
_XML: Final = re.compile(rb"\s*<\?xml")
_BINARY: Final = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


def content_type(start: bytes) -> str:
    """The media type, with the charset of text; ``start`` is the beginning of the content, 512 bytes are enough."""
    start = start[:SNIFFED]
    if _HTML.match(start):
        return "text/html; charset=utf-8"
    if _XML.match(start):
        return "text/xml; charset=utf-8"
    for signature, media_type in _SIGNATURES:
        if start.startswith(signature):
            return media_type
    if start.startswith(b"RIFF"):
        return next((kind for mark, kind in _RIFF.items() if start[8:].startswith(mark)), _OTHER)
    if start[4:8] == b"ftyp":
        return "video/mp4"
    return _OTHER if _BINARY.search(start) else "text/plain; charset=utf-8"
