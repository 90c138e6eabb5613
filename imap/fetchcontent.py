"""Response lines of FETCH with bytes of messages: sections, decoded parts. Runs in a thread, for a batch at a time.

Small content is read with the row; large content comes as a ``Streamed`` piece that is read while it is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from store import content
from store.content import Reader

from .fetchargs import ContentItem, FetchItem, Form, Item
from .fetchrows import FORMATS, Row, columns_of, read_rows, response_name, value_of, with_numbers, with_required
from .sections import Content, Located, Range, Section, SectionText, UnknownEncoding, locate, locate_binary

INLINE_MAX: Final = 256 * 1024  # bytes of content that are read at once; more is streamed
STREAM_CHUNK: Final = 256 * 1024  # bytes of a streamed piece read at a time

_CONTENT_COLUMNS: Final = ("prefix", "blob_id", "blob__size", "blob__data", "blob__storage_name")
_WHOLE: Final = Section()


class Streamed:
    """Large content, to be read block by block while it is sent. ``close`` it in any case."""

    def __init__(self, opened: contextlib.ExitStack, blocks: Iterator[bytes]) -> None:
        self._opened = opened
        self._blocks = blocks

    def next_block(self) -> bytes:
        """The next bytes; empty at the end. Raises ContentError."""
        return next(self._blocks, b"")

    def close(self) -> None:
        self._opened.close()


@dataclass(slots=True)
class Made:
    """What a batch gave: output in order, of how many messages, and whether a part could not be decoded."""

    pieces: list[bytes | Streamed] = field(default_factory=list)
    found: int = 0
    unknown_encoding: bool = False


class ContentPlan:
    """What to read for these items, and how their lines are made."""

    def __init__(self, items: Sequence[FetchItem], *, with_modseq: bool, rev2: bool, utf8: bool, uidonly: bool) -> None:
        self._name = response_name(uidonly=uidonly)
        self.items: list[FetchItem] = [*items] if uidonly or Item.UID in items else [Item.UID, *items]
        if with_modseq and Item.MODSEQ not in items:
            self.items.append(Item.MODSEQ)
        self._rev2 = rev2
        contents = [item for item in items if isinstance(item, ContentItem)]
        self.sets_seen = any(item.sets_seen for item in contents)
        self.reads_bodies = any(
            item.section.path or item.section.text in (SectionText.ALL, SectionText.TEXT) for item in contents
        )
        self._needs_structure = any(not _is_whole(item) for item in contents)
        # FLAGS and MODSEQ are read in any case: they are told where \Seen was just set.
        self.row_items = with_required(
            [*(item for item in self.items if isinstance(item, Item)), Item.FLAGS], with_modseq=True
        )
        structure = ("blob__structure",) if self._needs_structure else ()
        self.columns = tuple(dict.fromkeys((*columns_of(self.row_items), *_CONTENT_COLUMNS, *structure)))
        self._values = {item: value_of(item, self.columns, utf8=utf8) for item in self.row_items}
        self._content_at = [self.columns.index(column) for column in _CONTENT_COLUMNS]
        self._structure_at = self.columns.index("blob__structure") if self._needs_structure else None

    def add_line(self, made: Made, number: int, row: Row, extra: Sequence[Item]) -> None:
        """Append the line of one message. Raises UnknownEncoding, and then nothing is appended."""
        prefix, blob_id, blob_size, data, storage_name = (row[at] for at in self._content_at)
        structure = {} if self._structure_at is None else row[self._structure_at]
        pieces: list[bytes | Streamed] = [b"* %d %b (" % (number, self._name)]
        items = [*self.items, *(item for item in extra if item not in self.items)]
        try:
            with content.reader(prefix, blob_id, blob_size, data, storage_name) as reader:
                for position, item in enumerate(items):
                    if position:
                        pieces.append(b" ")
                    if isinstance(item, Item):
                        pieces.append(FORMATS[item] % self._values[item](row))
                    else:
                        self._add_content(pieces, item, reader, structure, len(prefix))
        except BaseException:
            for piece in pieces:
                if isinstance(piece, Streamed):
                    piece.close()
            raise
        pieces.append(b")\r\n")
        made.pieces.extend(pieces)

    def _add_content(
        self,
        pieces: list[bytes | Streamed],
        item: ContentItem,
        reader: Reader,
        structure: dict[str, Any],
        ahead: int,
    ) -> None:
        located = _located(item, reader, structure, ahead)
        if item.form is Form.DECODED_SIZE:
            size = 0
            if located is not None:
                with located.open(reader) as opened:
                    size = opened.size
            pieces.append(b"%b %d" % (item.label, size))
            return
        label = item.label
        if item.partial is not None and not (item.form is Form.DECODED and self._rev2):
            label += b"<%d>" % item.partial[0]
        if located is None:
            pieces.append(b"%b NIL" % label)
            return
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(located.open(reader))
            offset, length = _extent(item, opened)
            if length <= INLINE_MAX:
                data = b"".join(opened.chunks(offset, length))
                binary = item.form is Form.DECODED and b"\0" in data
                pieces.append(b"%b %b{%d}\r\n" % (label, b"~" if binary else b"", len(data)))
                pieces.append(data)
                return
            binary = item.form is Form.DECODED and any(b"\0" in block for block in opened.chunks(offset, length))
            pieces.append(b"%b %b{%d}\r\n" % (label, b"~" if binary else b"", length))
            stack.callback(reader.close)  # which opens its file again for the stream
            pieces.append(Streamed(stack.pop_all(), opened.chunks(offset, length, STREAM_CHUNK)))


def content_batch(
    mailbox_id: int,
    plan: ContentPlan,
    uids: Sequence[int],
    numbers: Sequence[int],
    seen_now: Collection[int],
    condstore: bool,
) -> Made:
    """The lines of a batch; for messages in ``seen_now`` they tell the new flags too."""
    rows = read_rows(mailbox_id, uids, plan.row_items, plan.columns, 0)
    made = Made(found=len(rows))
    told = (Item.FLAGS, Item.MODSEQ) if condstore else (Item.FLAGS,)
    for number, row in with_numbers(rows, uids, numbers):
        try:
            plan.add_line(made, number, row, told if row[0] in seen_now else ())
        except UnknownEncoding:
            made.unknown_encoding = True
    made.pieces = _joined(made.pieces)
    return made


def _is_whole(item: ContentItem) -> bool:
    """BODY[] and RFC822: the message as it is, no structure needed."""
    return item.form is Form.RAW and item.section == _WHOLE


def _located(item: ContentItem, reader: Reader, structure: dict[str, Any], ahead: int) -> Located | None:
    if _is_whole(item):
        return Range(0, reader.size)
    if item.form is Form.RAW:
        return locate(structure, ahead, item.section)
    return locate_binary(structure, ahead, item.section)


def _extent(item: ContentItem, opened: Content) -> tuple[int, int]:
    """Offset and length of what is asked for, within what there is."""
    if item.partial is None:
        return 0, opened.size
    offset = min(item.partial[0], opened.size)
    return offset, min(item.partial[1], opened.size - offset)


def _joined(pieces: list[bytes | Streamed]) -> list[bytes | Streamed]:
    """Neighbouring bytes as one piece: each piece costs a write."""
    result: list[bytes | Streamed] = []
    run: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, bytes):
            run.append(piece)
            continue
        if run:
            result.append(b"".join(run))
            run = []
        result.append(piece)
    if run:
        result.append(b"".join(run))
    return result
