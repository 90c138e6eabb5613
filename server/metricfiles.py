"""The files in which a process keeps its metrics, for the one that is asked to sum them up.

They are mapped into memory. Pages of such a file that the disk has no room for kill the process that touches them
(SIGBUS), so they get their room at the start of the process, when nothing is lost yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client.mmap_dict import MmapedDict

ROOM: Final = 1 << 20  # bytes in each file: several times what the metrics of a process take
ENDED: Final = "ended"  # in place of a process id: what all that have ended had counted
LOCK: Final = "lock"
_COUNTING: Final = ("counter", "histogram", "summary")  # kinds that only grow, and stay true after their process
_KINDS: Final = ("counter", "gauge_livesum", "gauge_mostrecent", "histogram")  # as prometheus_client names its files


def reserve(directory: Path) -> None:
    """Make this process's files in full size. Raises OSError where the disk is full already."""
    for kind in _KINDS:
        descriptor = os.open(directory / f"{kind}_{os.getpid()}.db", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, ROOM)
        finally:
            os.close(descriptor)


def forget(directory: Path, pid: int) -> None:
    """A process has ended: what it counted is added to that of others before it, its gauges go. Raises OSError."""
    with _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB):
        for kind in _COUNTING:
            path = directory / f"{kind}_{pid}.db"
            if path.exists():
                # A process that was killed while it wrote leaves a file that ends anywhere: then its counts are lost.
                with contextlib.suppress(RuntimeError, ValueError, struct.error):
                    _add(path, directory / f"{kind}_{ENDED}.db")
                path.unlink()
        for path in directory.glob(f"gauge_*_{pid}.db"):
            path.unlink()


@contextlib.contextmanager
def reading(directory: Path) -> Iterator[None]:
    """While the files are summed up: nothing is counted twice, or not at all, because a process has just ended."""
    with _locked(directory, fcntl.LOCK_SH):
        yield


def _add(source: Path, target: Path) -> None:
    # The package types only part of itself.
    total = MmapedDict(str(target))  # type: ignore[no-untyped-call]
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(source)):  # type: ignore[no-untyped-call]
            total.write_value(key, total.read_value(key)[0] + value, timestamp)  # type: ignore[no-untyped-call]
    finally:
        total.close()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    with (directory / LOCK).open("a") as file:
        # The supervisor never waits: at worst one sum is off for a moment.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, operation)
        yield
