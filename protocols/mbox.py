"""Mbox files (RFC 4155, in the form mboxrd): messages one after the other, their flags in header fields.

    for message in read_mbox(file, size_max): ...
    file.writelines(write_message(blocks, "ada@example.org", received, ["\\\\Seen"]))

Both sides take any bytes. Lines end in LF in what is written, in LF or CRLF in what is read.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Final, Protocol

from protocols.message.dates import MONTHS, parse_date
from protocols.message.headers import is_field

BLOCK: Final = 64 * 1024  # bytes read at once
HEADER_MAX: Final = 1 << 20  # bytes of a message in which its flags are looked for
FROM_LINE_MAX: Final = 1000  # bytes of a "From " line that are kept

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_STATUS_WORDS: Final = {"R": "\\Seen"}
_X_STATUS_WORDS: Final = {"A": "\\Answered", "F": "\\Flagged", "T": "\\Draft", "D": "\\Deleted"}
_STATUS_FIELDS: Final = frozenset({b"status", b"x-status", b"x-keywords"})
_NOT_WRITTEN: Final = _STATUS_FIELDS | {b"content-length"}  # it would be wrong in a file with other line ends

_BOUNDARY: Final = re.compile(rb"^\r?\nFrom ", re.MULTILINE)
_QUOTED: Final = re.compile(rb"^>(>*From )", re.MULTILINE)
_TO_QUOTE: Final = re.compile(rb"^(>*From )", re.MULTILINE)
_CTIME: Final = re.compile(
    r"([A-Z][a-z]{2}) ([A-Z][a-z]{2}) +([0-9]{1,2}) ([0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?)"
    r"(?: ([+-][0-9]{4}|[A-Z]{1,5}))? ([0-9]{4})(?: ([+-][0-9]{4}))?(?![0-9])"
)
_WORD_SEPARATORS: Final = re.compile(r"[,\s]+")
_BLANKS: Final = (b"\n", b"\r\n")


class Lines(Protocol):
    """What an mbox is read from."""

    def read(self, length: int, /) -> bytes: ...


class MboxError(ValueError):
    """The file is no mbox."""


@dataclass(frozen=True, slots=True)
class MboxMessage:
    """A message of an mbox, without the fields that held its flags.

    ``number`` counts from 1; ``received`` is the time of the From line; ``words`` are IMAP's names of flags, and
    keywords as they stand there. ``content`` is None when the message is larger than it may be.
    """

    number: int
    received: datetime | None
    words: tuple[str, ...]
    content: bytes | IO[bytes] | None
    size: int


def read_mbox(file: Lines, size_max: int) -> Iterator[MboxMessage]:
    """The messages in order, each read as a whole: up to 1 MiB in memory, else in a temporary file.

    ``size_max``: bytes of the largest message. Raises MboxError before the first message, if there is none.
    """
    number = 0
    current: _Collected | None = None
    for piece in _pieces(file):
        if isinstance(piece, _FromLine):
            if current is not None:
                yield current.finished(number)
            number += 1
            current = _Collected(piece.line, size_max)
        elif current is not None:
            current.add(piece)
        else:
            raise MboxError('first line does not start with "From "')
    if current is not None:
        yield current.finished(number)


def parse_from_line(line: str) -> datetime | None:
    """The time in a line ``From sender ctime``; without a zone it is UTC (RFC 4155 appendix A)."""
    match = _CTIME.search(line)
    if match is None:
        return None
    _, month, day, clock, zone, year, late_zone = match.groups()
    return parse_date(f"{day} {month} {year} {clock} {zone or late_zone or '+0000'}")


def format_from_line(sender: str, received: datetime) -> str:
    """``From sender Tue Mar  5 10:11:12 2024``, in UTC; a sender with spaces or control characters is shown as mox."""
    moment = received.astimezone(UTC)
    day, month = DAYS[moment.weekday()], MONTHS[moment.month - 1]
    plain = sender if sender.isascii() and sender.isprintable() and " " not in sender else ""
    return f"From {plain or 'mox'} {day} {month} {moment.day:2} {moment:%H:%M:%S} {moment.year:04}"


def write_message(
    blocks: Iterable[bytes], sender: str, received: datetime, words: Sequence[str], keywords: Sequence[str] = ()
) -> Iterator[bytes]:
    """A message as it stands in an mbox, with the empty line after it. ``blocks`` have LF at the ends of lines.

    ``words`` are IMAP's names of flags; those that the form has no letter for belong in ``keywords``.
    """
    yield f"{format_from_line(sender, received)}\n".encode("ascii")
    status = "".join(letter for letter, word in _STATUS_WORDS.items() if word in words)
    x_status = "".join(letter for letter, word in _X_STATUS_WORDS.items() if word in words)
    fields = [("Status", status), ("X-Status", x_status), ("X-Keywords", ",".join(keywords))]
    added = "".join(f"{name}: {value}\n" for name, value in fields if value).encode("ascii", "replace")
    last = b"\n"
    for block, at_line_start in _line_blocks(_with_fields(blocks, added)):
        last = block[-1:]
        yield _sub(_TO_QUOTE, rb">\1", block, at_line_start)
    yield b"\n" if last == b"\n" else b"\n\n"


@dataclass(frozen=True, slots=True)
class _FromLine:
    line: bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some of a message, quoted still; it begins a line or goes on with one."""

    data: bytes
    at_line_start: bool = True


class _Collected:
    """A message while it is read."""

    def __init__(self, from_line: bytes, size_max: int) -> None:
        self._received = parse_from_line(from_line.decode("latin-1"))
        self._size_max = size_max
        self._head: list[bytes] | None = []
        self._head_size = 0
        self._file: IO[bytes] | None = None
        self._size = 0
        self._words: tuple[str, ...] = ()

    def add(self, piece: _Piece) -> None:
        data = _sub(_QUOTED, rb"\1", piece.data, piece.at_line_start)
        if self._head is None:
            self._write(data)
            return
        self._head.append(data)
        self._head_size += len(data)
        if self._head_size > HEADER_MAX:
            head = self._without_flags(self._head)
            self._head = None
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 # its reader closes it, by letting go of it
            self._write(head)

    def finished(self, number: int) -> MboxMessage:
        content: bytes | IO[bytes] | None
        if self._head is not None:
            content = self._without_flags(self._head)
            self._size = len(content)
            if self._size > self._size_max:
                content = None
        else:
            content = self._file
            if self._file is not None:
                self._file.seek(0)
        return MboxMessage(number, self._received, self._words, content, self._size)

    def _write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._size_max:
            self._file = None
        if self._file is not None:
            self._file.write(data)

    def _without_flags(self, pieces: list[bytes]) -> bytes:
        data = b"".join(pieces)
        end = _header_end(data, HEADER_MAX)
        kept: list[bytes] = []
        words: list[str] = []
        for name, field in _fields(data[:end]):
            if name in _STATUS_FIELDS:
                words.extend(_flag_words(name, field))
            else:
                kept.append(field)
        self._words = tuple(dict.fromkeys(words))
        return b"".join(kept) + data[end:]


def _pieces(file: Lines) -> Iterator[_FromLine | _Piece]:
    """From lines, and between them the pieces of messages without the empty line before the next From line."""
    blank = b""  # an empty line that was read, and is the message's only if no From line follows
    first = True
    for block, at_line_start in _line_blocks(iter(lambda: file.read(BLOCK), b"")):
        position = 0
        if at_line_start and block.startswith(b"From ") and (first or blank):
            position = _line_end(block, 0)
            yield _FromLine(block[: min(position, FROM_LINE_MAX)])
        elif blank:
            yield _Piece(blank)
        if first and not block.startswith(b"From "):
            yield _Piece(block)  # no mbox: the reader sees it
            return
        first = False
        blank = b""
        # In a block that goes on with a line, ^ is to be looked for behind that line's end.
        search_from = position if at_line_start or position else block.find(b"\n") + 1 or len(block)
        while (match := _BOUNDARY.search(block, search_from)) is not None:
            if match.start() > position:
                yield _Piece(block[position : match.start()], at_line_start or position > 0)
            start = match.end() - len(b"From ")
            position = search_from = _line_end(block, start)
            yield _FromLine(block[start : min(position, start + FROM_LINE_MAX)])
        rest = block[position:]
        begins = at_line_start or position > 0
        for line in reversed(_BLANKS):
            if rest.endswith(line) and ((rest == line and begins) or rest.endswith(b"\n" + line)):
                blank = line
                rest = rest[: -len(line)]
                break
        if rest:
            yield _Piece(rest, begins)


def _line_end(data: bytes, start: int) -> int:
    return data.find(b"\n", start) + 1 or len(data)


def _line_blocks(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The same bytes in blocks of whole lines, with whether each begins a line; longer lines are in pieces."""
    kept: list[bytes] = []
    kept_size = 0
    at_line_start = True
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*kept, block[:end]]), at_line_start
            at_line_start = True
            kept, kept_size = [], 0
        if end < len(block):
            kept.append(block[end:])
            kept_size += len(block) - end
            if kept_size > BLOCK:
                yield b"".join(kept), at_line_start
                at_line_start = False
                kept, kept_size = [], 0
    if kept:
        yield b"".join(kept), at_line_start


def _sub(pattern: re.Pattern[bytes], replacement: bytes, block: bytes, at_line_start: bool) -> bytes:
    """Replace at the beginnings of lines, of which the block's own may be none."""
    if b"From " not in block:
        return block
    if at_line_start:
        return pattern.sub(replacement, block)
    end = block.find(b"\n") + 1 or len(block)
    return block[:end] + pattern.sub(replacement, block[end:])


def _with_fields(blocks: Iterable[bytes], added: bytes) -> Iterator[bytes]:
    """A message whose old flags and Content-Length are left out of its header, with these fields at the end of it."""
    iterator = iter(blocks)
    head = bytearray()
    for block in iterator:
        head += block
        if len(head) > HEADER_MAX:
            break
    data = bytes(head)
    end = _header_end(data, HEADER_MAX)
    header = b"".join(field for name, field in _fields(data[:end]) if name not in _NOT_WRITTEN)
    if header and added and not header.endswith(b"\n"):
        header += b"\n"
    yield header + added
    if end < len(data):
        yield data[end:]
    yield from iterator


def _header_end(data: bytes, limit: int) -> int:
    """Where the header section ends: before the empty line, or the first line that can't be in it.

    Of one that goes on beyond ``limit``, before the last field.
    """
    position = last_field = 0
    while position < len(data):
        end = _line_end(data, position)
        line = data[position:end]
        if is_field(line):
            last_field = position
        elif not (line[:1] in b" \t" and line.strip()):
            return position
        position = end
    return last_field if len(data) > limit else position


def _fields(header: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The fields of a header section with all their lines; name in lower case."""
    name, start, position = b"", 0, 0
    while position < len(header):
        end = _line_end(header, position)
        if header[position : position + 1] not in (b" ", b"\t"):
            if position > start:
                yield name, header[start:position]
            name, start = header[position:end].partition(b":")[0].strip().lower(), position
        position = end
    if position > start:
        yield name, header[start:position]


def _flag_words(name: bytes, field: bytes) -> list[str]:
    value = field.partition(b":")[2].decode("utf-8", "replace")
    if name == b"x-keywords":
        return [word for word in _WORD_SEPARATORS.split(value) if word]
    letters = _STATUS_WORDS if name == b"status" else _X_STATUS_WORDS
    return [word for letter, word in letters.items() if letter in value]
