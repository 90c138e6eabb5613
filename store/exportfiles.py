"""Exports on the disk: a directory of Maildirs or mbox files, or an archive, complete and fsynced or not there at all.

to_directory(export, Path("/backup/mail"))
to_file(export, Path("/backup/mail.tgz"))
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from .errors import StoreError
from .exports import Export

FILE_MODE: Final = 0o600  # mail is its owner's alone
DIRECTORY_MODE: Final = 0o700
UNSYNCED_MAX: Final = 64  # files open at a time: fsync of many together costs little more than of one


class CannotWrite(StoreError):
    """The destination exists already, or cannot be written to."""


def to_file(export: Export, path: Path) -> None:
    """Write an archive or mbox into a new file. Raises CannotWrite."""
    if path.exists():
        raise CannotWrite(f"{path} exists already: choose another name, or remove it")
    with _explained(path):
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "wb") as file:
                for block in export.blocks():
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        _fsync_directory(path.parent)


def to_directory(export: Export, path: Path) -> None:
    """Write Maildirs or mbox files into a directory that does not exist, or is empty. Raises CannotWrite."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CannotWrite(f"{path} is not empty: choose another directory, or empty it")
    with _explained(path):
        # Under another name first: a directory that is there is complete.
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.absolute().parent))
        try:
            with contextlib.closing(DirectoryWriter(temporary)) as writer:
                for _ in export.write(writer):
                    pass
            os.rename(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _fsync_directory(path.absolute().parent)


class DirectoryWriter:
    """Writes what an archive would hold as files, and gives no bytes; at the end all is on the disk."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._unsynced: list[int] = []
        self._directories = {root}

    def directory(self, name: str, modified: datetime) -> Iterator[bytes]:
        self._make(self._root / name)
        yield from ()

    def file(self, name: str, modified: datetime, content: Iterable[bytes], size: int | None = None) -> Iterator[bytes]:
        path = self._root / name
        self._make(path.parent)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        self._unsynced.append(descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            for block in content:
                file.write(block)
        os.utime(descriptor, (modified.timestamp(), modified.timestamp()))
        if len(self._unsynced) >= UNSYNCED_MAX:
            self._sync()
        yield from ()

    def finish(self) -> Iterator[bytes]:
        self._sync()
        for directory in self._directories:
            _fsync_directory(directory)
        yield from ()

    def close(self) -> None:
        """Let go of files that an error left open."""
        while self._unsynced:
            os.close(self._unsynced.pop())

    def _make(self, directory: Path) -> None:
        if directory not in self._directories:
            self._make(directory.parent)
            directory.mkdir(DIRECTORY_MODE)
            self._directories.add(directory)

    def _sync(self) -> None:
        while self._unsynced:
            descriptor = self._unsynced.pop()
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise CannotWrite(f"{exc.filename or path} cannot be written: {exc.strerror or exc}") from exc
