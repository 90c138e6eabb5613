"""The change feed: what happened in an account after a modification sequence.

A listener keeps the last modseq that it has taken in and asks for what came later; notifications (store.notify) only
say when asking is worth it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from server import db

from .columns import BITS
from .messages import FlagRow
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


def mailbox_changes(mailbox_id: int, since: int) -> MailboxChanges:
    """What changed in a mailbox after ``since``.

    Inside a write transaction (right after the account was locked) it is what others committed before.
    """
    with db.read():
        mailbox = Mailbox.objects.get(pk=mailbox_id)
        modseq = AccountState.objects.values_list("last_modseq", flat=True).get(pk=mailbox.account_id)
        keywords = tuple(mailbox.keywords)
        if modseq <= since:
            return MailboxChanges(modseq, [], [], [], keywords, gone=mailbox.expunged)
        rows = list(
            Message.objects.filter(mailbox_id=mailbox_id, modseq__gt=since)
            .order_by("modseq", "uid")
            .values_list("uid", "modseq", BITS, "keywords", "create_modseq", "expunged")[: CHANGES_MAX + 1]
        )
    if len(rows) > CHANGES_MAX:
        return MailboxChanges(modseq, [], [], [], keywords, gone=mailbox.expunged, overflow=True)
    rows.sort()
    added, changed, removed = [], [], []
    for uid, row_modseq, bits, row_keywords, create_modseq, expunged in rows:
        if expunged:
            removed.append(uid)
        elif create_modseq > since:
            added.append(FlagRow(uid, row_modseq, bits, row_keywords))
        else:
            changed.append(FlagRow(uid, row_modseq, bits, row_keywords))
    return MailboxChanges(modseq, added, changed, removed, keywords, gone=mailbox.expunged)


def events(account_id: int, since: int) -> Events:
    """The events of an account after ``since``."""
    with db.read():
        modseq = AccountState.objects.values_list("last_modseq", flat=True).get(pk=account_id)
        if modseq <= since:
            return Events(modseq, [], complete=True)
        feed = ChangeEvent.objects.filter(account_id=account_id)
        rows = list(
            feed.filter(modseq__gt=since)
            .order_by("modseq", "seq")
            .values_list("modseq", "seq", "kind", "mailbox_id", "data")[: CHANGES_MAX + 1]
        )
        oldest = feed.order_by("modseq").values_list("modseq", flat=True).first()
    # Events are dropped after a day: whether there were some between `since` and the oldest one kept cannot be told.
    complete = len(rows) <= CHANGES_MAX and (oldest is None or oldest <= since)
    return Events(modseq, [Event(*row) for row in rows[:CHANGES_MAX]], complete)
