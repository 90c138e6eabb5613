"""Which kind of archive a file is, by its first bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

from .entries import Member, Meter, Seekable
from .errors import ArchiveError
from .gzipstream import GzipReader
from .tarformat import read_tar
from .zipformat import read_zip

_USTAR_AT: Final = 257


def members(file: Seekable) -> Iterator[Member]:
    """The members of a zip, a gzipped tar or a tar, in order; ``file`` is seekable, and its position is moved.

    Raises ArchiveError, also after some members, for what is damaged, cut off, or unpacks to over 1 GiB and more than
    200 times its size.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(_USTAR_AT + 5)
    file.seek(0)
    meter = Meter(size)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):  # with files, and an empty one
        return read_zip(file, meter)
    if start.startswith(b"\x1f\x8b"):
        return read_tar(GzipReader(file, meter))
    if start[_USTAR_AT:] == b"ustar":
        return read_tar(file)
    raise ArchiveError("file is not a zip or gzip file")
