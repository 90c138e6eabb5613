"""Messages whose worker is gone: expired leases, and the journal of a worker that was killed before it could store."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import connection
from django.db.models.expressions import RawSQL

from server import db
from server.statements import Statement
from store import rows as store_rows
from store.db import write_tx

from . import leases, results, wakeup
from .journal import Entry, Journal
from .leases import Claimed, Lease, LostLease
from .models import DeliveryAttempt, Phase, QueueDestination, QueueMessage, State
from .outcomes import UNKNOWN_OUTCOME, Outcome, Status
from .schedule import Schedule

log = logging.getLogger(__name__)

INTERRUPTED_WAIT: Final = timedelta(seconds=60)  # or the time between attempts, where that is shorter
INTERRUPTIONS_FREE: Final = 3  # in a row; then something about the message kills workers, and attempts count
BATCH: Final = 200  # messages of a transaction


_expired: Final = Statement(
    lambda now: (
        QueueMessage.objects.filter(state=leases.IS_DELIVERING, lease_until__lte=RawSQL("%s", (now,)))
        .order_by("lease_until")
        .values_list("pk")[:BATCH]
    )
)


def recover_expired() -> int:
    """Give messages back whose lease ended with its worker. Returns how many."""
    recovered = 0
    while True:
        expired = _expired.rows(connection.ops.adapt_datetimefield_value(db.now()))
        if not expired:
            return recovered
        for (pk,) in expired:
            recovered += _recover(pk)


def begin(owner: str, journal: Journal) -> None:
    """A worker starts, alone under its name: what its predecessor left is stored, and its leases end now."""
    for entry in journal.replay():
        _store(entry)
    now = db.now()
    with db.write():
        tokens = list(leases.owned_by(owner).values_list("token", flat=True))
        QueueMessage.objects.filter(lease_token__in=tokens, state=State.DELIVERING).update(lease_until=now)
        QueueDestination.objects.filter(token__in=tokens).update(token=None, lease_until=None, owner="")
    journal.clear()


def _store(entry: Entry) -> None:
    """The results that another server gave, where their messages still wait for them."""
    for pk, outcome in entry.outcomes:
        message = (
            QueueMessage.objects.filter(pk=pk, lease_token=entry.token, state=State.DELIVERING)
            .select_related("blob")
            .first()
        )
        if message is not None and _settle(message, outcome):
            log.warning("result of a killed worker stored", extra={"queue_id": pk, "result": outcome.status.value})


def _recover(pk: int) -> bool:
    """One message, if it is still nobody's."""
    message = QueueMessage.objects.filter(pk=pk).select_related("blob").first()
    if message is None or message.lease_token is None:
        return False
    if message.phase == Phase.DOT:
        return _outcome_unknown(message)
    if message.interruptions >= INTERRUPTIONS_FREE:
        outcome = Outcome(Status.TEMPORARY, "delivery interrupted", secode="3.0")
        return _settle(message, outcome, expired=True)
    return _interrupted(message)


def _interrupted(message: QueueMessage) -> bool:
    """The end of the data was never sent: this was no attempt."""
    wait = min(INTERRUPTED_WAIT, settings.MOX.queue_backoff_base)
    with db.write():
        now = db.now()
        given = QueueMessage.objects.filter(
            pk=message.pk, lease_token=message.lease_token, lease_until__lte=now, phase=Phase.CLAIMED
        ).update(
            **leases.WAITING,
            attempts=message.attempts - 1,
            interruptions=message.interruptions + 1,
            next_attempt=now + wait,
        )
        if given:
            _note(message.pk, "delivery interrupted")
            wakeup.on_commit(wait)
    log.warning("delivery was interrupted", extra={"queue_id": message.pk})
    return bool(given)


def _outcome_unknown(message: QueueMessage) -> bool:
    """The other server may have the message: tried again, or held for somebody to decide."""
    text = f"{UNKNOWN_OUTCOME}: interrupted after end of data"
    log.warning("delivery with unknown outcome", extra={"queue_id": message.pk, "rcptto": message.recipient})
    if settings.MOX.queue_unknown_outcome == "hold":
        with db.write():
            QueueMessage.objects.filter(pk=message.pk, lease_token=message.lease_token).update(hold=True)
    return _settle(message, Outcome(Status.TEMPORARY, text), expired=True)


def _settle(message: QueueMessage, outcome: Outcome, *, expired: bool = False) -> bool:
    """Store what came of the attempt that was under way, and with ``expired`` only if its lease still has ended.

    False where there is no such attempt, or somebody has the message.
    """
    attempt = _running_attempt(message.pk)
    if attempt is None or message.lease_token is None:
        return False
    decided = results.decide(Claimed(message, attempt.pk, attempt.start), outcome, Schedule.of_server())
    try:
        with write_tx(*results.accounts_of([decided])) as tx:
            if expired:
                _check_expired(message)
            results.store(tx, Lease("", message.lease_token), [decided])
    except LostLease:
        return False
    return True


def _check_expired(message: QueueMessage) -> None:
    """Raises LostLease if the worker renewed its lease meanwhile."""
    rows = QueueMessage.objects.filter(pk=message.pk, lease_until__lte=db.now())
    if connection.features.has_select_for_update:
        rows = rows.select_for_update()
    if not rows.exists():
        raise LostLease(f"message {message.pk} is being delivered")


def _running_attempt(pk: int) -> DeliveryAttempt | None:
    return DeliveryAttempt.objects.filter(message_id=pk, error=leases.RUNNING).order_by("-start", "-pk").first()


def _note(pk: int, error: str) -> None:
    attempt = _running_attempt(pk)
    if attempt is not None:
        store_rows.update(DeliveryAttempt, attempt.pk, {"error": error})
