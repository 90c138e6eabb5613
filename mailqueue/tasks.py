"""Celery tasks of the queue. They only say "look now": running one twice, or never, changes nothing but the time."""

from __future__ import annotations

import uuid
from typing import Any, Final

from celery import shared_task
from celery.signals import worker_ready, worker_shutting_down

from . import cleanup, idempotency, leases, mtastsrefresh, ownips, recovery
from .leases import Lease
from .worker import Worker

QUEUE: Final = "delivery"  # of these two tasks, in settings


@shared_task(name="queue.dispatch")
def dispatch() -> None:
    """Wake one delivery task for every destination that has mail due."""
    ownips.flush()
    recovery.recover_expired()
    for lease in leases.claim_due():
        deliver.delay(lease.destination, str(lease.token))


@shared_task(name="queue.deliver", acks_late=True, reject_on_worker_lost=True)
def deliver(destination: str, token: str) -> None:
    """Drain one destination while its lease lasts."""
    Worker.current().deliver(Lease(destination, uuid.UUID(token)))


@shared_task(name="queue.cleanup")
def clean_up() -> None:
    """Drop history that nobody wants any longer."""
    cleanup.clean_up()
    idempotency.clean_up()


@shared_task(name="queue.measure")
def measure() -> None:
    """Set the gauges that tell how much waits."""
    cleanup.measure()


@shared_task(name="queue.mtasts_refresh")
def plan_mtasts_refresh() -> None:
    """Each day: drop MTA-STS policies that nobody needs, and plan when to ask for newer ones."""
    mtastsrefresh.plan()


@shared_task(name="queue.mtasts_refresh_due")
def refresh_mtasts() -> None:
    """Ask for the policies whose moment has come."""
    mtastsrefresh.refresh_due()


@shared_task(name="queue.dnsbl_monitor")
def monitor_own_ips() -> None:
    """Ask DNS blocklists about our own addresses, if it is time to."""
    ownips.monitor()


@worker_ready.connect
def _begin(sender: Any = None, **kwargs: Any) -> None:
    if QUEUE in sender.app.amqp.queues.consume_from:
        Worker.current().begin()


@worker_shutting_down.connect
def _stop(**kwargs: Any) -> None:
    Worker.current().stop()
