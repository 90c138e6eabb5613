"""Why incoming messages were taken or refused, kept for people: users look up their own, the postmaster all.

    decisions.recorder().record(Decided(account_id=..., recipient="info@example.org", ...))
    decisions.latest(account_id, limit=100)

Recording neither waits for the database nor fails: a thread writes what was collected, a few seconds later and in one
transaction. What a process that is killed has not written is in its log, and in X-Mox-Reason of what was stored.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db import DatabaseError, connection
from django.db.models import QuerySet

from accounts.models import Account
from protocols.message import clean_text
from server import db
from server.perprocess import PerProcess

from .models import DECISION_TEXT_MAX, Decision

log = logging.getLogger(__name__)

FLUSH_INTERVAL: Final = 3.0  # seconds that decisions are collected before they are written in one transaction
PENDING_MAX: Final = 10_000  # in memory; more come only while the database is stuck
ROWS_AT_ONCE: Final = 500  # inserted by one statement
KEPT: Final = timedelta(days=30)
KEPT_MAX: Final = 1000  # for an account, and of mail for nobody here; the oldest go
TRIM_EVERY: Final = 100  # recorded for an account, until what is too much is removed
EXPLANATION_MAX: Final = 20  # lines


@dataclass(frozen=True, slots=True)
class Decided:
    """The columns of Decision."""

    account_id: int | None
    received: datetime
    recipient: str
    mail_from: str
    msg_from: str
    subject: str
    message_id: str
    remote_ip: str
    size: int
    result: str
    mailbox: str
    reason: str
    reply: str
    explanation: tuple[str, ...]
    received_id: str


class Recorder:
    """Collects decisions in memory. ``flush()`` writes them; with ``background`` a thread does."""

    def __init__(self, *, background: bool = True) -> None:
        self._background = background
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: list[Decided] = []
        self._since_trim: Counter[int | None] = Counter()
        self._dropped = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def record(self, decided: Iterable[Decided]) -> None:
        """Take note. Never waits for the database and never raises."""
        with self._lock:
            room = PENDING_MAX - len(self._pending)
            found = list(decided)
            self._pending += found[:room]
            self._dropped += max(0, len(found) - room)
            if self._background and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
                self._thread.start()
        self._wake.set()

    def flush(self) -> None:
        """Write what was recorded before, in this thread. If the database is busy, it is kept for the next time."""
        with self._writing:
            with self._lock:
                taken, self._pending = self._pending, []
                dropped, self._dropped = self._dropped, 0
            if dropped:
                log.warning("decisions were not recorded, too many at once", extra={"count": dropped})
            if taken:
                self._write(taken)

    def _write(self, taken: Sequence[Decided]) -> None:
        self._since_trim.update(each.account_id for each in taken)
        full = [account_id for account_id, count in self._since_trim.items() if count >= TRIM_EVERY]
        try:
            db.retrying(lambda: _store(taken, full))
        except db.DatabaseBusy as exc:
            log.warning("decisions cannot be recorded yet", extra={"err": str(exc)})
            with self._lock:
                self._pending = [*taken, *self._pending][-PENDING_MAX:]
        except DatabaseError as exc:
            # An account that is removed in this very moment, say: they are for people, and the log has them.
            log.warning("decisions are lost", extra={"err": str(exc), "count": len(taken)})
        else:
            for account_id in full:
                del self._since_trim[account_id]

    def _run(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(FLUSH_INTERVAL)
            self._wake.clear()
            self.flush()
            connection.close()


def latest(account_id: int | None, limit: int, *, before: int | None = None) -> QuerySet[Decision]:
    """The newest decisions of an account (None: about mail for nobody here), to be paged by the id of the last."""
    found = _of(account_id)
    if before is not None:
        found = found.filter(pk__lt=before)
    return found.order_by("-pk")[:limit]


def remove_expired(now: datetime) -> int:
    """Remove what is older than 30 days, and what is too much; gives how many. For the daily clean-up."""
    with db.write():
        removed, _ = Decision.objects.filter(received__lt=now - KEPT).delete()
    for account_id in Decision.objects.order_by("account_id").values_list("account_id", flat=True).distinct():
        with db.write():
            removed += _trim(account_id)
    return removed


def _store(taken: Sequence[Decided], full: Iterable[int | None]) -> None:
    wanted = {each.account_id for each in taken if each.account_id is not None}
    with db.write():
        there = set(Account.objects.filter(pk__in=wanted).values_list("pk", flat=True))
        rows = [_row(each) for each in taken if each.account_id is None or each.account_id in there]
        Decision.objects.bulk_create(rows, batch_size=ROWS_AT_ONCE)
        for account_id in full:
            _trim(account_id)


def _trim(account_id: int | None) -> int:
    of_account = _of(account_id)
    last = of_account.order_by("-pk").values_list("pk", flat=True)[KEPT_MAX : KEPT_MAX + 1].first()
    if last is None:
        return 0
    removed, _ = of_account.filter(pk__lte=last).delete()
    return removed


def _of(account_id: int | None) -> QuerySet[Decision]:
    if account_id is None:
        return Decision.objects.filter(account__isnull=True)
    return Decision.objects.filter(account_id=account_id)


def _row(decided: Decided) -> Decision:
    return Decision(
        account_id=decided.account_id,
        received=decided.received,
        recipient=_text(decided.recipient),
        mail_from=_text(decided.mail_from),
        msg_from=_text(decided.msg_from),
        subject=_text(decided.subject),
        message_id=_text(decided.message_id),
        remote_ip=decided.remote_ip,
        size=decided.size,
        result=decided.result,
        mailbox=decided.mailbox,
        reason=decided.reason,
        reply=_text(decided.reply),
        explanation=[_text(line) for line in decided.explanation[:EXPLANATION_MAX]],
        received_id=decided.received_id,
    )


def _text(text: str) -> str:
    """A text that others made up, as any database takes it."""
    return clean_text(text[:DECISION_TEXT_MAX])


recorder: Final = PerProcess(Recorder, at_exit=Recorder.flush)
