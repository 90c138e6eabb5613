"""What becomes of an account's messages in the queue, and of their history, when the account is removed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from accounts.models import AccountRemoval
from accounts.removal import BATCH, Remover, Step, remove_rows
from server import db

from .models import DeliveryAttempt, Hook, HookAttempt, QueueMessage, RetiredHook, RetiredMessage, State

log = logging.getLogger(__name__)


def _step(removal: AccountRemoval, account_id: int) -> Step:
    queued = QueueMessage.objects.filter(account_id=account_id)
    if removal.deliver_queued:
        ids = list(queued.values_list("pk", flat=True)[:BATCH])
        if ids:
            with db.write():
                QueueMessage.objects.filter(pk__in=ids).update(account=None)
            return Step.MORE
    else:
        ids = list(queued.filter(state=State.QUEUED).values_list("pk", flat=True)[:BATCH])
        if ids:
            _fail(removal, ids)
            return Step.MORE
        if queued.exists():
            return Step.WAIT  # they are being delivered
    ids = list(RetiredMessage.objects.filter(account_id=account_id).values_list("pk", flat=True)[:BATCH])
    if ids:
        with db.write():
            DeliveryAttempt.objects.filter(message_id__in=ids).delete()
            RetiredMessage.objects.filter(pk__in=ids).delete()
        return Step.MORE
    for model in (Hook, RetiredHook):
        ids = list(model._default_manager.filter(account_id=account_id).values_list("pk", flat=True)[:BATCH])
        if ids:
            with db.write():
                HookAttempt.objects.filter(hook_id__in=ids).delete()
                model._default_manager.filter(pk__in=ids).delete()
            return Step.MORE
    return Step.MORE if remove_rows("queue", account_id) else Step.DONE


def _fail(removal: AccountRemoval, ids: list[int]) -> None:
    """Nobody is told: the sender is gone. One that a worker took in the meantime stays."""
    with db.write():
        doomed = QueueMessage.objects.select_for_update().filter(pk__in=ids, state=State.QUEUED)
        failed = list(doomed.values_list("pk", flat=True))
        QueueMessage.objects.filter(pk__in=failed).delete()
        DeliveryAttempt.objects.filter(message_id__in=failed).delete()
    for queue_id in failed:
        log.info("message failed, its account is removed", extra={"queue_id": queue_id, "account": removal.name})


def _counts(account_id: int) -> Mapping[str, int]:
    return {"messages in the queue": QueueMessage.objects.filter(account_id=account_id).count()}


REMOVER: Final = Remover(lambda removal: None, _step, _counts)
