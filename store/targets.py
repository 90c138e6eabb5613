"""The live messages that an operation is about, found by UID, in narrow rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from django.db.models import Q

from .byuid import UIDS_PER_QUERY, ByUID, spans
from .columns import BITS
from .errors import MessageGone
from .flags import FlagRow
from .models import Mailbox, Message

_COLUMNS: Final = (
    *("uid", "id", "create_modseq", "modseq", "size", BITS, "keywords"),
    *("is_reject", "mailbox_destined_id"),
)

_by_uid: Final = ByUID(lambda messages: messages.filter(expunged=False).values_list(*_COLUMNS))


class Target(NamedTuple):
    """A live message: the columns that operations need."""

    uid: int
    id: int
    create_modseq: int
    modseq: int
    size: int
    bits: int
    keywords: str
    is_reject: bool
    mailbox_destined_id: int | None

    def flag_row(self) -> FlagRow:
        return FlagRow(self.uid, self.modseq, self.bits, self.keywords)


def live_targets(mailbox: Mailbox, condition: Q) -> Iterator[Target]:
    """The live messages of a mailbox for which this holds, ascending."""
    rows = Message.objects.filter(condition, mailbox_id=mailbox.pk, expunged=False).order_by("uid")
    return map(Target._make, rows.values_list(*_COLUMNS))


def targets_by_uid(mailbox: Mailbox, uids: Sequence[int]) -> Iterator[Target]:
    """The live ones of these UIDs, ascending."""
    return map(Target._make, _by_uid.rows(mailbox.pk, uids))


def existing_targets(mailbox: Mailbox, uids: Sequence[int]) -> list[Target]:
    """All of these UIDs, ascending. Raises MessageGone if one is not live."""
    targets = list(targets_by_uid(mailbox, uids))
    if len(targets) != len(set(uids)):
        found = {target.uid for target in targets}
        gone = next(uid for uid in uids if uid not in found)
        raise MessageGone(f"message with UID {gone} was removed")
    return targets


def uid_conditions(uids: Sequence[int]) -> Iterator[tuple[Q, frozenset[int] | None]]:
    """Conditions that find these UIDs, ascending and without an overlong IN list.

    With each comes the set to filter its rows by, or None where the condition is exact. See `ByUID` for queries that
    are made often.
    """
    for low, high, part in spans(uids):
        if high - low + 1 <= 2 * len(part):
            dense = high - low + 1 == len(part)
            yield Q(uid__gte=low, uid__lte=high), None if dense else frozenset(part)
        else:
            for chunk in chunks(part):
                yield Q(uid__in=chunk), None


def chunks(items: Sequence[int]) -> Iterator[list[int]]:
    """Numbers in lists that are short enough for a statement."""
    for start in range(0, len(items), UIDS_PER_QUERY):
        yield list(items[start : start + UIDS_PER_QUERY])
