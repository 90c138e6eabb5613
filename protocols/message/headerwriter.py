"""Writing header fields: folded, and safe against values that would begin another field (RFC 5322 2.2.3)."""

from __future__ import annotations

import re
from typing import Final

from protocols.errors import ProtocolError

FOLD_AT: Final = 78  # characters of a line, RFC 5322 2.1.1
MAX_WORD: Final = 240  # characters; in UTF-8 with the rest of its line under the 998 bytes of RFC 5322 2.1.1

_FORBIDDEN: Final = re.compile("[\r\n\0\ud800-\udfff]")
_SPACED_WORD: Final = re.compile(r"[ \t]{0,60}[^ \t]+")  # of a longer run of spaces the last 60


class BadHeaderText(ProtocolError, ValueError):
    """A text was to be written into a header that cannot be there: a line end, NUL or lone surrogate is in it."""


class HeaderWriter:
    """One field. A line that would grow longer than 78 characters is folded before the text that makes it so.

    writer = HeaderWriter("Received:")
    writer.add(" ", "from", "mx.example.org", "by", "mail.example.net")
    writer.bytes()

    Every method raises BadHeaderText for a text that could begin another line.
    """

    __slots__ = ("_column", "_fold", "_pieces")

    def __init__(self, name: str) -> None:
        self._pieces: list[str] = []
        self._column = 0
        self._fold = "\r\n\t"
        _check(name)
        self._put(name)

    def add(self, separator: str, *texts: str) -> None:
        """Write texts, each after the separator or on a new line; a text is never broken."""
        _check(separator, *texts)
        column, width = self._column, len(separator)
        for text in texts:
            if column + width + len(text) > FOLD_AT and column > 1:
                self._pieces += (self._fold, text)
                column = len(self._fold) - 2 + len(text)
            else:
                self._pieces += (separator, text)
                column += width + len(text)
        self._column = column

    def words(self, text: str) -> None:
        """Write a text after a space, folded at its white space, which stays (RFC 5322 2.2.3). Long words are cut."""
        _check(text)
        for match in _SPACED_WORD.finditer(f" {text}"):
            word = match[0]
            if self._column + len(word) > FOLD_AT:
                self._pieces.append("\r\n")
                self._column = 0
            self._put(word[:MAX_WORD])
            for at in range(MAX_WORD, len(word), MAX_WORD):
                self._break("\r\n ")
                self._put(word[at : at + MAX_WORD])

    def newline(self) -> None:
        """Go on in a new line; further ones are indented deeper."""
        self._break("\r\n\t")
        self._fold = "\r\n\t "

    def bytes(self) -> bytes:
        """The field in UTF-8, with its line end."""
        return "".join((*self._pieces, "\r\n")).encode()

    def _break(self, fold: str) -> None:
        self._pieces.append(fold)
        self._column = len(fold) - 2

    def _put(self, text: str) -> None:
        self._pieces.append(text)
        self._column += len(text)


def _check(*texts: str) -> None:
    if _FORBIDDEN.search("".join(texts)):
        bad = next(text for text in texts if _FORBIDDEN.search(text))
        raise BadHeaderText(f"line end, NUL or lone surrogate in a header: {bad!r}")


def comment(text: str) -> str:
    """The text as a comment, in parentheses; those in it that have no partner are left out (RFC 5322 3.2.2)."""
    kept = list(text.replace("\\", "\\\\"))
    opened: list[int] = []
    for at, character in enumerate(kept):
        if character == "(":
            opened.append(at)
        elif character == ")":
            if opened:
                opened.pop()
            else:
                kept[at] = ""
    for at in opened:
        kept[at] = ""
    return f"({''.join(kept)})"


def quoted(text: str) -> str:
    """The text as a quoted string (RFC 5322 3.2.4)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
