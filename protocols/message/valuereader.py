"""Reading structured header values piece by piece: tokens, quoted strings, comments anywhere (RFC 5322 3.2)."""

from __future__ import annotations

import re
from typing import Final

from protocols.errors import ProtocolError

_BARE: Final = re.compile(r"[^\s();\"]+")
_WHITE_SPACE: Final = re.compile(r"\s+")
_COMMENT_MARK: Final = re.compile(r"[()\\]")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_QUOTED_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)


class ValueReader:
    """A place in an unfolded value. What is not as expected raises the error."""

    __slots__ = ("_at", "_error", "_text")

    def __init__(self, text: str, error: type[ProtocolError]) -> None:
        self._text = text
        self._error = error
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._text)

    @property
    def at_end_of_item(self) -> bool:
        """At a semicolon too."""
        return self.at_end or self._text[self._at] == ";"

    def take(self, character: str) -> bool:
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def expect(self, character: str) -> None:
        if not self.take(character):
            raise self._error(f"expected {character!r} before {self._text[self._at : self._at + 64]!r}")

    def match(self, pattern: re.Pattern[str]) -> str:
        """What the pattern matches here, "" if nothing."""
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def require(self, pattern: re.Pattern[str], what: str) -> str:
        text = self.match(pattern)
        if not text:
            raise self._error(f"expected a {what} before {self._text[self._at : self._at + 64]!r}")
        return text

    def value(self, what: str) -> str:
        """A token or quoted-string."""
        quoted = self.match(_QUOTED)
        return _unquoted(quoted) if quoted else self.require(_BARE, what)

    def property_value(self) -> tuple[str, bool]:
        """A token, quoted-string or address; and whether it is an address."""
        quoted = self.match(_QUOTED)
        if quoted and not self._text.startswith("@", self._at):
            return _unquoted(quoted), False
        value = quoted + self.match(_BARE)  # nothing at all is found as well: header.i=
        return value, "@" in value

    def comments(self) -> list[str]:
        """Pass over white space and comments; the texts of the comments."""
        found: list[str] = []
        while True:
            self.match(_WHITE_SPACE)
            if not self.take("("):
                return found
            found.append(self._comment())

    def _comment(self) -> str:
        """The text, with single spaces, of the comment whose content begins here."""
        start = self._at
        depth = 1
        while match := _COMMENT_MARK.search(self._text, self._at):
            self._at = match.end()
            if match[0] == "\\":
                self._at += 1
                continue
            depth += 1 if match[0] == "(" else -1
            if not depth:
                return _QUOTED_PAIR.sub(r"\1", " ".join(self._text[start : match.start()].split()))
        raise self._error("comment without end")


def _unquoted(quoted: str) -> str:
    return _QUOTED_PAIR.sub(r"\1", quoted[1:-1])
