"""Celery tasks of the store: doors to functions that find for themselves what is due."""

from __future__ import annotations

from celery import shared_task

from . import cleanup, index, text


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
