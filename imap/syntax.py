"""The tokens of IMAP commands (RFC 9051 section 9, RFC 3501 section 9).

    parser = Parser(b'a1 LOGIN {3} "secret"')    # lines without their end; here one announces a literal of 3 bytes
    parser.tag(), parser.space(), parser.command_name()
    parser.add_literal(b"mjl"); parser.add_line(b' "secret"')

A literal is wherever a line ends in ``{n}``. What a command means is parsed by the module of the command: its function
takes the parser behind the command's name. Every token is one regular expression, matched where it must stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import Final

from protocols.message.dates import MONTHS

from .sets import SequenceSet

NUMBER_MAX: Final = (1 << 32) - 1
NUMBER64_MAX: Final = (1 << 63) - 1
SHOWN_MAX: Final = 40  # bytes of the input that an error repeats

_ATOM: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_ASTRING: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
_LIST_ATOM: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){"\\]+')
_TAG: Final = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\+]+(?= |\Z)')
_NAME: Final = re.compile(rb"[A-Za-z0-9]+")
_QUOTED: Final = re.compile(rb'"((?:[^"\\\r\n\x00]++|\\["\\])*+)"')
_UNESCAPE: Final = re.compile(rb"\\(.)")
_LITERAL: Final = re.compile(rb"(~?)\{([0-9]{1,19})(\+?)\}\Z")
_LITERAL_END: Final = re.compile(rb"(~?)\{([0-9]+)(\+?)\}\Z")
_NUMBER: Final = re.compile(rb"[0-9]{1,20}")
_SET: Final = re.compile(rb"[0-9:*,]+|\$")
_FLAG: Final = re.compile(rb'\\?[^\x00-\x20\x7f-\xff(){%*"\\\]]+')
_WORD: Final = re.compile(rb"[A-Za-z0-9.\-]+")
_DATE: Final = re.compile(rb"([0-9]{1,2})-([A-Za-z]{3})-([0-9]{4})")
_DATE_TIME: Final = re.compile(
    rb'"([ 0-9][0-9])-([A-Za-z]{3})-([0-9]{4}) ([0-9]{2}):([0-9]{2}):([0-9]{2}) ([+-])([0-9]{2})([0-9]{2})"'
)


class BadSyntax(Exception):
    """A command that is not in the grammar; the text says what was expected where. ``line``: the line's number."""

    def __init__(self, text: str, line: int = 0) -> None:
        super().__init__(text)
        self.line = line


class LiteralNeeded(Exception):
    """The parser has come to a literal that was announced and not yet read."""


@dataclass(frozen=True, slots=True)
class LiteralAnnounced:
    """The end of a line that announces a literal. ``binary``: literal8, which may hold NUL (RFC 3516)."""

    size: int
    synchronizing: bool
    binary: bool


def announced_literal(line: bytes) -> LiteralAnnounced | None:
    """The literal that a line ends in, if it does; a size of any number of digits."""
    if not line.endswith(b"}"):
        return None
    match = _LITERAL_END.search(line, max(0, line.rfind(b"{") - 1))
    if match is None:
        return None
    digits = match[2].lstrip(b"0") or b"0"
    size = int(digits) if len(digits) < 20 else NUMBER64_MAX
    return LiteralAnnounced(size, not match[3], bool(match[1]))


class Parser:
    """A command in the making: lines, and the literals between them."""

    def __init__(self, line: bytes) -> None:
        self.lines = [line]
        self.literals: list[bytes] = []
        self._line = 0
        self._position = 0
        self._start = 0

    def add_literal(self, data: bytes) -> None:
        self.literals.append(data)

    def add_line(self, line: bytes) -> None:
        self.lines.append(line)

    def mark(self) -> None:
        """restart() returns to here; in the first line."""
        self._start = self._position

    def restart(self) -> None:
        self._line = 0
        self._position = self._start

    def fail(self, expected: str) -> BadSyntax:
        """The error that says what was expected at this place."""
        rest = self.lines[self._line][self._position : self._position + SHOWN_MAX]
        return BadSyntax(f"expected {expected}, got {_shown(rest)}", self._line)

    # Words and separators.

    def at_end(self) -> bool:
        return self._position == len(self.lines[self._line]) and self._line == len(self.literals)

    def end(self) -> None:
        if not self.at_end():
            raise self.fail("end of command")

    def peek(self, text: bytes) -> bool:
        """Whether this text, compared without case, comes next."""
        line = self.lines[self._line]
        return line[self._position : self._position + len(text)].upper() == text

    def peek_digit(self) -> bool:
        line = self.lines[self._line]
        return line[self._position : self._position + 1].isdigit()

    def take(self, text: bytes) -> bool:
        """Go past this text if it comes next."""
        if self.peek(text):
            self._position += len(text)
            return True
        return False

    def expect(self, text: bytes) -> None:
        if not self.take(text):
            raise self.fail(_shown(text))

    def space(self) -> None:
        self.expect(b" ")

    def rest(self) -> bytes:
        """All that is left of the line."""
        line = self.lines[self._line]
        start, self._position = self._position, len(line)
        return line[start:]

    def _match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        match = pattern.match(self.lines[self._line], self._position)
        if match is None:
            raise self.fail(what)
        self._position = match.end()
        return match

    def tag(self) -> bytes:
        return self._match(_TAG, "tag")[0]

    def command_name(self) -> bytes:
        """The name, upper case; UID and the word after it are one name."""
        name = self._match(_NAME, "command")[0].upper()
        if name == b"UID" and self.take(b" "):
            name += b" " + self._match(_NAME, "command after UID")[0].upper()
        return name

    def word(self, what: str) -> str:
        """Letters, digits, dots and hyphens, upper case: names of items, keys and options."""
        return self._match(_WORD, what)[0].upper().decode("ascii")

    def atom(self, what: str = "atom") -> bytes:
        return self._match(_ATOM, what)[0]

    def flag(self) -> str:
        return self._match(_FLAG, "flag")[0].decode("ascii")

    def flag_list(self) -> list[str]:
        """Flags in parentheses."""
        self.expect(b"(")
        flags: list[str] = []
        while not self.take(b")"):
            if flags:
                self.space()
            flags.append(self.flag())
        return flags

    # Strings.

    def string(self) -> bytes:
        """Quoted or literal."""
        line = self.lines[self._line]
        if line[self._position : self._position + 1] == b'"':
            quoted = self._match(
                _QUOTED, "quoted string without NUL, CR and LF, and escapes only of quote and backslash"
            )
            return _UNESCAPE.sub(rb"\1", quoted[1]) if b"\\" in quoted[1] else quoted[1]
        if line[self._position : self._position + 1] in (b"{", b"~"):
            return self._literal()
        raise self.fail("string")

    def string_or_literal8(self) -> tuple[bytes, bool]:
        """A string, or bytes that may hold NUL; and whether it is a string (RFC 5464 5)."""
        if not self.peek(b"~"):
            return self.string(), True
        return self._literal(binary=True), False

    def _literal(self, *, binary: bool = False) -> bytes:
        announced = self.announced()
        if announced.binary and not binary:
            raise self.fail("string, not literal8")
        if self._line == len(self.literals):
            raise LiteralNeeded
        data = self.literals[self._line]
        self._line += 1
        self._position = 0
        if b"\0" in data and not binary:
            raise BadSyntax("expected a literal without NUL", self._line)
        return data

    def announced(self) -> LiteralAnnounced:
        """The announcement of a literal, which must be here; the parser stays before it."""
        match = _LITERAL.match(self.lines[self._line], self._position)
        if match is None:
            raise self.fail("literal")
        return LiteralAnnounced(min(int(match[2]), NUMBER64_MAX), not match[3], bool(match[1]))

    def astring(self) -> bytes:
        match = _ASTRING.match(self.lines[self._line], self._position)
        if match is None:
            return self.string()
        self._position = match.end()
        return match[0]

    def nstring(self) -> bytes | None:
        if self.peek(b"NIL"):
            self._position += 3
            return None
        return self.string()

    def list_mailbox(self) -> bytes:
        """A pattern of LIST: a string, or an atom that may hold wildcards."""
        match = _LIST_ATOM.match(self.lines[self._line], self._position)
        if match is None:
            return self.string()
        self._position = match.end()
        return match[0]

    # Numbers.

    def number(self, what: str = "number", *, least: int = 0, most: int = NUMBER_MAX) -> int:
        start = self._position
        value = int(self._match(_NUMBER, what)[0])
        if not least <= value <= most:
            self._position = start
            raise self.fail(f"{what} from {least} to {most}")
        return value

    def sequence_set(self) -> SequenceSet:
        start = self._position
        text = self._match(_SET, "sequence set")[0]
        if text == b"$":
            return SequenceSet(saved=True)
        ranges: list[tuple[int | None, int | None]] = []
        for piece in text.split(b","):
            low, colon, high = piece.partition(b":")
            try:
                first = _set_number(low)
                ranges.append((first, _set_number(high) if colon else first))
            except ValueError:
                self._position = start
                raise self.fail("sequence set of numbers from 1 to 4294967295") from None
        return SequenceSet(tuple(ranges))

    # Dates.

    def date(self) -> date:
        """A day, quoted or bare."""
        quoted = self.take(b'"')
        match = self._match(_DATE, "date like 1-Feb-2024")
        if quoted:
            self.expect(b'"')
        try:
            return date(int(match[3]), _month(match[2]), int(match[1]))
        except ValueError as exc:
            raise BadSyntax(f"impossible date {_shown(match[0])}: {exc}", self._line) from None

    def date_time(self) -> datetime:
        """The form of INTERNALDATE, quoted, with its zone."""
        match = self._match(_DATE_TIME, 'date and time like " 1-Feb-2024 10:20:30 +0100"')
        day, month, year, hour, minute, second, sign, zone_hour, zone_minute = match.groups()
        try:
            if int(zone_minute) > 59:
                raise ValueError("minutes of the zone")
            offset = timedelta(hours=int(zone_hour), minutes=int(zone_minute))
            zone = timezone(-offset if sign == b"-" else offset)
            seconds = min(int(second), 59) if second == b"60" else int(second)  # a leap second
            moment = datetime(int(year), _month(month), int(day), int(hour), int(minute), seconds, tzinfo=zone)
            moment.timestamp()  # years 1 and 9999 may be outside in UTC
        except (ValueError, OverflowError) as exc:
            raise BadSyntax(f"impossible date {_shown(match[0])}: {exc}", self._line) from None
        return moment


def _set_number(text: bytes) -> int | None:
    if text == b"*":
        return None
    if not 1 <= len(text) <= 10 or text[:1] == b"0":
        raise ValueError(text)
    value = int(text)
    if not 1 <= value <= NUMBER_MAX:
        raise ValueError(text)
    return value


def _month(name: bytes) -> int:
    title = name.title().decode("ascii")
    if title not in MONTHS:
        raise ValueError(f"no month {title}")
    return MONTHS.index(title) + 1


def _shown(text: bytes) -> str:
    if not text:
        return "end of line"
    if text == b" ":
        return "space"
    return repr(text.decode("ascii", "backslashreplace"))
