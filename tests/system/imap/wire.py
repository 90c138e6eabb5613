"""A bare IMAP client for tests: it sends what it is told, and accepts only what the grammar allows (RFC 9051 9).

    wire = Wire(ip, port)                              # reads the greeting
    answer = wire.ok('LOGIN "me@example.org" secret')  # AssertionError unless the tagged answer is OK
    answer = wire.command("APPEND box", b"literal")    # bytes go out as a literal
    answer.status, answer.code, answer.untagged

Values of responses are plain: NIL is None, an atom or number is str, a string is bytes, a list is list. Each connection
comes from a network of its own, so that no test uses up another's connection limits.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from protocols.deflate import Deflate
from protocols.sasl.client import ClientMechanism, SaslClientError
from tests.system.servers import source_ip

Value = Any  # None | str | bytes | list[Value]; recursive types would be all casts in the tests

ANSWER_TIMEOUT: Final = 20.0  # seconds for an answer: two busy cores, several test processes
STATUS_NAMES: Final = frozenset({"OK", "NO", "BAD", "BYE", "PREAUTH"})

_NUMBERED = re.compile(rb"(\d+) (?:(EXISTS|RECENT|EXPUNGE)$|(FETCH|UIDFETCH) )", re.IGNORECASE)
_LITERAL_END = re.compile(rb"(~?)\{(\d+)\}\r\n$")
_ATOM = re.compile(rb'[^\x00-\x20\x7f-\xff(){%*"\\]+')
_SECTION_KEY = re.compile(rb"(?:BODY|BINARY|BINARY\.SIZE)\[[^\]]*\](?:<\d+>)?", re.IGNORECASE)
_CODE = re.compile(rb"\[([^\]\"]*(?:\"(?:[^\"\\\\]|\\\\.)*\"[^\]\"]*)*)\]( |$)")


class Closed(Exception):
    """The server closed the connection."""


class BadResponse(AssertionError):
    """What the server sent is no IMAP."""


class Literal8(bytes):
    """A string that came as literal8, the only form that may hold NUL."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Response:
    """One response: ``tag`` is "*", "+" or a command's; ``name`` in upper case; ``data`` what follows the name.

    ``code`` are the words in brackets of a status response, and ``text`` its human part. The ``number`` of a UIDFETCH
    is a UID.
    """

    raw: bytes
    tag: str
    name: str = ""
    number: int | None = None
    code: list[Value] | None = None
    text: str = ""
    data: tuple[Value, ...] = ()

    @property
    def items(self) -> dict[str, Value]:
        """The data items of a FETCH, keys in upper case."""
        assert self.name in ("FETCH", "UIDFETCH"), self
        listed = self.data[0]
        return {str(key).upper(): value for key, value in zip(listed[::2], listed[1::2], strict=True)}

    def __str__(self) -> str:
        return self.raw.decode("utf-8", "replace").rstrip("\r\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command brought: untagged responses in order, and the tagged one."""

    untagged: list[Response]
    tagged: Response

    @property
    def status(self) -> str:
        return self.tagged.name

    @property
    def code(self) -> list[Value]:
        return self.tagged.code or []

    def named(self, name: str) -> list[Response]:
        return [response for response in self.untagged if response.name == name]

    def one(self, name: str) -> Response:
        found = self.named(name)
        assert len(found) == 1, f"want one {name}, got {lines(self.untagged)}"
        return found[0]

    def fetched(self) -> dict[int, dict[str, Value]]:
        """Data items by sequence number; several responses about one message are merged."""
        merged: dict[int, dict[str, Value]] = {}
        for response in self.named("FETCH"):
            assert response.number is not None
            merged.setdefault(response.number, {}).update(response.items)
        return merged

    def by_uid(self) -> dict[int, dict[str, Value]]:
        return {int(items["UID"]): items for items in self.fetched().values()}

    def uid_fetched(self) -> dict[int, dict[str, Value]]:
        """Data items by UID, of a session with UIDONLY."""
        merged: dict[int, dict[str, Value]] = {}
        for response in self.named("UIDFETCH"):
            assert response.number is not None
            merged.setdefault(response.number, {}).update(response.items)
        return merged

    def numbers(self) -> list[int]:
        """What SEARCH found, from SEARCH lines or from the ALL of an ESEARCH line."""
        found = [int(word) for response in self.named("SEARCH") for word in response.data if isinstance(word, str)]
        for response in self.named("ESEARCH"):
            words = [word.upper() if isinstance(word, str) else word for word in response.data]
            if "ALL" in words:
                found += expand(words[words.index("ALL") + 1])
        return found

    def status_code(self, name: str) -> list[Value] | None:
        """The words after a response code's name, looked for in untagged status responses and the tagged one."""
        for response in (*self.untagged, self.tagged):
            if response.code and str(response.code[0]).upper() == name:
                return response.code[1:]
        return None


def lines(responses: list[Response]) -> str:
    return "\n".join(f"  {response}" for response in responses) or "  (nothing)"


def expand(sequence_set: str) -> list[int]:
    """The numbers of a set in the order given: "3,7:5" is 3, 7, 6, 5."""
    found: list[int] = []
    for piece in sequence_set.split(","):
        first, _, last = piece.partition(":")
        low, high = int(first), int(last or first)
        found += range(low, high + 1) if low <= high else range(low, high - 1, -1)
    return found


def quote(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b'"' + data.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


class Wire:
    """One connection. Every read is parsed; ``utf8`` says that quoted strings may hold UTF-8 (after ENABLE)."""

    def __init__(
        self,
        ip: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        source: str | None = None,
        timeout: float = ANSWER_TIMEOUT,
        greeting: bool = True,
    ) -> None:
        self.ip = ip
        self.timeout = timeout
        self.utf8 = False
        self.log: list[str] = []
        self.source = source or source_ip()
        self.socket: socket.socket = socket.create_connection((ip, port), timeout, source_address=(self.source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=ip)
        self._buffer = bytearray()
        self._tags = 0
        self._pending: list[Response] = []
        self._packer: zlib._Compress | None = None
        self._deflate: Deflate | None = None  # for what comes
        self.greeting = self.read() if greeting else None

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    # Sending.

    def tag(self) -> str:
        self._tags += 1
        return f"a{self._tags}"

    def send(self, data: bytes) -> None:
        self._note("C", data)
        self.send_raw(self.packed(data))

    def packed(self, data: bytes) -> bytes:
        """What goes over the connection for this."""
        return data if self._packer is None else self._packer.compress(data) + self._packer.flush(zlib.Z_SYNC_FLUSH)

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, whether the connection is compressed or not."""
        self.socket.settimeout(self.timeout)
        self.socket.sendall(data)

    def command(self, *parts: str | bytes, nonsync: bool = False) -> Answer:
        """Send a command, bytes as literals in place (str parts are joined as they are), and read its answer.

        A synchronizing literal that the server answers without "+" ends the command there.
        """
        tag = self.tag()
        text = (tag + " ").encode()
        for part in parts:
            if isinstance(part, str):
                text += part.encode()
                continue
            text += b" " if not text.endswith((b" ", b"(", b"~")) else b""
            if nonsync:
                text += b"{%d+}\r\n" % len(part) + part
                continue
            self.send(text + b"{%d}\r\n" % len(part))
            refused = self._until_continuation(tag)
            if refused is not None:
                return refused
            text = part
        self.send(text + b"\r\n")
        return self.answer(tag)

    def ok(self, *parts: str | bytes, nonsync: bool = False) -> Answer:
        answer = self.command(*parts, nonsync=nonsync)
        assert answer.status == "OK", f"{parts!r:.300}: {answer.tagged}"
        return answer

    def no(self, *parts: str | bytes, code: str | None = None) -> Answer:
        return self._refused("NO", code, *parts)

    def bad(self, *parts: str | bytes, code: str | None = None) -> Answer:
        return self._refused("BAD", code, *parts)

    def _refused(self, status: str, code: str | None, *parts: str | bytes) -> Answer:
        answer = self.command(*parts)
        assert answer.status == status, f"{parts!r:.300}: want {status}, got {answer.tagged}"
        assert code is None or answer.code[:1] == [code], f"{parts!r:.300}: want [{code}], got {answer.tagged}"
        return answer

    def answer(self, tag: str, timeout: float | None = None) -> Answer:
        """Read up to the tagged response of a command that was sent."""
        untagged = self._pending
        self._pending = []
        while True:
            response = self.read(timeout)
            if response.tag == tag:
                return Answer(untagged, response)
            if response.tag != "*":
                raise BadResponse(f"want an answer to {tag}, got {response}")
            untagged.append(response)

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.ok("STARTTLS")
        self.socket = context.wrap_socket(self.socket, server_hostname=self.ip)

    def compress(self) -> None:
        self.ok("COMPRESS DEFLATE")
        self.start_deflate()

    def start_deflate(self) -> None:
        """Both directions are deflate from here on, what was received already too."""
        self._packer = zlib.compressobj(wbits=-15)
        self._deflate = Deflate()
        self._deflate.received(bytes(self._buffer))
        self._buffer.clear()

    def end_deflate(self) -> None:
        """Nothing is compressed from here on; to be called when the last compressed answer is read."""
        assert self._deflate is not None
        self._buffer += self._deflate.end()
        self._packer = self._deflate = None

    def authenticate(self, mechanism: ClientMechanism, *, initial: bool = True) -> Answer:
        """AUTHENTICATE; the initial response goes along (SASL-IR) or is asked for."""
        tag = self.tag()
        step = mechanism.next(None)
        line = f"{tag} AUTHENTICATE {mechanism.name}".encode()
        pending = step.data
        if initial and pending is not None:
            line += b" " + (base64.b64encode(pending) or b"=")
            pending = None
        self.send(line + b"\r\n")
        while True:
            response = self.read()
            if response.tag == tag:
                return Answer([], response)
            if response.tag != "+":
                continue
            if pending is None:
                try:
                    pending = mechanism.next(base64.b64decode(response.text, validate=True)).data
                except SaslClientError:
                    pending = b""  # the server's error; RFC 5802 5.1: the exchange ends with its answer
            self.send(base64.b64encode(pending or b"") + b"\r\n")
            pending = None

    def login(self, username: str, password: str) -> Answer:
        return self.ok(f"LOGIN {quote(username).decode()} {quote(password).decode()}")

    # IDLE.

    def idle(self) -> str:
        """Start IDLE; the tag is for ``done``."""
        tag = self.tag()
        self.send(f"{tag} IDLE\r\n".encode())
        assert self._until_continuation(tag) is None
        return tag

    def done(self, tag: str) -> Answer:
        self.send(b"DONE\r\n")
        return self.answer(tag)

    def wait_for(self, name: str, timeout: float | None = None) -> Response:
        """Read untagged responses until one of that name."""
        deadline = time.monotonic() + (timeout or self.timeout)
        while True:
            response = self.take(max(deadline - time.monotonic(), 0.01))
            assert response.tag == "*", f"want {name}, got {response}"
            if response.name == name:
                return response

    def _until_continuation(self, tag: str) -> Answer | None:
        while True:
            response = self.read()
            if response.tag == "+":
                return None
            if response.tag == tag:
                untagged, self._pending = self._pending, []
                return Answer(untagged, response)
            self._pending.append(response)

    # Receiving.

    def take(self, timeout: float | None = None) -> Response:
        """The next response, those first that were set aside while waiting for a "+"."""
        return self._pending.pop(0) if self._pending else self.read(timeout)

    def read(self, timeout: float | None = None) -> Response:
        """The next response. Raises Closed, TimeoutError, BadResponse."""
        deadline = time.monotonic() + (timeout or self.timeout)
        raw = self._line(deadline)
        while match := _LITERAL_END.search(raw):
            # A text may end in braces too; only a line that can hold data carries literals.
            if _is_status(raw):
                break
            raw += self._exactly(int(match[2]), deadline)
            raw += self._line(deadline)
        self._note("S", raw)
        return parse(raw, utf8=self.utf8)

    def read_to_end(self) -> bytes:
        """All bytes until the server closes."""
        data = bytes(self._buffer)
        self._buffer.clear()
        try:
            while True:
                block = self._receive(time.monotonic() + self.timeout)
                data += block
        except Closed:
            return data

    def expect_closed(self) -> list[Response]:
        """Responses until the server closes; TimeoutError if it does not."""
        found: list[Response] = []
        try:
            while True:
                found.append(self.take())
        except Closed:
            return found

    def silent(self) -> bool:
        """Nothing waits to be read. Only meaningful after something that orders events, such as another's answer."""
        if self._buffer or self._pending:
            return False
        self.socket.setblocking(False)
        try:
            self._buffer += self.socket.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        return not self._buffer

    def _line(self, deadline: float) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            self._buffer += self._receive(deadline)
        return self._take(end + 1)

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._buffer) < size:
            self._buffer += self._receive(deadline)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken

    def _receive(self, deadline: float) -> bytes:
        if self._deflate is not None and (unpacked := self._deflate.unpack()):
            return unpacked
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no answer in time")
        self.socket.settimeout(left)
        try:
            block = self.socket.recv(262144)
        except (ConnectionError, ssl.SSLEOFError) as exc:
            raise Closed from exc
        if not block:
            raise Closed
        if self._deflate is None:
            return block
        self._deflate.received(block)
        return self._deflate.unpack()

    def _note(self, who: str, data: bytes) -> None:
        self.log.append(f"{who}: {data[:400]!r}")
        del self.log[:-200]


def _is_status(raw: bytes) -> bool:
    words = raw.split(b" ", 2)
    return raw.startswith(b"+ ") or (len(words) > 1 and words[1].strip().upper().decode("latin-1") in STATUS_NAMES)


def parse(raw: bytes, *, utf8: bool = False) -> Response:
    """A response, or BadResponse if it is not one by the grammar."""
    if not raw.endswith(b"\r\n"):
        raise BadResponse(f"line does not end in CRLF: {raw!r}")
    line = raw[:-2]
    if line == b"+" or line.startswith(b"+ "):
        return Response(raw, "+", text=line[2:].decode())
    tag, _, rest = line.partition(b" ")
    if not re.fullmatch(rb"\*|[A-Za-z0-9.]+", tag):
        raise BadResponse(f"no tag: {raw!r}")
    if tag == b"*" and (match := _NUMBERED.match(rest)):
        number = int(match[1])
        if match[2]:
            return Response(raw, "*", match[2].decode().upper(), number)
        values = Reader(rest[match.end() :], utf8, fetch=True).all()
        if len(values) != 1 or not isinstance(values[0], list) or len(values[0]) % 2 or number < 1:
            raise BadResponse(f"not a FETCH response: {raw!r}")
        return Response(raw, "*", match[3].decode().upper(), number, data=tuple(values))
    word, _, rest = rest.partition(b" ")
    name = word.decode("ascii", "replace").upper()
    if name in STATUS_NAMES:
        return _status(raw, tag.decode(), name, rest)
    if tag != b"*":
        raise BadResponse(f"a tagged response is OK, NO or BAD: {raw!r}")
    if not name.isalpha():
        raise BadResponse(f"unknown response: {raw!r}")
    return Response(raw, "*", name, data=tuple(Reader(rest, utf8).all()))


def _status(raw: bytes, tag: str, name: str, rest: bytes) -> Response:
    code = None
    if rest.startswith(b"["):
        match = _CODE.match(rest)
        if match is None:
            raise BadResponse(f"response code is not closed: {raw!r}")
        code = Reader(match[1], utf8=True, lenient=True).all()
        if not code:
            raise BadResponse(f"empty response code: {raw!r}")
        rest = rest[match.end() :]
    if not rest or b"\r" in rest or b"\0" in rest:
        raise BadResponse(f"a status response needs text: {raw!r}")
    return Response(raw, tag, name, code=code, text=rest.decode())


class Reader:
    """Values of a response line that may hold literals."""

    def __init__(self, data: bytes, utf8: bool, *, fetch: bool = False, lenient: bool = False) -> None:
        self._data = data
        self._at = 0
        self._utf8 = utf8
        self._fetch = fetch
        self._lenient = lenient  # flags such as \* stand in response codes only

    def all(self) -> list[Value]:
        values = list(self._values(b""))
        if self._at != len(self._data):
            raise self._bad("unexpected")
        return values

    def _values(self, closing: bytes) -> Iterator[Value]:
        first = True
        while self._at < len(self._data):
            if closing and self._data.startswith(closing, self._at):
                return
            # A space between values; none between the lists of addresses and of body parts.
            if not first:
                if self._data[self._at : self._at + 1] == b" ":
                    self._at += 1
                elif self._data[self._at : self._at + 1] != b"(" or self._data[self._at - 1 : self._at] != b")":
                    raise self._bad("want a space")
            first = False
            yield self._value()

    def _value(self) -> Value:
        data, at = self._data, self._at
        next_byte = data[at : at + 1]
        if next_byte == b"(":
            self._at += 1
            values = list(self._values(b")"))
            if data[self._at : self._at + 1] != b")":
                raise self._bad("list is not closed")
            self._at += 1
            return values
        if next_byte == b'"':
            return self._quoted()
        if next_byte == b"{" or data.startswith(b"~{", at):
            return self._literal()
        if self._fetch and (match := _SECTION_KEY.match(data, at)):
            self._at = match.end()
            return match[0].decode()
        flag = next_byte == b"\\"
        if flag and self._lenient and data[at : at + 2] == b"\\*":
            self._at += 2
            return "\\*"
        match = _ATOM.match(data, at + flag)
        if match is None:
            raise self._bad("want a value")
        self._at = match.end()
        text = data[at : self._at].decode()
        return None if text.upper() == "NIL" else text

    def _quoted(self) -> bytes:
        match = re.compile(rb'"((?:[^"\\\r\n\x00]|\\["\\])*)"').match(self._data, self._at)
        if match is None:
            raise self._bad("quoted string is broken")
        if not self._utf8 and not match[1].isascii():
            raise self._bad("8-bit bytes in a quoted string without UTF-8 enabled")
        match[1].decode()
        self._at = match.end()
        return re.sub(rb"\\(.)", rb"\1", match[1])

    def _literal(self) -> bytes:
        match = re.compile(rb"(~?)\{(\d+)\}\r\n").match(self._data, self._at)
        if match is None:
            raise self._bad("literal is broken")
        start = match.end()
        self._at = start + int(match[2])
        content = self._data[start : self._at]
        if len(content) != int(match[2]):
            raise self._bad("literal is short")
        if match[1]:
            return Literal8(content)
        if b"\0" in content:
            raise self._bad("NUL in a literal")
        return content

    def _bad(self, what: str) -> BadResponse:
        around = self._data[max(self._at - 40, 0) : self._at + 60]
        return BadResponse(f"{what} at byte {self._at}: {around!r}")
