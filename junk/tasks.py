"""Celery tasks of the junk filter: doors to functions that find for themselves what is due."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from . import decisions, training


@shared_task(name="junk.train")
def train() -> int:
    """Messages that users said something new about since the last time."""
    return training.train_due()


@shared_task(name="junk.tidy")
def tidy() -> None:
    """Drop decisions of long ago."""
    decisions.remove_expired(datetime.now(UTC))
