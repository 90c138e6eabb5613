"""Finding the structure of a message: one pass over its bytes, linear whatever they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from .encodedwords import decode_header
from .errors import MessageError
from .headers import MAX_HEADER, Parameterized, collect_fields, is_field, is_token, parse_parameterized
from .source import Content, Readable, as_source, spooled
from .structure import ENVELOPE_FIELDS, Envelope, Part, raw_text
from .transfer import decode, decode_stream, decoded_base64_size

MAX_DEPTH: Final = 100  # levels of parts and embedded messages; real mail has under 10
MAX_PARTS: Final = 10_000  # of one message, embedded ones included; bounds the stored structure
MAX_FIELDS: Final = 5000  # of one header section
MAX_HEADER_LINE: Final = 8 * 1024  # bytes with CRLF; RFC 5322 says 1000, senders have their own ideas
MAX_STRICT_LINE: Final = 1000  # bytes with CRLF, RFC 5322 2.1.1
DECODE_FACTOR: Final = 4  # times the content's size that is decoded to look into encoded embedded messages
DECODE_AT_ONCE: Final = 1 << 20  # bytes of a body; more is decoded in pieces
CACHED_VALUE: Final = 64  # bytes of a Content-Type or Content-Disposition value whose parse is remembered

_MIME_FIELDS: Final = frozenset(
    (
        b"content-type",
        b"content-transfer-encoding",
        b"content-id",
        b"content-description",
        b"content-disposition",
        b"content-language",
        b"content-location",
        b"content-md5",
    )
)
_MESSAGE_FIELDS: Final = _MIME_FIELDS | ENVELOPE_FIELDS | {b"references"}
_AFTER_BOUNDARY: Final = frozenset((b"", b" ", b"\t", b"\r", b"\n"))


def parse(source: Readable, *, strict: bool = False) -> Part:
    """The structure of a message. Raises MessageError for what cannot be a message of this form.

    `strict` is for what we compose or take by submission: CRLF only, lines of at most 1000 bytes, valid Content-Type
    fields, and every multipart closed.
    """
    part, error = _parse(source, strict)
    if error is not None:
        raise error
    return part


def ensure_part(source: Readable) -> tuple[Part, MessageError | None]:
    """The structure of any content, never failing: with an error it is one application/octet-stream with its header."""
    return _parse(source, strict=False)


@dataclass(slots=True)
class _Budget:
    """What is left of the limits, for a message and the encoded messages in it together."""

    parts: int
    decode: int


def _parse(readable: Readable, strict: bool) -> tuple[Part, MessageError | None]:
    source = as_source(readable)
    content = Content(source)
    return _Scanner(content, strict, _Budget(MAX_PARTS, DECODE_FACTOR * source.size)).message(1)


class _Delimiter(NamedTuple):
    """A boundary line: where it starts and what follows it, and which of the open multiparts it belongs to."""

    start: int
    after: int
    level: int
    closing: bool


class _Broken(Exception):
    """The message, or embedded message, that is being read has no usable structure from `resume` on."""

    def __init__(self, text: str, resume: int) -> None:
        super().__init__(text)
        self.resume = resume


class _Scanner:
    """Reads one content from front to back. Methods that read an entity give the boundary line that ended it."""

    def __init__(self, content: Content, strict: bool, budget: _Budget) -> None:
        self.content = content
        self.strict = strict
        self.budget = budget
        self.boundaries: tuple[bytes, ...] = ()  # of the open multiparts, outermost first
        self.longest = 0
        self.empty_line = -2  # last found CRLF CRLF; there is none between the place asked about then and it
        self.dashes = -2  # the same for LF and two dashes
        self.counted_to = 0
        self.lines = 0

    def message(self, depth: int) -> tuple[Part, MessageError | None]:
        """The whole content as a message."""
        content = self.content
        problem = ""
        if content.count(b"\n", 0, content.size) != content.count(b"\r\n", 0, content.size):
            problem = "invalid bare line feed"
        elif self.strict:
            problem = self._strict_problem()
        if problem:
            return self._unstructured(), MessageError(problem)
        part, _, error = self._message(0, depth)
        return part, error

    def _message(self, start: int, depth: int) -> tuple[Part, _Delimiter | None, MessageError | None]:
        """A message that begins at `start`; its offsets are relative to that. An error makes it one opaque part."""
        part = Part()
        opened = self.boundaries
        try:
            return part, self._entity(part, start, start, depth, is_message=True), None
        except _Broken as broken:
            self._set_boundaries(opened)
            ended = self._delimiter(broken.resume, self.content.size)
            _make_opaque(part)
            self._finish(part, start, ended)
            self._measure(part, start)
            return part, ended, MessageError(str(broken))

    def _entity(
        self, part: Part, start: int, base: int, depth: int, *, is_message: bool = False, in_digest: bool = False
    ) -> _Delimiter | None:
        """Read a header section at `start` and the body after it into `part`; offsets are relative to `base`."""
        self.budget.parts -= 1
        body, ended = self._header_end(part, start)
        part.header_offset = start - base
        part.body_offset = part.end_offset = body - base
        part.raw_lines = self._lines_before(body)  # until _finish: the lines before the body
        section = self.content.slice(start, min(body, start + MAX_HEADER))
        lines = section.split(b"\r\n")
        problem = _header_problem(body - start, lines)
        fields = collect_fields(
            lines[:MAX_FIELDS] if problem else lines, _MESSAGE_FIELDS if is_message else _MIME_FIELDS
        )
        if is_message:
            part.envelope = Envelope.from_fields_of(fields)
        bad_type = _describe(part, fields)
        if self.strict and (bad_type or problem):
            raise _Broken(problem or bad_type, body)
        if problem:
            if is_message:
                raise _Broken(problem, body)
            _make_opaque(part)
        is_embedded = _is_message_type(part) or (in_digest and not part.media_type)  # RFC 2046 5.1.5
        if depth >= MAX_DEPTH and (part.media_type == "MULTIPART" or is_embedded):
            _make_opaque(part)
        elif ended is None and part.media_type == "MULTIPART":
            return self._multipart(part, base, depth)
        elif is_embedded:
            return self._embedded(part, base, depth, ended)
        if ended is None:
            ended = self._delimiter(body, self.content.size)
        self._finish(part, base, ended)
        self._measure(part, base)
        return ended

    def _header_end(self, part: Part, start: int) -> tuple[int, _Delimiter | None]:
        """Where the body of the entity at `start` begins; and the boundary line that is there in place of a body."""
        content = self.content
        first_line = content.slice(start, start + MAX_HEADER_LINE).partition(b"\r\n")[0]
        if not first_line:
            return min(start + 2, content.size), None
        if not _begins_header(first_line):
            ended = self._delimiter(start, start + 1)
            part.headerless = ended is None
            return start, ended
        if self.empty_line < start:
            found = content.find(b"\r\n\r\n", start, content.size)
            self.empty_line = found if found >= 0 else content.size
        body = min(self.empty_line + 4, content.size)
        ended = self._delimiter(start, body)
        return body if ended is None else ended.start, ended

    def _multipart(self, part: Part, base: int, depth: int) -> _Delimiter | None:
        """Read the parts of a multipart, its preamble and epilogue."""
        size = self.content.size
        body = base + part.body_offset
        boundary = _boundary(part)
        if not boundary:
            raise _Broken("missing/empty boundary content-type parameter", body)
        outer = self.boundaries
        level = len(outer)
        self._set_boundaries((*outer, boundary))
        in_digest = part.media_subtype == "DIGEST"
        ended = self._delimiter(body, size)
        while ended is not None and ended.level == level:
            if ended.closing:
                if not part.parts:
                    raise _Broken("first boundary cannot be finishing boundary", ended.after)
                self._set_boundaries(outer)
                ended = self._delimiter(ended.after, size)
                break
            child = Part(boundary_offset=ended.start - base)
            part.parts.append(child)
            if self.budget.parts <= 0:
                self._rest(child, ended.after, base)
                ended = None
            else:
                ended = self._entity(child, ended.after, base, depth + 1, in_digest=in_digest)
        else:
            # An outer boundary line or the end of the content closes it as well.
            if self.strict:
                raise _Broken("eof without closing boundary", size if ended is None else ended.start)
            self._set_boundaries(outer)
        self._finish(part, base, ended)
        return ended

    def _embedded(self, part: Part, base: int, depth: int, ended: _Delimiter | None) -> _Delimiter | None:
        """Read the message that is the body of a part."""
        body = base + part.body_offset
        error: MessageError | None = None
        if self.budget.parts <= 0:
            _make_opaque(part)
        elif part.is_identity and ended is None:
            part.message, ended, error = self._message(body, depth + 1)
            self._finish(part, base, ended)
            part.decoded_size = part.size
            if error is not None and self.strict:
                raise _Broken(str(error), base + part.end_offset)
            return ended
        if ended is None:
            ended = self._delimiter(body, self.content.size)
        self._finish(part, base, ended)
        if not part.is_identity and self.budget.decode < part.size:
            _make_opaque(part)
        self._measure(part, base)
        if _is_message_type(part) or not part.media_type:
            self.budget.decode -= part.size
            inner = Content(as_source(spooled(self._decoded(part, base))))
            part.message, error = _Scanner(inner, self.strict, self.budget).message(depth + 1)
            if error is not None and self.strict:
                raise _Broken(str(error), base + part.end_offset)
        return ended

    def _rest(self, part: Part, start: int, base: int) -> None:
        """There are too many parts: what follows `start` is one part without structure."""
        part.header_offset = part.body_offset = part.end_offset = start - base
        part.raw_lines = self._lines_before(start)
        _make_opaque(part)
        self._finish(part, base, None)
        self._measure(part, base)

    def _finish(self, part: Part, base: int, ended: _Delimiter | None) -> None:
        """Set the end and the lines of a part whose body was read up to `ended`, the end of the content if None."""
        end = self.content.size
        if ended is not None:
            inner = part.body_offset
            if part.parts:
                inner = part.parts[-1].end_offset
            elif part.message is not None:
                inner += part.message.end_offset
            end = max(ended.start - 2, base + inner)  # the CRLF before a boundary line belongs to it, RFC 2046 5.1.1
        part.end_offset = end - base
        part.raw_lines = self._lines_before(end) - part.raw_lines

    def _measure(self, part: Part, base: int) -> None:
        """Set the decoded size of a part that has no parts."""
        encoding = part.encoding
        part.decoded_size = part.size
        if encoding == "BASE64" and not part.is_text:
            size = decoded_base64_size(self._encoded(part, base))
            if size is not None:
                part.decoded_size = size
                return
        if not part.is_identity:
            part.decoded_size = 0
            previous = b""
            for piece in self._decoded(part, base):
                part.decoded_size += len(piece)
                if part.is_text and piece:
                    bare = piece.count(b"\n") - piece.count(b"\r\n")
                    split = previous.endswith(b"\r") and piece.startswith(b"\n")
                    part.decoded_size += bare - split
                    previous = piece

    def _decoded(self, part: Part, base: int) -> Iterator[bytes]:
        pieces = self._encoded(part, base)
        if part.size <= DECODE_AT_ONCE:
            return iter([decode(piece, part.encoding) for piece in pieces])
        return decode_stream(pieces, part.encoding)

    def _encoded(self, part: Part, base: int) -> Iterator[bytes]:
        """The body as it stands, in pieces."""
        body, end = base + part.body_offset, base + part.end_offset
        for at in range(body, end, DECODE_AT_ONCE):
            yield self.content.slice(at, min(at + DECODE_AT_ONCE, end))

    def _delimiter(self, start: int, limit: int) -> _Delimiter | None:
        """The first boundary line of an open multipart among the lines that start from `start` to before `limit`."""
        boundaries = self.boundaries
        if not boundaries:
            return None
        content = self.content
        at = start - 1
        while True:
            if self.dashes < at:
                found = content.find(b"\n--", at, content.size)
                self.dashes = found if found >= 0 else content.size
            at = self.dashes + 1
            if at >= limit:
                return None
            text = content.slice(at + 2, at + self.longest + 4)
            if text.startswith(boundaries):
                level, closing = self._match(text)
                if level >= 0:
                    return _Delimiter(at, content.find(b"\n", at, content.size) + 1 or content.size, level, closing)

    def _match(self, text: bytes) -> tuple[int, bool]:
        """Which boundary the text after two dashes is, -1 for none; and whether it closes its multipart.

        Some mailers use one boundary as the start of another: the longest wins, of equal ones the innermost.
        """
        best, best_length, best_closing = -1, -1, False
        for level in range(len(self.boundaries) - 1, -1, -1):
            boundary = self.boundaries[level]
            length = len(boundary)
            if length > best_length and text.startswith(boundary):
                closing = text[length : length + 2] == b"--"
                if closing or text[length : length + 1] in _AFTER_BOUNDARY:
                    best, best_length, best_closing = level, length, closing
        return best, best_closing

    def _set_boundaries(self, boundaries: tuple[bytes, ...]) -> None:
        self.boundaries = boundaries
        self.longest = max(map(len, boundaries)) if boundaries else 0

    def _lines_before(self, offset: int) -> int:
        """How many lines end before `offset`; asked in about rising order, so that each byte is counted once."""
        if offset >= self.counted_to:
            self.lines += self.content.count(b"\n", self.counted_to, offset)
        else:
            self.lines -= self.content.count(b"\n", offset, self.counted_to)
        self.counted_to = offset
        return self.lines

    def _unstructured(self) -> Part:
        """The content as one opaque part with the header that can be read from it, whatever its line ends are."""
        content = self.content
        part = Part(end_offset=content.size)
        start = content.slice(0, MAX_HEADER_LINE)
        first_line = start.partition(b"\n")[0].rstrip(b"\r")
        if first_line and not _begins_header(first_line):
            part.headerless = True
        elif start.startswith((b"\n", b"\r\n")):
            part.body_offset = start.index(b"\n") + 1
        else:
            ends = [
                found + len(mark)
                for mark in (b"\r\n\r\n", b"\n\n", b"\n\r\n")
                if (found := content.find(mark, 0, content.size)) >= 0
            ]
            part.body_offset = min(ends, default=content.size)
        section = content.slice(0, min(part.body_offset, MAX_HEADER))
        lines = section.replace(b"\r\n", b"\n").split(b"\n")[:MAX_FIELDS]
        fields = collect_fields(lines, _MESSAGE_FIELDS)
        part.envelope = Envelope.from_fields_of(fields)
        _describe(part, fields)
        _make_opaque(part)
        part.raw_lines = content.count(b"\n", part.body_offset, content.size)
        self._measure(part, 0)
        return part

    def _strict_problem(self) -> str:
        """What strict mode has against the lines of the content, "" for nothing."""
        content = self.content
        if content.count(b"\r", 0, content.size) != content.count(b"\n", 0, content.size):
            return "invalid bare carriage return"
        start = 0
        while start < content.size:
            end = content.find(b"\n", start, min(start + MAX_STRICT_LINE, content.size)) + 1
            if not end:
                if content.size - start < MAX_STRICT_LINE:
                    return ""
                return "line too long"
            start = end
        return ""


def _begins_header(line: bytes) -> bool:
    """Whether a header section can begin with this line: a field, or the separator of an mbox file."""
    return is_field(line) or line.startswith((b"From ", b">From "))


def _header_problem(size: int, lines: list[bytes]) -> str:
    if size > MAX_HEADER:
        return f"header section longer than {MAX_HEADER} bytes"
    if len(lines) > MAX_FIELDS and sum(line[:1] not in (b" ", b"\t", b"") for line in lines) > MAX_FIELDS:
        return f"more than {MAX_FIELDS} header fields"
    if size > MAX_HEADER_LINE and max(map(len, lines)) + 2 > MAX_HEADER_LINE:
        return "line too long"
    return ""


def _describe(part: Part, fields: dict[bytes, list[bytes]]) -> str:
    """Set what the MIME fields say; gives what is wrong with Content-Type, "" for nothing."""
    problem = ""
    for name, values in fields.items():
        value = values[0]
        match name:
            case b"content-type" if value:
                problem = _describe_type(part, _parameterized(value))
            case b"content-transfer-encoding":
                part.encoding = raw_text(value.partition(b";")[0].partition(b"(")[0].strip()).upper()
            case b"content-disposition":
                disposition = _parameterized(value)
                part.disposition = raw_text(disposition.value).lower()
                part.disposition_params = dict(disposition.params)
                part.raw_disposition_params = disposition.raw
            case b"content-id":
                part.content_id = raw_text(value)
            case b"content-description":
                part.description = decode_header(value)
                part.description_raw = value
            case b"content-language":
                part.language = [tag for word in raw_text(value).split(",") if (tag := word.strip())]
            case b"content-location":
                part.location = raw_text(value)
            case b"content-md5":
                part.md5 = raw_text(value)
    return problem


def _describe_type(part: Part, content_type: Parameterized) -> str:
    media_type, _, media_subtype = content_type.value.partition(b"/")
    media_type, media_subtype = media_type.rstrip(), media_subtype.lstrip()
    if not is_token(media_type) or not is_token(media_subtype):
        part.media_type, part.media_subtype = "APPLICATION", "OCTET-STREAM"
        part.orig_type, part.orig_subtype = "APPLICATION", "OCTET-STREAM"
        return "bad content-type"
    part.orig_type, part.orig_subtype = media_type.decode("ascii"), media_subtype.decode("ascii")
    part.media_type, part.media_subtype = part.orig_type.upper(), part.orig_subtype.upper()
    part.params = dict(content_type.params)
    part.raw_params = content_type.raw
    return ""


@lru_cache(maxsize=512)
def _cached_parameterized(value: bytes) -> Parameterized:
    return parse_parameterized(value)


def _parameterized(value: bytes) -> Parameterized:
    # Without a boundary or a file name there are few different ones, text/plain; charset=utf-8 above all.
    return _cached_parameterized(value) if len(value) <= CACHED_VALUE else parse_parameterized(value)


def _is_message_type(part: Part) -> bool:
    return part.media_type == "MESSAGE" and part.media_subtype in ("RFC822", "GLOBAL")


def _boundary(part: Part) -> bytes:
    for name, value in part.raw_params:
        if name == "BOUNDARY":
            return value.rstrip()
    return part.params.get("boundary", "").encode().rstrip()


def _make_opaque(part: Part) -> None:
    """Make it a leaf of which nothing is claimed but its header."""
    if part.media_type in ("MULTIPART", "MESSAGE"):
        part.encoding = ""  # it may only stand for the body as it is, RFC 2045 6.4
    part.media_type, part.media_subtype = "APPLICATION", "OCTET-STREAM"
    part.orig_type, part.orig_subtype = "APPLICATION", "OCTET-STREAM"
    part.params = {}
    part.raw_params = ()
    part.parts = []
    part.message = None
