"""Header sections: fields with offsets, unfolding, values with parameters (RFC 5322 2.2, RFC 2045 5.1, RFC 2231)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from .charset import clean_text, decode_bytes
from .encodedwords import decode_header, one_line
from .source import Readable, as_source

MAX_HEADER: Final = 1 << 20  # bytes of one header section; read as a whole
MAX_PARAMETERS: Final = 1000  # of one field; more are ignored
MAX_CONTINUATIONS: Final = 1000  # pieces of one RFC 2231 value; more are ignored

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.0-9A-Z^_`a-z{|}~]+")
_NAME: Final = re.compile(r"[!-9;-~]+")
_FIELD_NAME: Final = re.compile(rb"[!-9;-~]+[ \t]*")
_STRUCTURE: Final = re.compile(rb'["();\\]')


@dataclass(frozen=True, slots=True)
class HeaderField:
    """One field of a header section: from `start` to `end`, with all its lines and line ends, in the section."""

    name: str
    raw: bytes
    """What follows the colon, as sent: folded, with the last line end."""
    start: int
    end: int

    def value(self) -> bytes:
        """The raw value on one line, without the white space around it."""
        return unfold(self.raw)

    def text(self) -> str:
        """The value for people."""
        return decode_header(self.value())


def header_section(content: Readable, limit: int = MAX_HEADER) -> tuple[bytes, bool]:
    """The start of a message up to the empty line that ends its header, and whether there is one.

    The section has the line end of its last field. At most ``limit`` bytes are looked at; without an empty line in
    them, all of them are given.
    """
    head = as_source(content).read_at(0, limit)
    end = head.find(b"\r\n\r\n")
    return (head, False) if end < 0 else (head[: end + 2], True)


def iter_headers(section: bytes) -> Iterator[HeaderField]:
    """The fields of a header section in order, up to an empty line; lines of no field are passed over."""
    position = 0
    start = 0
    name = ""
    value_at = 0
    for line in section.splitlines(keepends=True) if b"\r" not in section else _lines(section):
        if line in (b"\r\n", b"\n"):
            break
        if line[:1] not in (b" ", b"\t"):
            if name:
                yield HeaderField(name, section[value_at:position], start, position)
            name = ""
            if is_field(line):
                raw_name, _, _ = line.partition(b":")
                name = raw_name.rstrip(b" \t").decode("ascii")
                start = position
                value_at = position + len(raw_name) + 1
        position += len(line)
    if name:
        yield HeaderField(name, section[value_at:position], start, position)


def is_field(line: bytes) -> bool:
    """Whether a line begins a header field: a name of printable ASCII, and a colon."""
    match = _FIELD_NAME.match(line)
    return match is not None and line[match.end() : match.end() + 1] == b":"


def is_field_name(name: str) -> bool:
    """Whether it can be the name of a header field (RFC 5322 3.6.8)."""
    return _NAME.fullmatch(name) is not None


def unfold(raw: bytes) -> bytes:
    """A raw value on one line, without the white space around it and without NUL."""
    if b"\n" in raw:
        raw = raw.replace(b"\r\n", b"").replace(b"\n", b"")
    if b"\0" in raw:
        raw = raw.replace(b"\0", b"")
    return raw.strip(b" \t\r")


def without_comments(text: str) -> str:
    """A structured value without its comments (RFC 5322 3.2.2)."""
    kept: list[str] = []
    depth = 0
    for character in text:
        if character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif not depth:
            kept.append(character)
    return "".join(kept)


def collect_fields(lines: list[bytes], wanted: Collection[bytes]) -> dict[bytes, list[bytes]]:
    """The unfolded values of the fields with a name in `wanted` (lower case), from lines without their line ends."""
    found: dict[bytes, list[bytes]] = {}
    folded: list[bytes] | None = None
    values: list[bytes] | None = None
    for line in lines:
        if line[:1] in (b" ", b"\t"):
            if folded is not None:
                folded.append(line)
            continue
        if folded is not None and values is not None:
            values.append(_joined(folded))
            folded = None
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        name = name.rstrip(b" \t").lower()
        if name in wanted:
            values = found.setdefault(name, [])
            folded = [value]
    if folded is not None and values is not None:
        values.append(_joined(folded))
    return found


@dataclass(frozen=True, slots=True)
class Parameterized:
    """A value and its parameters, as in Content-Type and Content-Disposition."""

    value: bytes
    """What stands before the first semicolon, without comments."""
    raw: tuple[tuple[str, bytes], ...]
    """Names in upper case and values without quotes, as sent and in order."""
    params: dict[str, str]
    """Names in lower case, values decoded: RFC 2231, and the encoded words that the wild has there."""


def parse_parameterized(value: bytes) -> Parameterized:
    """Split a value from its parameters. Never fails; of parameters with the same name the first one counts."""
    main, *segments = _segments(value)
    raw: list[tuple[str, bytes]] = []
    simple = True
    for segment in segments[:MAX_PARAMETERS]:
        name, equals, text = segment.partition(b"=")
        name = name.strip(b" \t\r\n")
        if not equals or not name or not name.isascii():
            continue
        upper = name.decode("ascii").upper()
        simple = simple and "*" not in upper
        raw.append((upper, _unquote(text.strip(b" \t\r\n"))))
    params: dict[str, str] = {}
    if simple:
        for upper, text in raw:
            params.setdefault(one_line(upper.lower()), _param_text(text))
    elif raw:
        params = _decode_rfc2231(raw)
    return Parameterized(main.strip(b" \t\r\n"), tuple(raw), params)


def is_token(value: bytes) -> bool:
    """Whether it is a token of RFC 2045 5.1."""
    return _TOKEN.fullmatch(value) is not None


def _lines(section: bytes) -> Iterator[bytes]:
    """Lines with their ends; unlike `bytes.splitlines` a bare CR ends none."""
    position = 0
    while position < len(section):
        end = section.find(b"\n", position) + 1 or len(section)
        yield section[position:end]
        position = end


def _joined(folded: list[bytes]) -> bytes:
    value = folded[0] if len(folded) == 1 else b"".join(folded)
    if b"\0" in value:
        value = value.replace(b"\0", b"")
    return value.strip(b" \t\r")


def _segments(value: bytes) -> list[bytes]:
    """The value cut at semicolons outside quotes and comments, comments removed."""
    if b'"' not in value and b"(" not in value:
        return value.split(b";")
    segments: list[bytes] = []
    kept: list[bytes] = []  # pieces of the current segment, between comments
    start = 0
    depth = 0
    quoted = False
    skip = -1
    for match in _STRUCTURE.finditer(value):
        at = match.start()
        character = value[at]
        if at == skip:
            continue
        if character == 0x5C:  # a backslash escapes what follows, in quotes and comments
            skip = at + 1 if quoted or depth else -1
        elif quoted:
            quoted = character != 0x22
        elif character == 0x28:
            if not depth:
                kept.append(value[start:at])
            depth += 1
        elif depth:
            if character == 0x29:
                depth -= 1
                start = at + 1
        elif character == 0x22:
            quoted = True
        elif character == 0x3B:
            segments.append(b"".join([*kept, value[start:at]]))
            kept = []
            start = at + 1
    if not depth:
        kept.append(value[start:])
    segments.append(b"".join(kept))
    return segments


def _unquote(text: bytes) -> bytes:
    if text[:1] != b'"':
        return text
    if b"\\" not in text:
        return text[1:].partition(b'"')[0]
    pieces: list[bytes] = []
    position = 1
    while position < len(text):
        escape = text.find(b"\\", position)
        quote = text.find(b'"', position, escape if escape >= 0 else len(text))
        if quote >= 0:
            pieces.append(text[position:quote])
            break
        if escape < 0:
            pieces.append(text[position:])
            break
        pieces.append(text[position:escape])
        pieces.append(text[escape + 1 : escape + 2])
        position = escape + 2
    return b"".join(pieces)


def _param_text(value: bytes) -> str:
    if value.isascii() and b"=?" not in value:
        return one_line(value.decode("ascii"))
    return decode_header(value)


def _decode_rfc2231(raw: list[tuple[str, bytes]]) -> dict[str, str]:
    """Join continuations and decode percent escapes; an extended value wins over a plain one of the same name."""
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[bool, bytes]]] = {}
    for upper, value in raw:
        name, *marks = upper.lower().split("*")
        extended = len(marks) > 0 and marks[-1] == ""
        numbers = marks[:-1] if extended else marks
        if not marks:
            plain.setdefault(name, _param_text(value))
        elif not numbers:
            pieces.setdefault(name, {}).setdefault(0, (True, value))
        elif len(numbers) == 1 and numbers[0].isdecimal() and len(numbers[0]) < 5:
            pieces.setdefault(name, {}).setdefault(int(numbers[0]), (extended, value))
        else:
            plain.setdefault(upper.lower(), _param_text(value))
    decoded = {name: text for name, parts in pieces.items() if (text := _continued(parts)) is not None}
    return {one_line(name): text for name, text in (plain | decoded).items()}


def joined_continuations(raw: Sequence[tuple[str, bytes]]) -> Sequence[tuple[str, bytes]]:
    """Raw parameters with continuations (RFC 2231 3) joined: NAME*0 and NAME*1 are NAME, NAME*0* and NAME*1 are NAME*.

    Names are in upper case. Pieces after a missing one stay as they are.
    """
    given = dict(reversed(raw))  # the first of a name counts
    joined: dict[str, tuple[str, bytes]] = {}  # by the name of the first piece
    others: set[str] = set()
    for first in given:
        if not first.endswith(("*0", "*0*")):
            continue
        name, _, mark = first.rpartition("*0")
        if not name:
            continue
        pieces = [given[first]]
        while len(pieces) < MAX_CONTINUATIONS:
            plain = f"{name}*{len(pieces)}"
            encoded = plain + "*"
            if encoded in given:
                others.add(encoded)
                pieces.append(given[encoded] if mark else unquote_to_bytes(given[encoded]))
            elif plain in given:
                others.add(plain)
                pieces.append(quote_from_bytes(given[plain]).encode() if mark else given[plain])
            else:
                break
        joined[first] = (name + mark, b"".join(pieces))
    return [joined.pop(name, (name, value)) for name, value in raw if name not in others] if joined else raw


def _continued(parts: dict[int, tuple[bool, bytes]]) -> str | None:
    if 0 not in parts:
        return None
    extended, first = parts[0]
    charset = ""
    if extended and first.count(b"'") >= 2:
        label, _, first = first.split(b"'", 2)
        charset = label.decode("latin-1")
    data = [unquote_to_bytes(first) if extended else first]
    for number in range(1, MAX_CONTINUATIONS):
        if number not in parts:
            break
        extended, piece = parts[number]
        data.append(unquote_to_bytes(piece) if extended else piece)
    joined = b"".join(data)
    if not charset and not parts[0][0]:
        return _param_text(joined)
    return clean_text(one_line(decode_bytes(joined, charset)))
