"""How much mail an account takes from one network in a time, so that nobody floods it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection

from server.statements import run

COUNTED_FOR: Final = 1.0  # seconds
COUNTED_MAX: Final = 10_000  # networks that are remembered
MIB: Final = 1 << 20
MINUTE: Final = timedelta(minutes=1)
DAY: Final = timedelta(hours=24)

# For the narrow, the middle and the wide network.
MESSAGES: Final = {MINUTE: (500, 1500, 4500), DAY: (10_000, 30_000, 90_000)}
BYTES: Final = {MINUTE: (1000 * MIB, 3000 * MIB, 9000 * MIB), DAY: (3000 * MIB, 9000 * MIB, 27_000 * MIB)}
_NAMES: Final = ("network", "wider network", "widest network")


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A limit that another message would exceed."""

    what: str
    limit: int
    window: timedelta
    network: str

    def __str__(self) -> str:
        within = "minute" if self.window == MINUTE else "24 hours"
        return (
            f"too much mail from your {self.network}, at most {self.limit} {self.what} in a {within}, try again later"
        )


_counted_at: dict[tuple[int, str], float] = {}


def exceeded_lately(account_id: int, networks: Sequence[str], size: int, now: datetime) -> Exceeded | None:
    """As `exceeded`, and counted at most once a second for a network that was below all limits.

    To count all that a busy network sent in a day for each of its messages would cost more the more it sends.
    """
    key = (account_id, networks[0])
    moment = time.monotonic()
    if moment - _counted_at.get(key, -COUNTED_FOR) < COUNTED_FOR:
        return None
    over = exceeded(account_id, networks, size, now)
    if over is None:
        if len(_counted_at) >= COUNTED_MAX:
            _counted_at.clear()
        _counted_at[key] = moment
    return over


def exceeded(account_id: int, networks: Sequence[str], size: int, now: datetime) -> Exceeded | None:
    """The limit that a message of this size from these networks (masked addresses, narrow to wide) runs into."""
    if not networks[-1]:
        return None
    counted = _counted(account_id, networks, now)
    for width, name in enumerate(_NAMES):
        for window in (MINUTE, DAY):
            count, octets = counted[window, width]
            if count >= MESSAGES[window][width]:
                return Exceeded("messages", MESSAGES[window][width], window, name)
            if octets + size > BYTES[window][width]:
                return Exceeded("bytes", BYTES[window][width], window, name)
    return None


def _counted(account_id: int, networks: Sequence[str], now: datetime) -> dict[tuple[timedelta, int], tuple[int, int]]:
    """Messages and bytes within each window and width, all read as what came from the widest; rejects count too."""
    received = {window: connection.ops.adapt_datetimefield_value(now - window) for window in (MINUTE, DAY)}
    sums: list[str] = []
    params: list[Any] = []
    for window in received:
        for width, network in enumerate(networks, 1):
            within = f"CASE WHEN received > %s AND remote_ip_masked{width} = %s THEN"
            sums += [f"COUNT({within} 1 END)", f"COALESCE(SUM({within} size END), 0)"]
            params += [received[window], network] * 2
    (row,) = run(
        f"SELECT {', '.join(sums)} FROM store_message"  # noqa: S608 # all names are ours
        " WHERE account_id = %s AND remote_ip_masked3 = %s AND NOT (remote_ip = '') AND received > %s AND NOT expunged",
        [*params, account_id, networks[-1], received[DAY]],
    )
    pairs = zip(row[::2], row[1::2], strict=True)
    keys = [(window, width) for window in received for width in range(len(networks))]
    return {key: (count, int(octets)) for key, (count, octets) in zip(keys, pairs, strict=True)}
