"""How conditions on lists are written, on pages and command lines, and what is said about bad ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self, TypeVar

from django.db.models import Model, Q, QuerySet

from protocols.durations import parse_duration
from server import db

PAGE: Final = 100  # rows
IDS_MAX: Final = 10_000  # in one condition
ID_MAX: Final = 2**63 - 1
WAIT_MAX: Final = timedelta(days=366)  # that something is put off by


M = TypeVar("M", bound=Model)


class BadFilter(ValueError):
    """A condition that cannot be understood; the text begins with the name of the field."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.field = name


@dataclass(frozen=True, slots=True)
class Changed:
    """How many rows were changed, and the ids of those that were not since somebody is at work on them."""

    affected: int
    busy: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """Before, or after, a time."""

    before: bool
    time: datetime

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """``<1h``, ``>-30m``, ``<now``: relative to now. Raises BadFilter."""
        if text[:1] not in ("<", ">"):
            raise BadFilter(name, 'must start with "<" or ">"')
        wait = text[1:].strip()
        try:
            offset = timedelta(0) if wait == "now" else parse_duration(wait)
            return cls(text[0] == "<", db.now() + offset)
        except (ValueError, OverflowError) as exc:
            raise BadFilter(name, str(exc)) from exc

    def condition(self, column: str) -> Q:
        return Q(**{f"{column}__{'lt' if self.before else 'gt'}": self.time})


Parser = Callable[[str, str], Any]


def parse_all(parsers: Mapping[str, Parser], values: Mapping[str, str], *, may_be_empty: Collection[str] = ()) -> Any:
    """What texts by name say; one that is empty says nothing. Raises BadFilter."""
    parsed: dict[str, Any] = {}
    for name, text in values.items():
        parse = parsers.get(name)
        if parse is None:
            raise BadFilter(name, f"unknown condition, use one of {', '.join(parsers)}")
        if text or name in may_be_empty:
            parsed[name] = parse(name, text)
    return parsed


def ids(name: str, text: str) -> tuple[int, ...]:
    numbers = [part.strip() for part in text.split(",")]
    if not all(number.isascii() and number.isdigit() and 0 < int(number) <= ID_MAX for number in numbers):
        raise BadFilter(name, f'bad id in "{text[:200]}", use positive numbers with commas between them')
    if len(numbers) > IDS_MAX:
        raise BadFilter(name, f"{len(numbers)} ids, at most {IDS_MAX} at a time")
    return tuple(map(int, numbers))


def flag(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise BadFilter(name, f'"{text}" is neither true nor false')
    return text.lower() == "true"


def count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= ID_MAX):
        raise BadFilter(name, f'"{text}" is not a number above 0')
    return int(text)


def anything(name: str, text: str) -> str:
    return text


def wait(name: str, text: str) -> timedelta:
    """A time to put something off by, which may be negative. Raises BadFilter."""
    try:
        parsed = parse_duration(text)
    except ValueError as exc:
        raise BadFilter(name, str(exc)) from exc
    if abs(parsed) > WAIT_MAX:
        raise BadFilter(name, f'"{text}" is longer than {WAIT_MAX.days} days')
    return parsed


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page: its value in the column that the list is sorted by, and its id."""

    value: datetime
    pk: int

    @classmethod
    def parse(cls, last: str, last_id: str) -> Self | None:
        """From the texts that a page sends with the request for the next one; None for the first. Raises BadFilter."""
        if not last and not last_id:
            return None
        (pk,) = ids("last_id", last_id)[:1]
        try:
            value = datetime.fromisoformat(last)
        except ValueError:
            value = None
        if value is None or value.tzinfo is None:
            raise BadFilter("last", f'"{last}" is no time like 2026-03-01T08:00:00.123456Z')
        return cls(value, pk)


def page(query: QuerySet[M], sort: str, *, ascending: bool, after: Position | None = None, size: int = PAGE) -> list[M]:
    """Rows in the order of a time column, those of the same time by id; ``after`` the last one of a page before.

    By key, and not by number: each row is seen once while others come and go.
    """
    if after is not None:
        beyond = "gt" if ascending else "lt"
        tie = Q(**{f"{sort}__{beyond}": after.value}) | Q(**{f"pk__{beyond}": after.pk})
        query = query.filter(Q(**{f"{sort}__{beyond}e": after.value}) & tie)  # the first part is what an index finds
    order = (sort, "pk") if ascending else (f"-{sort}", "-pk")
    return list(query.order_by(*order)[:size])


def time_text(moment: datetime | None) -> str | None:
    """RFC 3339."""
    return moment.isoformat().replace("+00:00", "Z") if moment is not None else None
