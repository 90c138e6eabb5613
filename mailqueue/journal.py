"""What other servers answered to the end of the data, on disk before it is in the database.

Between such an answer and the commit of its result a crash would make a duplicate. The journal has the answer by then,
and a worker that starts stores what its predecessor could not.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from .outcomes import Outcome

log = logging.getLogger(__name__)

DIRECTORY: Final = "queue"  # in the data directory
FILE: Final = "journal"
FILE_MODE: Final = 0o640
TRUNCATE_AT: Final = 256 * 1024  # bytes: then it begins anew, once everything in it is in the database


@dataclass(frozen=True, slots=True)
class Entry:
    """Outcomes for messages, by id, under a lease."""

    token: uuid.UUID
    outcomes: tuple[tuple[int, Outcome], ...]


class Journal:
    """The journal of one worker; its threads share it."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / DIRECTORY / FILE
        self._lock = threading.Lock()
        self._file: IO[bytes] | None = None
        self._unsettled = 0

    def append(self, entry: Entry) -> None:
        """Note what was answered; on disk when this returns. Without room on the disk it is only logged."""
        line = json.dumps(
            {"token": str(entry.token), "outcomes": [[pk, outcome.to_json()] for pk, outcome in entry.outcomes]}
        )
        with self._lock:
            self._unsettled += 1
            try:
                file = self._opened()
                file.write(line.encode() + b"\n")
                file.flush()
                os.fdatasync(file.fileno())
            except OSError as exc:
                log.error("an answer of a server is not in the journal", extra={"err": str(exc)})

    def settled(self) -> None:
        """The oldest unsettled entry is in the database, or not ours any more."""
        with self._lock:
            self._unsettled -= 1
            if self._unsettled == 0 and self._file is not None and self._file.tell() > TRUNCATE_AT:
                self._file.truncate(0)
                self._file.seek(0)

    def replay(self) -> Iterator[Entry]:
        """What an earlier worker noted. A line that it could not finish is passed over."""
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                values = json.loads(line)
                outcomes = tuple((int(pk), Outcome.from_json(outcome)) for pk, outcome in values["outcomes"])
                yield Entry(uuid.UUID(values["token"]), outcomes)
            except (ValueError, TypeError, KeyError) as exc:
                log.warning("line of the journal cannot be read", extra={"file": self._path, "err": str(exc)})

    def clear(self) -> None:
        """Everything in it was stored."""
        self._path.unlink(missing_ok=True)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, FILE_MODE)
            self._file = os.fdopen(descriptor, "wb")
            self._file.seek(0, os.SEEK_END)
        return self._file
