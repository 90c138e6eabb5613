"""One object for each process: made at its first use, and anew in a process that is forked from one that has it."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Call it for the object of this process. ``at_exit`` is called with one that was made, when the process ends.

    A child gets none of its parent's: threads and connections stayed there, and so did what they will write.
    """

    def __init__(self, make: Callable[[], T], *, at_exit: Callable[[T], None] | None = None) -> None:
        self._make = make
        self._at_exit = at_exit
        self._made: T | None = None
        os.register_at_fork(after_in_child=self._forget)
        if at_exit is not None:
            atexit.register(self._exit)

    def __call__(self) -> T:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _forget(self) -> None:
        self._made = None

    def _exit(self) -> None:
        if self._made is not None and self._at_exit is not None:
            self._at_exit(self._made)
