"""Archives (tar, gzipped tar, zip) read and written as streams in bounded memory; what is in them is others' matter."""

from __future__ import annotations

from .entries import Content, Kind, Member, Seekable
from .errors import ArchiveError
from .gzipstream import compressed
from .opening import members
from .tarformat import TarWriter
from .writing import ArchiveWriter
from .zipformat import ZipWriter

__all__ = [
    "ArchiveError",
    "ArchiveWriter",
    "Content",
    "Kind",
    "Member",
    "Seekable",
    "TarWriter",
    "ZipWriter",
    "compressed",
    "members",
]
