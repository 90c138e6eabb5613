"""Zip (PKWARE's APPNOTE, with zip64): the list of its members is walked, never held, since millions may be in it."""

from __future__ import annotations

import io
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Final

from .entries import BLOCK, NO_CONTENT, Kind, Member, Meter, Seekable, decoded_name
from .errors import ArchiveError

# Sections 4.3.7, 4.3.12, 4.3.16, 4.3.14 and 4.3.15 of APPNOTE.
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")

_COMMENT_MAX: Final = 0xFFFF  # bytes that may follow the end record
_MAX16: Final = 0xFFFF
_MAX32: Final = 0xFFFFFFFF
_STORED: Final = 0
_DEFLATED: Final = 8
_ENCRYPTED: Final = 0x1
_DESCRIPTOR_FOLLOWS: Final = 0x8
_UTF8: Final = 0x800
_UNIX: Final = 3
_RAW_DEFLATE: Final = -15
_EXTRA_ZIP64: Final = 1
_EXTRA_TIMES: Final = 0x5455
_LEVEL: Final = 5
_VERSION: Final = 45  # needed for zip64
_SPOOL_MAX: Final = 1 << 20  # bytes of the list of members that the writer keeps in memory


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the central directory says of a member."""

    name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    offset: int
    system: int
    mode: int
    modified: datetime | None


def read_zip(file: Seekable, meter: Meter) -> Iterator[Member]:
    """The members in the order of the central directory. Raises ArchiveError."""
    file_size = file.seek(0, io.SEEK_END)
    position, end, shift = _directory(file, file_size)
    number = 0
    while position < end:
        entry, length = _entry(file, position, end)
        position += length
        number += 1
        name = decoded_name(entry.name, "cp437")
        kind, problem = _kind(entry, name)
        content = _MemberContent(file, entry, shift, file_size, meter) if kind is Kind.FILE else NO_CONTENT
        yield Member(number, name, kind, entry.modified, content, problem)


def _directory(file: Seekable, file_size: int) -> tuple[int, int, int]:
    """Where the central directory starts and ends, and how much stands before the archive in the file."""
    tail_size = min(file_size, _END.size + _COMMENT_MAX)
    file.seek(file_size - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06", 0, max(0, len(tail) - _END.size + 4))
    if at < 0:
        raise ArchiveError("archive ends early: the list of its files is missing")
    end = file_size - tail_size + at
    _, _, _, _, _, size, offset, _ = _END.unpack_from(tail, at)
    locator_at = end - _LOCATOR64.size
    if locator_at >= 0:
        file.seek(locator_at)
        signature, _, end64, _ = _LOCATOR64.unpack(file.read(_LOCATOR64.size))
        if signature == b"PK\x06\x07" and end64 + _END64.size <= locator_at:
            file.seek(end64)
            fields = _END64.unpack(file.read(_END64.size))
            if fields[0] == b"PK\x06\x06":
                size, offset, end = fields[8], fields[9], end64
    shift = end - size - offset  # of an archive behind a program that unpacks it
    if shift < 0:
        raise ArchiveError("archive is damaged: the list of its files is not where it should be")
    return end - size, end, shift


def _entry(file: Seekable, position: int, end: int) -> tuple[_Entry, int]:
    file.seek(position)
    fixed = file.read(_CENTRAL.size)
    if len(fixed) < _CENTRAL.size or position + _CENTRAL.size > end or fixed[:4] != b"PK\x01\x02":
        raise ArchiveError("archive is damaged: the list of its files cannot be read")
    (_, made_by, _, flags, method, time, date, crc, packed, size, name_length, extra_length, comment_length, *rest) = (
        _CENTRAL.unpack(fixed)
    )
    _, _, attributes, offset = rest
    variable = file.read(name_length + extra_length)
    if len(variable) < name_length + extra_length:
        raise ArchiveError("archive is damaged: the list of its files cannot be read")
    modified = _dos_time(date, time)
    for kind, value in _extras(variable[name_length:]):
        if kind == _EXTRA_ZIP64:
            numbers = iter(struct.unpack(f"<{len(value) // 8}Q", value[: len(value) // 8 * 8]))
            size = next(numbers, size) if size == _MAX32 else size
            packed = next(numbers, packed) if packed == _MAX32 else packed
            offset = next(numbers, offset) if offset == _MAX32 else offset
        elif kind == _EXTRA_TIMES and len(value) >= 5 and value[0] & 1:
            modified = datetime.fromtimestamp(struct.unpack_from("<L", value, 1)[0], UTC)
    entry = _Entry(
        variable[:name_length], flags, method, crc, packed, size, offset, made_by >> 8, attributes >> 16, modified
    )
    return entry, _CENTRAL.size + name_length + extra_length + comment_length


def _extras(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + 4 <= len(data):
        kind, length = struct.unpack_from("<2H", data, position)
        yield kind, data[position + 4 : position + 4 + length]
        position += 4 + length


def _dos_time(date: int, time: int) -> datetime | None:
    """Local time of somewhere: taken as UTC."""
    try:
        return datetime(
            1980 + (date >> 9),
            date >> 5 & 15,
            date & 31,
            time >> 11,
            time >> 5 & 63,
            min(59, 2 * (time & 31)),
            tzinfo=UTC,
        )
    except ValueError:
        return None


def _kind(entry: _Entry, name: str) -> tuple[Kind, str]:
    form = stat.S_IFMT(entry.mode) if entry.system == _UNIX else 0
    if form == stat.S_IFLNK:
        return Kind.OTHER, "is a symbolic link"
    if name.endswith("/") or form == stat.S_IFDIR:
        return Kind.DIRECTORY, ""
    if form not in (0, stat.S_IFREG):
        return Kind.OTHER, "is a device or a pipe"
    if entry.flags & _ENCRYPTED:
        return Kind.OTHER, "is encrypted"
    if entry.method not in (_STORED, _DEFLATED):
        return Kind.OTHER, f"is compressed in a way that is not known here (method {entry.method})"
    return Kind.FILE, ""


class _MemberContent:
    """A member, unpacked. Its checksum and size are compared at its end."""

    def __init__(self, file: Seekable, entry: _Entry, shift: int, file_size: int, meter: Meter) -> None:
        self._file = file
        self._entry = entry
        self._meter = meter
        self._left = entry.packed_size
        self._position = entry.offset + shift
        self._file_size = file_size
        self._started = self._ended = False
        self._crc = 0
        self._size = 0
        self._decompressor = zlib.decompressobj(_RAW_DEFLATE) if entry.method == _DEFLATED else None

    def read(self, length: int, /) -> bytes:
        """Raises ArchiveError."""
        if not self._started:
            self._start()
        if self._ended:
            return b""
        try:
            block = self._unpacked(length)
        except zlib.error as exc:
            raise ArchiveError(f"archive is damaged: {exc}") from exc
        if not block:
            self._ended = True
            if (self._crc, self._size) != (self._entry.crc, self._entry.size):
                raise ArchiveError("archive is damaged: a file in it is not what its checksum says")
            return b""
        self._crc = zlib.crc32(block, self._crc)
        self._size += len(block)
        return self._meter.count(block)

    def _start(self) -> None:
        self._started = True
        if self._position + _LOCAL.size > self._file_size:
            raise ArchiveError("archive is damaged: a file in it lies outside of it")
        self._file.seek(self._position)
        fields = _LOCAL.unpack(self._file.read(_LOCAL.size))
        if fields[0] != b"PK\x03\x04":
            raise ArchiveError("archive is damaged: a file in it is not where the list says")
        self._position += _LOCAL.size + fields[9] + fields[10]

    def _unpacked(self, length: int) -> bytes:
        """The next bytes, none only at the end."""
        if self._decompressor is None:
            return self._packed(length)
        while not self._decompressor.eof:
            packed = self._decompressor.unconsumed_tail or self._packed(BLOCK)
            block = self._decompressor.decompress(packed, length)
            if block or not packed:
                return block
        return b""

    def _packed(self, length: int) -> bytes:
        wanted = min(length, self._left)
        if not wanted:
            return b""
        self._file.seek(self._position)
        block = self._file.read(wanted)
        if not block:
            raise ArchiveError("archive ends early: it was cut off, say in an upload")
        self._position += len(block)
        self._left -= len(block)
        return block


class ZipWriter:
    """Makes a zip: each method gives the bytes that come next. The list of members waits in a temporary file."""

    def __init__(self, directory: str | None = None) -> None:
        spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_MAX, dir=directory)  # noqa: SIM115 # lives as long as we
        self._list: IO[bytes] = spool
        self._count = 0
        self._offset = 0

    def directory(self, name: str, modified: datetime) -> Iterator[bytes]:
        yield from self._member(f"{name}/", modified, (), stat.S_IFDIR | 0o700)

    def file(self, name: str, modified: datetime, content: Iterable[bytes], size: int | None = None) -> Iterator[bytes]:
        yield from self._member(name, modified, content, stat.S_IFREG | 0o600)

    def finish(self) -> Iterator[bytes]:
        start, length = self._offset, self._list.tell()
        self._list.seek(0)
        while block := self._list.read(BLOCK):
            yield block
        self._list.close()
        end64 = start + length
        yield _END64.pack(
            b"PK\x06\x06", 44, _UNIX << 8 | _VERSION, _VERSION, 0, 0, self._count, self._count, length, start
        )
        yield _LOCATOR64.pack(b"PK\x06\x07", 0, end64, 1)
        count = min(self._count, _MAX16)
        yield _END.pack(b"PK\x05\x06", 0, 0, count, count, min(length, _MAX32), min(start, _MAX32), 0)

    def _member(self, name: str, modified: datetime, content: Iterable[bytes], mode: int) -> Iterator[bytes]:
        raw_name = name.encode("utf-8", "surrogateescape")
        date, time = _as_dos_time(modified)
        seconds = min(max(0, int(modified.timestamp())), _MAX32)
        times = struct.pack("<2HBL", _EXTRA_TIMES, 5, 1, seconds)
        flags = _UTF8 | _DESCRIPTOR_FOLLOWS
        # Sizes are known only afterwards; room for large ones is promised by a zip64 field (4.5.3, 4.3.9.2).
        extra = times + struct.pack("<2H2Q", _EXTRA_ZIP64, 16, 0, 0)
        offset = self._offset
        local = _LOCAL.pack(
            b"PK\x03\x04", _VERSION, flags, _DEFLATED, time, date, 0, _MAX32, _MAX32, len(raw_name), len(extra)
        )
        yield self._counted(local + raw_name + extra)
        compressor = zlib.compressobj(_LEVEL, wbits=_RAW_DEFLATE)
        crc = size = packed_size = 0
        for block in content:
            crc = zlib.crc32(block, crc)
            size += len(block)
            if packed := compressor.compress(block):
                packed_size += len(packed)
                yield self._counted(packed)
        packed = compressor.flush()
        packed_size += len(packed)
        yield self._counted(packed + struct.pack("<4sL2Q", b"PK\x07\x08", crc, packed_size, size))
        extra = times + struct.pack("<2H3Q", _EXTRA_ZIP64, 24, size, packed_size, offset)
        self._list.write(
            _CENTRAL.pack(
                b"PK\x01\x02",
                _UNIX << 8 | _VERSION,
                _VERSION,
                flags,
                _DEFLATED,
                time,
                date,
                crc,
                _MAX32,
                _MAX32,
                len(raw_name),
                len(extra),
                0,
                0,
                0,
                mode << 16 | (0x10 if stat.S_ISDIR(mode) else 0),
                _MAX32,
            )
            + raw_name
            + extra
        )
        self._count += 1

    def _counted(self, block: bytes) -> bytes:
        self._offset += len(block)
        return block


def _as_dos_time(moment: datetime) -> tuple[int, int]:
    moment = moment.astimezone(UTC)
    year = min(max(moment.year, 1980), 2107)
    return (year - 1980) << 9 | moment.month << 5 | moment.day, (
        moment.hour << 11 | moment.minute << 5 | moment.second // 2
    )
