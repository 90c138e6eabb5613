"""Threads: which message a new one answers (RFC 5256 ideas, one message at a time); muting and collapsing them.

    place = find_place(account_id, keys, mailbox_orig_id, received)     # while the message is added
    set_state(tx, message_ids, muted=True)

A message stands under the parent that it found when it came, for good: later messages never move earlier ones. Its list
of parents is its parent's with the parent in front; the ids in it may be of messages that are gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from django.db import connection
from django.db.models import Min, Q

from protocols.message import Envelope, index_text, message_id_canonical, referenced_ids, thread_subject
from server.statements import Statement

from .db import AccountTx
from .models import ChangeEvent, Message

DEPTH_MAX: Final = 100  # parents of a message: each has the whole list; deeper replies stand beside what they answer
REFERENCES_PER_QUERY: Final = 50  # the others: hostile messages have a thousand
LOOKED_UP_EACH: Final = 3  # references looked up one by one: the nearest is there mostly
SAME_ID_MAX: Final = 20  # messages with one Message-ID that are looked at for one with the right subject
SUBJECT_BEFORE: Final = timedelta(weeks=4)  # an answer by its subject alone comes within this time
SUBJECT_AFTER: Final = timedelta(days=1)
ROWS: Final = 500  # rows of a statement, messages named in one event

_COLUMNS: Final = ("id", "thread_id", "thread_parent_ids", "thread_muted", "thread_collapsed")

_PARENTS: Final = Message._meta.get_field("thread_parent_ids")

_same_id: Final = Statement(
    lambda account_id, message_id: (
        Message.objects.filter(account_id=account_id, message_id=message_id, expunged=False)
        .order_by("id")
        .values_list(*_COLUMNS, "subject_base")[:SAME_ID_MAX]
    )
)
_known_ids: Final = Statement(
    lambda account_id, *message_ids: (
        Message.objects.filter(account_id=account_id, message_id__in=message_ids, expunged=False)
        .values_list("message_id")
        .distinct()
    )
)


@dataclass(frozen=True, slots=True)
class ThreadKeys:
    """What threads are found by. Texts are as they are stored (`index_text`); ``references``: nearest first."""

    message_id: str = ""
    subject_base: str = ""
    is_response: bool = False
    references: tuple[str, ...] = ()

    @classmethod
    def of(cls, envelope: Envelope | None) -> ThreadKeys:
        """Those of an envelope that was just parsed: a stored one has no references."""
        if envelope is None:
            return cls()
        message_id = index_text(message_id_canonical(envelope.message_id).value)
        subject = thread_subject(envelope.subject)
        references = map(index_text, reversed(referenced_ids(envelope.references, envelope.in_reply_to)))
        return cls(
            message_id,
            index_text(subject.base),
            subject.is_response,
            tuple(reference for reference in references if reference != message_id),
        )


class Place(NamedTuple):
    """Where a message stands. ``thread_id`` None: its own id, the message begins a thread."""

    thread_id: int | None
    parent_ids: list[int]
    missing_link: bool
    muted: bool
    collapsed: bool


class Found(NamedTuple):
    """A message that another stands below, as a row of its place; None: there is none. Whether a link is missing."""

    row: Sequence[Any] | None
    missing_link: bool


def find_place(account_id: int, keys: ThreadKeys, *, is_dsn: bool, mailbox_orig_id: int, received: datetime) -> Place:
    """Where a message with these keys belongs that is about to be inserted."""
    found = find_parent(account_id, keys, is_dsn=is_dsn, mailbox_orig_id=mailbox_orig_id, received=received)
    if found.row is None:
        return Place(None, [], found.missing_link, False, False)
    return _below(found.row, missing_link=found.missing_link)


def find_parent(
    account_id: int, keys: ThreadKeys, *, is_dsn: bool, mailbox_orig_id: int, received: datetime, own_id: int = 0
) -> Found:
    """What a message with these keys answers, or is the same as; of one that is there already, ``own_id`` is its id."""
    if keys.message_id:
        twins = _same_id.rows(account_id, keys.message_id)
        if twins and twins[0][0] != own_id:  # else all others came later
            return Found(twins[0], True)
    missing = False
    for message_id in _known(account_id, keys.references):
        if message_id:
            for candidate in _same_id.rows(account_id, message_id):
                # The answer of a machine has a subject of its own.
                if candidate[0] != own_id and (is_dsn or candidate[-1] == keys.subject_base):
                    return Found(candidate, missing)
        missing = True
    if not keys.references and keys.is_response and keys.subject_base:
        row = _by_subject(account_id, keys.subject_base, mailbox_orig_id, received, own_id)
        if row is not None:
            return Found(row, True)
    return Found(None, missing)


def _known(account_id: int, references: Sequence[str]) -> Iterator[str]:
    """The references in order, "" for one that no message has; few are looked up one by one."""
    yield from references[:LOOKED_UP_EACH]
    for start in range(LOOKED_UP_EACH, len(references), REFERENCES_PER_QUERY):
        part = references[start : start + REFERENCES_PER_QUERY]
        known = {row[0] for row in _known_ids.rows(account_id, *part)}
        yield from (message_id if message_id in known else "" for message_id in part)


def _by_subject(
    account_id: int, subject_base: str, mailbox_orig_id: int, received: datetime, own_id: int
) -> tuple[Any, ...] | None:
    query = Message.objects.filter(
        account_id=account_id,
        subject_base=subject_base,
        mailbox_orig_id=mailbox_orig_id,
        received__range=(received - SUBJECT_BEFORE, received + SUBJECT_AFTER),
        expunged=False,
    )
    if own_id:
        query = query.filter(pk__lt=own_id)
    return query.order_by("-received").values_list(*_COLUMNS).first()


def _below(parent: Sequence[Any], *, missing_link: bool) -> Place:
    pk, thread_id, parent_ids, muted, collapsed = parent[:5]
    if len(parent_ids) >= DEPTH_MAX:
        return Place(thread_id, parent_ids, True, muted, collapsed)
    return Place(thread_id, [pk, *parent_ids], missing_link, muted, collapsed)


def places_of_copies(account_id: int, message_ids: Sequence[int]) -> dict[int, Place]:
    """Where copies of these messages belong: below the oldest of their like, which may be what is copied."""
    live = Message.objects.filter(account_id=account_id, expunged=False)
    places: dict[int, Place] = {}
    for chunk in _chunks(message_ids):
        # Without a Message-ID, the same content is what tells a copy.
        key_of: dict[int, tuple[str, str | int | None]] = {
            pk: ("message_id", message_id) if message_id else ("blob_id", blob_id)
            for pk, message_id, blob_id in live.filter(pk__in=chunk).values_list("pk", "message_id", "blob_id")
        }
        oldest: dict[tuple[str, str | int | None], int] = {}
        for column in ("message_id", "blob_id"):
            wanted = {value for name, value in key_of.values() if name == column}
            if wanted:
                alike = live.filter(**{f"{column}__in": wanted}).values_list(column).annotate(oldest=Min("pk"))
                oldest.update({(column, value): pk for value, pk in alike})
        rows = {row[0]: row for row in live.filter(pk__in=set(oldest.values())).values_list(*_COLUMNS)}
        for pk, key in key_of.items():
            places[pk] = _below(rows[oldest[key]], missing_link=True)
    return places


def columns(place: Place) -> dict[str, Any]:
    """The columns of Message for a place in an existing thread, as the database takes them."""
    return {
        "thread_id": place.thread_id,
        "thread_parent_ids": _PARENTS.get_db_prep_save(place.parent_ids, connection),
        "thread_missing_link": place.missing_link,
        "thread_muted": place.muted,
        "thread_collapsed": place.collapsed,
    }


def set_state(
    tx: AccountTx, message_ids: Iterable[int], *, muted: bool | None = None, collapsed: bool | None = None
) -> list[int]:
    """Mute or collapse the whole threads that these messages are in, or undo it; None leaves as it is.

    Gives the ids of the messages that changed. What comes to a muted thread later is seen from the start.
    """
    wanted = {"thread_muted": muted, "thread_collapsed": collapsed}
    changes = {column: value for column, value in wanted.items() if value is not None}
    live = Message.objects.filter(account_id=tx.account_id, expunged=False)
    threads: set[int] = set()
    for chunk in _chunks(sorted(set(message_ids))):
        threads.update(filter(None, live.filter(pk__in=chunk).values_list("thread_id", flat=True)))
    different = Q()
    for column, value in changes.items():
        different |= Q(**{column: not value})
    changed: list[int] = []
    for chunk in _chunks(sorted(threads)):
        changed.extend(live.filter(different, thread_id__in=chunk).order_by("pk").values_list("pk", flat=True))
    for chunk in _chunks(changed):
        Message.objects.filter(pk__in=chunk).update(**changes)
        tx.emit(ChangeEvent.Kind.THREAD, None, message_ids=chunk, muted=muted, collapsed=collapsed)
    return changed


def _chunks(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), ROWS):
        yield ids[start : start + ROWS]
