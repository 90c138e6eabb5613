"""What is sought among messages: one tree of conditions for all interfaces.

    And((Flag(FLAGGED), Header("subject", "offer"), Received(Relation.SINCE, date(2024, 2, 1))))

It says nothing of how that is found (store.search).
"""

from __future__ import annotations

import enum
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from .objectids import Content


class Relation(enum.Enum):
    """How a day compares: the day of the message is before, on, or not before the given one."""

    BEFORE = "before"
    ON = "on"
    SINCE = "since"


@dataclass(frozen=True, slots=True)
class All:
    """Every message."""


@dataclass(frozen=True, slots=True)
class And:
    terms: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Or:
    terms: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class Not:
    term: Query


@dataclass(frozen=True, slots=True)
class Flag:
    """Messages with this flag (one bit of store.flags)."""

    bit: int


@dataclass(frozen=True, slots=True)
class Keyword:
    word: str


@dataclass(frozen=True, slots=True)
class Received:
    """The calendar day of INTERNALDATE, in the zone it was given in."""

    relation: Relation
    day: date


@dataclass(frozen=True, slots=True)
class Sent:
    """The calendar day that the Date header shows, whatever its zone; a message without one matches nothing."""

    relation: Relation
    day: date


@dataclass(frozen=True, slots=True)
class Older:
    """Messages whose INTERNALDATE is this moment or before it."""

    moment: datetime


@dataclass(frozen=True, slots=True)
class Younger:
    """Messages whose INTERNALDATE is this moment or after it."""

    moment: datetime


@dataclass(frozen=True, slots=True)
class Saved:
    """The day in UTC at which the message came into its mailbox."""

    relation: Relation
    day: date


@dataclass(frozen=True, slots=True)
class Larger:
    size: int


@dataclass(frozen=True, slots=True)
class Smaller:
    size: int


@dataclass(frozen=True, slots=True)
class Uid:
    """UIDs in ranges, each with both ends, ascending and not overlapping (see uid_ranges)."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ModSeq:
    """Messages with this modification sequence or a higher one."""

    at_least: int


@dataclass(frozen=True, slots=True)
class Email:
    """The messages with this content, as an EMAILID names it."""

    content: Content


@dataclass(frozen=True, slots=True)
class Thread:
    """The messages of a thread, by its number."""

    thread_id: int


@dataclass(frozen=True, slots=True)
class Header:
    """A field of the message's own header has this in its value; "" matches any field of that name."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Text:
    """In a header of the message or of a part, or in the body."""

    value: str


@dataclass(frozen=True, slots=True)
class Body:
    value: str


Query = (
    All | And | Or | Not | Flag | Keyword | Received | Sent | Older | Younger | Saved | Larger | Smaller | Uid | ModSeq
    | Email | Thread | Header | Text | Body
)  # fmt: skip


def uid_ranges(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges sorted and joined where they meet: what Uid takes."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted((min(pair), max(pair)) for pair in ranges):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def cost(query: Query) -> int:
    """How dear it is to decide: 0 for what is in columns, 1 for a header field, 2 for texts."""
    match query:
        case And(terms) | Or(terms):
            return max((cost(term) for term in terms), default=0)
        case Not(term):
            return cost(term)
        case Header():
            return 1
        case Text() | Body():
            return 2
    return 0


def restricted(query: Query) -> tuple[list[tuple[tuple[int, int], ...]], Query]:
    """The UID sets that every match must be in, and what else it must fulfil."""
    if isinstance(query, Uid):
        return [query.ranges], All()
    if not isinstance(query, And):
        return [], query
    sets: list[tuple[tuple[int, int], ...]] = []
    rest: list[Query] = []
    for term in query.terms:
        inner_sets, inner = restricted(term)
        sets.extend(inner_sets)
        rest.append(inner)
    return sets, And(tuple(term for term in rest if not isinstance(term, All)))


def intersection(uids: Sequence[int], sets: list[tuple[tuple[int, int], ...]]) -> Sequence[int]:
    """Those of the UIDs (ascending) that are in all sets of ranges."""
    for ranges in sets:
        kept = array("I")
        for low, high in ranges:
            kept.extend(uids[bisect_left(uids, low) : bisect_right(uids, high)])
        uids = kept
    return uids


def in_ranges(uid: int, starts: list[int], ranges: tuple[tuple[int, int], ...]) -> bool:
    """Whether a UID is in one of these ranges; ``starts``: where each begins."""
    at = bisect_right(starts, uid) - 1
    return at >= 0 and uid <= ranges[at][1]


def compare(day: date | None, relation: Relation, given: date) -> bool:
    """Whether the day of a message relates so to the given one; None does not, in any way."""
    if day is None:
        return False
    if relation is Relation.BEFORE:
        return day < given
    if relation is Relation.ON:
        return day == given
    return day >= given


def local_day(moment: datetime, offset: int) -> date:
    """The day of a moment in a zone, in minutes east of UTC."""
    return (moment + timedelta(minutes=offset)).date()
