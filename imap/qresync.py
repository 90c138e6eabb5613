"""Quick resynchronisation: what changed and what vanished since a client was last here (RFC 7162 3.2.5, 3.2.6)."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from store import reading
from store.flags import FlagRow, words
from store.reading import OpenedMailbox

from .selected import VANISHED_MAX, Selected
from .sets import Range, SequenceSet, intersection, joined, lines_of_ranges, missing, runs, within
from .syntax import NUMBER64_MAX, NUMBER_MAX, Parser

if TYPE_CHECKING:
    from .session import Session

ROWS_PER_BATCH: Final = 2000  # messages read and sent at a time


@dataclass(frozen=True, slots=True)
class KnownState:
    """What a client says it knows. ``known`` None: every UID; ``match``: message numbers and the UIDs they had."""

    uidvalidity: int
    modseq: int
    known: tuple[Range, ...] | None = None
    match: tuple[tuple[Range, ...], tuple[Range, ...]] | None = None


def parse_known_state(parser: Parser) -> KnownState:
    """The argument of QRESYNC in SELECT."""
    parser.expect(b"(")
    uidvalidity = parser.number("uidvalidity", least=1)
    parser.space()
    modseq = parser.number("modification sequence", least=1, most=NUMBER64_MAX)
    known = match = None
    if parser.take(b" "):
        if not parser.peek(b"("):
            known = tuple(joined(_ranges(parser)))
        if known is None or parser.take(b" "):
            match = _match_data(parser)
    parser.expect(b")")
    return KnownState(uidvalidity, modseq, known, match)


def _match_data(parser: Parser) -> tuple[tuple[Range, ...], tuple[Range, ...]]:
    parser.expect(b"(")
    numbers = _ascending(parser)
    parser.space()
    uids = _ascending(parser)
    parser.expect(b")")
    if _count(numbers) != _count(uids):
        raise parser.fail("as many UIDs as message numbers")
    return numbers, uids


def _ascending(parser: Parser) -> tuple[Range, ...]:
    ranges = _ranges(parser)
    if any(after[0] <= before[1] for before, after in itertools.pairwise(ranges)):
        raise parser.fail("ascending numbers")
    return tuple(ranges)


def _ranges(parser: Parser) -> list[Range]:
    numbers: SequenceSet = parser.sequence_set()
    if numbers.saved or numbers.has_star:
        raise parser.fail("numbers, without * and $")  # RFC 7162 7
    return [(min(low, high), max(low, high)) for low, high in numbers.ranges if low is not None and high is not None]


def _count(ranges: Iterable[Range]) -> int:
    return sum(high - low + 1 for low, high in ranges)


async def resynchronise(session: Session, opened: OpenedMailbox, state: KnownState) -> None:
    """Send what changed and what vanished since the state that the client knows, after the lines of SELECT."""
    selected = session.the_selected()
    # All that can have vanished is below UIDNEXT, however far the client's ranges reach.
    everything: list[Range] = [(1, opened.view.uidnext - 1)] if opened.view.uidnext > 1 else []
    known = everything if state.known is None else intersection(state.known, everything)
    await send_changed(session, within(selected.uids, known), state.modseq)
    first, inconsistent = 1, False
    if state.match is not None:
        first, inconsistent = await session.call(_first_unsure, selected, state)
    if inconsistent:
        session.send(b"* OK [ALERT] client state is inconsistent, full synchronisation recommended\r\n")
    if first > 1:
        known = intersection(known, [(first, NUMBER_MAX)])
    await send_vanished(session, known, 0 if inconsistent else state.modseq, opened.highest_deleted_modseq)


def _first_unsure(selected: Selected, state: KnownState) -> tuple[int, bool]:
    """The lowest UID that may have vanished unnoticed, and whether the client knows a UID that it must not know.

    Pairs of number and UID that still fit say that nothing before them vanished since.
    """
    assert state.match is not None
    numbers, uids = state.match
    first = 1
    for number, uid in _pairs(numbers, uids):
        if number > len(selected.uids) or selected.uids[number - 1] != uid:
            break
        first = uid + 1
    else:
        return first, False
    gone = reading.vanished(selected.mailbox_id, 0, upto=state.modseq)
    rest = intersection(uids, [(first, NUMBER_MAX)])
    return first, bool(within(gone, rest))


def _pairs(numbers: Sequence[Range], uids: Sequence[Range]) -> Iterable[tuple[int, int]]:
    """Lazily: the ranges may be of billions."""
    all_numbers = (number for low, high in numbers for number in range(low, high + 1))
    all_uids = (uid for low, high in uids for uid in range(low, high + 1))
    return zip(all_numbers, all_uids, strict=False)


async def send_changed(session: Session, uids: array[int], since: int) -> None:
    """FETCH lines with flags and modification sequence of those messages that changed after ``since``."""
    selected = session.the_selected()
    for start in range(0, len(uids), ROWS_PER_BATCH):
        part = uids[start : start + ROWS_PER_BATCH]
        # What was expunged after the mailbox was opened is among the messages that the client was told there are.
        rows = await session.call(reading.flag_rows, selected.mailbox_id, part, changed_since=since, live_only=False)
        session.send_lines(_changed_line(selected, row) for row in rows)
        await session.flush_if_much()


def _changed_line(selected: Selected, row: FlagRow) -> bytes:
    flags = words(row.bits, row.keywords)
    return selected.fetch_line(row.uid, b"FLAGS (%b) MODSEQ (%d)" % (flags, row.modseq))


async def send_vanished(session: Session, known: Sequence[Range], since: int, highest_deleted_modseq: int) -> None:
    """VANISHED (EARLIER) for what is gone of the ``known`` UIDs, removed after ``since``."""
    gone = await session.call(_gone, session.the_selected(), known, since, highest_deleted_modseq)
    session.send_lines(b"* VANISHED (EARLIER) %b\r\n" % line for line in lines_of_ranges(gone, VANISHED_MAX))


def _gone(selected: Selected, known: Sequence[Range], since: int, highest_deleted_modseq: int) -> list[Range]:
    if since < highest_deleted_modseq:
        # Tombstones of that time are gone as well: whatever does not exist has vanished.
        return missing(selected.uids, known)
    vanished = reading.vanished(selected.mailbox_id, since)
    # What vanished only after the mailbox was opened is told later, as news.
    return intersection(missing(selected.uids, runs(vanished)), known)
