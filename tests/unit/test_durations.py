"""Durations as people write them, and what is none."""

from __future__ import annotations

from datetime import timedelta

import pytest

from protocols.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("2d", 172800),
        ("0", 0),
        ("1w", 604800),
        ("-30m", -1800),
        ("1.5h", 5400),
        ("-1h30m", -5400),
    ],
)
def test_it_adds_up_numbers_with_units(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "-", "5", "5x", "1h-30m", "h", "1y2", "٣s", "9" * 12 + "s", "999999999w"])
def test_it_names_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)
