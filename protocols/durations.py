"""Durations as people write them: ``1h30m``, ``250ms``, ``-2d``.

parse_duration("1h30m") == timedelta(hours=1, minutes=30)
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PART: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|[smhdw])", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Numbers with units, in any order; one sign in front stands for all of it. Raises ValueError."""
    stripped = text.strip()
    rest = stripped.removeprefix("-")
    if rest == "0":
        return timedelta(0)
    if not rest:
        raise ValueError("empty duration")
    seconds = 0.0
    while rest:
        match = _PART.match(rest)
        if match is None:
            raise ValueError(f'bad duration "{text}", use numbers with s, m, h, d, w')
        seconds += float(match[1]) * _SECONDS[match[2]]
        rest = rest[match.end() :]
    try:
        return timedelta(seconds=-seconds if stripped.startswith("-") else seconds)
    except OverflowError:
        raise ValueError(f'bad duration "{text}", it is too long') from None
