"""Storing what came of an attempt: row, attempt, history, and what the sender is told, in one transaction."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Field

from accounts.models import Account
from server import db
from server.models import ServerSettings
from server.statements import Statement, run
from store import rows as store_rows
from store.db import Tx

from . import notices, wakeup
from .leases import WAITING, Claimed, Lease, LostLease, lost_leases
from .models import DeliveryAttempt, Outgoing, QueueMessage, RetiredMessage, State
from .notices import Notice
from .outcomes import Outcome, Status
from .schedule import Schedule

log = logging.getLogger(__name__)

KEEP_WITHOUT_ACCOUNT: Final = timedelta(hours=168)
KEEP_IN_LOCALSERVE: Final = timedelta(hours=72)


_period: Final = Statement(
    lambda account_id: Account.objects.filter(pk=account_id).values_list("keep_retired_message_period")
)


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
        message = result.message
        held = {"id": message.pk, "lease_token": lease.token, "state": State.DELIVERING}
        if result.final:
            retire(message, success=result.outcome.status is Status.DELIVERED, now=now)
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
        if result.notice is not None:
            result.notice.deliver(tx)


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
        },
    )


def retire(message: QueueMessage, *, success: bool, now: datetime) -> None:
    """Keep a message that left the queue as history, for as long as its account wants, or not at all."""
    keep = keep_period(message)
    if not keep:
        DeliveryAttempt.objects.filter(message_id=message.pk).delete()
        return
    sql, fields = _retirement()
    own = {"recipient_address": message.recipient, "success": success, "last_activity": now, "keep_until": now + keep}
    run(sql, [*(field.get_db_prep_save(own[field.attname], connection) for field in fields), message.pk])


@functools.cache
def _retirement() -> tuple[str, list[Field[Any, Any]]]:
    """The statement that copies a row to the history, and the fields whose values it takes."""
    quote = connection.ops.quote_name
    kept = {field.attname for field in QueueMessage._meta.local_concrete_fields}
    fields = RetiredMessage._meta.local_concrete_fields
    copied = ", ".join(quote(field.column or field.attname) for field in fields if field.attname in kept)
    own = [field for field in fields if field.attname not in kept]
    names = ", ".join([*(quote(field.column or field.attname) for field in own), copied])
    source, target = (quote(model._meta.db_table) for model in (QueueMessage, RetiredMessage))
    marks = ", ".join(["%s"] * len(own))
    sql = f"INSERT INTO {target} ({names}) SELECT {marks}, {copied} FROM {source} WHERE id = %s"  # noqa: S608 # our own names
    return sql, own


def keep_period(message: Outgoing) -> timedelta:
    """How long the history of a message is kept; zero: not at all."""
    if message.account_id is None:
        return KEEP_WITHOUT_ACCOUNT
    row = _period.row(message.account_id)
    if row is None:
        return KEEP_WITHOUT_ACCOUNT
    period: timedelta = row[0]
    if ServerSettings.current().localserve:
        return max(period, KEEP_IN_LOCALSERVE)
    return period
