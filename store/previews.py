"""Previews: the first words that somebody wrote in a message, as lists of messages show them (RFC 8970).

    preview(reader, structure)          # "Hello Bob, here is the plan. [...]"
    ensure(mailbox_id, uids)            # makes and stores what the worker has not made yet; {uid: preview}

A preview says nothing that the message's content does not: it has no modification sequence, and is the same for all
messages of a content. The worker makes it with the search text (store.text); whoever reads one first makes it earlier.
"""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from django.db import connection

from protocols.message.charset import clean_text, decode_bytes
from protocols.message.source import Source, chunks
from protocols.message.transfer import decode_stream
from server import db

from . import content
from .errors import ContentError
from .models import Blob, ImportItem, Message
from .targets import uid_conditions

log = logging.getLogger(__name__)

PREVIEW_MAX: Final = 256  # characters stored
SENT_MAX: Final = 200  # characters that FETCH sends, RFC 8970 section 3
READ_MAX: Final = 1 << 20  # bytes of a part that are looked at: what comes later is not what a message begins with
LINE_MAX: Final = 1000  # characters of a line that are looked at
SIGNATURE_LINES: Final = 5  # fewer lines than these after a line of dashes are a signature
BATCH: Final = 50  # contents read together on demand: each may have 64 KiB in its row
SNIPPED: Final = "[...]"

# Elements without a word that their reader sees.
_DROPPED: Final = frozenset({"script", "style", "head", "svg", "math", "template", "dialog", "map"})
# Elements that begin a line of their own.
_BLOCKS: Final = frozenset(
    {
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "caption",
        "center",
        "dd",
        "div",
        "dl",
        "dt",
        "fieldset",
    }
    | {"figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol"}
    | {"p", "pre", "section", "table", "tbody", "tfoot", "thead", "tr", "ul"}
)
_CELLS: Final = frozenset({"td", "th", "img", "button", "option"})  # these end a word, at least
_TAG_NAME: Final = re.compile(r"/?([a-zA-Z][a-zA-Z0-9:-]*)")
_DASHES: Final = re.compile(r"--+ ?|__+|==+")
# Characters that take no place: mailers fill the preview with them (U+034F, U+200B to U+200F, U+2060, U+FEFF, U+00AD).
_INVISIBLE: Final = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff]")

Structure = Mapping[str, Any]


def preview(source: Source, structure: Structure) -> str:
    """The preview of content, at most PREVIEW_MAX characters in one line; "" where there is no text, or none to read.

    It is of the first part with text, of type text/plain or text/html, which is no attachment. Raises ContentError.
    """
    found = ""
    for part in _shown_parts(structure):
        if part.get("type", "") not in ("", "TEXT"):
            continue
        subtype = str(part.get("subtype") or "PLAIN").upper()
        if subtype not in ("PLAIN", "HTML"):
            continue
        text = _text(source, part)
        text_found = _shortened(_html_lines(text) if subtype == "HTML" else _plain_lines(text))
        if text_found not in ("", SNIPPED):
            return text_found
        found = found or text_found
    return found


def ensure(mailbox_id: int, uids: Sequence[int]) -> dict[int, str]:
    """Make and store the previews that these messages of a mailbox still lack; what was made, by UID.

    Not inside of `db.read()`, since it writes. A message whose content cannot be read has the preview "" for now.
    """
    missing: list[tuple[int, int]] = []
    for condition, wanted in uid_conditions(uids):
        query = Message.objects.filter(condition, mailbox_id=mailbox_id, preview=None, blob__isnull=False)
        for uid, blob_id in query.values_list("uid", "blob_id"):
            if blob_id is not None and (wanted is None or uid in wanted):
                missing.append((uid, blob_id))
    made: dict[int, str] = {}
    for start in range(0, len(missing), BATCH):
        made.update(_make({blob_id for _, blob_id in missing[start : start + BATCH]}))
    return {uid: made.get(blob_id, "") for uid, blob_id in missing}


def store(previews: Iterable[tuple[int, str]]) -> None:
    """Give all messages of these contents their preview, as (blob id, preview), inside a transaction."""
    rows = [(text, blob_id) for blob_id, text in previews]
    models: list[type[Message | ImportItem]] = [Message]
    if ImportItem.objects.filter(blob_id__in=[blob_id for _, blob_id in rows]).exists():
        models.append(ImportItem)
    with connection.cursor() as cursor:
        for model in models:
            table = model._meta.db_table
            cursor.executemany(f"UPDATE {table} SET preview = %s WHERE blob_id = %s", rows)  # noqa: S608 # our own names


def _make(blob_ids: set[int]) -> dict[int, str]:
    made: dict[int, str] = {}
    rows = Blob.objects.filter(pk__in=blob_ids).values_list("pk", "size", "data", "storage_name", "structure")
    for blob_id, size, data, storage_name, structure in rows:
        try:
            with content.blob_reader(blob_id, size, data, storage_name) as reader:
                made[blob_id] = preview(reader, structure)
        except ContentError as exc:
            log.error("preview cannot be made", extra={"blob": blob_id, "err": str(exc)})

    def transact() -> None:
        with db.write():
            store(sorted(made.items()))

    try:
        db.retrying(transact)
    except db.DatabaseBusy as exc:
        log.info("previews are not stored now", extra={"err": str(exc)})  # the worker will
    return made


def _shown_parts(structure: Structure) -> Iterator[Structure]:
    """All parts in order of appearance, but for attachments (RFC 2183) and what is in embedded messages."""
    waiting = [structure]
    while waiting:
        part = waiting.pop()
        if str(part.get("disp") or "").lower() != "attachment":
            yield part
            waiting.extend(reversed(part.get("parts") or []))


def _text(source: Source, part: Structure) -> str:
    start = part.get("body", 0)
    raw = chunks(source, start, min(part.get("end", 0), start + READ_MAX), READ_MAX)
    decoded = b"".join(decode_stream(raw, str(part.get("cte") or "").upper()))
    return decode_bytes(decoded[:READ_MAX], str((part.get("params") or {}).get("charset") or ""))


def _plain_lines(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        if end < 0:
            end = len(text)
        yield _one_line(text[start : min(end, start + LINE_MAX)])
        start = end + 1


def _html_lines(text: str) -> Iterator[str]:
    """What HTML shows, line by line; a quotation is one line that begins with ">". No tag soup stops it."""
    words: list[str] = []
    dropped = ""  # the outermost element that is left out, and how deep we are in its like
    depth = quotes = 0
    position = 0
    while position < len(text):
        start = text.find("<", position)
        if start < 0:
            start = len(text)
        if start > position and not dropped and not quotes:
            words.append(html.unescape(text[position : min(start, position + LINE_MAX)]))
        if text.startswith("<!--", start):
            end = text.find("-->", start + 4)
            position = end + 3 if end >= 0 else len(text)
            continue
        end = text.find(">", start)
        if end < 0:
            break
        position = end + 1
        match = _TAG_NAME.match(text, start + 1, end)
        if match is None:
            if not text.startswith(("!", "?", "/"), start + 1) and not dropped and not quotes:
                words.append(text[start : min(position, start + LINE_MAX)])  # a "<" that begins no tag
            continue
        name = match[1].lower()
        closing = text[start + 1] == "/"
        if dropped:
            if name == dropped and text[end - 1] != "/":
                depth += -1 if closing else 1
                dropped = dropped if depth else ""
            continue
        if name in _DROPPED:
            if not closing and text[end - 1] != "/":
                dropped, depth = name, 1
            continue
        if name in _BLOCKS:
            yield _one_line("".join(words))
            words.clear()
        elif name in _CELLS:
            words.append(" ")
        if name == "blockquote":
            if not closing and not quotes:
                yield ">"
            quotes = max(0, quotes + (-1 if closing else 1))
    yield _one_line("".join(words))


def _one_line(text: str) -> str:
    return " ".join(_INVISIBLE.sub("", clean_text(text)).split())


class _Lines:
    """Lines with a look ahead."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._ahead: list[str] = []

    def next(self) -> str | None:
        return self._ahead.pop(0) if self.peek(1) else None

    def peek(self, count: int) -> list[str]:
        """The next ``count`` lines, fewer at the end."""
        while len(self._ahead) < count:
            line = next(self._lines, None)
            if line is None:
                break
            self._ahead.append(line)
        return self._ahead[:count]


def _shortened(given: Iterator[str]) -> str:
    """The lines as one, without quotations, what announces them, and the signature."""
    lines = _Lines(given)
    kept: list[str] = []
    length = 0
    while length < PREVIEW_MAX and (line := lines.next()) is not None:
        if not line:
            continue
        if line.startswith("-----BEGIN PGP MESSAGE"):
            break
        if _DASHES.fullmatch(line) and _ends_soon(lines):
            break
        if line.startswith(">") or line in (SNIPPED, "[…]") or _announces_quotation(line, lines, first=not kept):
            line = SNIPPED
            if kept and kept[-1] == SNIPPED:
                continue
        kept.append(line)
        length += len(line) + 1
    return " ".join(kept)[:PREVIEW_MAX].strip()


def _ends_soon(lines: _Lines) -> bool:
    rest = lines.peek(SIGNATURE_LINES + 2)
    while rest and not rest[-1]:
        rest.pop()
    return len(rest) < SIGNATURE_LINES and "" not in rest


def _announces_quotation(line: str, lines: _Lines, *, first: bool) -> bool:
    """Whether a line says "On Friday the 5th, Bob wrote:" in whatever language; in two lines, too."""
    ahead = lines.peek(3)
    if first and line.startswith("On ") and not line.endswith(":") and ahead and ahead[0].endswith(":"):
        if _quotation(ahead[1:]):
            lines.next()
            return True
        return False
    return line.endswith(":") and (first or any(map(str.isdigit, line))) and _quotation(ahead)


def _quotation(ahead: list[str]) -> bool:
    following = next((line for line in ahead[:2] if line), "")
    return following.startswith(">") or following in (SNIPPED, "[…]")
