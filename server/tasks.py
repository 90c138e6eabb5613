"""Celery tasks of the server: doors to functions that find for themselves what is due."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from . import login_attempts


@shared_task(name="server.tidy")
def tidy() -> None:
    """Drop login attempts of long ago."""
    login_attempts.remove_expired(datetime.now(UTC))
