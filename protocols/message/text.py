"""The text of a message: its preview, and what searching compares with, folded like the words searched for."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .charset import charset_codec, clean_text, decode_bytes
from .headers import iter_headers
from .html import QUOTE_MARK, html_text
from .source import Readable, as_source
from .structure import Part

PREVIEW_MAX: Final = 256  # characters
PREVIEW_PLAIN: Final = 16 * 1024  # decoded bytes of plain text that a preview is made from
PREVIEW_HTML: Final = 256 * 1024  # the same for HTML: style sheets come before the text
PREVIEW_PARTS: Final = 20  # text parts that are tried until one has text
SEARCH_LIMIT: Final = 256 * 1024  # characters of headers and body together that are kept for searching
TEXT_PIECE: Final = 256 * 1024  # decoded bytes made into text at once
TAG_MAX: Final = 64 * 1024  # characters; a longer tag may be cut in two
QUOTED: Final = "[...]"


class TextKind(Enum):
    HEADERS = "headers"
    BODY = "body"


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Folded text in the order of the message; the pieces of a body follow each other without a gap."""

    kind: TextKind
    text: str


@dataclass(frozen=True, slots=True)
class SearchText:
    """The text of a message for substring search: decoded, in NFC, case-folded.

    `headers`: a line `name: value` for each field at every level; `body`: text parts at every level, HTML as its text
    and attributes. `truncated`: there is more than fits.
    """

    headers: str
    body: str
    truncated: bool


def search_text(part: Part, source: Readable, limit: int = SEARCH_LIMIT) -> SearchText:
    """The first `limit` characters of the text of a message that searching compares with."""
    kept: dict[TextKind, list[str]] = {kind: [] for kind in TextKind}
    left = limit
    truncated = False
    for piece in iter_search_text(part, source):
        text = piece.text
        if len(text) > left:
            text = text[:left]
            truncated = True
        kept[piece.kind].append(text)
        left -= len(text)
        if truncated:
            break
    return SearchText("".join(kept[TextKind.HEADERS]), "".join(kept[TextKind.BODY]), truncated)


def iter_search_text(part: Part, source: Readable) -> Iterator[TextPiece]:
    """All text of a message that searching compares with, for scanning what was not kept; in bounded memory."""
    source = as_source(source)
    yield TextPiece(TextKind.HEADERS, _headers(part, source))
    if part.is_multipart:
        for child in part.parts:
            yield from iter_search_text(child, source)
    elif part.message is not None:
        yield from iter_search_text(part.message, part.body_source(source))
    elif part.is_text:
        for text in _text_pieces(part, source):
            yield TextPiece(TextKind.BODY, fold_text(text))
        yield TextPiece(TextKind.BODY, "\n")  # nothing is found across two parts


def fold_text(text: str) -> str:
    """The form in which texts, and words searched for, are compared: cleaned, NFC, without case."""
    if text.isascii():
        return clean_text(text).lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", clean_text(text)).casefold())


def preview(part: Part, source: Readable, length: int = PREVIEW_MAX) -> str:
    """The beginning of what the message says, on one line: of the first plain text, else of HTML; "" if there is none.

    Quoted lines become `[...]`.
    """
    leaves = [leaf for leaf in part.walk() if leaf.is_text and leaf.disposition != "attachment"]
    html = [leaf for leaf in leaves if leaf.media_subtype == "HTML"]
    plain = [leaf for leaf in leaves if leaf.media_subtype in ("PLAIN", "")]
    for leaf in [*plain[:PREVIEW_PARTS], *html[:PREVIEW_PARTS]]:
        if text := _leaf_preview(leaf, source, length):
            return text
    for outer in part.walk():
        if outer.message is not None:
            return preview(outer.message, outer.body_source(source), length)
    return ""


def _headers(part: Part, source: Readable) -> str:
    section = part.header(source)
    lines = [f"{field.name}: {field.text()}\n" for field in iter_headers(section)]
    # File names in RFC 2231 form are not to be recognized in the field.
    lines.extend(f"{name}\n" for name in {part.filename} if name and not name.isascii())
    return fold_text("".join(lines))


def _text_pieces(part: Part, source: Readable) -> Iterator[str]:
    """The text of a text part, that of HTML with its attributes."""
    is_html = part.media_subtype in ("HTML", "XHTML+XML")
    rest = ""
    for text in _decoded_pieces(part, source):
        if not is_html:
            yield text
            continue
        text = rest + text
        cut = text.rfind("<")
        if cut < 0 or len(text) - cut > TAG_MAX:
            cut = len(text)
        rest = text[cut:]
        yield html_text(text[:cut], attributes=True)
    if rest:
        yield html_text(rest, attributes=True)


def _decoded_pieces(part: Part, source: Readable) -> Iterator[str]:
    charset = part.params.get("charset", "")
    pending: list[bytes] = []
    size = 0
    decoder: codecs.IncrementalDecoder | None = None
    for data in part.reader(source):
        pending.append(data)
        size += len(data)
        if size >= TEXT_PIECE:
            piece = b"".join(pending)
            if decoder is None:
                decoder = codecs.getincrementaldecoder(_stream_codec(piece, charset))("replace")
            yield decoder.decode(piece)
            pending, size = [], 0
    if decoder is None:
        yield decode_bytes(b"".join(pending), charset)
    else:
        yield decoder.decode(b"".join(pending), True)


def _stream_codec(start: bytes, charset: str) -> str:
    """The codec for a long text from its first bytes: like `decode_bytes`, which sees all of them."""
    codec = charset_codec(charset)
    if codec in ("", "cp1252"):
        try:
            codecs.getincrementaldecoder("utf-8")().decode(start)
        except UnicodeDecodeError:
            return "cp1252"
        return "utf-8"
    return codec


def _leaf_preview(leaf: Part, source: Readable, length: int) -> str:
    is_html = leaf.media_subtype == "HTML"
    wanted = PREVIEW_HTML if is_html else PREVIEW_PLAIN
    kept: list[bytes] = []
    for data in leaf.reader(source):
        kept.append(data[:wanted])
        wanted -= len(data)
        if wanted <= 0:
            break
    text = decode_bytes(b"".join(kept), leaf.params.get("charset", ""))
    if is_html:
        text = html_text(text, quotations=False)
    words: list[str] = []
    size = -1  # no space before the first word
    quoted = False
    for line in text.splitlines():
        is_quoted = line.startswith(QUOTE_MARK)
        line_words = [QUOTED] if is_quoted and not quoted else [] if is_quoted else line.split()
        if line_words:
            quoted = is_quoted
        words.extend(line_words)
        size += sum(map(len, line_words)) + len(line_words)
        if size >= length:
            break
    shown = clean_text(" ".join(words)).strip()
    return "" if shown == QUOTED else shown[:length].rstrip()
