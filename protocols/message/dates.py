"""Date header values (RFC 5322 3.3, reading also the obsolete forms of 4.3) as aware times."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from .headers import without_comments

MAX_DATE: Final = 200  # characters looked at; no date needs more

MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""The names of months in every protocol of mail; strftime would write them in the language of the process."""

_MONTHS: Final = {name.lower(): number for number, name in enumerate(MONTHS, start=1)}
_ZONES: Final = {"ut": 0, "utc": 0, "gmt": 0, "z": 0, "edt": -4, "est": -5, "cdt": -5, "cst": -6} | {
    "mdt": -6,
    "mst": -7,
    "pdt": -7,
    "pst": -8,
}  # hours; any other name is -0000, RFC 5322 4.3
_AROUND_COLON: Final = re.compile(r"[ \t]*:[ \t]*")
_WORDS: Final = re.compile(r"[0-9A-Za-z+:.-]+")


def parse_date(value: str) -> datetime | None:
    """The time of a Date header, None when there is none to be read or its year is over 9999.

    A zone of 24 hours and more is left out, the time converted to UTC as far as it goes; comments are ignored.
    """
    if "(" in value:
        value = without_comments(value[: 4 * MAX_DATE])
    text = _AROUND_COLON.sub(":", value[:MAX_DATE])  # RFC 5322 4.3 lets a clock have spaces and comments in it
    words: list[str] = _WORDS.findall(text.replace(",", " "))
    if words and not words[0][0].isdigit():
        words = words[1:]  # day of the week
    if words and words[0].count("-") == 2:
        words = [*words[0].split("-"), *words[1:]]  # 5-Mar-2024
    if len(words) < 4:
        return None
    month = _MONTHS.get(words[1][:3].lower())
    clock = words[3].replace(".", ":").split(":")
    numbers = [words[0], words[2], *clock]
    if month is None or not 2 <= len(clock) <= 3 or not all(n.isascii() and n.isdecimal() for n in numbers):
        return None
    if len(words[0]) > 2 or len(words[2]) > 4 or any(len(part) > 2 for part in clock):
        return None
    year = int(words[2])
    if len(words[2]) <= 3:  # RFC 5322 4.3
        year += 2000 if year < 50 and len(words[2]) == 2 else 1900
    hour, minute, second = int(clock[0]), int(clock[1]), int(clock[2]) if len(clock) == 3 else 0
    offset = _offset(words[4]) if len(words) > 4 else 0
    try:
        # A leap second is the last one of its minute.
        moment = datetime(
            year, month, int(words[0]), hour, minute, min(second, 59) if second <= 60 else second, tzinfo=UTC
        )
        if abs(offset) < 24 * 60:
            return moment.replace(tzinfo=timezone(timedelta(minutes=offset)) if offset else UTC)
        return moment - timedelta(minutes=offset)
    except (ValueError, OverflowError):
        return None


def format_date(moment: datetime) -> str:
    """An aware time as in a Date header, `3 Mar 2031 09:12:44 +0000`."""
    return f"{moment.day} {MONTHS[moment.month - 1]} {moment.year:04} {moment:%H:%M:%S %z}"


def _offset(zone: str) -> int:
    """Minutes east of UTC."""
    if zone[0] in "+-":
        digits = zone[1:].replace(":", "")
        if not digits.isdecimal() or len(digits) != 4:
            return 0
        minutes = int(digits[:2]) * 60 + int(digits[2:])
        return -minutes if zone[0] == "-" else minutes
    return _ZONES.get(zone.lower(), 0) * 60
