"""Which bytes a BODY[...] or BINARY[...] section names, from the stored structure: no message is parsed again.

    found = locate(structure, len(prefix), section)     # None: the message has no such part
    with found.open(reader) as content:                 # bytes, or decoded parts in a temporary file
        content.size; content.chunks(0, 100)

Offsets in a structure are relative to the stored content; a message is a prefix of header lines and that content.
Sources: RFC 9051 6.4.5.1 (sections), RFC 3516 (BINARY).
"""

from __future__ import annotations

import contextlib
import enum
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final, Protocol

from protocols.message.transfer import IDENTITY, crlf_blocks, decode_stream

SPOOL_MAX: Final = 1 << 20  # decoded bytes in memory before they go to a temporary file
CHUNK: Final = 256 * 1024  # bytes read or handed out at a time
PATH_MAX: Final = 200  # numbers of a part: messages are parsed to 100 levels, embedded ones count
HEADER_MAX: Final = 4 << 20  # bytes of a header whose fields are picked: far above what the message parser takes

TRANSFORMING: Final = frozenset({"BASE64", "QUOTED-PRINTABLE"})

Structure = Mapping[str, Any]


class UnknownEncoding(Exception):
    """A part has a transfer encoding that BINARY cannot decode (RFC 3516 4.3)."""


class SectionText(enum.Enum):
    """What of a message or part is asked for."""

    ALL = ""
    HEADER = "HEADER"
    FIELDS = "HEADER.FIELDS"
    FIELDS_NOT = "HEADER.FIELDS.NOT"
    TEXT = "TEXT"
    MIME = "MIME"


@dataclass(frozen=True, slots=True)
class Section:
    """What stands between the brackets: part numbers, and what of that part. ``names`` of fields in lower case."""

    path: tuple[int, ...] = ()
    text: SectionText = SectionText.ALL
    names: frozenset[bytes] = frozenset()


class Source(Protocol):
    """Where content is read from: store.content.Reader is one."""

    @property
    def size(self) -> int: ...

    def read_at(self, offset: int, length: int) -> bytes: ...


class Content(Protocol):
    """The bytes of a section."""

    @property
    def size(self) -> int: ...

    def chunks(self, offset: int = 0, length: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``start`` to ``end`` of the message, or of what ``inside`` decodes to."""

    start: int
    end: int
    inside: Decoded | None = None

    @contextlib.contextmanager
    def open(self, message: Source) -> Iterator[Content]:
        """The bytes, to be read in pieces."""
        if self.inside is None:
            yield _Slice(message, self.start, min(self.end, message.size))
            return
        with self.inside.open(message) as outer:
            yield _Slice(_Seekable(outer), self.start, min(self.end, outer.size))


@dataclass(frozen=True, slots=True)
class Decoded:
    """A range without its transfer encoding; ``text`` has line ends made CRLF, as the stored decoded size counts."""

    range: Range
    encoding: str
    text: bool = False

    @contextlib.contextmanager
    def open(self, message: Source) -> Iterator[Content]:
        with self.range.open(message) as raw:
            if self.encoding not in TRANSFORMING and not self.text:
                yield raw
                return
            with tempfile.SpooledTemporaryFile(max_size=SPOOL_MAX) as spool:
                blocks = decode_stream(raw.chunks(), self.encoding)
                for block in crlf_blocks(blocks) if self.text else blocks:
                    spool.write(block)
                yield _File(spool, spool.tell())


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a header that are, or are not, among ``names``; always ends with the empty line."""

    header: Range
    names: frozenset[bytes]
    wanted: bool = True

    @contextlib.contextmanager
    def open(self, message: Source) -> Iterator[Content]:
        with self.header.open(message) as content:
            yield _Bytes(select_fields(_read(content, HEADER_MAX), self.names, wanted=self.wanted))


@dataclass(frozen=True, slots=True)
class Header:
    """A header with the empty line that ends it, also where the message lacks it."""

    header: Range

    @contextlib.contextmanager
    def open(self, message: Source) -> Iterator[Content]:
        with self.header.open(message) as content:
            ending = b"".join(content.chunks(max(0, content.size - 4)))
            if ending == b"\r\n" or ending.endswith(b"\r\n\r\n"):
                yield content
            else:
                missing = b"\r\n" if ending.endswith(b"\r\n") or not ending else b"\r\n\r\n"
                yield _Joined((content, _Bytes(missing)))


@dataclass(frozen=True, slots=True)
class WithoutEncoding:
    """A whole message as BINARY[] gives it: no Content-Transfer-Encoding at the top, the body decoded."""

    header: Range
    body: Decoded

    @contextlib.contextmanager
    def open(self, message: Source) -> Iterator[Content]:
        fields = Fields(self.header, frozenset({b"content-transfer-encoding"}), wanted=False)
        with fields.open(message) as header, self.body.open(message) as body:
            yield _Joined((header, body))


@dataclass(frozen=True, slots=True)
class Nothing:
    """The body of the empty text part that a multipart without parts is shown as."""

    @contextlib.contextmanager
    def open(self, message: Source) -> Iterator[Content]:
        yield _Bytes(b"")


Located = Range | Decoded | Fields | Header | WithoutEncoding | Nothing


def locate(structure: Structure, ahead: int, section: Section) -> Located | None:
    """The bytes of a BODY[...] section of a message whose prefix has ``ahead`` bytes; None where a part is absent."""
    found = _find(structure, ahead, section.path)
    if found is None:
        return None
    if not section.path:
        return _of_message(found, section)
    if section.text is SectionText.ALL:
        return found.body() if found.part is not None else Nothing()
    if found.part is None:
        return None
    if section.text is SectionText.MIME:
        return Header(found.header())
    embedded = found.embedded()
    return None if embedded is None else _of_message(embedded, section)


def locate_binary(structure: Structure, ahead: int, section: Section) -> Located | None:
    """The same for BINARY[...]: a part is decoded; None also for a multipart. Raises UnknownEncoding."""
    if section.text is not SectionText.ALL:
        return locate(structure, ahead, section)
    found = _find(structure, ahead, section.path)
    if found is None:
        return None
    if found.part is None:
        return Nothing()
    if section.path:
        return None if _is_multipart(found.part) else found.decoded()
    if not found.part.get("cte"):
        return found.whole()
    return WithoutEncoding(found.header(), found.decoded())


def select_fields(header: bytes, names: frozenset[bytes], *, wanted: bool = True) -> bytes:
    """The fields of a header that are (or with ``wanted`` false: are not) among ``names``, and an empty line."""
    picked: list[bytes] = []
    pick = False
    for line in _lines(header):
        if line in (b"\r\n", b"\n"):
            break
        if line[:1] not in (b" ", b"\t"):
            name, colon, _ = line.partition(b":")
            pick = bool(colon) and (name.rstrip(b" \t").lower() in names) is wanted
        if pick:
            picked.append(line)
    if picked and not picked[-1].endswith(b"\n"):
        picked.append(b"\r\n")
    picked.append(b"\r\n")
    return b"".join(picked)


@dataclass(frozen=True, slots=True)
class _Found:
    """A part and where its offsets count from. ``part`` None: the empty part of an empty multipart."""

    part: Structure | None
    base: int  # position of the content's byte 0 in the message or in what ``inside`` decodes to
    inside: Decoded | None = None
    ahead: int = 0  # bytes of a prefix that belong to this part's header: only of the message itself

    def _range(self, start: int, end: int) -> Range:
        return Range(self.base + start, self.base + end, self.inside)

    def header(self) -> Range:
        assert self.part is not None
        return self._range(self.part.get("head", 0) - self.ahead, self.part.get("body", 0))

    def body(self) -> Range:
        assert self.part is not None
        return self._range(self.part.get("body", 0), self.part.get("end", 0))

    def whole(self) -> Range:
        assert self.part is not None
        return self._range(self.part.get("head", 0) - self.ahead, self.part.get("end", 0))

    def decoded(self) -> Decoded:
        """The body without transfer encoding. Raises UnknownEncoding."""
        assert self.part is not None
        encoding = _encoding(self.part)
        if encoding not in TRANSFORMING and encoding not in IDENTITY:
            raise UnknownEncoding(f"transfer encoding {encoding[:40]!r} is not known")
        return Decoded(self.body(), encoding, text=_is_text(self.part))

    def embedded(self) -> _Found | None:
        """The message inside a message/rfc822 part."""
        if self.part is None or self.part.get("message") is None:
            return None
        body = self.body()
        if _encoding(self.part) not in TRANSFORMING:
            return _Found(self.part["message"], body.start, self.inside)
        return _Found(self.part["message"], 0, Decoded(body, _encoding(self.part)))


def _find(structure: Structure, ahead: int, path: tuple[int, ...]) -> _Found | None:
    """The part with these numbers; those inside an embedded message go on after its own (RFC 9051 6.4.5.1)."""
    found = _Found(structure, ahead, ahead=ahead)
    is_message = True  # a message whose part 1 is its body, as long as it is no multipart
    for number in path:
        part = found.part
        if part is not None and not is_message and part.get("message") is not None:
            inner = found.embedded()
            assert inner is not None
            found, is_message, part = inner, True, inner.part
        if part is None:
            return None
        if _is_multipart(part):
            parts = part.get("parts") or []
            if number > len(parts):
                return _Found(None, 0) if not parts and number == 1 else None
            found = _Found(parts[number - 1], found.base, found.inside)
        elif not is_message or number != 1:
            return None
        is_message = False
    return found


def _of_message(found: _Found, section: Section) -> Located:
    if section.text is SectionText.HEADER:
        return Header(found.header())
    if section.text is SectionText.FIELDS or section.text is SectionText.FIELDS_NOT:
        return Fields(found.header(), section.names, wanted=section.text is SectionText.FIELDS)
    if section.text is SectionText.TEXT:
        return found.body()
    return found.whole()


def _is_multipart(part: Structure) -> bool:
    return bool(part.get("type") == "MULTIPART")


def _is_text(part: Structure) -> bool:
    # Without a Content-Type it is text/plain (RFC 2045 5.2).
    return part.get("type", "") in ("", "TEXT") and part.get("message") is None


def _encoding(part: Structure) -> str:
    return str(part.get("cte") or "").strip().upper()


def _lines(header: bytes) -> Iterator[bytes]:
    """Lines by LF alone: bytes.splitlines would also cut at a bare CR."""
    *lines, last = header.split(b"\n")
    for line in lines:
        yield line + b"\n"
    if last:
        yield last


def _read(content: Content, limit: int) -> bytes:
    return b"".join(content.chunks(0, limit))


@dataclass(frozen=True, slots=True)
class _Slice:
    """A range of something that can be read at offsets."""

    source: Source
    start: int
    end: int

    @property
    def size(self) -> int:
        return max(0, self.end - self.start)

    def chunks(self, offset: int = 0, length: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        position = self.start + offset
        end = self.end if length is None else min(self.end, position + length)
        while position < end:
            block = self.source.read_at(position, min(chunk, end - position))
            if not block:
                return
            position += len(block)
            yield block


@dataclass(frozen=True, slots=True)
class _Bytes:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self, offset: int = 0, length: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        block = self.data[offset : None if length is None else offset + length]
        if block:
            yield block


@dataclass(frozen=True, slots=True)
class _File:
    file: IO[bytes]
    size: int

    def chunks(self, offset: int = 0, length: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        end = self.size if length is None else min(self.size, offset + length)
        while offset < end:
            self.file.seek(offset)
            block = self.file.read(min(chunk, end - offset))
            if not block:
                return
            offset += len(block)
            yield block


@dataclass(frozen=True, slots=True)
class _Joined:
    pieces: tuple[Content, ...]

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)

    def chunks(self, offset: int = 0, length: int | None = None, chunk: int = CHUNK) -> Iterator[bytes]:
        left = max(0, self.size - offset) if length is None else length
        for piece in self.pieces:
            if offset >= piece.size:
                offset -= piece.size
                continue
            for block in piece.chunks(offset, min(left, piece.size - offset), chunk):
                left -= len(block)
                yield block
            offset = 0
            if left <= 0:
                return


@dataclass(frozen=True, slots=True)
class _Seekable:
    """Content as a source that can be read at offsets."""

    content: Content

    @property
    def size(self) -> int:
        return self.content.size

    def read_at(self, offset: int, length: int) -> bytes:
        return b"".join(self.content.chunks(offset, length, max(1, length)))
