"""Limits on what an account sends in 24 hours: messages by recipient, and recipients it never wrote to before.

    use = limits.check(account, ["them@far.example"], now)     # raises what the sender is told
    limits.record(use)

The window slides, and is exact: a counter per account says how many rows are in it, and what left it since the last
time is counted off. So each row is looked at twice in its life, however many there are. Both functions run in the
transaction that queues the message, which holds the account's state row: two submissions cannot share the last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Count, Q, QuerySet
from django.db.models.expressions import RawSQL

from accounts.models import Account
from server import db
from server.statements import Statement
from store import rows

from .errors import MessageLimitReached, RecipientLimitReached
from .models import OutgoingCount, OutgoingRecipient

WINDOW: Final = timedelta(hours=24)
DEFAULT_MESSAGES: Final = 1000  # where the account's setting is 0
DEFAULT_FIRST_TIME: Final = 200
ADDRESSES_PER_QUERY: Final = 500


@dataclass(frozen=True, slots=True)
class Use:
    """What an account sends now, and what it sent in the window that ends now, both by recipient."""

    account_id: int
    now: datetime
    recipients: tuple[str, ...]
    new: frozenset[str]
    """Those of the recipients that the account never wrote to before."""
    messages: int
    first_time: int
    is_counted: bool
    """The account has a counter."""


def check(account: Account, recipients: Sequence[str], now: datetime) -> Use:
    """Whether the account may send to these addresses too. Raises MessageLimitReached, RecipientLimitReached."""
    found = use(account.pk, recipients, now)
    limit = account.max_outgoing_messages_per_day or DEFAULT_MESSAGES
    if found.messages + len(recipients) > limit:
        raise MessageLimitReached(limit)
    first_time_limit = account.max_first_time_recipients_per_day or DEFAULT_FIRST_TIME
    if found.first_time + len(found.new) > first_time_limit:
        raise RecipientLimitReached(first_time_limit)
    return found


_counter: Final = Statement(
    lambda account_id: OutgoingCount.objects.filter(account_id=account_id).values_list(
        "since", "messages", "first_time"
    )
)


def use(account_id: int, recipients: Sequence[str], now: datetime) -> Use:
    """What these recipients would add, and to what."""
    start = now - WINDOW
    counted = _counter.row(account_id)
    if counted is None:
        messages, first_time = _later_than(account_id, start)
    else:
        since, messages, first_time = counted
        if start > since:
            left_messages, left_first_time = _between(account_id, since, start)
            messages, first_time = messages - left_messages, first_time - left_first_time
        elif start < since:  # the clock was set back
            back_messages, back_first_time = _between(account_id, start, since)
            messages, first_time = messages + back_messages, first_time + back_first_time
    new = frozenset(recipients) - _known(account_id, set(recipients))
    return Use(account_id, now, tuple(recipients), new, messages, first_time, counted is not None)


def record(counted: Use) -> None:
    """Count these recipients for the limits to come."""
    new = set(counted.new)
    for recipient in counted.recipients:
        values = {"account_id": counted.account_id, "recipient": recipient, "submitted": counted.now}
        rows.insert(OutgoingRecipient, {**values, "is_first": recipient in new})
        new.discard(recipient)
    values = {
        "since": counted.now - WINDOW,
        "messages": counted.messages + len(counted.recipients),
        "first_time": counted.first_time + len(counted.new),
    }
    if counted.is_counted:
        rows.update(OutgoingCount, counted.account_id, values)
    else:
        OutgoingCount.objects.create(account_id=counted.account_id, **values)


def recount(account_id: int) -> None:
    """Count an account's rows anew, whatever its counter says; in a transaction that holds the account."""
    start = db.now() - WINDOW
    messages, first_time = _later_than(account_id, start)
    values = {"since": start, "messages": messages, "first_time": first_time}
    OutgoingCount.objects.update_or_create(account_id=account_id, defaults=values)


def miscount(account_id: int) -> str:
    """What is wrong with an account's counter; "" if nothing is."""
    counted = _counter.row(account_id)
    if counted is None:
        return ""
    since, *numbers = counted
    right = _later_than(account_id, since)
    if tuple(numbers) == right:
        return ""
    return (
        f"counter of outgoing mail says {numbers[0]} messages, {numbers[1]} to new recipients since {since}, "
        f"and there are {right[0]} and {right[1]}: mox queue recount"
    )


def _counts(query: QuerySet[OutgoingRecipient]) -> QuerySet[OutgoingRecipient, Any]:
    counted = query.values("account_id").annotate(total=Count("pk"), first=Count("pk", filter=Q(is_first=True)))
    return counted.values_list("total", "first")


_in_range: Final = Statement(
    lambda account_id, after, until: _counts(
        OutgoingRecipient.objects.filter(
            account_id=account_id, submitted__gt=RawSQL("%s", (after,)), submitted__lte=RawSQL("%s", (until,))
        )
    )
)
_after: Final = Statement(
    lambda account_id, after: _counts(
        OutgoingRecipient.objects.filter(account_id=account_id, submitted__gt=RawSQL("%s", (after,)))
    )
)
_written_to: Final = Statement(
    lambda account_id, *recipients: OutgoingRecipient.objects.filter(
        account_id=account_id, recipient__in=recipients, is_first=True
    ).values_list("recipient")
)


def _between(account_id: int, after: datetime, until: datetime) -> tuple[int, int]:
    """Messages, and those to new recipients, in (after, until]."""
    row = _in_range.row(account_id, _time(after), _time(until))
    return (row[0], row[1]) if row is not None else (0, 0)


def _later_than(account_id: int, after: datetime) -> tuple[int, int]:
    row = _after.row(account_id, _time(after))
    return (row[0], row[1]) if row is not None else (0, 0)


def _known(account_id: int, recipients: set[str]) -> set[str]:
    """Those that the account wrote to before."""
    known: set[str] = set()
    ordered = sorted(recipients)
    for start in range(0, len(ordered), ADDRESSES_PER_QUERY):
        part = ordered[start : start + ADDRESSES_PER_QUERY]
        known.update(row[0] for row in _written_to.rows(account_id, *part))
    return known


def _time(moment: datetime) -> Any:
    return connection.ops.adapt_datetimefield_value(moment)
