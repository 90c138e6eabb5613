"""Celery tasks of accounts: doors to functions that find for themselves what is due."""

from __future__ import annotations

from datetime import UTC, datetime

from celery import shared_task

from . import domains, removal, sessions


@shared_task(name="accounts.tidy")
def tidy() -> None:
    """Drop web sessions that nobody used for long, and keys of domains that were removed long ago."""
    now = datetime.now(UTC)
    sessions.remove_expired(now)
    domains.remove_expired_keys(now)
    removal.forget_done(now)


@shared_task(name="accounts.remove")
def remove() -> None:
    """Go on with the accounts that are being removed."""
    removal.work()
