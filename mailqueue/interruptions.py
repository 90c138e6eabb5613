"""Ending a delivery from outside: at once while it waits for the network, and not where something must be finished."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The worker stops, or the lease was lost: nothing more is to be sent."""


class Interruptions:
    """Of one task, on its event loop. `stop` may be called from any thread."""

    def __init__(self) -> None:
        self.stopping = False
        self._waiting = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """The running task is the one to interrupt."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    def stop(self) -> None:
        self.stopping = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._interrupt)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """In here the task may be cancelled, up to `forbid`. Raises Interrupted where it is to stop already."""
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def forbid(self) -> None:
        """From here on it must be finished. Raises Interrupted where it is to stop already."""
        self._waiting = False
        self.check()

    def check(self) -> None:
        """Raises Interrupted where the task is to stop."""
        if self.stopping:
            raise Interrupted

    def _interrupt(self) -> None:
        if self._waiting and self._task is not None:
            self._task.cancel()
