"""Canonical forms of header fields and bodies (RFC 6376 section 3.4).

Bodies come in blocks of any size. All work is done by searches and replacements over whole blocks, so that no body,
however odd, costs more than its length.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

EMPTY_LINES_AT_ONCE: Final = 32 * 1024  # empty lines written at once: a body of nothing else stays out of memory

_TAB_TO_SPACE: Final = bytes.maketrans(b"\t", b" ")
_SPACES: Final = re.compile(rb"  +")
_WHITE_SPACE: Final = re.compile(rb"[ \t]+")


class Canonicalization(StrEnum):
    SIMPLE = "simple"
    RELAXED = "relaxed"


class BodyCanonicalizer:
    """One body in canonical form, block by block (RFC 6376 sections 3.4.3 and 3.4.4)."""

    __slots__ = ("_empty_lines", "_held", "_in_line", "_relaxed", "_written")

    def __init__(self, canonicalization: Canonicalization) -> None:
        self._relaxed = canonicalization is Canonicalization.RELAXED
        self._held = b""  # a CR, or for relaxed a space, of which the next block tells whether it stays
        self._empty_lines = 0  # CRLFs that are part of the form only if something follows them
        self._written = False
        self._in_line = False  # what was written last is no line end

    def update(self, block: bytes) -> Iterator[bytes]:
        """The pieces of the form that are certain now."""
        data = self._held + block
        if self._relaxed:
            data = _without_spaces(data)
        keep = _undecided(data, self._relaxed)
        self._held = data[len(data) - keep :]
        return self._write(data[: len(data) - keep])

    def finish(self) -> Iterator[bytes]:
        """The rest: the body ends here."""
        held, self._held = self._held, b""
        if held != b" ":  # white space at the end of the last line
            yield from self._write(held)
        if self._in_line or (not self._written and not self._relaxed):
            yield b"\r\n"

    def _write(self, data: bytes) -> Iterator[bytes]:
        content = data.rstrip(b"\r\n")
        # A lone CR or LF is content; x stands for a line end.
        rest = data[len(content) :].replace(b"\r\n", b"x")
        lone = rest.rstrip(b"x")
        ends = len(rest) - len(lone)
        content = data[: len(data) - 2 * ends]
        if content:
            while self._empty_lines:
                count = min(self._empty_lines, EMPTY_LINES_AT_ONCE)
                self._empty_lines -= count
                yield b"\r\n" * count
            self._written = self._in_line = True
            yield content
        if ends and self._in_line:
            # The end of a line that has something in it always counts.
            self._in_line = False
            ends -= 1
            yield b"\r\n"
        self._empty_lines += ends


class BodyHashes:
    """The hashes of one body for all (canonicalization, hash name) that are wanted, each form made once."""

    def __init__(self, wanted: Iterable[tuple[Canonicalization, str]]) -> None:
        self._hashes = {key: hashlib.new(key[1], usedforsecurity=key[1] != "sha1") for key in wanted}
        self._forms = {key[0]: BodyCanonicalizer(key[0]) for key in self._hashes}

    def update(self, block: bytes) -> None:
        for canonicalization, form in self._forms.items():
            self._add(canonicalization, form.update(block))

    def finish(self) -> dict[tuple[Canonicalization, str], bytes]:
        """The digests. No more blocks after this."""
        for canonicalization, form in self._forms.items():
            self._add(canonicalization, form.finish())
        return {key: digest.digest() for key, digest in self._hashes.items()}

    def _add(self, canonicalization: Canonicalization, pieces: Iterable[bytes]) -> None:
        digests = [digest for (of, _), digest in self._hashes.items() if of is canonicalization]
        for piece in pieces:
            for digest in digests:
                digest.update(piece)


def canonical_field(field: bytes, canonicalization: Canonicalization) -> bytes:
    """A header field, with its line ends, in canonical form (RFC 6376 sections 3.4.1 and 3.4.2)."""
    if canonicalization is Canonicalization.SIMPLE:
        return field
    name, _, value = field.partition(b":")
    value = _WHITE_SPACE.sub(b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return name.rstrip(b" \t").lower() + b":" + value + b"\r\n"


def _without_spaces(data: bytes) -> bytes:
    """White space as one space each, and none at line ends. Looked for first: most bodies have nothing to change."""
    if b"\t" in data:
        data = data.translate(_TAB_TO_SPACE)
    if b" " not in data:  # base64, say
        return data
    if b"  " in data:
        data = _SPACES.sub(b" ", data)
    return data.replace(b" \r\n", b"\r\n")


def _undecided(data: bytes, relaxed: bool) -> int:
    """How many bytes at the end wait for the next block."""
    if data.endswith(b"\r"):
        return 2 if relaxed and data.endswith(b" \r") else 1
    return 1 if relaxed and data.endswith(b" ") else 0
