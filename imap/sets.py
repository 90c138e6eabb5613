"""Sequence sets: sets of message numbers or UIDs as ranges, never as four billion numbers (RFC 9051 section 9).

    numbers = SequenceSet(((1, 3), (7, None)))       # 1:3,7:*
    numbers.uids_by_number(uids)                     # UIDs of these message numbers; raises NoSuchMessage
    numbers.uids_known(uids)                         # of a set of UIDs, those that exist
    compact([1, 2, 3, 9])                            # b"1:3,9"

``uids`` is always the session's array of UIDs, ascending.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Range = tuple[int, int]  # both ends belong to it, the first is not the larger one


class NoSuchMessage(Exception):
    """A message number that the mailbox does not have."""


@dataclass(frozen=True, slots=True)
class SequenceSet:
    """Ranges as they were written; None is ``*``. ``saved``: the set is ``$``, the last saved search result."""

    ranges: tuple[tuple[int | None, int | None], ...] = ()
    saved: bool = False

    @property
    def has_star(self) -> bool:
        return any(low is None or high is None for low, high in self.ranges)

    def resolved(self, last: int) -> list[Range]:
        """The ranges with ``*`` as ``last``, sorted and joined where they meet."""
        return joined(
            (min(pair), max(pair))
            for pair in ((last if low is None else low, last if high is None else high) for low, high in self.ranges)
        )

    def uids_by_number(self, uids: array[int]) -> array[int]:
        """The UIDs of these message numbers. Raises NoSuchMessage for a number, or ``*``, that there is not."""
        if self.has_star and not uids:
            raise NoSuchMessage("the mailbox is empty")
        found = array("I")
        for low, high in self.resolved(len(uids)):
            if high > len(uids):
                raise NoSuchMessage(f"message {max(low, len(uids) + 1)} does not exist, the mailbox has {len(uids)}")
            found.extend(uids[low - 1 : high])
        return found

    def uids_known(self, uids: array[int]) -> array[int]:
        """Those of ``uids`` that are in this set of UIDs; ``*`` is the last of them."""
        return within(uids, self.resolved(uids[-1])) if uids else array("I")

    def uid_ranges_by_number(self, uids: array[int]) -> list[Range]:
        """The same as ranges of UIDs, for SEARCH: numbers that there are not match nothing."""
        if not uids:
            return []
        return [
            (uids[low - 1], uids[min(high, len(uids)) - 1])
            for low, high in self.resolved(len(uids))
            if low <= len(uids)
        ]


def within(uids: array[int], ranges: Iterable[Range]) -> array[int]:
    """Those of ``uids`` that are in the ranges, which are sorted and joined."""
    found = array("I")
    for low, high in ranges:
        found.extend(uids[bisect_left(uids, low) : bisect_right(uids, high)])
    return found


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges sorted, and joined where they meet."""
    result: list[Range] = []
    for low, high in sorted(ranges):
        if result and low <= result[-1][1] + 1:
            if high > result[-1][1]:
                result[-1] = (result[-1][0], high)
        else:
            result.append((low, high))
    return result


def runs(numbers: Sequence[int]) -> list[Range]:
    """Ascending numbers as ranges."""
    result: list[Range] = []
    start = previous = -1
    for number in numbers:
        if number != previous + 1 or start < 0:
            if start >= 0:
                result.append((start, previous))
            start = number
        previous = number
    if start >= 0:
        result.append((start, previous))
    return result


def missing(uids: array[int], ranges: Iterable[Range]) -> list[Range]:
    """The parts of the ranges that none of ``uids`` is in."""
    result: list[Range] = []
    for low, high in ranges:
        for at in range(bisect_left(uids, low), bisect_right(uids, high)):
            if uids[at] > low:
                result.append((low, uids[at] - 1))
            low = uids[at] + 1
        if low <= high:
            result.append((low, high))
    return result


def intersection(some: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """What is in both; both are sorted and joined."""
    result: list[Range] = []
    i = j = 0
    while i < len(some) and j < len(others):
        low, high = max(some[i][0], others[j][0]), min(some[i][1], others[j][1])
        if low <= high:
            result.append((low, high))
        if some[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return result


def compact(numbers: Sequence[int]) -> bytes:
    """Ascending numbers as a sequence set."""
    return format_ranges(runs(numbers))


def format_ranges(ranges: Iterable[Range]) -> bytes:
    return b",".join(b"%d" % low if low == high else b"%d:%d" % (low, high) for low, high in ranges)


def lines_of_ranges(ranges: Iterable[Range], most: int) -> Iterator[bytes]:
    """Sequence sets of at most ``most`` bytes that together hold these ranges."""
    line: list[bytes] = []
    size = 0
    for low, high in ranges:
        piece = b"%d" % low if low == high else b"%d:%d" % (low, high)
        if size + len(piece) + 1 > most and line:
            yield b",".join(line)
            line, size = [], 0
        line.append(piece)
        size += len(piece) + 1
    if line:
        yield b",".join(line)
