"""Reading replies (RFC 5321 4.2, RFC 2034): bounded, and of the form they must have."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .errors import SMTPError, printable

MAX_LINE: Final = 2048  # bytes with CRLF: four times what RFC 5321 4.5.3.1.5 allows
MAX_LINES: Final = 100  # of one reply
KEPT: Final = 4096  # characters of a reply that an error keeps: a thousand recipients can have one each
PERMANENT_FROM: Final = 500  # RFC 5321 4.2.1

_LINE: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED: Final = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?= |$)")


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer to a command."""

    code: int
    enhanced: str
    """ "5.1.1", of the first line that has one whose class fits the code; "" if none does."""
    text: str
    """What the lines say, without codes, on one line."""
    lines: tuple[str, ...]
    """The lines as they came, without line ends; spaces stand for what cannot be printed."""

    @property
    def ok(self) -> bool:
        return self.code < 300

    def error(self, command: str) -> SMTPError:
        """The reply as the reason why something failed."""
        return SMTPError(
            str(self)[:KEPT],
            permanent=self.code >= PERMANENT_FROM,
            code=self.code,
            enhanced=self.enhanced,
            command=command,
            lines=_first(self.lines, KEPT),
        )

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.enhanced, self.text) if part)


class ReplyParser:
    """Takes lines until a reply is complete."""

    __slots__ = ("_code", "_lines")

    def __init__(self) -> None:
        self._code = 0
        self._lines: list[tuple[str, str]] = []

    def feed(self, line: bytes) -> Reply | None:
        """The reply if this was its last line. Raises ValueError for a line that cannot be part of a reply."""
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        match = _LINE.fullmatch(content)
        if match is None or b"\0" in content:
            raise ValueError(f"malformed reply line {_shown(content)[:100]!r}")
        code = int(match[1])
        if self._lines and code != self._code:
            raise ValueError(f"reply has lines with codes {self._code} and {code}")
        self._code = code
        self._lines.append((_shown(content), _shown(match[3] or b"").strip()))
        if match[2] == b"-":
            if len(self._lines) >= MAX_LINES:
                raise ValueError(f"reply of more than {MAX_LINES} lines")
            return None
        return self._reply()

    def _reply(self) -> Reply:
        enhanced = ""
        texts: list[str] = []
        for _, text in self._lines:
            found = _ENHANCED.match(text)
            if found and int(found[1]) == self._code // 100:
                enhanced = enhanced or found[0]
                text = text[found.end() :].strip()
            if text:
                texts.append(text)
        return Reply(self._code, enhanced, " ".join(texts), tuple(line for line, _ in self._lines))


def _shown(data: bytes) -> str:
    return printable(data.decode("utf-8", "backslashreplace"))


def _first(lines: tuple[str, ...], characters: int) -> tuple[str, ...]:
    """The lines that are within the first so many characters."""
    kept = []
    for line in lines:
        if characters <= 0:
            break
        kept.append(line[:characters])
        characters -= len(line)
    return tuple(kept)
