"""What a text is made of: every three and every four characters in a row, as numbers, and how those are stored.

    has = set(grams(Field.BODY, "some text"))       # numbers below BUCKETS
    postings = Postings(); postings.add(7, has)     # message number 7 of its segment has all of these
    pages = postings.pages()                        # PAGES pieces of bytes; page_of(number) is where one stands
    members(pages[page_of(number)], number)         # 1 << 7: a bit for each message that may have it

A text that holds another one has all of its grams. The numbers are hashes: different grams may share one, which makes a
message a candidate that it need not be, never the other way round. Three characters find short texts; four, of which a
message has fewer of those that there are, leave few candidates that are none.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

SEGMENT: Final = 256  # messages: a number of one is a byte, a set of them 32 bytes
PAGES: Final = 256  # of a segment: a search reads one for each gram that it looks at
BUCKETS_PER_PAGE: Final = 256
BUCKETS: Final = PAGES * BUCKETS_PER_PAGE
SET_BYTES: Final = SEGMENT // 8
SHORTEST: Final = 3  # characters of a text that the index knows about


class Field(enum.IntEnum):
    """Where in a message a text stands: each has grams of its own. The values are part of what is stored."""

    BODY = 0x0000
    HEADERS = 0x9E37
    FROM = 0x3C6E
    TO = 0xDAA6
    CC = 0x78DD
    BCC = 0x1715
    SUBJECT = 0xB54C


_FOUR: Final = 0x5BD1  # tells grams of four characters from those of three, as a field does
_FACTORS: Final = (0xDC59, 0xCC8F, 0xF15B, 0xBF3D)  # for each character of a gram: odd, of 16 bits
_FOLD, _SHIFT = 11, 5  # the upper half of a product's 32 bits is laid over the 16 bits that are taken


def grams(field: Field, text: str) -> list[int]:
    """The numbers of all grams of a text, maybe several times; none where it is shorter than one."""
    threes, fours = _numbers(field, text)
    return threes + fours


def ordered_grams(field: Field, text: str) -> list[int]:
    """The same in the order in which to look at them: neighbours, which say much the same, far from each other."""
    threes, fours = _numbers(field, text)
    return list(dict.fromkeys([*(n for first in range(4) for n in fours[first::4]), *threes]))


def _numbers(field: Field, text: str) -> tuple[list[int], list[int]]:
    """The numbers of the grams of three and of four characters, in order.

    All of a text are computed at once: its characters are lanes of 32 bits in one long integer. No product of 16 bits
    leaves its lane, so a number depends on the characters of its gram alone.
    """
    count = len(text)
    if count < SHORTEST:
        return [], []
    lanes = int.from_bytes(text.encode("utf-32-le", "surrogatepass"), "little")
    ones = int.from_bytes(b"\1\0\0\0" * count, "little")
    low = ones * 0xFFFF
    lanes &= low
    one, two, three, four = _FACTORS
    mixed = (lanes * one) ^ ((lanes >> 32) * two) ^ ((lanes >> 64) * three)
    threes = _hashes(mixed, low, ones * field, count)
    fours = _hashes(mixed ^ ((lanes >> 96) * four), low, ones * (field ^ _FOUR), count)
    return threes[: count - 2], fours[: count - 3]


def _hashes(mixed: int, low: int, salts: int, count: int) -> list[int]:
    value = (((mixed ^ (mixed >> _FOLD)) >> _SHIFT) & low) ^ salts
    return memoryview(value.to_bytes(4 * count, "little")).cast("H")[::2].tolist()


def page_of(bucket: int) -> int:
    return bucket // BUCKETS_PER_PAGE


class Postings:
    """Which messages of a segment have which grams, in the making."""

    def __init__(self) -> None:
        self._numbers: list[bytearray] = [bytearray() for _ in range(BUCKETS)]

    def add(self, number: int, has: Iterable[int]) -> None:
        """Message ``number`` of the segment has these."""
        numbers = self._numbers
        for bucket in has:
            numbers[bucket].append(number)

    def pages(self) -> list[bytes]:
        """For each bucket of a page the length of its entry, then the entries: message numbers, or a set as bits."""
        return [_page(self._numbers[start : start + BUCKETS_PER_PAGE]) for start in range(0, BUCKETS, BUCKETS_PER_PAGE)]


def _page(members_of: Iterable[bytearray]) -> bytes:
    entries = [bytes(numbers) if len(numbers) < SET_BYTES else to_set(numbers) for numbers in members_of]
    return bytes(map(len, entries)) + b"".join(entries)


def members(page: bytes, bucket: int) -> int:
    """The messages of a segment that have it, as bits, from its page."""
    at = bucket % BUCKETS_PER_PAGE
    length = page[at]
    if not length:
        return 0
    start = BUCKETS_PER_PAGE + sum(page[:at])
    entry = page[start : start + length]
    if length == SET_BYTES:
        return int.from_bytes(entry, "little")
    found = 0
    for number in entry:
        found |= 1 << number
    return found


def merged_page(pages: Iterable[tuple[bytes, Mapping[int, int]]]) -> bytes:
    """One page of several, with the numbers that messages get in the new segment; those without one are left out."""
    entries: list[bytearray] = [bytearray() for _ in range(BUCKETS_PER_PAGE)]
    for page, renumbered in pages:
        new_numbers = bytes(renumbered.get(number, 0) for number in range(SEGMENT))
        left_out = bytes(number for number in range(SEGMENT) if number not in renumbered)
        start = BUCKETS_PER_PAGE
        for bucket, length in enumerate(page[:BUCKETS_PER_PAGE]):
            if not length:
                continue
            entry = page[start : start + length]
            start += length
            if length == SET_BYTES:
                entry = bytes(numbers_of(int.from_bytes(entry, "little")))
            entries[bucket] += entry.translate(new_numbers, left_out)
    return _page(entries)


def to_set(numbers: Iterable[int]) -> bytes:
    """A set of message numbers as it is stored."""
    bits = 0
    for number in numbers:
        bits |= 1 << number
    return bits.to_bytes(SET_BYTES, "little")


def numbers_of(bits: int) -> Iterator[int]:
    """The message numbers in a set, ascending."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
