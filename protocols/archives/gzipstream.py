"""Gzip (RFC 1952) as streams of blocks."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from .entries import BLOCK, Meter, Seekable
from .errors import ArchiveError

_GZIP: Final = 31  # zlib's number for a gzip header and trailer around the data
_LEVEL: Final = 5  # mail is mostly base64 of what is compressed already: more costs time and gains nothing


def compressed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks as one gzip member."""
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    for block in blocks:
        if made := compressor.compress(block):
            yield made
    yield compressor.flush()


class GzipReader:
    """The content of a gzip file, whose members follow each other; at most ``length`` bytes are unpacked at once."""

    def __init__(self, file: Seekable, meter: Meter) -> None:
        self._file = file
        self._meter = meter
        self._decompressor = zlib.decompressobj(wbits=_GZIP)
        self._ended = False

    def read(self, length: int, /) -> bytes:
        """Raises ArchiveError for what is damaged or ends early."""
        while not self._ended:
            if self._decompressor.eof and not self._next_member():
                break
            packed = self._decompressor.unconsumed_tail or self._file.read(BLOCK)
            if not packed:
                raise ArchiveError("archive ends early: it was cut off, say in an upload")
            try:
                block = self._decompressor.decompress(packed, length)
            except zlib.error as exc:
                raise ArchiveError(f"archive is damaged: {exc}") from exc
            if block:
                return self._meter.count(block)
        return b""

    def _next_member(self) -> bool:
        rest = self._decompressor.unused_data or self._file.read(BLOCK)
        # Zeros after the last member are padding of tapes and disks.
        while rest and not rest.strip(b"\0"):
            rest = self._file.read(BLOCK)
        if not rest:
            self._ended = True
            return False
        self._decompressor = zlib.decompressobj(wbits=_GZIP)
        self._file.seek(-len(rest), io.SEEK_CUR)
        return True
