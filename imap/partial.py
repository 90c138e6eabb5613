"""PARTIAL: a part of a list of messages, counted from its beginning or its end (RFC 9394)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .syntax import Parser


@dataclass(frozen=True, slots=True)
class Partial:
    """The positions from ``low`` to ``high``, from 1 on; ``from_end``: 1 is the last. ``label`` as it was written."""

    low: int
    high: int
    from_end: bool
    label: bytes

    def of(self, items: Sequence[int]) -> Sequence[int]:
        """The part of a list."""
        if not self.from_end:
            return items[self.low - 1 : self.high]
        end = len(items) - self.low + 1
        return items[max(0, len(items) - self.high) : max(0, end)]


def parse(parser: Parser) -> Partial:
    """What follows the word, with the space before it."""
    parser.space()
    from_end = parser.take(b"-")
    one = parser.number("first position", least=1)
    parser.expect(b":")
    if from_end:
        parser.expect(b"-")
    other = parser.number("last position", least=1)
    sign = b"-" if from_end else b""
    return Partial(min(one, other), max(one, other), from_end, b"%b%d:%b%d" % (sign, one, sign, other))
