"""Celery: it carries wake-ups; what is due stands in the database and is found again by the clock."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_ready

MAINTENANCE: Final = "maintenance"  # search text, clean-up: what may wait

app = Celery("mox")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def _keep_our_logging(**kwargs: Any) -> None:
    """A receiver of this signal keeps Celery from replacing the handlers of server.logs."""


def run_worker(node: str, name: str, queues: list[str], concurrency: int, ready: Callable[[], None]) -> None:
    """Be a worker until SIGTERM. ``ready`` is called when it takes tasks."""
    worker_ready.connect(lambda **_: ready(), weak=False)
    # Tasks are JSON, never pickles: a worker of localserve may well be root's.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        hostname=f"{name}@{node}",
        quiet=True,
        queues=queues,
        pool="threads",
        concurrency=concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
    )
    worker.start()
    raise SystemExit(worker.exitcode or 0)


def run_beat(schedule: str, ready: Callable[[], None]) -> None:
    """Be the clock until SIGTERM. ``schedule`` is the file in which it keeps when it last did what."""
    beat = app.Beat(schedule=schedule, loglevel="WARNING", quiet=True)
    beat.init_loader()
    service = beat.Service(app=app, schedule_filename=schedule, max_interval=5)
    beat.install_sync_handler(service)
    ready()
    service.start()
