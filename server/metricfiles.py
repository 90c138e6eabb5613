"""The files in which a process keeps its metrics, for the one that is asked to sum them up.

They are mapped into memory. Pages of such a file that the disk has no room for kill the process that touches them
(SIGBUS), so they get their room at the start of the process, when nothing is lost yet.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from prometheus_client.multiprocess import mark_process_dead

ROOM: Final = 1 << 20  # bytes in each file: several times what the metrics of a process take
_KINDS: Final = ("counter", "gauge_livesum", "histogram")  # what prometheus_client names its files after


def reserve(directory: Path) -> None:
    """Make this process's files in full size. Raises OSError where the disk is full already."""
    for kind in _KINDS:
        descriptor = os.open(directory / f"{kind}_{os.getpid()}.db", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, ROOM)
        finally:
            os.close(descriptor)


def forget(directory: Path, pid: int) -> None:
    """A process has ended: its gauges go; what it counted stays until the server starts anew."""
    mark_process_dead(pid, str(directory))  # type: ignore[no-untyped-call]  # the package types only part of itself
