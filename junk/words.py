"""The words of a message that the content filter counts (a set: how often one occurs says little more).

    words = WordSet(Grams())
    words.add_header(header_section)
    words.add_text("Cheap watches, don't wait")     # cheap, watches, don't, wait
    words.found

Text is split at all that is neither letter nor digit. What looks random or like a number is dropped: no second message
will have it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from protocols.message.headers import iter_headers

WORDS_VERSION: Final = 1  # raise when the same message would have other words: filters are trained anew
WORDS_MAX: Final = 200_000  # distinct words of a message; the rest of it is not looked at
WORD_BYTES_MAX: Final = 256  # longer ones are skipped: text without spaces
WORD_BYTES_MIN: Final = 3
HEADER_WORD_BYTES_MIN: Final = 4
KNOWN_LENGTH_MAX: Final = 32  # characters of a word that is remembered: it is somebody else's text

HEADER_FIELDS: Final = {
    name.lower(): name for name in ("From", "To", "Cc", "Bcc", "Reply-To", "Subject", "Sender", "Return-Path")
}

# Letters and digits; an apostrophe stays inside a word when a letter follows.
_WORD: Final = re.compile(r"[^\W_]+(?:'(?=[^\W\d_])[^\W_]+)*")
_RANDOM: Final = re.compile(r"[bcdfghjklmnpqrstvwxyz2-9]{6}")
_DIGITS: Final = re.compile(r"\d{4}")
_HEX: Final = re.compile(r"(?=.*\d{3})[0-9a-f]+\Z")


@dataclass(frozen=True, slots=True)
class Grams:
    """Which groups of neighbouring words count."""

    one: bool = True
    two: bool = False
    three: bool = False


class WordSet:
    """Collects the words of one message; once there are very many, it is ``full`` and takes no more."""

    def __init__(self, grams: Grams) -> None:
        self.found: set[str] = set()
        self._grams = grams

    @property
    def full(self) -> bool:
        return len(self.found) >= WORDS_MAX

    def add_header(self, section: bytes, return_path: str = "") -> None:
        """Words of the fields that tell who writes to whom about what, as ``Subject:invoice``."""
        for field in iter_headers(section):
            name = HEADER_FIELDS.get(field.name.lower())
            if name is not None and name != "Return-Path" and not self.full:
                self._add_field(name, field.text())
        if return_path:
            self._add_field("Return-Path", return_path)

    def add_text(self, text: str) -> None:
        """Words of a piece of text; pieces are cut where no word is."""
        if self.full:
            return
        words = _WORD.findall(text.lower())
        if self._grams.two or self._grams.three:
            words = _kept(words)
            if self._grams.two:
                self._take(map(" ".join, pairwise(words)))
            if self._grams.three:
                self._take(map(" ".join, zip(words, words[1:], words[2:], strict=False)))
        if self._grams.one:
            self._take(_kept(set(words)))

    def _add_field(self, name: str, value: str) -> None:
        words = set(_WORD.findall(value.lower()))
        self._take(f"{name}:{word}" for word in words if len(word.encode()) >= HEADER_WORD_BYTES_MIN)

    def _take(self, words: Iterable[str]) -> None:
        # A character has at most 4 bytes: most words need not be encoded to know.
        short = [word for word in words if len(word) <= WORD_BYTES_MAX // 4 or len(word.encode()) <= WORD_BYTES_MAX]
        if len(self.found) + len(short) <= WORDS_MAX:
            self.found.update(short)
            return
        for word in short:
            if self.full:
                return
            self.found.add(word)


def is_kept(word: str) -> bool:
    """Whether a word (lower case) says anything: it is neither very short, nor a number, nor random."""
    if len(word.encode()) < WORD_BYTES_MIN or _looks_numeric(word):
        return False
    return not word.isascii() or _RANDOM.search(word) is None


# Of a few thousand words most texts are made; to look a word up is a sixth of the work.
_known: Final = lru_cache(maxsize=16_384)(is_kept)


def forget_known_words() -> None:
    """For who measures what a text costs the first time."""
    _known.cache_clear()


def _kept(words: Iterable[str]) -> list[str]:
    return [word for word in words if (_known(word) if len(word) <= KNOWN_LENGTH_MAX else is_kept(word))]


def _looks_numeric(word: str) -> bool:
    if word.isalpha():
        return False
    digits = word.replace("0x", "")
    return _DIGITS.search(digits) is not None or _HEX.match(digits) is not None or word.isdigit()
