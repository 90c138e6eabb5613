"""Celery tasks of the store: doors to functions that find for themselves what is due."""

from __future__ import annotations

from typing import Any

from celery import shared_task
from celery.signals import worker_shutting_down

from . import cleanup, index, text
from .imports import jobs, work


@shared_task(name="store.text")
def make_text() -> int:
    """Search text and previews of messages that came since the last time; with them grows the search index."""
    made = text.make_due()
    index.build_due()
    return made


@shared_task(name="store.erase")
def erase() -> int:
    """Take the data from messages that were expunged 40 minutes ago."""
    return cleanup.erase_tombstones()


@shared_task(name="store.collect_blobs")
def collect_blobs() -> int:
    """Delete content that nothing refers to."""
    return cleanup.collect_blobs()


@shared_task(name="store.tidy")
def tidy() -> None:
    """Drop old events and tombstones."""
    cleanup.tidy()


@shared_task(name="store.import")
def work_on_imports() -> None:
    """Work on imports that wait for a worker, and tidy up after those that are over, beside other tasks."""
    work.start()


@worker_shutting_down.connect
def _stop(**kwargs: Any) -> None:
    jobs.stop()
