"""What interfaces read, in narrow rows: mailboxes with their counts, the UIDs of one, columns of messages."""

from __future__ import annotations

import functools
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django.db.models import F, Q, QuerySet, Sum
from django.db.models.expressions import Combinable

from protocols.message.structure import Envelope
from server import db
from server.statements import Statement

from .byuid import ByUID
from .columns import BITS
from .db import mailbox_by_name
from .errors import MailboxGone, MailboxNotFound, OverQuota
from .flags import FlagRow
from .mailboxes import canonical_name
from .messages import quota_limit
from .models import AccountState, Mailbox, Message, Subscription

RANGES_PER_QUERY: Final = 50  # of UIDs: databases limit the depth of expressions

_room: Final = Statement(
    lambda account_id: AccountState.objects.filter(pk=account_id).values_list(
        "message_size", "account__quota_message_size"
    )
)


@dataclass(frozen=True, slots=True)
class MailboxView:
    """A mailbox and its counts at one moment. ``special_uses`` are IMAP attributes such as ``\\Sent``."""

    id: int
    name: str
    uidvalidity: int
    uidnext: int
    modseq: int
    total: int
    deleted: int
    unread: int
    unseen: int
    size: int
    keywords: tuple[str, ...]
    special_uses: tuple[str, ...]

    @property
    def messages(self) -> int:
        """All live messages, marked deleted or not."""
        return self.total + self.deleted


@dataclass(frozen=True, slots=True)
class OpenedMailbox:
    """A mailbox as a session starts with it; ``modseq`` is its position in the account's change feed."""

    view: MailboxView
    uids: array[int]
    modseq: int
    first_unseen: int | None
    highest_deleted_modseq: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """What became of a mailbox since a session was told last, in lists of UIDs, ascending.

    Not ``complete``: tombstones from that time are gone, and with them the word of some removals.
    """

    view: MailboxView
    modseq: int
    vanished: array[int]
    added: array[int]
    changed: array[int]
    complete: bool


@dataclass(frozen=True, slots=True)
class Listing:
    """All mailboxes, sorted by name, and the subscribed names, at position ``modseq`` of the feed."""

    views: list[MailboxView]
    subscribed: frozenset[str]
    modseq: int


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes of messages that an account has, and may have; 0 is no limit."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class MessageHead:
    """What a list of messages shows of one."""

    id: int
    received: datetime
    seen: bool
    junk: bool
    envelope: Envelope


def open_mailbox(account_id: int, name: str, *, with_uids: bool = True) -> OpenedMailbox:
    """One snapshot of everything that a session starts from; without UIDs for who keeps none.

    Raises MailboxNotFound, MailboxError.
    """
    with db.read():
        return _opened(mailbox(account_id, name), account_id, with_uids=with_uids)


def reopen(mailbox_id: int) -> OpenedMailbox | None:
    """The same for a mailbox that a session has open; None if it was removed."""
    with db.read():
        row = Mailbox.objects.filter(pk=mailbox_id, expunged=False).first()
        return None if row is None else _opened(_view(row), row.account_id)


def caught_up(mailbox_id: int, since: int, uidnext: int) -> CaughtUp | None:
    """What changed after ``since`` for a session that knows UIDs below ``uidnext``; None if the mailbox was removed."""
    with db.read():
        row = Mailbox.objects.filter(pk=mailbox_id, expunged=False).first()
        if row is None:
            return None
        state = _state(row.account_id)
        live = Message.objects.filter(mailbox_id=mailbox_id, expunged=False, modseq__gt=since).order_by("uid")
        changed = array("I", live.values_list("uid", flat=True).iterator(chunk_size=2000))
        gone = vanished(mailbox_id, since)
    return CaughtUp(
        _view(row),
        state.last_modseq,
        gone[: bisect_left(gone, uidnext)],
        changed[bisect_left(changed, uidnext) :],
        changed,
        state.highest_deleted_modseq <= since,
    )


def uids(mailbox_id: int, ranges: Sequence[tuple[int, int]] | None = None, *, below: int) -> array[int]:
    """The UIDs of the live messages of a mailbox in these ranges (None: all) and below a limit, ascending."""
    query = Message.objects.filter(mailbox_id=mailbox_id, expunged=False, uid__lt=below).order_by("uid")
    if ranges is None:
        return array("I", query.values_list("uid", flat=True).iterator(chunk_size=2000))
    found = array("I")
    for start in range(0, len(ranges), RANGES_PER_QUERY):
        condition = Q()
        for low, high in ranges[start : start + RANGES_PER_QUERY]:
            condition |= Q(uid__gte=low, uid__lte=high)
        found.extend(query.filter(condition).values_list("uid", flat=True).iterator(chunk_size=2000))
    return found


def _opened(view: MailboxView, account_id: int, *, with_uids: bool = True) -> OpenedMailbox:
    found = uids(view.id, below=view.uidnext) if with_uids else array("I")
    first_unseen = None
    if view.unseen and with_uids:
        unseen = Message.objects.filter(mailbox_id=view.id, expunged=False, seen=False).order_by("uid")
        first = unseen.values_list("uid", flat=True).first()
        first_unseen = None if first is None else found.index(first) + 1
    state = _state(account_id)
    return OpenedMailbox(view, found, state.last_modseq, first_unseen, state.highest_deleted_modseq)


def _state(account_id: int) -> AccountState:
    state = AccountState.objects.filter(pk=account_id).first()
    if state is None:
        raise MailboxGone("account was removed")
    return state


def mailbox(account_id: int, name: str) -> MailboxView:
    """Raises MailboxNotFound, MailboxError."""
    row = mailbox_by_name.row(account_id, canonical_name(name))
    if row is None:
        raise MailboxNotFound(f"mailbox {name!r} does not exist")
    return _view(row)


def mailboxes(account_id: int) -> Listing:
    """All live mailboxes and subscriptions of an account, in one snapshot."""
    with db.read():
        rows = list(Mailbox.objects.filter(account_id=account_id, expunged=False))
        names = subscribed(account_id)
        modseq = _state(account_id).last_modseq
    # Sorted here by code point: the collations of databases differ.
    return Listing(sorted(map(_view, rows), key=lambda view: view.name), names, modseq)


def changed_mailboxes(account_id: int, since: int) -> list[MailboxView]:
    """The live mailboxes that something in was changed after ``since``."""
    return [_view(row) for row in Mailbox.objects.filter(account_id=account_id, modseq__gt=since, expunged=False)]


def subscribed(account_id: int) -> frozenset[str]:
    """The names that an account is subscribed to."""
    return frozenset(Subscription.objects.filter(account_id=account_id).values_list("name", flat=True))


def newest(account_id: int, mailbox_id: int, count: int) -> list[MessageHead]:
    """The messages of a mailbox that came last, newest first; none of a mailbox of another account."""
    query = Message.objects.filter(account_id=account_id, mailbox_id=mailbox_id, expunged=False)
    fields = ("pk", "received", "seen", "junk", "blob__envelope")
    return [
        MessageHead(pk, received, seen, junk, Envelope.from_json(envelope))
        for pk, received, seen, junk, envelope in query.order_by("-received", "-pk").values_list(*fields)[:count]
    ]


def flag_rows(mailbox_id: int, uids: Sequence[int], *, changed_since: int = 0, live_only: bool = True) -> list[FlagRow]:
    """The flags of these messages, ascending; with ``changed_since`` those with a higher modseq.

    Expunged messages are among them while their content is kept, unless ``live_only``.
    """
    fields = ("uid", "modseq", "bits", "keywords")
    found = rows(mailbox_id, uids, fields, changed_since=changed_since, live_only=live_only)
    return [FlagRow._make(row) for row in found]


def rows(
    mailbox_id: int, uids: Sequence[int], fields: Sequence[str], *, changed_since: int = 0, live_only: bool = False
) -> list[tuple[Any, ...]]:
    """Columns of these messages as tuples, ascending by UID; "bits" is all flags as one integer.

    Expunged messages are among them while their content is kept, unless ``live_only``.
    """
    query = _rows(tuple(fields), live_only, bool(changed_since))
    found = query.rows(mailbox_id, uids, *((changed_since,) if changed_since else ()))
    return list(found) if fields[0] == "uid" else [row[1:] for row in found]


@functools.lru_cache(maxsize=256)
def _rows(fields: tuple[str, ...], live_only: bool, since: bool) -> ByUID:
    names = fields if fields[0] == "uid" else ("uid", *fields)
    columns: list[str | Combinable] = [BITS if name == "bits" else F(name) for name in names]

    def make(messages: QuerySet[Message], *changed_since: int) -> QuerySet[Message, Any]:
        messages = messages.filter(expunged=False) if live_only else messages.filter(blob__isnull=False)
        if since:
            messages = messages.filter(modseq__gt=changed_since[0])
        return messages.values_list(*columns)

    return ByUID(make)


def quota(account_id: int) -> Quota:
    """Raises MailboxGone."""
    row = _room.row(account_id)
    if row is None:
        raise MailboxGone(f"account {account_id} was removed")
    used, own_quota = row
    return Quota(used, quota_limit(own_quota))


def check_quota(account_id: int, size: int) -> None:
    """Whether an account has room for so many bytes now; adding a message checks again. Raises OverQuota."""
    now = quota(account_id)
    if now.limit and now.used + size > now.limit:
        raise OverQuota(now.limit)


def deleted_sizes(account_id: int, mailbox_id: int | None = None) -> dict[int, int]:
    """Bytes of the messages marked deleted by mailbox, of one or of all; mailboxes without such are not in it."""
    marked = Message.objects.filter(account_id=account_id, expunged=False, deleted=True)
    if mailbox_id is not None:
        marked = marked.filter(mailbox_id=mailbox_id)
    return dict(marked.order_by().values_list("mailbox_id").annotate(Sum("size")))


def highest_deleted_modseq(account_id: int) -> int:
    """The highest modseq of a tombstone that is gone: from before it, not every removal can be told."""
    return _state(account_id).highest_deleted_modseq


def vanished(mailbox_id: int, since: int, *, upto: int | None = None) -> array[int]:
    """The UIDs of messages removed with a modseq above ``since`` (and not above ``upto``), ascending."""
    query = Message.objects.filter(mailbox_id=mailbox_id, expunged=True, modseq__gt=since).order_by("uid")
    if upto is not None:
        query = query.filter(modseq__lte=upto)
    return array("I", query.values_list("uid", flat=True).iterator(chunk_size=2000))


def _view(row: Mailbox) -> MailboxView:
    return MailboxView(
        row.pk,
        row.name,
        row.uidvalidity,
        row.uidnext,
        row.modseq,
        row.total,
        row.deleted,
        row.unread,
        row.unseen,
        row.size,
        tuple(row.keywords),
        tuple(f"\\{use.capitalize()}" for use in row.special_uses()),
    )
