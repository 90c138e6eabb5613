"""Text for searching: what a message says, decoded, in Unicode NFC and case-folded.

    make_due()                            # the search text (BlobText) of content that has none yet, and its preview
    any(needle in piece.text for piece in body_pieces(reader, structure))    # the same text straight from content

Header text is one line for each field, ``\\nname: value``; the fields of the message itself first, then an empty line
and the fields of its parts and embedded messages. Search reads this text, or makes it anew where it is missing: both
come from the same functions, so results do not depend on how far the worker is.
"""

from __future__ import annotations

import logging
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from protocols.message.addresses import parse_addresses
from protocols.message.charset import clean_text, decode_bytes
from protocols.message.headers import iter_headers
from protocols.message.htmltext import HTMLText, attributes
from protocols.message.source import BytesSource, Source, SubSource, chunks
from protocols.message.transfer import decode_stream
from server import db

from . import content, previews
from .errors import ContentError
from .models import Blob, BlobText, Message

log = logging.getLogger(__name__)

HEADERS_MAX: Final = 256 * 1024  # characters of header text kept for a message
BODY_MAX: Final = 256 * 1024  # characters of body text kept; what is longer is read again at each search
ATTRIBUTES_MAX: Final = 64 * 1024  # characters of HTML attributes kept besides
BATCH_ROWS: Final = 100  # texts written in one transaction
BATCH_SECONDS: Final = 0.2  # made before they are written: on SQLite other writers wait for a transaction
CHUNK: Final = 1 << 20  # bytes of a part decoded at once
WIDE_MAX: Final = 8 << 20  # bytes of a part in a charset that cannot be cut at line ends
EMBEDDED_MAX: Final = 32 << 20  # decoded bytes of an embedded message that has a transfer encoding: others are skipped

Structure = Mapping[str, Any]

_ADDRESS_FIELDS: Final = frozenset({"from", "to", "cc", "bcc", "sender", "reply-to"})
_ADDRESS_FIELD: Final = re.compile(rb"^(?:from|to|cc|bcc|sender|reply-to)\s*:", re.MULTILINE)
_BETWEEN_WORDS: Final = re.compile(r"[\s:]+")  # a field's text has them elsewhere than the field
_ALTERNATIVE: Final = "\x1f"  # between a field's text and its addresses without comments


@dataclass(frozen=True, slots=True)
class Piece:
    """Some of the text of a body, in order; attributes of HTML are a sequence of their own beside the text."""

    text: str
    attributes: bool = False


@dataclass(frozen=True, slots=True)
class SearchText:
    """What is stored in a BlobText."""

    headers: str
    body: str
    truncated: bool


def fold(text: str) -> str:
    """The form in which texts are compared: case-folded, Unicode NFC, without NUL, lines ended by LF."""
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if text.isascii():
        return text.lower().replace("\0", "")
    return unicodedata.normalize("NFC", clean_text(unicodedata.normalize("NFC", text).casefold()))


def header_text(header: bytes) -> str:
    """The fields of a header section, decoded and folded, as ``\\nname: value`` each."""
    lines: list[str] = []
    for field in iter_headers(header):
        name = field.name.lower()
        text = fold(field.text())
        if name in _ADDRESS_FIELDS and ("(" in text or " @" in text or "@ " in text):
            # Comments and spaces may stand inside of an address (RFC 5322 3.4.1): it is found without them, too.
            plain = (f"{address.user}@{address.host}" for address in parse_addresses(field.value()) if address.host)
            text += _ALTERNATIVE + fold(_ALTERNATIVE.join(plain))
        lines.append(f"\n{name}: {text}")
    return clean_text("".join(lines))


def in_header(header: bytes, needle: str) -> bool:
    """Whether this folded text is in the text of a header section; quickly told of most that do not have it."""
    if not header:
        return False
    if header.isascii() and b"=?" not in header and b"\0" not in header:
        raw = header.lower()
        longest = max(_BETWEEN_WORDS.split(needle), key=len)
        # The text of address fields may have what stands in pieces in the field.
        if longest.encode() not in raw and not _ADDRESS_FIELD.search(raw):
            return False
    return needle in header_text(header)


def in_field(header: bytes, name: str, value: str) -> bool:
    """Whether a field of a header section has this folded value in it; see has_field."""
    return name.encode() in header.lower() and has_field(header_text(header), name, value)


def has_field(headers: str, name: str, value: str) -> bool:
    """Whether a field of the message itself has this (folded) value in it; "" is in every field of that name.

    ``headers`` is header text, of which only what stands before the first empty line is looked at.
    """
    end = headers.find("\n\n")
    if end < 0:
        end = len(headers)
    label = f"\n{name}: "
    start = headers.find(label, 0, end)
    while start >= 0:
        start += len(label)
        stop = headers.find("\n", start, end)
        if stop < 0:
            stop = end
        if headers.find(value, start, stop) >= 0:
            return True
        start = headers.find(label, stop, end)
    return False


def headers_of(source: Source, structure: Structure) -> str:
    """The header text of content: its own fields, an empty line, those of its parts and embedded messages."""
    own = header_text(_read(source, structure.get("head", 0), structure.get("body", 0)))
    inner: list[str] = []
    size = len(own)
    for part_source, part in _parts(source, structure):
        if part is structure:
            continue
        if size > HEADERS_MAX:
            break
        text = header_text(_read(part_source, part.get("head", 0), part.get("body", 0)))
        inner.append(text)
        size += len(text)
    return f"{own}\n{''.join(inner)}\n"


def body_pieces(source: Source, structure: Structure) -> Iterator[Piece]:
    """The folded text of all text parts, also of embedded messages, of any length."""
    for subtype, texts in text_parts(source, structure):
        if subtype == "HTML":
            yield from _html_pieces(texts)
        else:
            for text in texts:
                yield Piece(fold(text))
        yield Piece("\n")


def text_parts(source: Source, structure: Structure) -> Iterator[tuple[str, Iterator[str]]]:
    """The subtype (upper case) and the decoded text of each text part, also of embedded messages, in pieces.

    Each part's pieces are to be taken before the next part.
    """
    for part_source, part in _parts(source, structure):
        if part.get("parts") or part.get("message") is not None or part.get("type", "") not in ("", "TEXT"):
            continue
        encoding = str(part.get("cte") or "").upper()
        charset = str((part.get("params") or {}).get("charset") or "")
        raw = chunks(part_source, part.get("body", 0), part.get("end", 0), CHUNK)
        yield part.get("subtype", "").upper(), _texts(decode_stream(raw, encoding), charset)


def search_text(source: Source, structure: Structure) -> SearchText:
    """The text of content as it is stored, cut where it is long."""
    headers = headers_of(source, structure)
    truncated = len(headers) > HEADERS_MAX
    texts: list[str] = []
    attributes: list[str] = []
    left, left_attributes = BODY_MAX, ATTRIBUTES_MAX
    for piece in body_pieces(source, structure):
        if piece.attributes:
            attributes.append(piece.text[:left_attributes])
            left_attributes -= len(piece.text)
        else:
            texts.append(piece.text[: max(0, left)])
            left -= len(piece.text)
        if left < 0 or left_attributes < 0:
            truncated = True
            break
    body = "".join(texts)
    if attributes:
        body += "\n" + "".join(attributes)
    return SearchText(headers[:HEADERS_MAX], body, truncated)


def make_due(limit: int = 1000, progress: Callable[[int], None] | None = None) -> int:
    """Make the search text and preview of up to ``limit`` contents that have none; returns how many got theirs.

    What cannot be read is logged and stays due: search reads content anyway.
    """
    made, last = 0, 0
    while made < limit:
        blobs = list(
            Blob.objects.filter(text_due=True, pk__gt=last)
            .order_by("pk")
            .values_list("pk", "size", "data", "storage_name", "structure")[: min(BATCH_ROWS, limit - made)]
        )
        if not blobs:
            break
        rows: list[BlobText] = []
        previews_of: dict[int, str] = {}
        deadline = time.monotonic() + BATCH_SECONDS
        for blob_id, size, data, storage_name, structure in blobs:
            last = blob_id
            try:
                with content.blob_reader(blob_id, size, data, storage_name) as reader:
                    text = search_text(reader, structure)
                    previews_of[blob_id] = previews.preview(reader, structure)
            except ContentError as exc:
                log.error("search text cannot be made", extra={"blob": blob_id, "err": str(exc)})
                continue
            rows.append(
                BlobText(
                    blob_id=blob_id,
                    headers=text.headers,
                    body=text.body,
                    truncated=text.truncated,
                    made=datetime.now(UTC),
                )
            )
            if time.monotonic() > deadline:
                break
        made += _store(rows, previews_of)
        if progress is not None:
            progress(made)
    return made


def _store(rows: list[BlobText], previews_of: Mapping[int, str]) -> int:
    if not rows:
        return 0
    ids = [row.blob_id for row in rows]

    def transact() -> int:
        with db.write(durable=False):
            # A blob may have been collected in the meantime: only those that are there, and still due.
            due = set(Blob.objects.filter(pk__in=ids, text_due=True).values_list("pk", flat=True))
            again = set(BlobText.objects.filter(blob_id__in=due).values_list("blob_id", flat=True))
            if again:
                # The search index has the text of before: their messages are due for it again.
                Message.objects.filter(blob_id__in=again, indexed=True).update(indexed=None)
                BlobText.objects.filter(blob_id__in=again).delete()
            BlobText.objects.bulk_create(row for row in rows if row.blob_id in due)
            Blob.objects.filter(pk__in=due).update(text_due=False)
            previews.store((blob_id, previews_of[blob_id]) for blob_id in sorted(due))
        return len(due)

    return db.retrying(transact)


def _parts(source: Source, structure: Structure) -> Iterator[tuple[Source, Structure]]:
    """Every part with the source that its offsets refer to, in order of appearance, those of embedded messages too."""
    waiting: list[tuple[Source, Structure]] = [(source, structure)]
    while waiting:
        where, part = waiting.pop()
        yield where, part
        inner = part.get("message")
        if inner is not None:
            embedded = _embedded(where, part)
            if embedded is not None:
                waiting.append((embedded, inner))
        waiting.extend((where, child) for child in reversed(part.get("parts") or []))


def _embedded(source: Source, part: Structure) -> Source | None:
    start, end = part.get("body", 0), part.get("end", 0)
    encoding = str(part.get("cte") or "").upper()
    if encoding not in ("BASE64", "QUOTED-PRINTABLE"):
        return SubSource(source, start, end)
    pieces: list[bytes] = []
    size = 0
    for piece in decode_stream(chunks(source, start, end, CHUNK), encoding):
        pieces.append(piece)
        size += len(piece)
        if size > EMBEDDED_MAX:
            return None
    return BytesSource(b"".join(pieces))


def _read(source: Source, start: int, end: int) -> bytes:
    return source.read_at(start, max(0, min(end - start, 4 * HEADERS_MAX)))


def _texts(blocks: Iterator[bytes], charset: str) -> Iterator[str]:
    """Decoded bytes as text, cut at line ends; a charset of wide characters as a whole, up to a limit."""
    name = charset.strip().lower()
    if name.startswith(("utf-16", "utf-32", "utf-7", "iso-2022", "utf16", "utf32", "hz")):
        yield decode_bytes(b"".join(blocks)[:WIDE_MAX], charset)
        return
    rest = b""
    for block in blocks:
        data = rest + block
        cut = data.rfind(b"\n") + 1
        if not cut:
            if len(data) < CHUNK:
                rest = data
                continue
            cut = len(data)
        rest = data[cut:]
        yield decode_bytes(data[:cut], charset)
    if rest:
        yield decode_bytes(rest, charset)


# Tags that do not end a word: <b>bo</b>ld reads "bold".
_INLINE: Final = frozenset(
    {"a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd"}
    | {"mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u", "var", "wbr", "o:p"}
)
_SPACE: Final = re.compile(r"\s+")


def _html_pieces(texts: Iterator[str]) -> Iterator[Piece]:
    page = _Page()
    for text in texts:
        yield from page.pieces(text)
    yield from page.pieces("", last=True)


class _Page(HTMLText):
    """Text and attribute values."""

    def __init__(self) -> None:
        super().__init__(skipped=frozenset({"script", "style"}))
        self._values: list[str] = []

    def pieces(self, text: str, *, last: bool = False) -> Iterator[Piece]:
        words = self.feed(text, last=last)
        if words:
            yield Piece(fold(_SPACE.sub(" ", words)))
        if self._values:
            yield Piece(fold("\n".join(self._values) + "\n"), attributes=True)
            self._values.clear()

    def tag(self, name: str, tag: str, words: list[str]) -> None:
        if name not in _INLINE:
            words.append(" ")
        self._values.extend(value for _, value in attributes(tag))
