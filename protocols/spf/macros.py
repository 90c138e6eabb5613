"""Macro strings (RFC 7208 section 7): names and texts of SPF records with places for what is known of a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from .errors import BadRecord

MAX_NAME: Final = 253  # characters of an expanded name, RFC 7208 7.3
MAX_LABEL: Final = 63

_DOMAIN_LETTERS: Final = frozenset("slodipvh")
_EXPLANATION_LETTERS: Final = _DOMAIN_LETTERS | frozenset("crt")
_MACRO: Final = r"%(?:([%_-])|\{([A-Za-z])([0-9]{0,9})([rR]?)([.\-+,/_=]*)\})"
# The parts of each alternative begin with different characters, so there is one way to match.
_DOMAIN_PIECE: Final = re.compile(rf"([!-$&-~]+)|{_MACRO}")
_EXPLANATION_PIECE: Final = re.compile(rf"([ -$&-~]+)|{_MACRO}")
_ESCAPED: Final = {"%": "%", "_": " ", "-": "%20"}
_TOP_LABEL: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")


@dataclass(frozen=True, slots=True)
class Macro:
    """A place for a value, such as ``%{l2r-}``."""

    letter: str
    """In lower case."""
    escape: bool = False
    """Whether the value is escaped as in a URL; the letter was in upper case."""
    parts: int = 0
    """So many parts on the right are kept; 0: all."""
    reverse: bool = False
    delimiters: str = "."

    def transformed(self, value: str) -> str:
        """The text for a value of the letter."""
        if self.parts or self.reverse or self.delimiters != ".":
            for delimiter in self.delimiters:
                value = value.replace(delimiter, "\0")  # which no value has
            parts = value.split("\0")
            if self.reverse:
                parts.reverse()
            value = ".".join(parts[-self.parts :] if self.parts else parts)
        return quote(value, safe="-._~") if self.escape else value


@dataclass(frozen=True, slots=True)
class MacroString:
    """Texts and macros. ``text``: as it was written."""

    text: str
    pieces: tuple[str | Macro, ...]

    @property
    def letters(self) -> frozenset[str]:
        """Of what values are needed."""
        return frozenset(piece.letter for piece in self.pieces if isinstance(piece, Macro))

    def expand(self, values: Mapping[str, str]) -> str:
        """The text with values, by letter, in their places."""
        return "".join(
            piece if isinstance(piece, str) else piece.transformed(values[piece.letter]) for piece in self.pieces
        )

    def expand_name(self, values: Mapping[str, str]) -> str | None:
        """The name with values, without final dot, cut on the left to what DNS allows; None if it cannot be one."""
        return usable_name(self.expand(values))


def parse_macro_string(text: str) -> MacroString:
    """A macro-string as in modifiers. Raises BadRecord."""
    return MacroString(text, tuple(_pieces(text, _DOMAIN_PIECE, _DOMAIN_LETTERS)[0]))


def parse_domain_spec(text: str) -> MacroString:
    """A domain-spec, which ends in a macro or a dot and a top label. Raises BadRecord."""
    pieces, tail = _pieces(text, _DOMAIN_PIECE, _DOMAIN_LETTERS)
    if not pieces:
        raise BadRecord("domain is missing")
    if tail:
        _, dot, top = tail.removesuffix(".").rpartition(".")
        if not dot or not top or not _TOP_LABEL.issuperset(top) or top.isdigit() or "-" in (top[0], top[-1]):
            raise BadRecord(f"domain {text[-60:]!r} does not end in the name of a top-level domain")
    return MacroString(text, tuple(pieces))


def parse_explanation(text: str) -> MacroString:
    """An explain-string, which may have spaces and the macros c, r and t. Raises BadRecord."""
    return MacroString(text, tuple(_pieces(text, _EXPLANATION_PIECE, _EXPLANATION_LETTERS)[0]))


def usable_name(name: str) -> str | None:
    """A name without its final dot, left labels cut off a long one (section 7.3); None if it cannot be looked up."""
    name = name.removesuffix(".")
    if len(name) > MAX_NAME:
        dot = name.find(".", len(name) - MAX_NAME - 1)
        if dot < 0:
            return None
        name = name[dot + 1 :]
    # RFC 8616 section 4: what holds a localpart outside ASCII matches nothing.
    if not name.isascii() or not all(0 < len(label) <= MAX_LABEL for label in name.split(".")):
        return None
    return name


def _pieces(text: str, pattern: re.Pattern[str], letters: frozenset[str]) -> tuple[list[str | Macro], str]:
    """The pieces, and the literal text that stands at the end, "" if a macro does."""
    pieces: list[str | Macro] = []
    at, tail = 0, ""
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            raise BadRecord(f"cannot read {text[at : at + 40]!r}")
        at = match.end()
        literal, escaped, letter, parts, reverse, delimiters = match.groups()
        tail = literal or ""
        if literal or escaped:
            pieces.append(literal or _ESCAPED[escaped])
            continue
        if letter.lower() not in letters or (parts and not int(parts)):
            raise BadRecord(f"bad macro {match[0][:40]!r}")
        pieces.append(Macro(letter.lower(), letter.isupper(), int(parts or 0), bool(reverse), delimiters or "."))
    return pieces, tail
