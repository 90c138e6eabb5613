"""Maildir: what the names of its files say, and Dovecot's file that names the letters of keywords.

name = parse_name("1709629872.5.mox:2,FSa")      # delivered 2024-03-05, \\Flagged and \\Seen, letter a
format_name(received, "5.mox", ["\\\\Seen"], "a")   # "1709629872.5.mox:2,Sa"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

DIRECTORIES: Final = ("new", "cur", "tmp")
KEYWORDS_FILE: Final = "dovecot-keywords"
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"

_WORDS: Final = {"D": "\\Draft", "F": "\\Flagged", "R": "\\Answered", "S": "\\Seen", "T": "\\Deleted"}
_LETTER_OF: Final = {word: letter for letter, word in _WORDS.items()}
_SECONDS: Final = re.compile(r"([0-9]{1,12})\.")
_KEYWORD_LINE: Final = re.compile(r"([0-9]{1,2})[ \t]+(\S+)\s*")


@dataclass(frozen=True, slots=True)
class MaildirName:
    """What a file name says. ``unique`` never changes, ``words`` are IMAP's, ``letters`` those of keywords."""

    unique: str
    received: datetime | None
    words: tuple[str, ...]
    letters: str


def parse_name(name: str) -> MaildirName:
    """Read the name of a file in ``new``, ``cur`` or ``tmp``. P (passed) and unknown letters say nothing here."""
    unique, _, info = name.partition(":2,")
    flags = info.partition(",")[0]  # other servers add fields of their own
    words = tuple(sorted({_WORDS[letter] for letter in flags if letter in _WORDS}))
    letters = "".join(sorted({letter for letter in flags if letter in LETTERS}))
    return MaildirName(unique, _received(unique), words, letters)


def format_name(received: datetime, unique: str, words: Iterable[str], letters: str = "") -> str:
    """A file name; ``words`` without a letter of their own are left out."""
    flags = "".join(sorted(_LETTER_OF[word] for word in words if word in _LETTER_OF))
    return f"{max(0, int(received.timestamp()))}.{unique}:2,{flags}{''.join(sorted(letters))}"


def has_letter(word: str) -> bool:
    """Whether file names have a letter for this flag, so that it needs none of the keywords file."""
    return word in _LETTER_OF


def parse_keywords(text: str) -> tuple[dict[str, str], list[str]]:
    """The words by letter of a ``dovecot-keywords`` file, and the lines that say nothing."""
    words: dict[str, str] = {}
    bad: list[str] = []
    for line in text.splitlines():
        match = _KEYWORD_LINE.fullmatch(line)
        if match is not None and int(match[1]) < len(LETTERS):
            words[LETTERS[int(match[1])]] = match[2]
        elif line.strip():
            bad.append(line)
    return words, bad


def format_keywords(words: Mapping[str, str]) -> str:
    """A ``dovecot-keywords`` file for words by letter."""
    return "".join(f"{LETTERS.index(letter)} {word}\n" for letter, word in sorted(words.items()))


def _received(unique: str) -> datetime | None:
    match = _SECONDS.match(unique)
    try:
        return datetime.fromtimestamp(int(match[1]), UTC) if match is not None and int(match[1]) else None
    except (ValueError, OverflowError, OSError):
        return None
