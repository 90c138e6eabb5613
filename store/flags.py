"""Message flags as bits, keywords as text, and both as IMAP words.

flags = parse_words(["\\Seen", "$Junk", "Todo"])      # Flags(bits=SEEN | JUNK, keywords=("todo",))
words(flags.bits, keyword_column(flags.keywords))      # b"\\Seen $Junk todo"
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from .errors import BadFlag

SEEN: Final = 1
ANSWERED: Final = 2
FLAGGED: Final = 4
DELETED: Final = 8
DRAFT: Final = 16
FORWARDED: Final = 32
JUNK: Final = 64
NOTJUNK: Final = 128
PHISHING: Final = 256
MDNSENT: Final = 512

# Column of Message, bit, IMAP word: in the order in which IMAP lists them.
FLAGS: Final = (
    ("seen", SEEN, "\\Seen"),
    ("answered", ANSWERED, "\\Answered"),
    ("flagged", FLAGGED, "\\Flagged"),
    ("deleted", DELETED, "\\Deleted"),
    ("draft", DRAFT, "\\Draft"),
    ("forwarded", FORWARDED, "$Forwarded"),
    ("junk", JUNK, "$Junk"),
    ("notjunk", NOTJUNK, "$NotJunk"),
    ("phishing", PHISHING, "$Phishing"),
    ("mdnsent", MDNSENT, "$MDNSent"),
)
FLAG_COLUMNS: Final = tuple(column for column, _, _ in FLAGS)
FLAG_WORDS: Final = tuple(word for _, _, word in FLAGS)
ALL_BITS: Final = (1 << len(FLAGS)) - 1

KEYWORD_MAX: Final = 255  # bytes of a keyword
KEYWORDS_PER_MESSAGE: Final = 100
KEYWORDS_PER_MAILBOX: Final = 1000

_BITS: Final = {word.lower(): bit for _, bit, word in FLAGS}
_NOT_IN_KEYWORDS: Final = frozenset('(){%*"\\]')


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of a message: bits, and its other keywords, lower case and sorted."""

    bits: int = 0
    keywords: tuple[str, ...] = ()

    def columns(self) -> dict[str, bool]:
        """The values of the boolean columns of Message."""
        return {column: bool(self.bits & bit) for column, bit, _ in FLAGS}


NO_FLAGS: Final = Flags()


class FlagRow(NamedTuple):
    """The flags of one message: bits as above, keywords in the stored form ("" or " one two ")."""

    uid: int
    modseq: int
    bits: int
    keywords: str


def parse_words(given: Iterable[str]) -> Flags:
    """Flags from IMAP words, compared without case. Raises BadFlag, which names the word."""
    bits, keywords = 0, set()
    for word in given:
        lower = word.lower()
        bit = _BITS.get(lower)
        if bit is not None:
            bits |= bit
        else:
            keywords.add(check_keyword(lower))
    if len(keywords) > KEYWORDS_PER_MESSAGE:
        raise BadFlag(f"too many keywords: {len(keywords)} on one message, at most {KEYWORDS_PER_MESSAGE}")
    return Flags(bits, tuple(sorted(keywords)))


def check_keyword(keyword: str) -> str:
    """The keyword, lower-cased. Raises BadFlag."""
    keyword = keyword.lower()
    if keyword.startswith("\\"):
        raise BadFlag(f"unknown flag {keyword[:40]!r}")
    if not 1 <= len(keyword) <= KEYWORD_MAX:
        raise BadFlag(f"keyword of {len(keyword)} bytes: 1 to {KEYWORD_MAX} are allowed")
    for char in keyword:
        if not " " < char < "\x7f" or char in _NOT_IN_KEYWORDS:
            raise BadFlag(f'keyword {keyword[:40]!r} holds {char!r}: use printable ASCII without spaces and (){{%*"\\]')
    return keyword


def keyword_column(keywords: Iterable[str]) -> str:
    """Keywords as stored in a Message: each surrounded by single spaces, so that LIKE '% word %' finds one."""
    joined = " ".join(sorted(keywords))
    return f" {joined} " if joined else ""


def keyword_tuple(column: str) -> tuple[str, ...]:
    return tuple(column.split())


@functools.lru_cache(maxsize=4096)
def words(bits: int, keywords: str) -> bytes:
    """The flags as IMAP lists them, without parentheses; ``keywords`` in the stored form."""
    listed = [word for _, bit, word in FLAGS if bits & bit]
    return " ".join(listed + keywords.split()).encode("ascii")
