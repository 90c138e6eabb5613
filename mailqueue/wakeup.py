"""Telling the workers that mail is due, without waiting for them: many wake-ups within a moment become one.

A wake-up that is lost delays mail until the clock looks, and loses nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from datetime import timedelta
from typing import Final

from django.db import transaction

log = logging.getLogger(__name__)

PAUSE: Final = 0.05  # seconds between wake-ups of one process: a busy submission server would drown the workers in them
ETA_MAX: Final = timedelta(seconds=60)  # what is due later is found by the clock


class _Publisher:
    """Sends wake-ups from a thread of its own, made at the first use, after the fork."""

    def __init__(self) -> None:
        self._moments: set[int] = set()  # wanted wake-ups, in whole seconds of the monotonic clock; 0: at once
        self._wanted = threading.Condition()
        self._thread: threading.Thread | None = None
        self._failing = False

    def request(self, wait: float = 0) -> None:
        with self._wanted:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="queue-wakeup", daemon=True)
                self._thread.start()
            self._moments.add(math.ceil(time.monotonic() + wait) if wait else 0)
            self._wanted.notify()

    def _work(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._moments)
                moments, self._moments = self._moments, set()
            for moment in moments:
                self._publish(max(0.0, moment - time.monotonic()))
            time.sleep(PAUSE)

    def _publish(self, countdown: float) -> None:
        from .tasks import dispatch  # imports what delivers; only a wake-up needs it

        try:
            dispatch.apply_async(retry=False, countdown=countdown)
            self._failing = False
        except Exception as exc:  # whatever the broker's client raises: the clock will find what is due
            if not self._failing:
                log.warning("workers are not woken: the broker is away", extra={"err": str(exc)})
            self._failing = True


_publisher = _Publisher()


def on_commit(wait: timedelta = timedelta(0)) -> None:
    """Wake the workers once the transaction under way is committed, or a while after that: see after()."""
    transaction.on_commit(lambda: after(wait))


def now() -> None:
    """Wake the workers."""
    _publisher.request()


def after(wait: timedelta) -> None:
    """Wake the workers in a while, if that is sooner than the clock would."""
    if wait <= ETA_MAX:
        _publisher.request(max(0.0, wait.total_seconds()))
