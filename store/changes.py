"""The change feed: what happened in an account after a modification sequence.

A listener keeps the last modseq that it has taken in and asks for what came later; notifications (store.notify) only
say when asking is worth it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from server import db
from server.statements import Statement

from .columns import BITS
from .errors import MailboxGone
from .flags import FlagRow
from .models import AccountState, ChangeEvent, Mailbox, Message

CHANGES_MAX: Final = 10_000  # a listener further behind starts anew: cheaper than telling it each step


@dataclass(frozen=True, slots=True)
class MailboxChanges:
    """What changed in one mailbox after ``since``, up to and including ``modseq``; rows ascending by UID.

    ``overflow``: too much to tell, read the mailbox anew. ``gone``: the mailbox was removed; the rest holds.
    """

    modseq: int
    added: list[FlagRow]
    changed: list[FlagRow]
    removed: list[int]
    keywords: tuple[str, ...]
    gone: bool = False
    overflow: bool = False

    @property
    def nothing(self) -> bool:
        return not (self.added or self.changed or self.removed or self.gone or self.overflow)


@dataclass(frozen=True, slots=True)
class Event:
    """A change that is not a message: see ChangeEvent for the kinds and their data."""

    modseq: int
    seq: int
    kind: str
    mailbox_id: int | None
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Events:
    """Events after some modseq up to ``modseq``; not ``complete`` when older ones were dropped already."""

    modseq: int
    events: list[Event]
    complete: bool


# Asked in the transaction of every change, for each session: see server.statements.
_last_modseq: Final = Statement(
    lambda account_id: AccountState.objects.filter(pk=account_id).values_list("last_modseq")
)
_mailbox: Final = Statement(
    lambda pk: Mailbox.objects.filter(pk=pk).values_list("account__state__last_modseq", "keywords", "expunged")
)
_changed: Final = Statement(
    lambda mailbox_id, since: (
        Message.objects.filter(mailbox_id=mailbox_id, modseq__gt=since)
        .order_by("modseq", "uid")
        .values_list("uid", "modseq", BITS, "keywords", "create_modseq", "expunged")[: CHANGES_MAX + 1]
    )
)
_feed: Final = Statement(
    lambda account_id, since: (
        ChangeEvent.objects.filter(account_id=account_id, modseq__gt=since)
        .order_by("modseq", "seq")
        .values_list("modseq", "seq", "kind", "mailbox_id", "data")[: CHANGES_MAX + 1]
    )
)
_oldest: Final = Statement(
    lambda account_id: ChangeEvent.objects.filter(account_id=account_id).order_by("modseq").values_list("modseq")[:1]
)


def last_modseq(account_id: int) -> int | None:
    """The last modification sequence of an account; None if it was removed."""
    row = _last_modseq.row(account_id)
    return None if row is None else row[0]


def mailbox_changes(mailbox_id: int, since: int) -> MailboxChanges:
    """What changed in a mailbox after ``since``.

    Inside a write transaction (right after the account was locked) it is what others committed before. Raises
    MailboxGone if not even a tombstone is left.
    """
    with db.read():
        mailbox = _mailbox.row(mailbox_id)
        if mailbox is None:
            raise MailboxGone("the mailbox was removed")
        modseq, keywords, gone = mailbox[0], tuple(mailbox[1]), bool(mailbox[2])
        rows = list(_changed.rows(mailbox_id, since)) if modseq > since else []
    if len(rows) > CHANGES_MAX:
        return MailboxChanges(modseq, [], [], [], keywords, gone=gone, overflow=True)
    rows.sort()
    added, changed, removed = [], [], []
    for uid, row_modseq, bits, row_keywords, create_modseq, expunged in rows:
        if expunged:
            removed.append(uid)
        elif create_modseq > since:
            added.append(FlagRow(uid, row_modseq, bits, row_keywords))
        else:
            changed.append(FlagRow(uid, row_modseq, bits, row_keywords))
    return MailboxChanges(modseq, added, changed, removed, keywords, gone=gone)


def events(account_id: int, since: int) -> Events:
    """The events of an account after ``since``. Raises MailboxGone if the account was removed."""
    with db.read():
        modseq = last_modseq(account_id)
        if modseq is None:
            raise MailboxGone(f"account {account_id} was removed")
        if modseq <= since:
            return Events(modseq, [], complete=True)
        rows = _feed.rows(account_id, since)
        oldest = _oldest.row(account_id)
    # Events are dropped after a day: whether there were some between `since` and the oldest one kept cannot be told.
    complete = len(rows) <= CHANGES_MAX and (oldest is None or oldest[0] <= since)
    return Events(modseq, [Event(*row) for row in rows[:CHANGES_MAX]], complete)
