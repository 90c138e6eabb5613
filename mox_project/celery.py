"""Celery: it carries wake-ups; what is due stands in the database and is found again by the clock."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final

from celery import Celery
from celery.apps.worker import Worker
from celery.exceptions import SecurityWarning
from celery.platforms import EX_OK
from celery.signals import (
    before_task_publish,
    setup_logging,
    task_failure,
    task_postrun,
    task_prerun,
    worker_ready,
    worker_shutting_down,
)
from celery.worker import state
from prometheus_client import Counter, Histogram

from server import lookupmetrics
from server.cids import next_cid
from server.connections import current_cid, panic_total

DELIVERY: Final = "delivery"  # outgoing mail
WEBHOOKS: Final = "webhooks"  # calls to receivers, which may hang without delaying mail
MAINTENANCE: Final = "maintenance"  # search text, clean-up: what may wait
REPORTS: Final = "reports"

CID_HEADER: Final = "cid"
# What workers, clock and web processes import when they start: once in the supervisor, it is memory that they share.
_LATE_IMPORTS: Final = (
    "billiard.connection",
    "billiard.pool",
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.beat",
    "celery.beat",
    "celery.concurrency.thread",
    "celery.events.dispatcher",
    "celery.events.receiver",
    "celery.fixups.django",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy",
    "dbm.dumb",
    "kombu.mixins",
    "kombu.transport.redis",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
)

app = Celery("mox")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

_runs = Counter("mox_task_runs", "Celery tasks that ended.", ["name", "result"])
_duration = Histogram(
    "mox_task_duration_seconds",
    "Time that Celery tasks took.",
    ["name"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 60, 120),
)
_started: ContextVar[float] = ContextVar("task_started", default=0.0)


def preload() -> None:
    """Import what the workers will need, so that processes forked from this one share it. Connects to nothing."""
    # Django's checks are for whoever changes the models; in each worker they would take a third of its memory.
    os.environ["CELERY_SKIP_CHECKS"] = "1"
    for name in _LATE_IMPORTS:
        import_module(name)
    app.loader.import_default_modules()
    app.finalize()


def run_worker(node: str, name: str, queues: list[str], concurrency: int, ready: Callable[[], None]) -> None:
    """Be a worker until SIGTERM. ``ready`` is called when it takes tasks."""
    worker_ready.connect(lambda **_: ready(), weak=False)
    lookupmetrics.use()
    # Tasks are JSON, never pickles: a worker of localserve may well be root's.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = _Worker(
        app=app,
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


class _Worker(Worker):
    """A worker that is stopped by SIGTERM and takes no other signals: Celery's own would restart it, and print."""

    def install_platform_tweaks(self, worker: Any) -> None:
        def stop(number: int, frame: Any) -> None:
            state.should_stop = EX_OK  # type: ignore[assignment] # the stubs know its first value only
            worker_shutting_down.send(sender=worker.hostname, sig="SIGTERM", how="Warm", exitcode=EX_OK)

        signal.signal(signal.SIGTERM, stop)


def run_beat(schedule: str, ready: Callable[[], None]) -> None:
    """Be the clock until SIGTERM. ``schedule`` is the file in which it keeps when it last did what."""
    beat = app.Beat(schedule=schedule, loglevel="WARNING", quiet=True)
    beat.init_loader()
    service = beat.Service(app=app, schedule_filename=schedule, max_interval=5)
    beat.install_sync_handler(service)
    ready()
    service.start()


@setup_logging.connect
def _keep_our_logging(**kwargs: Any) -> None:
    """A receiver of this signal keeps Celery from replacing the handlers of server.logs."""


@before_task_publish.connect
def _carry_cid(headers: dict[str, Any], **kwargs: Any) -> None:
    """A task goes on with the id of what asked for it, so that one search in the log finds both."""
    cid = current_cid.get()
    if cid:
        headers[CID_HEADER] = cid


@task_prerun.connect
def _began(task: Any, **kwargs: Any) -> None:
    cid = task.request.get(CID_HEADER)
    current_cid.set(cid if isinstance(cid, int) and cid > 0 else next_cid())
    _started.set(time.monotonic())


@task_postrun.connect
def _ended(task: Any, state: str | None = None, **kwargs: Any) -> None:
    _runs.labels(task.name, (state or "unknown").lower()).inc()
    _duration.labels(task.name).observe(time.monotonic() - _started.get())
    current_cid.set(0)


@task_failure.connect
def _failed(sender: Any, **kwargs: Any) -> None:
    panic_total.labels(sender.name.partition(".")[0]).inc()
