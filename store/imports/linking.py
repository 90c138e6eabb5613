"""Threads of staged messages: matched against messages that are there and against each other, in any order.

Parents are found first, for all items; a message may answer one that comes later in the archive. Then each gets the
list of its parents, from the beginnings of threads on; where messages answer each other in a circle, it is cut.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db.models import QuerySet

from server import db, faults
from store import threads
from store.models import ImportItem, ImportJob, ImportMailbox, Mailbox, Message
from store.rows import update

from .jobs import Lease

ROWS: Final = 500  # items looked at together, and rows written in one transaction
IDS_PER_QUERY: Final = 500

_NONE: Final = -1
_ANSWERED: Final = ("id", "thread_id", "thread_parent_ids", "thread_muted", "thread_collapsed")


class _Item(NamedTuple):
    seq: int
    message_pk: int
    message_id: str
    subject_base: str
    is_response: bool
    referenced_ids: list[str]
    is_dsn: bool
    received: datetime
    mailbox_id: int


class _Live(NamedTuple):
    """A message of the account that an item answers."""

    pk: int
    thread_id: int
    parent_ids: list[int]
    muted: bool
    collapsed: bool


class _Staged(NamedTuple):
    seq: int
    subject_base: str


class _Threads:
    """What is known of each item, by its number: a few bytes each, for millions."""

    def __init__(self, count: int) -> None:
        self.pks = array("q", bytes(8 * count))
        self.parents = array("q", [_NONE]) * count
        self.depths = array("h", [_NONE]) * count
        self.missing = bytearray(count)
        self.live: dict[int, _Live] = {}  # of items that answer a message of the account

    def cut_circles_and_count(self) -> None:
        """Afterwards each chain of parents ends, and is no longer than threads may be."""
        for seq in range(len(self.parents)):
            path: list[int] = []
            at = seq
            while at != _NONE and self.depths[at] == _NONE:
                self.depths[at] = -2  # on the path
                path.append(at)
                at = self.parents[at]
            if at != _NONE and self.depths[at] == -2:
                last = path[-1]  # its parent is on the path as well
                self.parents[last] = _NONE
                self.missing[last] = True
            for each in reversed(path):
                self.depths[each] = self._depth(each)

    def _depth(self, seq: int) -> int:
        parent = self.parents[seq]
        if parent == _NONE:
            live = self.live.get(seq)
            return 0 if live is None else len(_parent_ids(live))
        if self.depths[parent] < threads.DEPTH_MAX:
            return self.depths[parent] + 1
        # As deep as can be: it stands beside what it answers.
        self.parents[seq] = self.parents[parent]
        if self.parents[seq] == _NONE and parent in self.live:
            self.live[seq] = self.live[parent]
        self.missing[seq] = True
        return self.depths[parent]

    def place(self, seq: int) -> threads.Place | None:
        """Where an item stands; None if it begins a thread and looked for no parent."""
        parent_ids: list[int] = []
        top = seq
        while self.parents[top] != _NONE:
            top = self.parents[top]
            parent_ids.append(self.pks[top])
        live = self.live.get(top)
        if live is None:
            if not parent_ids and not self.missing[seq]:
                return None
            return threads.Place(self.pks[top], parent_ids, bool(self.missing[seq]), False, False)
        parent_ids.extend(_parent_ids(live))
        return threads.Place(live.thread_id, parent_ids, bool(self.missing[seq]), live.muted, live.collapsed)


def _parent_ids(live: _Live) -> list[int]:
    return live.parent_ids if len(live.parent_ids) >= threads.DEPTH_MAX else [live.pk, *live.parent_ids]


def link(job: ImportJob, lease: Lease) -> None:
    """Give each item of a job its place in a thread. May be done again. Raises Stopped."""
    found = _Threads(job.messages)
    mailbox_ids = _existing_mailboxes(job)
    for items in _batches(job):
        _find_parents(job, items, mailbox_ids, found)
        lease.renew_if_due()
    found.cut_circles_and_count()
    for start in range(0, job.messages, ROWS):
        lease.renew_if_due()
        places = [(seq, found.place(seq)) for seq in range(start, min(start + ROWS, job.messages))]
        _store(job, lease, [(seq, place) for seq, place in places if place is not None])


def _existing_mailboxes(job: ImportJob) -> dict[int, int]:
    """The mailboxes of the account that staged ones will be, by the staged one's id."""
    names = dict(ImportMailbox.objects.filter(job=job).values_list("name", "pk"))
    live = Mailbox.objects.filter(account_id=job.account_id, expunged=False).values_list("name", "pk")
    return {names[name]: pk for name, pk in live if name in names}


def _batches(job: ImportJob) -> Iterator[list[_Item]]:
    for start in range(0, job.messages, ROWS):
        rows = ImportItem.objects.filter(job=job, seq__gte=start, seq__lt=start + ROWS).order_by("seq")
        yield [_Item(*row) for row in rows.values_list(*_Item._fields)]


def _find_parents(job: ImportJob, items: list[_Item], mailbox_ids: dict[int, int], found: _Threads) -> None:
    wanted = {item.message_id for item in items if item.message_id}
    wanted.update(reference for item in items for reference in item.referenced_ids)
    live = _live_by_message_id(job, sorted(wanted))
    staged = _staged_by_message_id(job, sorted(wanted))
    for item in items:
        found.pks[item.seq] = item.message_pk
        if _twin(item, live, staged, found) or _referenced(item, live, staged, found):
            continue
        if item.is_response and item.subject_base and not item.referenced_ids:
            _by_subject(job, item, mailbox_ids.get(item.mailbox_id), found)


def _twin(
    item: _Item, live: dict[str, list[tuple[_Live, str]]], staged: dict[str, list[_Staged]], found: _Threads
) -> bool:
    """Below the oldest with the same Message-ID, if there is another."""
    if not item.message_id:
        return False
    if item.message_id in live:
        found.live[item.seq] = live[item.message_id][0][0]
    else:
        oldest = staged[item.message_id][0].seq
        if oldest == item.seq:
            return False
        found.parents[item.seq] = oldest
    found.missing[item.seq] = True
    return True


def _referenced(
    item: _Item, live: dict[str, list[tuple[_Live, str]]], staged: dict[str, list[_Staged]], found: _Threads
) -> bool:
    """Below the nearest of its references that there is."""
    for reference in item.referenced_ids:
        for candidate, subject_base in live.get(reference, ()):
            if item.is_dsn or subject_base == item.subject_base:
                found.live[item.seq] = candidate
                return True
        for each in staged.get(reference, ()):
            if each.seq != item.seq and (item.is_dsn or each.subject_base == item.subject_base):
                found.parents[item.seq] = each.seq
                return True
        found.missing[item.seq] = True
    return False


def _by_subject(job: ImportJob, item: _Item, mailbox_id: int | None, found: _Threads) -> None:
    """Below the newest with its subject in its mailbox; of other staged ones only those that came before it."""
    low, high = item.received - threads.SUBJECT_BEFORE, item.received + threads.SUBJECT_AFTER
    newest_live = None
    if mailbox_id is not None:
        newest_live = (
            Message.objects.filter(
                account_id=job.account_id,
                subject_base=item.subject_base,
                mailbox_orig_id=mailbox_id,
                received__range=(low, high),
                expunged=False,
            )
            .order_by("-received")
            .values_list("received", *_ANSWERED)
            .first()
        )
    newest_staged = (
        ImportItem.objects.filter(
            job=job,
            subject_base=item.subject_base,
            mailbox_id=item.mailbox_id,
            received__gte=low,
            received__lt=item.received,
        )
        .order_by("-received", "seq")
        .values_list("received", "seq")
        .first()
    )
    if newest_staged is not None and (newest_live is None or newest_live[0] <= newest_staged[0]):
        found.parents[item.seq] = newest_staged[1]
    elif newest_live is not None:
        found.live[item.seq] = _Live(*newest_live[1:])
    else:
        return
    found.missing[item.seq] = True


def _live_by_message_id(job: ImportJob, wanted: list[str]) -> dict[str, list[tuple[_Live, str]]]:
    by_id: dict[str, list[tuple[_Live, str]]] = defaultdict(list)
    live = Message.objects.filter(account_id=job.account_id, expunged=False)
    for message_id, subject_base, *columns in _in_chunks(live, wanted, "id", "message_id", "subject_base", *_ANSWERED):
        if len(by_id[message_id]) < threads.SAME_ID_MAX:
            by_id[message_id].append((_Live(*columns), subject_base))
    return by_id


def _staged_by_message_id(job: ImportJob, wanted: list[str]) -> dict[str, list[_Staged]]:
    by_id: dict[str, list[_Staged]] = defaultdict(list)
    staged = ImportItem.objects.filter(job=job)
    for message_id, seq, subject_base in _in_chunks(staged, wanted, "seq", "message_id", "seq", "subject_base"):
        if len(by_id[message_id]) < threads.SAME_ID_MAX:
            by_id[message_id].append(_Staged(seq, subject_base))
    return by_id


def _in_chunks(rows: QuerySet[Any], wanted: list[str], order: str, *columns: str) -> Iterator[tuple[Any, ...]]:
    for start in range(0, len(wanted), IDS_PER_QUERY):
        chunk = wanted[start : start + IDS_PER_QUERY]
        yield from rows.filter(message_id__in=chunk).order_by(order).values_list(*columns).iterator(chunk_size=ROWS)


def _store(job: ImportJob, lease: Lease, places: list[tuple[int, threads.Place]]) -> None:
    def transact() -> None:
        with db.write():
            lease.keep(step="matching messages with threads")
            pks = dict(ImportItem.objects.filter(job=job, seq__in=[seq for seq, _ in places]).values_list("seq", "pk"))
            for seq, place in places:
                update(ImportItem, pks[seq], _columns(place))

    db.retrying(transact)
    faults.point("store.import_linked")


def _columns(place: threads.Place) -> dict[str, Any]:
    columns = {
        "thread_id": place.thread_id,
        "thread_parent_ids": place.parent_ids,
        "thread_missing_link": place.missing_link,
        "thread_muted": place.muted,
        "thread_collapsed": place.collapsed,
    }
    # What comes to a muted thread is seen from the start.
    return columns | {"seen": True} if place.muted else columns
