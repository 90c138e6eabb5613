"""Limits on what an account sends in 24 hours: messages by recipient, and recipients it never wrote to before.

Checked in the transaction that queues the message, which holds the account's state row: two submissions at a time
cannot both take the last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from django.db import connection
from django.db.models import Count, Exists, OuterRef
from django.db.models.expressions import RawSQL

from accounts.models import Account
from server.statements import Statement
from store import rows

from .errors import MessageLimitReached, RecipientLimitReached
from .models import OutgoingRecipient

WINDOW: Final = timedelta(hours=24)
DEFAULT_MESSAGES: Final = 1000  # where the account's setting is 0
DEFAULT_FIRST_TIME: Final = 200

_in_window: Final = Statement(
    lambda account_id, start: (
        OutgoingRecipient.objects.filter(account_id=account_id, submitted__gt=RawSQL("%s", (start,)))
        .values("account_id")
        .annotate(total=Count("pk"))
        .values_list("total")
    )
)


def check(account: Account, recipients: Sequence[str], now: datetime) -> None:
    """Whether the account may send to these addresses too. Raises MessageLimitReached, RecipientLimitReached."""
    limit = account.max_outgoing_messages_per_day or DEFAULT_MESSAGES
    first_time_limit = account.max_first_time_recipients_per_day or DEFAULT_FIRST_TIME
    start = now - WINDOW
    counted = _in_window.row(account.pk, connection.ops.adapt_datetimefield_value(start))
    total = (counted[0] if counted is not None else 0) + len(recipients)
    if total > limit:
        raise MessageLimitReached(limit)
    if total < first_time_limit:
        return
    submitted = OutgoingRecipient.objects.filter(account_id=account.pk)
    in_window = submitted.filter(submitted__gt=start)
    before = submitted.filter(submitted__lte=start)
    wanted = set(recipients)
    known = before.filter(recipient__in=wanted).values("recipient").distinct().count()
    others = in_window.exclude(recipient__in=wanted).exclude(Exists(before.filter(recipient=OuterRef("recipient"))))
    if len(wanted) - known + others.values("recipient").distinct().count() > first_time_limit:
        raise RecipientLimitReached(first_time_limit)


def record(account_id: int, recipients: Sequence[str], now: datetime) -> None:
    """Count these for the limits to come."""
    for recipient in recipients:
        rows.insert(OutgoingRecipient, {"account_id": account_id, "recipient": recipient, "submitted": now})
