"""When attempts are made: 7.5 minutes after the first, then twice as long after each, until they are used up.

schedule = Schedule.of_server()
schedule.wait_after(1)                  # about 7m30s
schedule.is_last(attempts=8, max_attempts=0)
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.conf import settings

JITTER: Final = (-5.0, 4.0)  # seconds, of a base of 450: attempts of many messages shall not come at the same moment
REFERENCE_BASE: Final = 450.0  # seconds; the jitter of another base is in proportion


@dataclass(frozen=True, slots=True)
class Schedule:
    """The rules of one installation."""

    base: timedelta
    max_attempts: int
    delayed_dsn_attempt: int

    @classmethod
    def of_server(cls) -> Schedule:
        """As the environment says."""
        environment = settings.MOX
        return cls(
            environment.queue_backoff_base, environment.queue_max_attempts, environment.queue_delayed_dsn_attempt
        )

    def wait_after(self, attempt: int) -> timedelta:
        """The time from the start of an attempt, counted from 1, to the next."""
        base = self.base.total_seconds()
        jittered = base + random.uniform(*JITTER) * base / REFERENCE_BASE
        return timedelta(seconds=jittered * 2 ** (attempt - 1))

    def limit(self, max_attempts: int) -> int:
        """How many attempts a message gets; 0 stands for the server's number."""
        return max_attempts or self.max_attempts

    def is_last(self, attempts: int, max_attempts: int) -> bool:
        return attempts >= self.limit(max_attempts)

    def is_delayed_notice_due(self, attempts: int, max_attempts: int) -> bool:
        """Whether the sender is told of the delay after this attempt: not when there are no others to come."""
        return self.delayed_dsn_attempt == attempts and not self.is_last(attempts, max_attempts)

    def remaining(self, attempts: int, max_attempts: int) -> list[timedelta]:
        """The waits between the attempts to come, the first of them from the attempt just made."""
        return [self.base * 2 ** (attempt - 1) for attempt in range(attempts, self.limit(max_attempts))]

    def last_attempt_at(self, next_attempt: datetime, attempts: int, max_attempts: int) -> datetime:
        """When the last attempt is planned, where the next one is at ``next_attempt``."""
        return next_attempt + sum(self.remaining(attempts, max_attempts)[1:], timedelta(0))
