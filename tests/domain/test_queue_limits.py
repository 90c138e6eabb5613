"""Limits on outgoing mail: exact at every moment of a sliding day, and when many submit at once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from accounts.models import Account
from mailqueue import errors, limits
from mailqueue.models import OutgoingCount, OutgoingRecipient, QueueMessage
from server import db
from tests.domain.queueing import send

pytestmark = pytest.mark.database


def in_window(account: Account, now: datetime) -> tuple[int, int]:
    """The rule itself: messages of the last 24 hours, and the addresses among them that none was sent to before."""
    start = now - limits.WINDOW
    rows = OutgoingRecipient.objects.filter(account=account).order_by("pk")
    first: dict[str, datetime] = {}
    for row in rows:
        first.setdefault(row.recipient, row.submitted)
    return sum(row.submitted > start for row in rows), sum(moment > start for moment in first.values())


def test_it_counts_as_the_rule_says_whatever_the_clock_does(account: Account) -> None:
    rnd = random.Random(7)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    for _ in range(60):
        now += timedelta(minutes=rnd.choice([0, 1, 30, 300, 600, 1440, -90]))
        recipients = [f"a{rnd.randrange(12)}@far.example" for _ in range(rnd.randrange(1, 5))]
        with db.write():
            use = limits.use(account.pk, recipients, now)
            assert (use.messages, use.first_time) == in_window(account, now)
            limits.record(use)
        assert not limits.miscount(account.pk)


def test_it_counts_an_account_that_sent_before_there_were_counters(account: Account) -> None:
    send(account, "one@far.example", "two@far.example")
    OutgoingCount.objects.filter(account=account).delete()
    send(account, "one@far.example")
    counter = OutgoingCount.objects.get(account=account)
    assert (counter.messages, counter.first_time) == (3, 2)


def test_exactly_the_limit_passes_when_many_submit_at_once(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(max_outgoing_messages_per_day=7)

    def submit(number: int) -> bool:
        try:
            send(account, f"to{number}@far.example")
        except errors.MessageLimitReached:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        passed = list(pool.map(submit, range(20)))
    assert sum(passed) == 7
    assert QueueMessage.objects.filter(account=account).count() == 7
