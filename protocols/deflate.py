"""Raw deflate in both directions of a connection (RFC 1951), as IMAP's COMPRESS has it (RFC 4978).

    deflate = Deflate()
    deflate.received(data)                  # as it came from the peer
    block = deflate.unpack()                # what it says, never much at a time
    packed = deflate.pack(b"* OK done\\r\\n") + deflate.flush()

What came is unpacked when somebody wants to read it: a bomb costs what was read of it. The compressor, most of the
memory, is let go where nothing is written (``rest``): what it sends later refers to nothing that was sent before.
"""

from __future__ import annotations

import zlib
from typing import Final

WINDOW_BITS: Final = -15  # the largest window, without a header (RFC 4978 4)
LEVEL: Final = 1  # of 9: more costs three times the CPU, and saves a tenth
SAMPLED_MIN: Final = 16 * 1024  # bytes packed at once of which a sample is looked at
SAMPLE: Final = 1024  # bytes
DENSE: Final = 0.7  # of its size that a sample keeps: no word comes twice, as in base64 of what is compressed already
STORED: Final = 0.95  # and what keeps more is not worth the CPU
UNPACKED_MAX: Final = 64 * 1024  # bytes given by one unpack()
SEGMENT_MAX: Final = 16 * 1024  # compressed bytes looked at together
SEGMENTS_MAX: Final = 256  # looked at by one unpack(): a peer may flush nothing, again and again

_FLUSHED: Final = b"\x00\x00\xff\xff"  # the end of a flush: an empty stored block


# Level and strategy of zlib.
_TEXT: Final = (LEVEL, zlib.Z_DEFAULT_STRATEGY)
_LETTERS: Final = (LEVEL, zlib.Z_HUFFMAN_ONLY)  # three times as fast on base64, and packs it better
_NOTHING: Final = (0, zlib.Z_DEFAULT_STRATEGY)


class BadDeflate(Exception):
    """What came is no deflate stream."""


class Deflate:
    """The compressor and the decompressor of one connection."""

    __slots__ = ("_compressor", "_decompressor", "_full", "_method", "_received", "_segment")

    def __init__(self) -> None:
        self._received = bytearray()
        self._segment = b""  # taken from _received, and not yet all unpacked
        self._full = False  # the last block was as large as it may be: there may be more of the same input
        self._decompressor = zlib.decompressobj(WINDOW_BITS)
        self._compressor: zlib._Compress | None = None
        self._method = _TEXT

    # From the peer.

    @property
    def waiting(self) -> int:
        """Compressed bytes that came and are not unpacked; after the end of the stream, those that follow it."""
        return len(self._received) + len(self._segment)

    @property
    def ended(self) -> bool:
        """The peer has ended its stream: what it sends now is not compressed."""
        return self._decompressor.eof

    def received(self, data: bytes) -> None:
        self._received += data

    def unpack(self) -> bytes:
        """Some of what came, at most 64 KiB. Raises BadDeflate.

        Empty when all is unpacked or the stream has ended; while something is ``waiting``, it was a lot of nothing.
        """
        for _ in range(SEGMENTS_MAX):
            if not self._segment and not self._full:
                if not self._received or self.ended:
                    break
                self._segment = self._next_segment()
            try:
                data = self._decompressor.decompress(self._segment, UNPACKED_MAX)
            except zlib.error as exc:
                raise BadDeflate(str(exc)) from exc
            self._segment = self._decompressor.unconsumed_tail
            self._full = len(data) == UNPACKED_MAX
            if data:
                return data
        return b""

    def end(self) -> bytes:
        """No more is compressed: gives what came and was not unpacked."""
        return self._decompressor.unused_data + self._segment + bytes(self._received)

    def _next_segment(self) -> bytes:
        # No further than to the end of a flush: what follows may be after the end of all compression.
        found = self._received.find(_FLUSHED, 0, SEGMENT_MAX)
        size = SEGMENT_MAX if found < 0 else found + len(_FLUSHED)
        segment = bytes(memoryview(self._received)[:size])
        del self._received[:size]
        return segment

    # To the peer.

    def pack(self, data: bytes) -> bytes:
        """Compress; what is given back may lack the end of it until flush()."""
        before = b""
        if len(data) >= SAMPLED_MIN and (method := _method_for(data)) != self._method:
            before = self.flush()
            self._compressor, self._method = None, method
        if self._compressor is None:
            level, strategy = self._method
            self._compressor = zlib.compressobj(level, zlib.DEFLATED, WINDOW_BITS, strategy=strategy)
        return before + self._compressor.compress(data)

    def flush(self) -> bytes:
        """What lets the peer read all that was packed."""
        if self._compressor is None:
            return b""
        data = self._compressor.flush(zlib.Z_SYNC_FLUSH)
        if self._method is not _TEXT:
            self._compressor, self._method = None, _TEXT  # what follows an attachment is text again
        return data

    def rest(self) -> None:
        """Let go of what compressing needs, after a flush(): the next pack() begins without a history."""
        self._compressor = None


def _method_for(data: bytes) -> tuple[int, int]:
    """How to compress this, by a sample from its middle."""
    middle = len(data) // 2
    kept = len(zlib.compress(data[middle : middle + SAMPLE], LEVEL)) / SAMPLE
    return _TEXT if kept < DENSE else _LETTERS if kept < STORED else _NOTHING
