"""Tar (POSIX ustar and pax, and GNU's long names), read without ever holding more than a block and one name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from tarfile import PAX_FORMAT, TarInfo
from typing import IO, Final

from .entries import BLOCK, NO_CONTENT, Content, Kind, Member, decoded_name
from .errors import ArchiveError

RECORD: Final = 512
EXTENDED_MAX: Final = 64 * 1024  # bytes of a long name or a pax header: they are read at once
SPOOL_MAX: Final = 1 << 20  # bytes of a member of unknown size that are kept in memory
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

_KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"5": Kind.DIRECTORY,
}
_PROBLEMS: Final = {
    b"1": "is a hard link",
    b"2": "is a symbolic link",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a pipe",
    b"S": "is a sparse file",
}
_WITHOUT_DATA: Final = b"123456"  # whatever size their header gives


def read_tar(stream: Content) -> Iterator[Member]:
    """The members in order. Raises ArchiveError for what is damaged, or ends without its end mark."""
    number = 0
    while (header := _header(stream)) is not None:
        extended: dict[str, bytes] = {}
        while header[156:157] in b"LKxgX":
            _read_extended(stream, header, extended)
            following = _header(stream)
            if following is None:
                raise ArchiveError("archive is damaged: an extended header without a file")
            header = following
        kind_byte = header[156:157]
        size = _decimal(extended["size"]) if "size" in extended else _number(header[124:136])
        raw_name = extended.get("path") or _name(header)
        kind = _KINDS.get(kind_byte, Kind.OTHER)
        if kind is Kind.FILE and raw_name.endswith(b"/"):
            kind = Kind.DIRECTORY  # as tars from before POSIX have it
        problem = "" if kind is not Kind.OTHER else _PROBLEMS.get(kind_byte, "is no plain file")
        if "sparse" in extended:
            kind, problem = Kind.OTHER, _PROBLEMS[b"S"]
        content = _MemberContent(stream, 0 if kind_byte in _WITHOUT_DATA else size)
        number += 1
        yield Member(
            number,
            decoded_name(raw_name, "latin-1"),
            kind,
            _modified(extended, header),
            content if kind is Kind.FILE else NO_CONTENT,
            problem,
        )
        content.skip()


class _MemberContent:
    def __init__(self, stream: Content, size: int) -> None:
        self._stream = stream
        self._left = size
        self._padding = -size % RECORD

    def read(self, length: int, /) -> bytes:
        wanted = min(length, self._left)
        if not wanted:
            return b""
        block = self._stream.read(wanted)
        if not block:
            raise ArchiveError("archive ends early: it was cut off, say in an upload")
        self._left -= len(block)
        return block

    def skip(self) -> None:
        """To the next header."""
        while self._left:
            self.read(BLOCK)
        _read_exactly(self._stream, self._padding)


def _header(stream: Content) -> bytes | None:
    """The next header, None at the end mark."""
    header = _read_exactly(stream, RECORD)
    if not header.strip(b"\0"):
        while stream.read(BLOCK):  # the rest is padding; reading it verifies what is around it
            pass
        return None
    stored = _number(header[148:156])
    checked = header[:148] + b" " * 8 + header[156:]
    if stored not in (sum(checked), sum(byte - 256 if byte > 127 else byte for byte in checked)):
        raise ArchiveError("archive is damaged: a header has a wrong checksum")
    return header


def _read_exactly(stream: Content, length: int) -> bytes:
    pieces = []
    while length:
        piece = stream.read(length)
        if not piece:
            raise ArchiveError("archive ends early: it was cut off, say in an upload")
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def _read_extended(stream: Content, header: bytes, extended: dict[str, bytes]) -> None:
    """What the next header should have said: a long name (GNU: L) or a pax header (x); of others only the size."""
    size = _number(header[124:136])
    if size > EXTENDED_MAX:
        raise ArchiveError(f"archive has a name or an extended header of {size} bytes, at most {EXTENDED_MAX} are read")
    data = _read_exactly(stream, size)
    _read_exactly(stream, -size % RECORD)
    kind = header[156:157]
    if kind == b"L":
        extended["path"] = data.partition(b"\0")[0]
    elif kind in b"xX":
        for keyword, value in _pax_records(data):
            if keyword in (b"path", b"size", b"mtime"):
                extended[keyword.decode("ascii")] = value
            elif keyword.startswith(b"GNU.sparse."):
                extended["sparse"] = value


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Records ``length keyword=value\\n`` (POSIX pax, 4.18 of its format)."""
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        digits = data[position:space] if space > 0 else b""
        length = int(digits) if digits.isdigit() else 0
        if length < len(digits) + 3 or position + length > len(data):
            raise ArchiveError("archive is damaged: an extended header cannot be read")
        keyword, _, value = data[space + 1 : position + length - 1].partition(b"=")
        yield keyword, value
        position += length


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _number(field: bytes) -> int:
    """An octal number, or one in base 256 (GNU, for what has no room)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if not text:
        return 0
    if text.strip(b"01234567"):
        raise ArchiveError("archive is damaged: a header has no number where one belongs")
    return int(text, 8)


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 20:
        raise ArchiveError("archive is damaged: an extended header has no number where one belongs")
    return int(value)


def _modified(extended: dict[str, bytes], header: bytes) -> datetime | None:
    try:
        seconds = float(extended["mtime"]) if "mtime" in extended else float(_number(header[136:148]))
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (ValueError, OverflowError, OSError, ArchiveError):
        return None


class TarWriter:
    """Makes a tar: each method gives the bytes that come next. Temporary files are put into ``directory``."""

    def __init__(self, directory: str | None = None) -> None:
        self._directory = directory

    def directory(self, name: str, modified: datetime) -> Iterator[bytes]:
        info = TarInfo(name)
        info.type = b"5"
        info.mode = DIRECTORY_MODE
        info.mtime = modified.timestamp()
        yield _encoded(info)

    def file(self, name: str, modified: datetime, content: Iterable[bytes], size: int | None = None) -> Iterator[bytes]:
        """A file; of unknown size it is first put into a temporary file, since its size stands before it."""
        if size is not None:
            yield from self._sized(name, modified, content, size)
            return
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_MAX, dir=self._directory) as spool:
            for block in content:
                spool.write(block)
            size = spool.tell()
            spool.seek(0)
            yield from self._sized(name, modified, _blocks(spool), size)

    def finish(self) -> Iterator[bytes]:
        yield bytes(2 * RECORD)

    def _sized(self, name: str, modified: datetime, content: Iterable[bytes], size: int) -> Iterator[bytes]:
        info = TarInfo(name)
        info.size = size
        info.mode = FILE_MODE
        info.mtime = modified.timestamp()
        yield _encoded(info)
        yield from content
        if size % RECORD:
            yield bytes(-size % RECORD)


def _encoded(info: TarInfo) -> bytes:
    info.mtime = max(0, int(info.mtime))
    return info.tobuf(PAX_FORMAT, "utf-8", "surrogateescape")


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block
