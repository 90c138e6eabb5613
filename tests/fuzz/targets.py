"""What is fuzzed: a function with what it should be given, and the two tests that all of them have."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

LONG: Final = 64 * 1024  # bytes of an input that is made by repeating
SECONDS_PER_MIB: Final = 2.0  # a parser may take 1; checks read twice: strictly and not
SLACK: Final = 0.25  # seconds: for garbage collection, and set-up that takes as long for any input


@dataclass(frozen=True, slots=True)
class Target:
    """``check`` reads the input, takes the errors that are declared, and asserts what must be true of the result.

    ``seeds`` are inputs that are right, ``tokens`` what such inputs are made of. ``longest``: bytes that callers let
    in; a longer input is not tried. ``seconds_per_mib``: what a check may take that does more than read once.
    """

    name: str
    check: Callable[[bytes], object]
    seeds: Sequence[bytes] = ()
    tokens: Sequence[bytes] = ()
    longest: int = LONG
    seconds_per_mib: float = SECONDS_PER_MIB

    def inputs(self) -> st.SearchStrategy[bytes]:
        """Seeds with changes, tokens in any order, and bytes."""
        pieces = st.sampled_from(self.tokens) | st.binary(max_size=6) if self.tokens else st.binary(max_size=6)
        made = st.lists(pieces, max_size=30).map(b"".join)
        if not self.seeds:
            return made
        edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), pieces), max_size=6)
        changed = st.builds(_edited, st.sampled_from(self.seeds), edits)
        halves = st.builds(_crossed, *2 * (st.sampled_from(self.seeds), st.floats(0, 1)))
        return changed | made | halves

    def long_inputs(self) -> st.SearchStrategy[bytes]:
        """A few tokens over and over, between others."""
        tokens = st.sampled_from(self.tokens) if self.tokens else st.binary(min_size=1, max_size=3)
        few = st.lists(tokens, max_size=4).map(b"".join)
        unit = st.lists(tokens, min_size=1, max_size=3).map(b"".join).filter(bool)
        return st.builds(lambda a, b, c: a + b * (self.longest // len(b)) + c, few, unit, few).map(
            lambda data: _Long(data[: self.longest])
        )

    @property
    def slug(self) -> str:
        """The name for files."""
        return self.name.lower().replace(" ", "-")

    def check_time(self, data: bytes, *, allowance: float = 1.0) -> None:
        """Assert that an input takes time by its length. A slow run is tried again: the machine may be busy.

        ``allowance``: times that the check may be slower than usual.
        """
        most = allowance * (SLACK + self.seconds_per_mib * len(data) / (1 << 20))
        taken = 0.0
        for _ in range(3):
            start = time.process_time()
            self.check(data)
            taken = time.process_time() - start
            if taken <= most:
                return
        raise AssertionError(f"{taken:.2f} s for {len(data)} bytes, {_Long(data)!r}")


class _Long(bytes):
    """Is shown by its ends when it fails."""

    def __repr__(self) -> str:
        return f"{self[:60]!r}...{self[-60:]!r}"


def _edited(seed: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, removed, added in edits:
        at = int(place * len(seed))
        seed = seed[:at] + added + seed[at + removed :]
    return seed


def _crossed(one: bytes, end: float, other: bytes, start: float) -> bytes:
    return one[: int(end * len(one))] + other[int(start * len(other)) :]
