"""What keeps the queue's tables small, and what tells how much waits in them."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.db.models import Exists, Min, OuterRef
from prometheus_client import Gauge

from server import db

from .models import (
    DeliveryAttempt,
    HookAttempt,
    QueueDestination,
    QueueMessage,
    RetiredHook,
    RetiredMessage,
    State,
)

BATCH: Final = 500  # rows of a transaction: others wait for the writer
DESTINATION_KEPT: Final = timedelta(days=1)  # after its last delivery

held = Gauge("mox_queue_hold", "Messages on hold.", multiprocess_mode="mostrecent")
size = Gauge("mox_queue_size", "Messages in the queue.", multiprocess_mode="mostrecent")
oldest_due = Gauge(
    "mox_queue_oldest_due_seconds",
    "How long the message waits that is due for longest.",
    multiprocess_mode="mostrecent",
)


def clean_up() -> None:
    """Remove what retired and is past its time, with its attempts, and destinations that nothing goes to."""
    now = db.now()
    expired = RetiredMessage.objects.filter(keep_until__lte=now)
    while ids := list(expired.values_list("pk", flat=True)[:BATCH]):
        with db.write():
            DeliveryAttempt.objects.filter(message_id__in=ids).delete()
            RetiredMessage.objects.filter(pk__in=ids).delete()
    expired_hooks = RetiredHook.objects.filter(keep_until__lte=now)
    while ids := list(expired_hooks.values_list("pk", flat=True)[:BATCH]):
        with db.write():
            HookAttempt.objects.filter(hook_id__in=ids).delete()
            RetiredHook.objects.filter(pk__in=ids).delete()
    with db.write():
        QueueDestination.objects.filter(used__lt=now - DESTINATION_KEPT, token=None).exclude(
            Exists(QueueMessage.objects.filter(destination=OuterRef("name")))
        ).delete()


def measure() -> None:
    """Set the gauges."""
    waiting = QueueMessage.objects.filter(state=State.QUEUED, hold=False)
    now = db.now()
    size.set(QueueMessage.objects.count())
    held.set(QueueMessage.objects.filter(hold=True).count())
    oldest = waiting.filter(next_attempt__lte=now).aggregate(oldest=Min("next_attempt"))["oldest"]
    oldest_due.set((now - oldest).total_seconds() if oldest is not None else 0)
