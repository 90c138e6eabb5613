"""Answers that are still good, the most recently used ones within a bound of memory."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Final, Generic, TypeVar

MAX_ENTRIES: Final = 20_000
MAX_BYTES: Final = (
    32 * 1024 * 1024
)  # of records: a stranger chooses what we look up, and TXT records of 64 kB are legal
ENTRY_BYTES: Final = 500  # what an entry takes besides its records

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Safe to share among threads. The least recently used entries make room for new ones."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[K, tuple[float, int, V]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> tuple[V, float] | None:
        """The value and the seconds for which it is still good."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            left = entry[0] - time.monotonic()
            if left <= 0:
                self._drop(key)
                return None
            self._entries.move_to_end(key)
            return entry[2], left

    def put(self, key: K, value: V, seconds: float, size: int = 0) -> None:
        """Keep ``value``, of ``size`` bytes, for some time; with 0 seconds, only forget what was there."""
        with self._lock:
            self._drop(key)
            size += ENTRY_BYTES
            if seconds <= 0 or size > self._max_bytes:
                return
            self._entries[key] = (time.monotonic() + seconds, size, value)
            self._bytes += size
            while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _drop(self, key: K) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
