"""Response lines of FETCH from columns alone: FLAGS, ENVELOPE, sizes, dates. Runs in a thread, batch by batch."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from protocols import imapformat
from protocols.message import Part
from store import objectids, previews, reading
from store.flags import words

from .answers import internal_date, text_string
from .fetchargs import FetchItem, Item

FLAGS_BATCH: Final = 4000  # messages of a batch where only small columns are read
BATCH: Final = 500  # messages of a batch that reads ENVELOPE, BODYSTRUCTURE or structures: a few KB each

_LARGE: Final = frozenset({Item.ENVELOPE, Item.BODYSTRUCTURE, Item.BODY, Item.PREVIEW})

Row = tuple[Any, ...]

# The columns that an item is made from, and how its value is formatted.
COLUMNS: Final[dict[Item, tuple[str, ...]]] = {
    Item.UID: ("uid",),
    Item.FLAGS: ("bits", "keywords"),
    Item.INTERNALDATE: ("received", "received_offset"),
    Item.SIZE: ("size",),
    Item.ENVELOPE: ("blob__imap_envelope", "prefix"),
    Item.BODYSTRUCTURE: ("blob__imap_bodystructure",),
    Item.BODY: ("blob__structure",),
    Item.MODSEQ: ("modseq",),
    Item.SAVEDATE: ("save_date",),
    Item.PREVIEW: ("preview",),
    Item.EMAILID: ("blob_id", "prefix"),
    Item.THREADID: ("thread_id",),
}
FORMATS: Final[dict[Item, bytes]] = {
    Item.UID: b"UID %d",
    Item.FLAGS: b"FLAGS (%b)",
    Item.INTERNALDATE: b"INTERNALDATE %b",
    Item.SIZE: b"RFC822.SIZE %d",
    Item.ENVELOPE: b"ENVELOPE %b",
    Item.BODYSTRUCTURE: b"BODYSTRUCTURE %b",
    Item.BODY: b"BODY %b",
    Item.MODSEQ: b"MODSEQ (%d)",
    Item.SAVEDATE: b"SAVEDATE %b",
    Item.PREVIEW: b"PREVIEW %b",
    Item.EMAILID: b"EMAILID (%b)",
    Item.THREADID: b"THREADID %b",
}


@dataclass(frozen=True, slots=True)
class RowPlan:
    """What to read, and how a line is made of it."""

    items: tuple[Item, ...]
    columns: tuple[str, ...]
    line: bytes
    batch: int
    utf8: bool

    @classmethod
    def of(cls, wanted: Sequence[FetchItem], *, with_modseq: bool, utf8: bool, uidonly: bool) -> Self | None:
        """The plan for these items; None if one of them is content."""
        items = [item for item in wanted if isinstance(item, Item)]
        if len(items) < len(wanted):
            return None
        return cls.of_rows(items, with_modseq=with_modseq, utf8=utf8, uidonly=uidonly)

    @classmethod
    def of_rows(cls, wanted: Sequence[Item], *, with_modseq: bool, utf8: bool, uidonly: bool) -> Self:
        items = with_required(wanted, with_modseq=with_modseq, with_uid=not uidonly)
        line = b"* %%d %b (%b)\r\n" % (response_name(uidonly=uidonly), b" ".join(FORMATS[item] for item in items))
        return cls(items, columns_of(items), line, BATCH if _LARGE.intersection(items) else FLAGS_BATCH, utf8)


def response_name(*, uidonly: bool) -> bytes:
    """The name of the response: after UIDFETCH stands a UID, and no message number (RFC 9586 3.3)."""
    return b"UIDFETCH" if uidonly else b"FETCH"


def with_required(wanted: Sequence[Item], *, with_modseq: bool, with_uid: bool = True) -> tuple[Item, ...]:
    """The items once each, and those that every line has: UID, and MODSEQ where it must be told."""
    items = dict.fromkeys(wanted)
    if with_uid and Item.UID not in items:
        items = dict.fromkeys((Item.UID, *items))
    if with_modseq:
        items[Item.MODSEQ] = None
    return tuple(items)


def columns_of(items: Sequence[Item]) -> tuple[str, ...]:
    """The columns of items, UID first, each once."""
    return tuple(dict.fromkeys(("uid", *(column for item in items for column in COLUMNS[item]))))


def row_batch(
    mailbox_id: int, plan: RowPlan, uids: array[int], numbers: Sequence[int], changed_since: int
) -> tuple[bytes, int]:
    """The lines of a batch, and of how many messages."""
    rows = read_rows(mailbox_id, uids, plan.items, plan.columns, changed_since)
    numbered = with_numbers(rows, uids, numbers)
    line = plan.line
    if plan.items == (Item.UID, Item.FLAGS):
        # The most frequent question by far.
        return b"".join([line % (number, row[0], words(row[1], row[2])) for number, row in numbered]), len(rows)
    values = [value_of(item, plan.columns, utf8=plan.utf8) for item in plan.items]
    return b"".join([line % (number, *[value(row) for value in values]) for number, row in numbered]), len(rows)


def read_rows(
    mailbox_id: int, uids: Sequence[int], items: Sequence[Item], columns: Sequence[str], changed_since: int
) -> list[Row]:
    """The columns of these messages, ENVELOPE as it is with the prefix of each, previews made where missing."""
    rows = reading.rows(mailbox_id, uids, columns, changed_since=changed_since)
    if Item.PREVIEW in items:
        rows = _with_previews(mailbox_id, rows, columns.index("preview"))
    if Item.ENVELOPE in items:
        rows = _with_own_envelopes(mailbox_id, rows, columns)
    return rows


def _with_previews(mailbox_id: int, rows: list[Row], at: int) -> list[Row]:
    missing = [row[0] for row in rows if row[at] is None]
    if not missing:
        return rows
    made = previews.ensure(mailbox_id, missing)
    return [(*row[:at], made.get(row[0], ""), *row[at + 1 :]) if row[at] is None else row for row in rows]


def _with_own_envelopes(mailbox_id: int, rows: list[Row], columns: Sequence[str]) -> list[Row]:
    envelope, prefix = (columns.index(column) for column in COLUMNS[Item.ENVELOPE])
    changing = {row[0]: bytes(row[prefix]) for row in rows if imapformat.prefix_changes_envelope(row[prefix])}
    if not changing:
        return rows
    stored = dict(reading.rows(mailbox_id, sorted(changing), ("uid", "blob__envelope")))
    made = {uid: imapformat.envelope_with_prefix(stored[uid], own) for uid, own in changing.items() if uid in stored}
    return [(*row[:envelope], made[row[0]], *row[envelope + 1 :]) if row[0] in made else row for row in rows]


def with_numbers(rows: list[Row], uids: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, Row]]:
    """Rows (whose first column is the UID) with their message numbers."""
    if len(rows) == len(uids):
        return list(zip(numbers, rows, strict=True))
    by_uid = dict(zip(uids, numbers, strict=True))
    return [(by_uid[row[0]], row) for row in rows]


def value_of(item: Item, columns: Sequence[str], *, utf8: bool) -> Callable[[Row], Any]:
    """What makes an item's value of a row; ``utf8``: for a client that takes UTF-8 in quoted strings."""
    at = [columns.index(column) for column in COLUMNS[item]]
    first = at[0]
    match item:
        case Item.FLAGS:
            keywords = at[1]
            return lambda row: words(row[first], row[keywords])
        case Item.INTERNALDATE:
            offset = at[1]
            return lambda row: internal_date(row[first], row[offset])
        case Item.SAVEDATE:
            return lambda row: b"NIL" if row[first] is None else internal_date(row[first], 0)
        case Item.PREVIEW:
            return lambda row: text_string(row[first][: previews.SENT_MAX], utf8=utf8)
        case Item.EMAILID:
            prefix = at[1]
            return lambda row: objectids.email_id(row[first], row[prefix]).encode("ascii")
        case Item.THREADID:
            return lambda row: (
                b"NIL" if row[first] is None else b"(%b)" % objectids.thread_id(row[first]).encode("ascii")
            )
        case Item.BODY:
            return lambda row: imapformat.body(Part.from_json(row[first]))
    return lambda row: row[first]
