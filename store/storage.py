"""Large message content as files that are on disk when ``save`` returns: STORAGES["messages"] of a single machine."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import IO, Any, Final

from django.core.files.base import File
from django.core.files.storage import FileSystemStorage

FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750
CHUNK: Final = 256 * 1024  # bytes per read and write
TEMPORARY: Final = "tmp"  # files here are not content yet; a crash leaves them behind
UPLOADS: Final = "imports"  # files here are archives that are to be imported
_NAME_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def new_name() -> str:
    """A name for new content: 1296 directories hold ten million files at about 8000 each."""
    token = "".join(secrets.choice(_NAME_ALPHABET) for _ in range(26))
    return f"{token[:2]}/{token}"


class FsyncedFileStorage(FileSystemStorage):
    """Files written under a temporary name, fsynced and renamed, their directory fsynced too."""

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        return name  # names are random (new_name): asking whether one is taken would only cost

    def _save(self, name: str, content: File[Any] | IO[Any]) -> str:
        target = Path(self.path(name))
        temporary = Path(self.path(f"{TEMPORARY}/{target.name}"))
        for directory in (temporary.parent, target.parent):
            _make_directory(directory)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                content.seek(0)
                while block := content.read(CHUNK):
                    file.write(block)
                os.fsync(file.fileno())
            temporary.rename(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _fsync_directory(target.parent)
        return name


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directory(directory.parent)
        directory.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    _fsync_directory(directory.parent)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
