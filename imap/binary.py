"""Messages with binary content: parts in binary transfer encoding become base64 when they are stored (RFC 3516 3).

Plain FETCH BODY may not send NUL, and what it sends must not depend on how a client asks; and what is no text must not
have its line ends changed, as is done to those of a message.
"""

from __future__ import annotations

import base64
import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from protocols.message import Part, ensure_part

COPY: Final = 57 * 4096  # bytes encoded at a time: lines of base64 hold 57
MEMORY_MAX: Final = 1 << 20  # bytes of the encoded message in memory

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
_NUL: Final = re.compile(rb"\0")
_NUL_OR_BARE_LF: Final = re.compile(rb"\0|(?<!\r)\n")


class NotEncodable(Exception):
    """There is a NUL outside of the parts that may hold one."""


@contextlib.contextmanager
def with_binary_encoded(message: IO[bytes], temporary_dir: Path) -> Iterator[IO[bytes]]:
    """The message with those binary parts in base64 that would not be kept as they are. Raises NotEncodable."""
    with (
        tempfile.SpooledTemporaryFile(max_size=MEMORY_MAX, dir=str(temporary_dir)) as masked,
        tempfile.SpooledTemporaryFile(max_size=MEMORY_MAX, dir=str(temporary_dir)) as encoded,
    ):
        _mask(message, masked)
        part, _ = ensure_part(masked)
        position = 0
        for leaf in _binary_leaves(part):
            found = _NUL if leaf.is_text else _NUL_OR_BARE_LF
            if not _holds(message, leaf.body_offset, leaf.end_offset, found):
                continue
            _copy(message, position, leaf.header_offset, encoded)
            encoded.write(_header_for_base64(_read(message, leaf.header_offset, leaf.body_offset)))
            _encode(message, leaf.body_offset, leaf.end_offset, encoded)
            position = leaf.end_offset
        _copy(message, position, message.seek(0, 2), encoded)
        encoded.seek(0)
        while block := encoded.read(COPY):
            if b"\0" in block:
                raise NotEncodable("NUL outside of a part with binary transfer encoding")
        encoded.seek(0)
        yield encoded


def _mask(source: IO[bytes], out: IO[bytes]) -> None:
    """A copy for the parser, which takes no bare LF: in binary content it is not the end of a line."""
    source.seek(0)
    before = b""
    while block := source.read(COPY):
        # With the byte before in front, a CR at the end of the last block is seen.
        out.write(_BARE_LF.sub(b"?", before + block)[len(before) :])
        before = block[-1:]
    out.seek(0)


def _binary_leaves(part: Part) -> Iterator[Part]:
    """The parts in binary encoding that are not composite, in order; embedded messages are left as they are."""
    if part.is_multipart:
        for child in part.parts:
            yield from _binary_leaves(child)
    elif part.message is None and part.encoding == "BINARY":
        yield part


def _header_for_base64(header: bytes) -> bytes:
    """The header with its Content-Transfer-Encoding changed."""
    lines: list[bytes] = []
    skipping = False
    for line in header.splitlines(keepends=True):
        if line[:1] not in (b" ", b"\t"):
            skipping = line.lower().startswith(b"content-transfer-encoding")
            if skipping:
                lines.append(b"Content-Transfer-Encoding: base64\r\n")
        if not skipping:
            lines.append(line)
    return b"".join(lines)


def _encode(source: IO[bytes], start: int, end: int, out: IO[bytes]) -> None:
    source.seek(start)
    left = end - start
    lines_written = False
    while left > 0 and (block := source.read(min(COPY, left))):
        left -= len(block)
        if lines_written:
            out.write(b"\r\n")
        text = base64.encodebytes(block).rstrip(b"\n")
        out.write(text.replace(b"\n", b"\r\n"))
        lines_written = True


def _copy(source: IO[bytes], start: int, end: int, out: IO[bytes]) -> None:
    source.seek(start)
    left = end - start
    while left > 0 and (block := source.read(min(COPY, left))):
        left -= len(block)
        out.write(block)


def _read(source: IO[bytes], start: int, end: int) -> bytes:
    source.seek(start)
    return source.read(end - start)


def _holds(source: IO[bytes], start: int, end: int, pattern: re.Pattern[bytes]) -> bool:
    source.seek(start)
    left = end - start
    before = b""
    while left > 0 and (block := source.read(min(COPY, left))):
        left -= len(block)
        if pattern.search(before + block, len(before)):  # which sees a CR at the end of the block before
            return True
        before = block[-1:]
    return False
