"""Telling the workers that mail is due, without waiting for them: many wake-ups within a moment become one.

A wake-up that is lost delays mail until the clock looks, and loses nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta
from typing import Any, Final

from django.db import transaction

log = logging.getLogger(__name__)

PAUSE: Final = 0.05  # seconds between wake-ups of one process: a busy submission server would drown the workers in them
ETA_MAX: Final = timedelta(seconds=60)  # what is due later is found by the clock


class _Publisher:
    """Sends wake-ups from a thread of its own, made at the first use, after the fork."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._failing = False

    def request(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="queue-wakeup", daemon=True)
                self._thread.start()
        self._wanted.set()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            self.publish()
            time.sleep(PAUSE)

    def publish(self, **options: Any) -> None:
        from .tasks import dispatch  # imports what delivers; only a wake-up needs it

        try:
            dispatch.apply_async(retry=False, **options)
            self._failing = False
        except Exception as exc:  # whatever the broker's client raises: the clock will find what is due
            if not self._failing:
                log.warning("workers are not woken: the broker is away", extra={"err": str(exc)})
            self._failing = True


_publisher = _Publisher()


def on_commit() -> None:
    """Wake the workers once the transaction under way is committed."""
    transaction.on_commit(now)


def now() -> None:
    """Wake the workers."""
    _publisher.request()


def after(wait: timedelta) -> None:
    """Wake the workers in a while, if that is sooner than the clock would."""
    if wait <= timedelta(0):
        now()
    elif wait <= ETA_MAX:
        _publisher.publish(countdown=wait.total_seconds())
