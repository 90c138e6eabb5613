"""Where the bytes of a message come from: memory, a file, or anything that reads at an offset."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from typing import IO, Final, Protocol, TypeAlias, runtime_checkable

BLOCK: Final = 1 << 20  # bytes read at once from what is not in memory
WHOLE_MAX: Final = 4 << 20  # bytes; a smaller source is read at once, a larger one in blocks
KEPT_BLOCKS: Final = 3  # the scanner looks for header ends and for boundary lines at different places


@runtime_checkable
class Source(Protocol):
    """Content of known size, read at any offset. `read_at` gives fewer bytes than asked for only at the end."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int, /) -> bytes: ...


Readable: TypeAlias = bytes | IO[bytes] | Source
"""What the functions of this package take: bytes, a seekable binary file, or a Source."""


class BytesSource:
    """Content in memory."""

    __slots__ = ("data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read_at(self, offset: int, length: int, /) -> bytes:
        return self.data[offset : offset + length]


class FileSource:
    """A seekable binary file, from its start to its end; its position is moved."""

    __slots__ = ("_file", "size")

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)

    def read_at(self, offset: int, length: int, /) -> bytes:
        self._file.seek(offset)
        return self._file.read(max(0, min(length, self.size - offset)))


class SubSource:
    """The bytes from `start` to `end` of another source."""

    __slots__ = ("_source", "_start", "size")

    def __init__(self, source: Source, start: int, end: int) -> None:
        self._source = source
        self._start = start
        self.size = max(0, end - start)

    def read_at(self, offset: int, length: int, /) -> bytes:
        return self._source.read_at(self._start + offset, max(0, min(length, self.size - offset)))


def as_source(readable: Readable) -> Source:
    if isinstance(readable, bytes):
        return BytesSource(readable)
    if isinstance(readable, Source):
        return readable
    return FileSource(readable)


def chunks(source: Source, start: int, end: int, length: int = BLOCK) -> Iterator[bytes]:
    """The bytes from `start` to `end` in pieces of at most `length`."""
    while start < end:
        piece = source.read_at(start, min(length, end - start))
        if not piece:
            return
        start += len(piece)
        yield piece


def spooled(pieces: Iterable[bytes]) -> Readable:
    """The pieces as one content, in a temporary file when they are many."""
    kept: list[bytes] = []
    size = 0
    iterator = iter(pieces)
    for piece in iterator:
        kept.append(piece)
        size += len(piece)
        if size > WHOLE_MAX:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - its caller reads it; it goes with the last reference
            file.writelines(kept)
            file.writelines(iterator)
            return file
    return b"".join(kept)


class Content:
    """Searching in a source: `bytes.find`, `count` and slices over whatever is not in memory as a whole."""

    __slots__ = ("_blocks", "_data", "_source", "size")

    def __init__(self, source: Source) -> None:
        self._source = source
        self.size = source.size
        self._data: bytes | None = None
        self._blocks: dict[int, bytes] = {}
        if isinstance(source, BytesSource):
            self._data = source.data
        elif source.size <= WHOLE_MAX:
            self._data = source.read_at(0, source.size)

    def slice(self, start: int, end: int) -> bytes:
        if self._data is not None:
            return self._data[start:end]
        index = start // BLOCK
        if end <= (index + 1) * BLOCK:
            return self._block(index)[start - index * BLOCK : max(0, end - index * BLOCK)]
        return self._source.read_at(start, end - start)

    def find(self, needle: bytes, start: int, end: int) -> int:
        """The first offset of `needle` that lies between `start` and `end` as a whole, or -1."""
        if self._data is not None:
            return self._data.find(needle, start, end)
        overlap = len(needle) - 1
        while start + overlap < end:
            index = start // BLOCK
            base = index * BLOCK
            found = self._block(index).find(needle, start - base, min(end - base, BLOCK))
            if found >= 0:
                return base + found
            # A needle across the border of two blocks.
            border = base + BLOCK
            if overlap and border < end:
                low = max(start, border - overlap)
                found = self._source.read_at(low, min(end, border + overlap) - low).find(needle)
                if found >= 0:
                    return low + found
            start = border
        return -1

    def count(self, needle: bytes, start: int, end: int) -> int:
        """How often `needle`, which does not overlap itself, stands between `start` and `end`."""
        if self._data is not None:
            return self._data.count(needle, start, end)
        total = 0
        overlap = len(needle) - 1
        while start < end:
            index = start // BLOCK
            base = index * BLOCK
            total += self._block(index).count(needle, start - base, min(end - base, BLOCK))
            border = base + BLOCK
            if overlap and border < end:
                low = max(start, border - overlap)
                total += self._source.read_at(low, min(end, border + overlap) - low).count(needle)
            start = border
        return total

    def _block(self, index: int) -> bytes:
        block = self._blocks.pop(index, None)
        if block is None:
            block = self._source.read_at(index * BLOCK, BLOCK)
            if len(self._blocks) >= KEPT_BLOCKS:
                del self._blocks[next(iter(self._blocks))]
        self._blocks[index] = block  # at the end: the least recently used one is first
        return block
