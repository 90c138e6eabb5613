"""Members of an archive, and the limits that reading them keeps."""

from __future__ import annotations

import enum
import io
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from .errors import ArchiveError

BLOCK: Final = 64 * 1024  # bytes read at once
RATIO_MAX: Final = 200  # mail of zeros and repeated lines shrinks a lot, but not that much
RATIO_FREE: Final = 1 << 30  # bytes that any archive may unpack to, whatever its ratio


class Content(Protocol):
    """The bytes of a member, in order; nothing more than `read`, which gives b"" at the end."""

    def read(self, length: int, /) -> bytes: ...


class Seekable(Content, Protocol):
    """A file that an archive is in: a binary file, or what stands for one."""

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int: ...


class Kind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive. ``name`` is as it stands there: it may be absolute, hold ``..`` or control characters.

    ``content`` must be read before the next member is asked for. ``problem`` says why an OTHER cannot be used.
    """

    number: int
    name: str
    kind: Kind
    modified: datetime | None
    content: Content
    problem: str = ""


class NoContent:
    """What a member without content has."""

    def read(self, length: int, /) -> bytes:
        return b""


NO_CONTENT: Final = NoContent()


class Meter:
    """Counts what an archive has unpacked to, and stops at what only a bomb does."""

    def __init__(self, archive_size: int) -> None:
        self._archive_size = archive_size
        self._most = max(RATIO_FREE, RATIO_MAX * archive_size)
        self._total = 0

    def count(self, block: bytes) -> bytes:
        """The block itself. Raises ArchiveError."""
        self._total += len(block)
        if self._total > self._most:
            raise ArchiveError(
                f"archive of {self._archive_size} bytes unpacks to more than {self._most}, as no mail does: stopped"
            )
        return block


def decoded_name(raw: bytes, fallback: str) -> str:
    """A file name in UTF-8, or in the encoding that names had before."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(fallback, "replace")
