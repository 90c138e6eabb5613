"""Writing header fields: folded, and safe against values that would begin another field (RFC 5322 2.2.3)."""

from __future__ import annotations

from typing import Final

from protocols.errors import ProtocolError

FOLD_AT: Final = 78  # characters of a line, RFC 5322 2.1.1


class BadHeaderText(ProtocolError, ValueError):
    """A text with a line end or NUL in it was to be written into a header."""


class HeaderWriter:
    """One field. A line that would grow longer than 78 characters is folded before the text that makes it so.

    writer = HeaderWriter("Received:")
    writer.add(" ", "from", "mx.example.org", "by", "mail.example.net")
    writer.bytes()
    """

    __slots__ = ("_column", "_pieces")

    def __init__(self, name: str) -> None:
        self._pieces: list[str] = []
        self._column = 0
        self._put(name)

    def add(self, separator: str, *texts: str) -> None:
        """Write texts, each after the separator or on a new line; a text is never broken."""
        for text in texts:
            if self._column + len(separator) + len(text) > FOLD_AT and self._column > 1:
                self._pieces.append("\r\n\t")
                self._column = 1
            else:
                self._put(separator)
            self._put(text)

    def bytes(self) -> bytes:
        """The field in UTF-8, with its line end."""
        return "".join((*self._pieces, "\r\n")).encode()

    def _put(self, text: str) -> None:
        if "\r" in text or "\n" in text or "\0" in text:
            raise BadHeaderText(f"line end or NUL in a header: {text!r}")
        self._pieces.append(text)
        self._column += len(text)
