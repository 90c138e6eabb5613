"""Bodies of calls: a form, a form with files, or the request itself; large ones go through without being in memory.

Django's and DRF's own parsers drop the header fields of parts, in which clients say the Content-ID of a file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

from django.conf import settings
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD: Final = "request"
FILE_FIELDS: Final = ("alternativefile", "inlinefile", "attachedfile")
IN_MEMORY: Final = 200 * 1024  # bytes of an uploaded file; more is on disk
BLOCK: Final = 256 * 1024  # bytes read at a time
MAX_PARTS: Final = 1000  # of a form
MAX_PART_HEADER: Final = 16 * 1024  # bytes of the header of a part


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form: its field, base name, and what the header of its part said, or ""."""

    field: str
    name: str
    content_type: str
    content_id: str
    file: IO[bytes]


@dataclass(slots=True)
class Body:
    """The text of the request, and the files that came with it, in order. To be closed."""

    request: str
    uploads: list[Upload] = field(default_factory=list)

    def close(self) -> None:
        for upload in self.uploads:
            upload.file.close()


class _BodyParser(BaseParser):
    """Gives a Body, where DRF's own parsers give what Django makes of forms."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return self.body(stream, media_type or "")

    def body(self, stream: IO[bytes], media_type: str) -> Body:
        raise NotImplementedError


class JSONBody(_BodyParser):
    """The request object is all there is."""

    media_type = "application/json"

    def body(self, stream: IO[bytes], media_type: str) -> Body:
        return Body(_text(stream.read()))


class FormBody(_BodyParser):
    """The request is in the field ``request``; other fields do not count."""

    media_type = "application/x-www-form-urlencoded"

    def body(self, stream: IO[bytes], media_type: str) -> Body:
        return Body(_text(_form_field(stream.read(), FIELD.encode())))


class MultipartBody(_BodyParser):
    """As a form, with files. Raises ParseError, and then none of them is kept."""

    media_type = "multipart/form-data"

    def body(self, stream: IO[bytes], media_type: str) -> Body:
        _, options = parse_options_header(media_type)
        boundary = options.get(b"boundary", b"")
        if not boundary:
            raise ParseError("multipart/form-data has no boundary")
        reader = _MultipartReader(boundary)
        try:
            while block := stream.read(BLOCK):
                reader.parser.write(block)
            reader.parser.finalize()
            if not reader.is_complete:
                raise ParseError("the form is not complete: its last boundary is missing")
        except FormParserError as exc:
            reader.close()
            raise ParseError(f"the form cannot be read: {exc}") from exc
        except BaseException:
            reader.close()
            raise
        request = bytes(reader.request)
        reader.request.clear()
        return Body(_text(request), reader.uploads)


class _MultipartReader:
    """What the parser calls for each piece of a form."""

    def __init__(self, boundary: bytes) -> None:
        self.request = bytearray()
        self.uploads: list[Upload] = []
        self.is_complete = False
        self._has_request = False
        self._parts = 0
        self._header_size = 0
        self._name = bytearray()
        self._value = bytearray()
        self._header: dict[str, bytes] = {}
        self._sink: bytearray | IO[bytes] | None = None
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        self.parser = MultipartParser(boundary, callbacks)

    def close(self) -> None:
        for upload in self.uploads:
            upload.file.close()

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ParseError(f"the form has more than {MAX_PARTS} parts")
        self._header = {}
        self._header_size = 0

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._add(self._name, data[start:end])

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._add(self._value, data[start:end])

    def _add(self, to: bytearray, piece: bytes) -> None:
        self._header_size += len(piece)
        if self._header_size > MAX_PART_HEADER:
            raise ParseError(f"the header of a part has more than {MAX_PART_HEADER} bytes")
        to += piece

    def _on_header_end(self) -> None:
        self._header.setdefault(self._name.decode("latin-1").lower(), bytes(self._value))
        self._name.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._header.get("content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._sink = None
        if kind != b"form-data":
            return
        if name == FIELD and b"filename" not in options and not self._has_request:
            self._has_request = True
            self._sink = self.request
        elif name in FILE_FIELDS:
            directory = str(settings.MOX.temporary_dir)
            file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=directory)  # noqa: SIM115 # closed later
            filename = options.get(b"filename", b"").decode("utf-8", "replace")
            self.uploads.append(
                Upload(
                    name,
                    filename.replace("\\", "/").rpartition("/")[2],
                    _text(self._header.get("content-type", b"")).strip(),
                    _text(self._header.get("content-id", b"")).strip(),
                    file,
                )
            )
            self._sink = file

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if isinstance(self._sink, bytearray):
            self._sink += memoryview(data)[start:end]
        elif self._sink is not None:
            self._sink.write(memoryview(data)[start:end])

    def _on_part_end(self) -> None:
        if self._sink is not None and not isinstance(self._sink, bytearray):
            self._sink.seek(0)
        self._sink = None

    def _on_end(self) -> None:
        self.is_complete = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _form_field(data: bytes, name: bytes) -> bytes:
    """The value of the first field of this name, b"" if there is none, without a copy of the others."""
    start = 0
    while start <= len(data):
        end = data.find(b"&", start)
        end = len(data) if end < 0 else end
        equals = data.find(b"=", start, end)
        key = data[start : equals if equals >= 0 else end]
        if len(key) <= 3 * len(name) and unquote_to_bytes(key.replace(b"+", b" ")) == name:
            return b"".join(_unquoted(data, equals + 1, end)) if equals >= 0 else b""
        start = end + 1
    return b""


def _unquoted(data: bytes, start: int, end: int) -> Iterator[bytes]:
    """In pieces: the standard library makes an object of each escape."""
    while start < end:
        stop = min(start + BLOCK, end)
        if stop < end:
            escape = data.rfind(b"%", stop - 2, stop)
            stop = escape if escape > start else stop
        yield unquote_to_bytes(data[start:stop].replace(b"+", b" "))
        start = stop


@contextlib.contextmanager
def closing(body: Any) -> Iterator[Body | None]:
    """The parsed body; None where the client sent nothing. Its files are gone afterwards."""
    try:
        yield body if isinstance(body, Body) else None
    finally:
        if isinstance(body, Body):
            body.close()
