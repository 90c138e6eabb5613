"""Conversations written down, and how they are played.

A transcript is a text file. Lines before the first empty line are its settings, all optional:

    login: no                  connections stay in the not authenticated state (default: they log in)
    mailbox: box               made before the conversation, as many lines as wanted
    append: box two-parts.eml (\\Seen) "01-Feb-2024 10:20:30 +0100"    a file of messages/, flags and date optional
    append: box simple*3       generated messages "Subject: simple 1" and so on
    select: box                each connection selects it first

The rest reads like the conversation it is. `#` begins a comment. Several connections are C1/S1, C2/S2; C and S are
the first.

    C: SELECT box              a command; the runner puts a tag in front
    C> DONE                    a line without a tag
    C: APPEND box <literal>    a synchronizing literal, its lines follow; also <literal+>, <literal8>, <literal8+>
       |Subject: x             a line of the literal, CRLF is added
       /last line              the same without CRLF
    C: NOOP <literal:text>     a literal in place; <message:two-parts.eml> is a file as non-synchronizing literal
    S: * 3 EXISTS              an untagged response that must come
    S: + ...                   a continuation request
    S: {                       the lines up to `S: }` come in any order
    S! * <> EXPUNGE            no response like this may come before the tagged one
    S: ...                     other untagged responses than those written are fine here
    S: OK [UIDNEXT 4]          the tagged response; without a code any code will do; [-] says that there is none
    S: <closed>                the server closes the connection

Untagged responses come in the order written. FLAGS, OK, RECENT, CAPABILITY and BYE may come unasked; any other that is
not written is an error, unless there is a `...` line.

Patterns are compared as values: literals and quoted strings are equal. An atom is compared without case, `~"text"` is a
string without case, `"a\\r\\n"` has a line end, `<message:two-parts.eml>` is a file's content; `<>` is any value,
`<name>` any value at its first use and the same one afterwards (also in C lines), `<name+2>` a number computed from it;
`...` at the end of a list is anything more; `{a b}` is a list in any order, `{a ...}` one that has at least these. Sets
of numbers are compared as what they name: 1:3 is 1,2,3. In FETCH the items come in any order, and UID, which the server
always sends, need not be written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.system.imap.wire import Closed, Response, Value, Wire, expand, lines

FOLDER: Final = Path(__file__).parent
UNASKED: Final = frozenset({"FLAGS", "OK", "RECENT", "CAPABILITY", "BYE"})

_SEQUENCE_SET = re.compile(r"\d+(:\d+)?(,\d+(:\d+)?)*")
_LINE = re.compile(r"([CS])(\d*)([:>!])(?: (.*))?")
_LITERAL = re.compile(r"<(literal8?\+?)(?::([^>]*))?>|<message:([^>]+)>")
_NAME = re.compile(r"<([a-z]\w*)(?:\+(\d+))?>")


@dataclass(slots=True)
class Send:
    """What a connection sends: text and literals in turn."""

    where: str
    connection: int
    text: str
    tagged: bool
    blocks: list[bytes]


@dataclass(slots=True)
class Expect:
    """What a connection expects up to a tagged response, or up to the last line written."""

    where: str
    connection: int
    groups: list[list[str]] = field(default_factory=list)  # lines of a group come in any order
    never: list[str] = field(default_factory=list)
    others_fine: bool = False
    tagged: str = ""
    closed: bool = False

    @property
    def ended(self) -> bool:
        return bool(self.tagged) or self.closed


@dataclass(slots=True)
class Transcript:
    """A parsed file."""

    name: str
    settings: list[tuple[str, str]]
    steps: list[Send | Expect]


def load(path: Path) -> Transcript:
    head, _, body = path.read_text().partition("\n\n")
    settings: list[tuple[str, str]] = []
    for line in head.splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition(":")
            assert key in ("login", "mailbox", "append", "select"), f"{path.name}: unknown setting {key}"
            settings.append((key, value.strip()))
    steps: list[Send | Expect] = []
    in_group = False
    first = head.count("\n") + 3
    for number, line in enumerate(body.splitlines(), first):
        where = f"{path.name}:{number}"
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        last = steps[-1] if steps else None
        if stripped[0] in "|/":
            assert isinstance(last, Send), f"{where}: literal lines belong to a C line"
            block = stripped[1:].encode() + (b"\r\n" if stripped[0] == "|" else b"")
            last.blocks[-1] += block
            continue
        match = _LINE.fullmatch(stripped)
        assert match is not None, f"{where}: {stripped!r} is no line of a transcript"
        connection = int(match[2] or 1)
        kind, mark, text = match[1], match[3], match[4] or ""
        if kind == "C":
            steps.append(Send(where, connection, text, mark == ":", [b""]))
            continue
        if not isinstance(last, Expect) or last.connection != connection or last.ended:
            last = Expect(where, connection)
            steps.append(last)
        if mark == "!":
            last.never.append(text)
        elif text == "{":
            last.groups.append([])
            in_group = True
        elif text == "}":
            in_group = False
        elif text == "...":
            last.others_fine = True
        elif text == "<closed>":
            last.closed = True
        elif text.startswith(("* ", "+")):
            if in_group:
                last.groups[-1].append(text)
            else:
                last.groups.append([text])
        else:
            assert text.split(" ")[0] in ("OK", "NO", "BAD"), f"{where}: a tagged response is OK, NO or BAD"
            last.tagged = text
    return Transcript(path.stem, settings, steps)


class Player:
    """Plays a transcript. ``connect`` makes a connection that has read its greeting."""

    def __init__(self, transcript: Transcript, connect: Callable[[], Wire], username: str, password: str) -> None:
        self._transcript = transcript
        self._connect = connect
        self._values: dict[str, str] = {"username": username, "password": password}
        self._wires: dict[int, Wire] = {}
        self._outstanding: dict[int, list[str]] = {}
        self._aside: dict[int, list[Response]] = {}  # read while waiting for a "+"
        self._login = ("login", "no") not in transcript.settings

    def play(self) -> None:
        try:
            self._prepare()
            for step in self._transcript.steps:
                if isinstance(step, Send):
                    self._send(step)
                else:
                    self._expect(step)
        finally:
            for wire in self._wires.values():
                wire.close()

    def _prepare(self) -> None:
        makes = [(key, value) for key, value in self._transcript.settings if key in ("mailbox", "append")]
        if not makes:
            return
        with self._connect() as wire:
            wire.login(self._values["username"], self._values["password"])
            for key, value in makes:
                if key == "mailbox":
                    wire.ok(f"CREATE {value}")
                    continue
                name, _, rest = value.partition(" ")
                source, _, options = rest.partition(" ")
                for message in messages(source):
                    wire.ok(f"APPEND {name} {options}".rstrip(), message, nonsync=True)

    def _wire(self, number: int) -> Wire:
        if number not in self._wires:
            wire = self._wires[number] = self._connect()
            self._outstanding[number] = []
            self._aside[number] = []
            if self._login:
                wire.login(self._values["username"], self._values["password"])
                for key, value in self._transcript.settings:
                    if key == "select":
                        wire.ok(f"SELECT {value}")
        return self._wires[number]

    # Client.

    def _send(self, step: Send) -> None:
        wire = self._wire(step.connection)
        tag = wire.tag() if step.tagged else ""
        if tag:
            self._outstanding[step.connection].append(tag)
        text = self._filled(step.text)
        data = f"{tag} ".encode() if tag else b""
        at = 0
        for match in _LITERAL.finditer(text):
            data += text[at : match.start()].encode()
            at = match.end()
            if match[3]:
                kind, content = "literal+", messages(match[3])[0]
            elif match[2] is not None:
                kind, content = match[1], match[2].encode()
            else:
                kind, content = match[1], step.blocks[0]
            eight, plus = "8" in kind, kind.endswith("+")
            data += b"%s{%d%s}\r\n" % (b"~" if eight else b"", len(content), b"+" if plus else b"")
            if not plus:
                wire.send(data)
                data = b""
                if not self._continued(wire, step.connection):
                    return
            data += content
        wire.send(data + text[at:].encode() + b"\r\n")

    def _continued(self, wire: Wire, connection: int) -> bool:
        """Wait for "+"; a tagged answer instead ends the command."""
        while True:
            response = wire.read()
            if response.tag == "+":
                return True
            self._aside[connection].append(response)
            if response.tag != "*":
                return False

    def _filled(self, text: str) -> str:
        def value(match: re.Match[str]) -> str:
            known = self._values.get(match[1])
            if known is None:
                return match[0]
            return str(int(known) + int(match[2])) if match[2] else known

        return _NAME.sub(value, text)

    # Server.

    def _expect(self, step: Expect) -> None:
        wire = self._wire(step.connection)
        received: list[Response] = []
        tagged: Response | None = None
        try:
            if step.tagged:
                tag = self._outstanding[step.connection].pop(0)
                while tagged is None:
                    response = self._next(wire, step.connection)
                    if response.tag == tag:
                        tagged = response
                    else:
                        received.append(response)
            elif step.closed:
                received = self._aside[step.connection] + wire.expect_closed()
            else:
                self._collect(step, wire, received)
                return
        except (Closed, TimeoutError) as exc:
            raise AssertionError(f"{step.where}: {exc!r} after\n{lines(received)}") from exc
        except AssertionError as exc:
            raise AssertionError(f"{step.where}: {exc} after\n{lines(received)}") from exc
        left = self._matched(step, received)
        for pattern in step.never:
            for response in received:
                assert not self._matches(pattern, response), f"{step.where}: {response} must not come"
        stray = [response for response in left if response.name not in UNASKED]
        assert step.others_fine or not stray, f"{step.where}: unexpected\n{lines(stray)}"
        if tagged is not None:
            assert self._matches(step.tagged, tagged), f"{step.where}: want {self._filled(step.tagged)}, got {tagged}"

    def _next(self, wire: Wire, connection: int) -> Response:
        aside = self._aside[connection]
        return aside.pop(0) if aside else wire.read()

    def _collect(self, step: Expect, wire: Wire, received: list[Response]) -> None:
        """Untagged responses that come by themselves: read until all that are written have come."""
        want = sum(map(len, step.groups))
        while len(received) < want:
            response = self._next(wire, step.connection)
            if response.tag == "*" and response.name in UNASKED:
                written = any(self._matches(p, response) for group in step.groups for p in group)
                if not written:
                    continue
            received.append(response)
        left = self._matched(step, received)
        assert not left, f"{step.where}: unexpected\n{lines(left)}"

    def _matched(self, step: Expect, received: list[Response]) -> list[Response]:
        """Take out what is written, in its order; what is left was not asked for."""
        left = list(received)
        start = 0
        for group in step.groups:
            end = start
            wanted = list(group)
            for pattern in wanted:
                for at in range(start, len(left)):
                    if self._matches(pattern, left[at]):
                        del left[at]
                        end = max(end, at)
                        break
                else:
                    what = f"{step.where}: {self._filled(pattern)} did not come, or not in this order, among"
                    raise AssertionError(f"{what}\n{lines(received)}")
            start = end if len(group) == 1 else start
        return left

    def _matches(self, pattern: str, response: Response) -> bool:
        bound = dict(self._values)
        if matches(self._filled(pattern), response, bound):
            self._values.update(bound)
            return True
        return False


def messages(source: str) -> list[bytes]:
    """A file of messages/ with CRLF, or the generated ones of name*count."""
    name, star, count = source.partition("*")
    if star:
        return [simple(name, number) for number in range(1, int(count) + 1)]
    return [re.sub(rb"\r?\n", b"\r\n", (FOLDER / "messages" / name).read_bytes())]


def simple(name: str, number: int) -> bytes:
    return (
        f"From: {name.title()} <{name}@example.org>\r\nTo: you@example.net\r\nSubject: {name} {number}\r\n"
        f"Date: Thu, 1 Feb 2024 10:{number % 60:02}:00 +0100\r\nMessage-ID: <{name}-{number}@example.org>\r\n\r\n"
        f"Body of {name} {number}.\r\n"
    ).encode()


# Patterns.


@dataclass(frozen=True, slots=True)
class AnyValue:
    """`<name>`, or `<>` without one."""

    name: str


@dataclass(frozen=True, slots=True)
class NoCase:
    """`~"text"`."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Listed:
    """`( )` in order, `{ }` in any; `more` says that others may follow."""

    items: tuple[Pattern, ...]
    ordered: bool
    more: bool


Pattern = AnyValue | NoCase | Listed | str | bytes | None

_ESCAPES: Final = {"r": "\r", "n": "\n", "0": "\0", "1": "\1", "2": "\2", "3": "\3"}
_TOKEN = re.compile(
    r'\s*(?:<message:(?P<message>[^>]+)>|(?P<any><[a-z]?\w*>)|(?P<nocase>~)?"(?P<string>(?:[^"\\]|\\.)*)"|(?P<open>[({])|(?P<close>[)}])'
    r"|(?P<section>(?:BODY|BINARY|BINARY\.SIZE)\[[^\]]*\](?:<\d+>)?)|(?P<atom>[^\s(){}\"]+))"
)


def pattern(text: str) -> Listed:
    """The values of a pattern as one ordered list."""
    stack: list[tuple[str, list[Pattern]]] = [("", [])]
    more: list[bool] = [False]
    at = 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        assert match is not None, f"bad pattern {text!r} at {at}"
        at = match.end()
        if match["open"]:
            stack.append((match["open"], []))
            more.append(False)
        elif match["close"]:
            opened, items = stack.pop()
            assert opened + match["close"] in ("()", "{}"), f"bad pattern {text!r}"
            stack[-1][1].append(Listed(tuple(items), opened == "(", more.pop()))
        elif match["message"]:
            stack[-1][1].append(messages(match["message"])[0])
        elif match["any"]:
            stack[-1][1].append(AnyValue(match["any"][1:-1]))
        elif match["string"] is not None:
            data = re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), match["string"]).encode()
            stack[-1][1].append(NoCase(data) if match["nocase"] else data)
        elif (atom := match["section"] or match["atom"]) == "...":
            more[-1] = True
        else:
            stack[-1][1].append(None if atom.upper() == "NIL" else atom)
    assert len(stack) == 1, f"bad pattern {text!r}"
    return Listed(tuple(stack[0][1]), True, more[0])


def matches(text: str, response: Response, bound: dict[str, str]) -> bool:
    """Whether a response is what a line of a transcript says."""
    if text.startswith("+"):
        return response.tag == "+"
    untagged = text.startswith("* ")
    if untagged != (response.tag == "*"):
        return False
    words = text[2:] if untagged else text
    name, _, rest = words.partition(" ")
    if name.isdigit() or name.startswith("<"):
        number, (name, _, rest) = name, rest.partition(" ")
        if response.number is None or not _equal(pattern(number).items[0], str(response.number), bound):
            return False
    if name.upper() != response.name:
        return False
    if response.text or response.code is not None:
        if not rest.startswith("["):
            return not rest or rest == response.text
        code = rest[1 : rest.rindex("]")]
        if code == "-":
            return response.code is None
        return response.code is not None and _equal(pattern(code), response.code, bound)
    wanted = pattern(rest)
    if response.name == "FETCH":
        return _equal_items(wanted.items[0], response.data[0], bound)
    return _equal(wanted, list(response.data), bound)


def _equal_items(wanted: Pattern, value: Value, bound: dict[str, str]) -> bool:
    """FETCH: items by name, whatever their order; UID need not be written."""
    assert isinstance(wanted, Listed), "the items of a FETCH are a list"
    items = {str(key).upper(): item for key, item in zip(value[::2], value[1::2], strict=True)}
    for key, item in zip(wanted.items[::2], wanted.items[1::2], strict=True):
        name = str(key).upper()
        if name not in items or not _equal(item, items.pop(name), bound):
            return False
    items.pop("UID", None)
    return wanted.more or not items


def _equal(wanted: Pattern, value: Value, bound: dict[str, str]) -> bool:
    match wanted:
        case AnyValue(name):
            if name:
                plain = value.decode() if isinstance(value, bytes) else str(value)
                if bound.setdefault(name, plain) != plain:
                    return False
            return True
        case NoCase(data):
            return isinstance(value, bytes) and value.lower() == data.lower()
        case Listed(items, ordered, more):
            if not isinstance(value, list) or len(value) < len(items) or (len(value) > len(items) and not more):
                return False
            if ordered:
                return all(_equal(item, part, bound) for item, part in zip(items, value, strict=False))
            left = list(value)
            for item in items:
                found = next((at for at, part in enumerate(left) if _equal(item, part, bound)), None)
                if found is None:
                    return False
                del left[found]
            return True
        case bytes():
            return (value.encode() if isinstance(value, str) else value) == wanted
        case None:
            return value is None
        case _:
            if isinstance(value, str):
                if _SEQUENCE_SET.fullmatch(wanted) and _SEQUENCE_SET.fullmatch(value):
                    return expand(wanted) == expand(value)
                return wanted.lower() == value.lower()
            return bool(value == wanted.encode())
