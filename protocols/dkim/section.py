"""The header section of a message, as signatures see it: its fields by name, and the data that is signed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from protocols.message.headers import MAX_HEADER, HeaderField, iter_headers
from protocols.message.source import Source

from .canonicalization import Canonicalization, canonical_field
from .errors import DkimError, ErrorKind

HEADER_BLOCK: Final = 64 * 1024  # bytes read at once while looking for the end of the header section


class HeaderSection:
    """The fields of a header section in their order."""

    __slots__ = ("_by_name", "_section", "fields")

    def __init__(self, section: bytes) -> None:
        self._section = section
        self.fields = tuple(iter_headers(section))
        self._by_name: dict[str, list[HeaderField]] = {}
        for field in self.fields:
            self._by_name.setdefault(field.name.lower(), []).append(field)

    def __len__(self) -> int:
        """Bytes."""
        return len(self._section)

    def __iter__(self) -> Iterator[HeaderField]:
        return iter(self.fields)

    def named(self, name: str) -> Sequence[HeaderField]:
        """The fields of a name in lower case."""
        return self._by_name.get(name, ())

    def raw(self, field: HeaderField) -> bytes:
        """The whole field, with its name and its line ends."""
        return self._section[field.start : field.end]

    def check_line_ends(self) -> None:
        """Raises DkimError for line ends that others might read in another way."""
        ends = self._section.count(b"\r\n")
        if self._section.count(b"\n") != ends or self._section.count(b"\r") != ends:
            raise DkimError(ErrorKind.HEADER_MALFORMED, "bare carriage return or line feed in the header section")

    def signed_data(
        self,
        names: Sequence[str],
        canonicalization: Canonicalization,
        signature_field: bytes,
        *,
        without: HeaderField | None = None,
    ) -> bytes:
        """What is signed (RFC 6376 section 3.7): the fields named in ``h=``, and the signature with an empty ``b=``.

        Of fields with the same name the last one is taken first; a name without a field left stands for nothing
        (section 5.4.2). ``without``: a field that was not there when the others were signed. ``signature_field`` may
        end in CRLF or not.
        """
        left: dict[str, Iterator[HeaderField]] = {}
        pieces: list[bytes] = []
        for name in names:
            name = name.lower()
            fields = left.get(name)
            if fields is None:
                fields = left[name] = reversed(self.named(name))
            field = next(fields, None)
            if field is not None and field is without:
                field = next(fields, None)
            if field is not None:
                pieces.append(canonical_field(self.raw(field), canonicalization))
        pieces.append(canonical_field(signature_field, canonicalization).removesuffix(b"\r\n"))
        return b"".join(pieces)


def check_start(section: bytes) -> None:
    """Raises DkimError if the first line would become part of a field that is put in front."""
    if section.startswith((b" ", b"\t")):
        raise DkimError(ErrorKind.HEADER_MALFORMED, "message begins with white space")


def read_header_section(source: Source) -> tuple[bytes, int]:
    """The fields, with the line end of the last one, and the offset of the body.

    Raises DkimError for a header section of over 1 MiB.
    """
    section = b""
    while True:
        block = source.read_at(len(section), min(HEADER_BLOCK, MAX_HEADER + 4 - len(section)))
        searched = max(0, len(section) - 3)
        section += block
        if section.startswith(b"\r\n"):
            return b"", 2
        end = section.find(b"\r\n\r\n", searched)
        if end >= 0:
            return section[: end + 2], end + 4
        if not block:
            if len(section) > MAX_HEADER:
                raise DkimError(ErrorKind.HEADER_MALFORMED, f"header section longer than {MAX_HEADER} bytes")
            # A header section without a body.
            return section if section.endswith(b"\r\n") or not section else section + b"\r\n", source.size
