"""Celery tasks of the junk filter: doors to functions that find for themselves what is due."""

from __future__ import annotations

from celery import shared_task

from . import training


@shared_task(name="junk.train")
def train() -> int:
    """Messages that users said something new about since the last time."""
    return training.train_due()
