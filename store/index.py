"""The search index: which messages of a mailbox may have a text in them, found without reading any text.

    build_due()                                              # index what came since the last time
    may_match(account_id, mailbox_id, need, most=5000)       # UIDs, or None when reading the texts is no dearer

Each account has an index of its own, so that nobody's mail makes another's searches slow. It is made of segments: 256
messages that came one after the other, and for each gram (store.grams) which of them have it. A segment is
written once. Messages that are in none yet (``Message.indexed`` is null) are always among those that may match: a
search reads them. So does it with those whose text is longer than what is kept. The index only ever narrows, what
matches is decided by the texts.
"""

from __future__ import annotations

import logging
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from django.db import connection
from django.db.models import Count

from server import db
from server.statements import Statement, run

from . import grams, text
from .content import Bytes
from .db import write_tx
from .grams import PAGES, SEGMENT, Field
from .models import Message, SearchPage, SearchSegment

log = logging.getLogger(__name__)

PROBES: Final = 4  # grams of a sought text that are looked at together
ROUNDS: Final = 4  # times that more of them are looked at, while candidates are many
FEW: Final = 100  # candidates that are not worth another round
SOUGHT_MAX: Final = 16  # texts of one search that the index is asked for
TEXTS_AT_ONCE: Final = 16  # texts in memory while a segment is made: up to half a megabyte each
IDS_PER_QUERY: Final = 500
IDS_PER_STATEMENT: Final = 50  # in a statement that is made once
SEGMENTS_PER_QUERY: Final = 200  # whose pages are in memory together: a few KB each
JOINED_PER_RUN: Final = 40  # segments of an account, in a day: the rest can wait
SEGMENTS_PER_RUN: Final = 8  # built in one run of the task, a second each: others wait for the worker

_segments: Final = Statement(
    lambda account_id: (
        SearchSegment.objects.filter(account_id=account_id).order_by("pk").values_list("pk", "live", "undecided")
    )
)
_ids_of_segments: Final = Statement(
    lambda *segments: SearchSegment.objects.filter(pk__in=segments).values_list("pk", "message_ids")
)
# By id alone: a database that knew of the mailbox too might go through all of it.
_places: Final = Statement(lambda *ids: Message.objects.filter(pk__in=ids).values_list("uid", "mailbox_id"))
_due_in_mailbox: Final = Statement(
    lambda account_id, mailbox_id: Message.objects.filter(
        account_id=account_id, mailbox_id=mailbox_id, expunged=False, indexed__isnull=True
    ).values_list("uid")
)
# What a move leaves behind is not indexed, and read until it is erased: sessions may not know of the move yet.
_left_in_mailbox: Final = Statement(
    lambda mailbox_id: Message.objects.filter(mailbox_id=mailbox_id, expunged=True, erased=False).values_list("uid")
)

_NAMED: Final = {"from": Field.FROM, "to": Field.TO, "cc": Field.CC, "bcc": Field.BCC, "subject": Field.SUBJECT}


@dataclass(frozen=True, slots=True)
class Sought:
    """A folded text that a message must have in this field."""

    field: Field
    text: str


@dataclass(frozen=True, slots=True)
class AllOf:
    needs: tuple[Need, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    needs: tuple[Need, ...]


Need = Sought | AllOf | AnyOf


def sought_in_text(value: str) -> Need | None:
    """What a message needs to have this folded text in a header or its body; None where the index cannot say."""
    if len(value) < grams.SHORTEST:
        return None
    return AnyOf((Sought(Field.HEADERS, value), Sought(Field.BODY, value)))


def sought_in_body(value: str) -> Need | None:
    """The same for its body alone."""
    return Sought(Field.BODY, value) if len(value) >= grams.SHORTEST else None


def sought_in_field(name: str, value: str) -> Need:
    """The same for a header field with this folded name; with "" for the presence of one."""
    if len(value) < grams.SHORTEST:
        return Sought(Field.HEADERS, f"\n{name}: ")
    return Sought(_NAMED.get(name, Field.HEADERS), value)


# Searching.


def may_match(account_id: int, mailbox_id: int, need: Need, most: int) -> list[int] | None:
    """The UIDs, ascending, of the messages of a mailbox that may match; None when the index finds more than ``most``.

    Expunged messages whose content is kept are among them.
    """
    with db.read():
        narrowed = _Narrowing(account_id, need).message_ids(most)
        if narrowed is None:
            return None
        uids = {row[0] for row in _due_in_mailbox.rows(account_id, mailbox_id)}
        uids.update(row[0] for row in _left_in_mailbox.rows(mailbox_id))
        for chunk in _chunks(narrowed, IDS_PER_STATEMENT):
            uids.update(uid for uid, where in _places.rows(*chunk) if where == mailbox_id)
    return sorted(uids)


class _Narrowing:
    """One search in the segments of an account: for each sought text and segment the messages that may have it."""

    def __init__(self, account_id: int, need: Need) -> None:
        self._account_id = account_id
        self._need = need
        self._sought: dict[Sought, list[int]] = {}  # the grams, in the order in which they are looked at
        self._collect(need)
        self._found: dict[Sought, dict[int, int]] = {sought: {} for sought in self._sought}
        self._live: dict[int, int] = {}  # by segment
        self._undecided: dict[int, int] = {}

    def _collect(self, need: Need) -> None:
        if isinstance(need, Sought):
            self._sought[need] = grams.ordered_grams(need.field, need.text)
            return
        for each in need.needs:
            self._collect(each)

    def message_ids(self, most: int) -> list[int] | None:
        """Ids of messages in the index that may match; None if they are more than ``most``, or nothing is indexed."""
        if len(self._sought) > SOUGHT_MAX:
            return None
        for segment, live, undecided in _segments.rows(self._account_id):
            self._live[segment] = int.from_bytes(live, "little")
            self._undecided[segment] = int.from_bytes(undecided, "little")
        if not self._live:
            return None
        left = dict(self._live)
        for turn in range(ROUNDS):
            if not self._look(turn, left):
                break
            left = {segment: bits for segment in left if (bits := self._matching(segment))}
            if sum(map(int.bit_count, left.values())) <= FEW:
                break
        if sum(map(int.bit_count, left.values())) > most:
            return None
        return list(self._ids(left))

    def _look(self, turn: int, left: dict[int, int]) -> bool:
        """Look at the next grams of each text, in the segments that are left; False if there are no more."""
        wanted: dict[int, list[tuple[Sought, int]]] = {}  # by page: which bucket of it says what
        for sought, buckets in self._sought.items():
            for bucket in buckets[turn * PROBES : (turn + 1) * PROBES]:
                wanted.setdefault(grams.page_of(bucket), []).append((sought, bucket))
        if not wanted:
            return False
        for chunk in _chunks(list(left), SEGMENTS_PER_QUERY):
            for segment, number, page in _pages(chunk, list(wanted)):
                page = bytes(page)
                for sought, bucket in wanted[number]:
                    found = self._found[sought]
                    found[segment] = found.get(segment, self._live[segment]) & grams.members(page, bucket)
        return True

    def _matching(self, segment: int) -> int:
        return (self._evaluated(self._need, segment) | self._undecided[segment]) & self._live[segment]

    def _evaluated(self, need: Need, segment: int) -> int:
        if isinstance(need, Sought):
            return self._found[need].get(segment, self._live[segment])
        parts = [self._evaluated(each, segment) for each in need.needs]
        bits = parts[0]
        for part in parts[1:]:
            bits = bits & part if isinstance(need, AllOf) else bits | part
        return bits

    @staticmethod
    def _ids(left: dict[int, int]) -> Iterator[int]:
        for chunk in _chunks(list(left), IDS_PER_STATEMENT):
            for segment, packed in _ids_of_segments.rows(*chunk):
                ids = _unpacked(packed)
                for number in grams.numbers_of(left[segment]):
                    yield ids[number]


def _pages(segments: Sequence[int], numbers: Sequence[int]) -> list[tuple[int, int, Bytes]]:
    """These pages of these segments: number of segment and page, and what is in it."""
    # By their very numbers: between the lowest and the highest are other accounts' segments.
    sql = (
        f"SELECT segment_id, number, data FROM {SearchPage._meta.db_table}"  # noqa: S608 # no text from outside
        f" WHERE segment_id IN ({_marks(segments)}) AND number IN ({_marks(numbers)})"
    )
    return run(sql, [*segments, *numbers])


def _marks(values: Sequence[int]) -> str:
    return ", ".join(["%s"] * len(values))


# Building.


def build_due(segments: int = SEGMENTS_PER_RUN) -> int:
    """Index the messages of accounts that have a segment's worth of them; returns how many, up to so many segments."""
    indexed = 0
    due = Message.objects.filter(expunged=False, indexed__isnull=True).order_by()
    counts = due.values("account_id").annotate(messages=Count("pk")).filter(messages__gte=SEGMENT)
    for account_id, messages in list(counts.values_list("account_id", "messages")):
        for _ in range(min(segments, messages // SEGMENT)):
            built = build_segment(account_id)
            if not built:
                break
            indexed += built
            segments -= 1
    return indexed


def build_segment(account_id: int, least: int = SEGMENT) -> int:
    """Make a segment of the account's next messages that have their search text; 0 where they are less than ``least``.

    Texts are read and taken apart before the transaction, which writes some 300 rows.
    """
    due = Message.objects.filter(
        account_id=account_id, expunged=False, indexed__isnull=True, blob__text_due=False, blob__text__isnull=False
    )
    ids = list(due.order_by("pk").values_list("pk", flat=True)[:SEGMENT])
    if not ids or len(ids) < least:
        return 0
    postings = grams.Postings()
    made: dict[int, Any] = {}
    undecided: list[int] = []
    columns = ("pk", "prefix", "blob__text__made", "blob__text__truncated", "blob__text__headers", "blob__text__body")
    for start in range(0, len(ids), TEXTS_AT_ONCE):
        rows = Message.objects.filter(pk__in=ids[start : start + TEXTS_AT_ONCE], blob__text__isnull=False)
        for pk, prefix, when, truncated, headers, body in rows.order_by("pk").values_list(*columns):
            number = bisect_left(ids, pk)
            made[pk] = when
            postings.add(number, _grams_of(bytes(prefix), headers, body))
            if truncated:
                undecided.append(number)
    pages = postings.pages()

    def transact() -> int:
        with write_tx(account_id, durable=False) as tx:
            # A message may be gone by now, or its text made anew: that is left for the next time.
            current = dict(
                Message.objects.filter(pk__in=ids, account_id=account_id, expunged=False, indexed__isnull=True)
                .filter(blob__text__isnull=False)
                .values_list("pk", "blob__text__made")
            )
            live = [pk for pk in ids if pk in made and pk in current and made[pk] == current[pk]]
            if not live or account_id not in tx.accounts:
                return 0
            _insert(account_id, ids, [bisect_left(ids, pk) for pk in live], undecided, pages)
            Message.objects.filter(pk__in=live).update(indexed=True)
            return len(live)

    return db.retrying(transact)


def _insert(
    account_id: int, ids: Sequence[int], live: Iterable[int], undecided: Iterable[int], pages: Sequence[bytes]
) -> None:
    segment = SearchSegment.objects.create(
        account_id=account_id,
        first_id=ids[0],
        last_id=ids[-1],
        message_ids=_packed(ids),
        live=grams.to_set(live),
        undecided=grams.to_set(undecided),
    )
    with connection.cursor() as cursor:  # mail waits for this transaction, and model instances take their time
        cursor.executemany(
            f"INSERT INTO {SearchPage._meta.db_table} (segment_id, number, data) VALUES (%s, %s, %s)",  # noqa: S608 # ours
            [(segment.pk, number, page) for number, page in enumerate(pages)],
        )


def _grams_of(prefix: bytes, headers: str, body: str) -> set[int]:
    """The grams of a message in all fields."""
    own = text.header_text(prefix) if prefix else ""
    found = grams.grams(Field.BODY, body)
    for part in (headers, own):
        found += grams.grams(Field.HEADERS, part)
        end = part.find("\n\n")
        for line in part[: end if end >= 0 else len(part)].split("\n"):
            name, separator, value = line.partition(": ")
            field = _NAMED.get(name) if separator else None
            if field is not None:
                found += grams.grams(field, value)
    return set(found)


# Forgetting, and making segments of which little is left into one.


def forget(account_id: int, message_ids: Sequence[int]) -> None:
    """Drop the entries of messages whose content goes; in a transaction that has locked the account."""
    if not message_ids:
        return
    gone = sorted(message_ids)
    for segment in SearchSegment.objects.filter(account_id=account_id, first_id__lte=gone[-1], last_id__gte=gone[0]):
        ids, before = _unpacked(segment.message_ids), int.from_bytes(segment.live, "little")
        live = before
        for message_id in gone:
            at = bisect_left(ids, message_id)
            if at < len(ids) and ids[at] == message_id:
                live &= ~(1 << at)
        if not live:
            segment.delete()
        elif live != before:
            SearchSegment.objects.filter(pk=segment.pk).update(live=live.to_bytes(grams.SET_BYTES, "little"))


def compact(account_id: int, most: int = JOINED_PER_RUN) -> int:
    """Join neighbouring segments that fit into one; also one of which half is gone. Returns how many were replaced.

    ``most``: it ends when so many were.
    """
    replaced = 0
    segments = SearchSegment.objects.filter(account_id=account_id).order_by("first_id", "pk")
    sizes = [
        (pk, int.from_bytes(live, "little").bit_count(), len(ids) // 8)
        for pk, live, ids in segments.values_list("pk", "live", "message_ids")
    ]
    group: list[int] = []
    living = dead = 0
    for pk, live_count, size in [*sizes, (0, SEGMENT + 1, 0)]:
        if living + live_count > SEGMENT:
            if len(group) > 1 or dead > living:
                replaced += _join(account_id, group)
                if replaced >= most:
                    break
            group, living, dead = [], 0, 0
        group.append(pk)
        living += live_count
        dead += size - live_count
    return replaced


def _join(account_id: int, segment_ids: list[int]) -> int:
    """Write one segment with what lives of several, which fits."""

    def read() -> list[SearchSegment]:
        found = SearchSegment.objects.filter(pk__in=segment_ids, account_id=account_id)
        return sorted(found, key=lambda segment: segment.pk)

    segments = read()
    kept: dict[int, bool] = {}  # message id: undecided
    for segment in segments:
        undecided = int.from_bytes(segment.undecided, "little")
        had = _unpacked(segment.message_ids)
        for number in grams.numbers_of(int.from_bytes(segment.live, "little")):
            kept[had[number]] = kept.get(had[number], False) or bool(undecided >> number & 1)
    ids = sorted(kept)
    renumbered: list[dict[int, int]] = []
    for segment in segments:
        before = _unpacked(segment.message_ids)
        live = int.from_bytes(segment.live, "little")
        renumbered.append({number: bisect_left(ids, before[number]) for number in grams.numbers_of(live)})
    pages: list[bytes] = []
    for number in range(PAGES):
        stored = {segment: bytes(page) for segment, _, page in _pages(segment_ids, [number])}
        if stored.keys() != set(segment_ids):
            return 0  # a search takes all messages for what a missing page says: that must not get lost
        parts = ((stored[segment.pk], numbers) for segment, numbers in zip(segments, renumbered, strict=True))
        pages.append(grams.merged_page(parts))

    def transact() -> int:
        with write_tx(account_id) as tx:
            now = read()
            if [(s.pk, bytes(s.live)) for s in now] != [(s.pk, bytes(s.live)) for s in segments]:
                return 0  # messages went in the meantime: the next time
            if account_id not in tx.accounts:
                return 0
            SearchSegment.objects.filter(pk__in=segment_ids).delete()
            _insert(account_id, ids, range(len(ids)), (n for n, pk in enumerate(ids) if kept[pk]), pages)
        return len(segments)

    return db.retrying(transact)


def problems(account_id: int) -> Iterator[str]:
    """What is wrong with an account's index, for the checker."""
    entries: set[int] = set()
    segments = SearchSegment.objects.filter(account_id=account_id).annotate(stored=Count("pages"))
    for segment in segments:
        if segment.stored != PAGES:
            yield f"search segment {segment.pk} has {segment.stored} pages, not {PAGES}"
        ids = _unpacked(segment.message_ids)
        entries.update(ids[number] for number in grams.numbers_of(int.from_bytes(segment.live, "little")))
    known = Message.objects.filter(account_id=account_id, blob__isnull=False)
    marked = set(known.filter(indexed=True).values_list("pk", flat=True))
    for pk in sorted(marked - entries):
        yield f"message {pk} is marked as indexed, but no search segment has it"
    for chunk in _chunks(sorted(entries - marked), IDS_PER_QUERY):
        there = set(known.filter(pk__in=chunk).values_list("pk", flat=True))
        for pk in chunk:
            if pk not in there:
                yield f"the search index has message {pk}, whose content is gone"


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _packed(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}q", *ids)


def _unpacked(packed: Bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 8}q", packed)
