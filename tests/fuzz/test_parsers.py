"""Every parser, with whatever comes: a little in `make test`, a lot in `make fuzz`.

What atheris does better, it does (`python -m tests.fuzz`). Here are inputs of a kind that it seldom makes: the same few
tokens over and over, at lengths that show whether time or memory grows faster than the input.
"""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from . import registry
from .targets import Target

EXAMPLES: Final = 15  # of each target in `make test`
LONGER: Final = 16 * 1024  # bytes of the longer input where times are compared
MAX_LONG: Final = 100  # inputs of 64 KiB
TIMES: Final = 8  # that the longer input is longer
RATIO: Final = 20  # times that it may take longer; quadratic time would be 64
TRIES: Final = 5  # the least time counts: the machine may be busy
NOTHING: Final = 0.01  # seconds: what takes less with the longer input is not measured
MEMORY: Final = 200  # bytes that may be held for each byte of input
MEMORY_SLACK: Final = 4 << 20  # bytes: caches that fill, and what takes as much for any input

TARGETS = registry.load_all()
FOUND = Path(__file__).parent / "found"
"""Inputs that once failed: found/TARGET/WHAT-IT-SHOWS."""


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES)
@given(st.data())
def test_it_reads_or_refuses_anything(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.check(data.draw(target.inputs()))


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_it_reads_what_once_failed(path: Path) -> None:
    by_slug = {target.slug: target for target in TARGETS.values()}
    by_slug[path.parent.name].check_time(path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_its_time_is_not_quadratic(name: str) -> None:
    target = TARGETS[name]
    for token in target.tokens:
        long = _repeated(token, min(target.longest, LONGER))
        short = long[: len(long) // TIMES]
        times = [(_seconds(target, short), _seconds(target, long))]
        while len(times) < TRIES and not _is_linear(times):
            times.append((_seconds(target, short), _seconds(target, long)))
        assert _is_linear(times), f"{token!r} over and over: seconds for {len(short)} and {len(long)} bytes: {times}"


def _repeated(token: bytes, size: int) -> bytes:
    return (token * (size // len(token))).ljust(size, b" ")


def _is_linear(times: list[tuple[float, float]]) -> bool:
    short, long = min(short for short, _ in times), min(long for _, long in times)
    return long < max(NOTHING, RATIO * short)


def _seconds(target: Target, data: bytes) -> float:
    start = time.process_time()
    target.check(data)
    return time.process_time() - start


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
# Making a slow input smaller would take hours.
@settings(max_examples=MAX_LONG, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(st.data())
def test_it_takes_time_by_the_length(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.check_time(bytes(data.draw(target.long_inputs())))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_it_takes_memory_by_the_length(name: str) -> None:
    target = TARGETS[name]
    for token in target.tokens:
        long = _repeated(token, target.longest)
        target.check(long)  # fills caches
        tracemalloc.start()
        try:
            target.check(long)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most <= MEMORY * len(long) + MEMORY_SLACK, f"{token!r} over and over: {most} bytes for {len(long)}"
