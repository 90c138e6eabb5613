"""Storing what came of an attempt: row, attempt, history, and what the sender is told, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from accounts.models import OutgoingEvent
from server import db
from store import rows as store_rows
from store.db import Tx

from . import feedback, hooks, notices, suppressions, wakeup
from .hooks import Event
from .leases import WAITING, Claimed, Lease, LostLease, lost_leases
from .models import DeliveryAttempt, QueueMessage, State
from .notices import Notice
from .outcomes import UNKNOWN_OUTCOME, Outcome, Status
from .retiring import retire_message
from .schedule import Schedule
from .suppressions import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What is to be stored for one message. ``final``: it leaves the queue, delivered or failed."""

    message: QueueMessage
    attempt_id: int
    started: datetime
    outcome: Outcome
    final: bool
    notice: Notice | None


def decide(attempt: Claimed, outcome: Outcome, schedule: Schedule) -> Result:
    """What an outcome means for a message, with what its sender is told. Needs no transaction, nor the database for
    what was delivered."""
    message = attempt.message
    final, notice = True, None
    if outcome.status is Status.TEMPORARY and not schedule.is_last(message.attempts, message.max_attempts):
        final = False
        if schedule.is_delayed_notice_due(message.attempts, message.max_attempts):
            notice = notices.delayed(message, outcome, schedule)
    elif outcome.status is not Status.DELIVERED:
        notice = notices.failed(message, outcome)
    return Result(message, attempt.attempt_id, attempt.started, outcome, final, notice)


def accounts_of(results: Sequence[Result]) -> set[int]:
    """The accounts that a transaction which stores these results must hold."""
    return {result.notice.account_id for result in results if result.notice is not None}


def store(tx: Tx, lease: Lease, results: Sequence[Result]) -> None:
    """Store results, in a transaction that holds `accounts_of` them. Raises LostLease, and then nothing is stored."""
    now = db.now()
    for result in results:
        message, suppressing = result.message, False
        delivered = result.outcome.status is Status.DELIVERED
        bounced = delivered and feedback.has_bounced(message, result.started)
        held = {"id": message.pk, "lease_token": lease.token, "state": State.DELIVERING}
        if result.final:
            suppressing = _suppress(result, now)
            retire_message(message, success=delivered and not bounced, now=now)
            changed = store_rows.delete_where(QueueMessage, held)
        else:
            changed = store_rows.update_where(
                QueueMessage, {**WAITING, "interruptions": 0, "dialed_ips": message.dialed_ips}, held
            )
            wakeup.on_commit(message.next_attempt - now)
        if not changed:
            lost_leases.inc()
            log.warning("lost lease", extra={"destination": lease.destination, "queue_id": message.pk})
            raise LostLease(f"message {message.pk} is another worker's")
        _store_attempt(result, now)
        event = _event(result, suppressing=suppressing)
        if event is not None and not bounced:  # else what is known by now has been told
            hooks.queue(message, event, now)
        if result.notice is not None:
            result.notice.deliver(tx)


def _suppress(result: Result, now: datetime) -> bool:
    """Nothing more is sent to an address that was refused for good, if the refusal says so. Whether that is new."""
    outcome = result.outcome
    if outcome.status is not Status.PERMANENT or not outcome.by_remote:
        return False
    return suppressions.after_failure(result.message, outcome.code, outcome.secode, Source.QUEUE, now)


def _event(result: Result, *, suppressing: bool) -> Event | None:
    """What the account's program is told; nothing where it is not known what happened and time will tell."""
    outcome = result.outcome
    if outcome.status is Status.DELIVERED:
        return Event(OutgoingEvent.DELIVERED, outcome.code, outcome.enhanced)
    if outcome.suppressed:
        return Event(OutgoingEvent.SUPPRESSED, error=outcome.error)
    if result.final:
        return Event(OutgoingEvent.FAILED, outcome.code, outcome.enhanced, outcome.error, suppressing)
    if outcome.error.startswith(UNKNOWN_OUTCOME):
        return None
    return Event(OutgoingEvent.DELAYED, outcome.code, outcome.enhanced, outcome.error)


def _store_attempt(result: Result, now: datetime) -> None:
    outcome = result.outcome
    connection = outcome.connection
    store_rows.update(
        DeliveryAttempt,
        result.attempt_id,
        {
            "duration_ms": max(0, int((now - result.started).total_seconds() * 1000)),
            "success": outcome.status is Status.DELIVERED,
            "code": outcome.code,
            "secode": outcome.secode,
            "error": outcome.error,
            "smtp_lines": list(outcome.lines),
            "transport": connection.transport,
            "remote_host": connection.remote_host,
            "remote_ip": connection.remote_ip,
            "local_ip": connection.local_ip,
            "tls_mode": connection.tls_mode,
            "tls_version": connection.tls_version,
            "dane": connection.dane,
            "mtasts_mode": connection.mtasts_mode,
        },
    )
