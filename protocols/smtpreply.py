"""Writing SMTP replies: codes, enhanced codes, lines of bounded length (RFC 5321 4.2, RFC 2034)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_LINE: Final = 510  # bytes without CRLF, RFC 5321 4.5.3.1.5
WRAP_FROM: Final = 400  # a longer text is cut at the first space from this byte on

_UNPRINTABLE: Final = re.compile(r"[^\t -~]")


@dataclass(frozen=True, slots=True)
class Reply:
    """What a command is answered with. ``text`` may have several lines; ``close``: the connection ends after it."""

    code: int
    enhanced: str  # "2.1.0"; "" for EHLO, 354 and 334, which have none (RFC 2034 section 4)
    text: str
    close: bool = False

    @property
    def ok(self) -> bool:
        return self.code < 400

    def encode(self, received_id: str = "") -> bytes:
        """The lines to send. The text of an error ends in the id, by which an operator finds the log lines."""
        text = f"{self.text} ({received_id})" if received_id and not self.ok else self.text
        enhanced = f"{self.enhanced} " if self.enhanced else ""
        if len(text) < WRAP_FROM and "\n" not in text and text.isascii() and text.isprintable():
            return f"{self.code} {enhanced}{text}\r\n".encode("ascii")
        room = MAX_LINE - len("250-") - len(enhanced)
        lines = [piece for line in text.split("\n") for piece in _wrapped(_printable(line), room)]
        marks = ["-"] * (len(lines) - 1) + [" "]
        return "".join(
            f"{self.code}{mark}{enhanced}{line}\r\n" for mark, line in zip(marks, lines, strict=True)
        ).encode("ascii")


def _printable(line: str) -> str:
    """Nothing in a text ends its line early; what is not ASCII is written as an escape."""
    if line.isascii() and line.isprintable():
        return line
    return _UNPRINTABLE.sub("?", line.encode("ascii", "backslashreplace").decode("ascii"))


def _wrapped(line: str, room: int) -> list[str]:
    pieces = []
    while len(line) > room:
        at = line.find(" ", WRAP_FROM, room + 1)
        if at < 0:
            at = room
        pieces.append(line[:at])
        line = line[at:].removeprefix(" ")
    pieces.append(line)
    return pieces
