"""Celery tasks of accounts: doors to functions that find for themselves what is due."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from . import sessions


@shared_task(name="accounts.tidy")
def tidy() -> None:
    """Drop web sessions that nobody used for long."""
    sessions.remove_expired(datetime.now(UTC))
