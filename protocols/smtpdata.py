"""The content of a message after DATA, in blocks of any size (RFC 5321 4.5.2), safe from SMTP smuggling both ways.

    reader = DataReader(limit=100 << 20)
    while not reader.done:
        spool.write(reader.feed(await stream.read_block(timeout)))
    stream.unread(reader.rest)
    if reader.violation: ...

    stuffer = DotStuffer()
    for block in blocks: stream.write(stuffer.feed(block))
    stream.write(stuffer.finish() + END_OF_DATA)

Only CRLF "." CRLF ends the content. Bytes that another server might take for an end as well are a violation; it is
remembered and the content read to its true end, so that client and server stay in step. All work is done by searches
over whole blocks.
"""

from __future__ import annotations

import re
from typing import Final

from .errors import ProtocolError

END: Final = b"\r\n.\r\n"
END_OF_DATA: Final = b".\r\n"  # after the CRLF of the last line

_BARE_LF: Final = re.compile(rb"(?<!\r)\n")
# What ends a message for software that takes a bare LF for a line end: CRLF.LF, LF.LF and LF.CRLF.
_SMUGGLED_END: Final = re.compile(rb"\n\.\n|(?<!\r)\n\.\r\n")


class ContentTooLarge(ProtocolError):
    """More bytes came than the limit allows."""


class BareLineEnd(ProtocolError):
    """Content has a CR or LF of its own: some server would see a line end in it where others see none."""


class DataReader:
    """The state between two blocks. Besides the block itself it holds a few bytes."""

    __slots__ = (
        "_before",
        "_held",
        "_limit",
        "_strict",
        "done",
        "has_8bit",
        "has_separator",
        "rest",
        "size",
        "violation",
    )

    def __init__(self, limit: int, *, strict: bool = False) -> None:
        """``limit``: bytes of content. ``strict``: every bare LF is a violation (pedantic mode)."""
        self._limit = limit
        self._strict = strict
        self._held = b"\r\n"  # received and not decided on: a beginning of END; at first the CRLF of the DATA command
        self._before = b""  # the end of what was decided on
        self.done = False
        self.rest = b""
        """What came after the end of the content: the next commands."""
        self.size = 0
        """Bytes of the content, with CRLF line ends and without stuffed dots."""
        self.has_8bit = False
        self.has_separator = False
        """Whether there is an empty line: a header section and a body, or only a body."""
        self.violation = ""
        """Why the content must not be accepted; "" if it may."""

    def feed(self, block: bytes) -> bytes:
        """The content that is in the next bytes received, as it is to be stored. Raises ContentTooLarge."""
        data = self._held + block
        end = data.find(END)
        if end >= 0:
            self.done = True
            self.rest = data[end + len(END) :]
            chunk = data[: end + 2]
            self._held = b""
        else:
            self._held = _beginning_of_end(data)
            chunk = data[: len(data) - len(self._held)]
        content = self._checked(chunk)
        if not self._before:
            if not chunk:
                return b""
            content = content[2:]  # the CRLF of the DATA command is no part of it
        if not self.has_separator:
            self._look_for_separator(chunk)
        self._before = (self._before + chunk[-4:])[-4:]
        if not self.has_8bit and not content.isascii():
            self.has_8bit = True
        self.size += len(content)
        if self.size > self._limit:
            raise ContentTooLarge(f"more than {self._limit} bytes")
        return content

    def _checked(self, chunk: bytes) -> bytes:
        """The chunk with its dots unstuffed and its bare LFs turned into CRLF.

        A CR and the LF after it are always in the same chunk, and so is the dot after that.
        """
        crlfs = chunk.count(b"\r\n")
        if chunk.count(b"\r") != crlfs:
            self.violation = "bare carriage return, possible SMTP smuggling"
        bare_lf = chunk.count(b"\n") != crlfs
        if bare_lf and self._strict:
            self.violation = self.violation or "bare line feed, possible SMTP smuggling"
        if bare_lf or b"\n" in self._before:
            window = self._before + (chunk if bare_lf else chunk[: len(END)])
            if _SMUGGLED_END.search(window):
                self.violation = "dot on a line of its own after a bare line feed, possible SMTP smuggling"
        content = chunk.replace(b"\r\n.", b"\r\n")  # RFC 5321 4.5.2
        return _BARE_LF.sub(b"\r\n", content) if bare_lf else content

    def _look_for_separator(self, chunk: bytes) -> None:
        window = self._before + chunk
        self.has_separator = b"\r\n\r\n" in window or b"\n\n" in window or b"\n\r\n" in window


class DotStuffer:
    """Content on its way out: a dot at the start of a line is doubled, the last line gets its end."""

    __slots__ = ("_at_line_start", "_held")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held = b""  # a CR at the end of a block, whose LF may be in the next

    def feed(self, block: bytes) -> bytes:
        """What to send for the next bytes of the content. Raises BareLineEnd."""
        data = self._held + block
        self._held = b"\r" if data.endswith(b"\r") else b""
        if self._held:
            data = data[:-1]
        if not data:
            return b""
        crlfs = data.count(b"\r\n")
        if data.count(b"\r") != crlfs or data.count(b"\n") != crlfs:
            raise BareLineEnd("bare carriage return or line feed")
        stuffed = data.replace(b"\r\n.", b"\r\n..")
        if self._at_line_start and data.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = data.endswith(b"\n")
        return stuffed

    def finish(self) -> bytes:
        """The CRLF that the content lacks at its end, if it does. Raises BareLineEnd."""
        if self._held:
            raise BareLineEnd("bare carriage return at the end")
        return b"" if self._at_line_start else b"\r\n"


def _beginning_of_end(data: bytes) -> bytes:
    """The longest end of ``data`` that END begins with."""
    for size in range(len(END) - 1, 0, -1):
        if data.endswith(END[:size]):
            return END[:size]
    return b""
