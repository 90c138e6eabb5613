"""Window counters of one process, with the rules of the scripts that run in Redis: for as long as Redis is away."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_COUNTERS: Final = 100_000  # about 20 MB; more clients than that in a window make room for each other


@dataclass(frozen=True, slots=True)
class LimitedCounter:
    """A counter by name (with network and window in it), its limit, and the seconds it lives; 0: for good."""

    key: str
    limit: int
    lifetime: int


@dataclass(slots=True)
class _Count:
    value: int
    expires: float


class LocalCounters:
    """Counters in a bounded dictionary. For any thread; each method is one atomic step."""

    def __init__(self, max_counters: int = MAX_COUNTERS) -> None:
        self._max_counters = max_counters
        self._counts: dict[str, _Count] = {}  # in order of creation
        self._lock = threading.Lock()

    def below(self, counters: Sequence[LimitedCounter], now: float) -> bool:
        """Whether all counters are below their limits."""
        with self._lock:
            return all(self._value(counter.key, now) < counter.limit for counter in counters)

    def any_counted(self, counters: Sequence[LimitedCounter], now: float) -> bool:
        with self._lock:
            return any(self._value(counter.key, now) > 0 for counter in counters)

    def count(self, counters: Sequence[LimitedCounter], now: float) -> bool:
        """Add one to all, unless one is at its limit: then False."""
        with self._lock:
            if any(self._value(counter.key, now) >= counter.limit for counter in counters):
                return False
            for counter in counters:
                if (count := self._counts.get(counter.key)) is not None:
                    count.value += 1
                else:
                    self._make_room(now)
                    self._counts[counter.key] = _Count(1, now + counter.lifetime)
            return True

    def clear(self, narrow_and_wider: Sequence[LimitedCounter], now: float) -> None:
        """Forget the first counter, and take as much off the others."""
        with self._lock:
            cleared = self._value(narrow_and_wider[0].key, now)
            for counter in narrow_and_wider:
                if (count := self._counts.get(counter.key)) is not None:
                    count.value -= cleared
                    if count.value <= 0:
                        del self._counts[counter.key]

    def __len__(self) -> int:
        return len(self._counts)

    def _value(self, key: str, now: float) -> int:
        count = self._counts.get(key)
        if count is None:
            return 0
        if count.expires <= now:
            del self._counts[key]
            return 0
        return count.value

    def _make_room(self, now: float) -> None:
        if len(self._counts) < self._max_counters:
            return
        self._counts = {key: count for key, count in self._counts.items() if count.expires > now}
        # All at once, so that the next scan is a tenth of the dictionary away.
        too_many = len(self._counts) - self._max_counters * 9 // 10
        for key in list(self._counts)[: max(0, too_many)]:
            del self._counts[key]
