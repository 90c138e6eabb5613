"""SORT and UID SORT, with ESORT (RFC 5256, RFC 5267 3, RFC 5957, RFC 9394)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from store import sorting
from store.sorting import Criterion, SortKey

from . import search, searchargs
from .answers import Done
from .searchargs import SearchArguments
from .session import Session
from .syntax import Parser

CRITERIA_MAX: Final = 20  # there are nine keys


@dataclass(frozen=True, slots=True)
class SortArguments:
    criteria: tuple[Criterion, ...]
    search: SearchArguments


def parse(parser: Parser, *, is_uid: bool) -> SortArguments:
    parser.space()
    returned, partial = None, None
    if parser.take(b"RETURN"):
        parser.space()
        returned, partial = searchargs.return_options(parser)
        parser.space()
    criteria = _criteria(parser)
    parser.space()
    return SortArguments(
        criteria, searchargs.parse_after_charset(parser, is_uid=is_uid, returned=returned, partial=partial)
    )


def _criteria(parser: Parser) -> tuple[Criterion, ...]:
    parser.expect(b"(")
    criteria: list[Criterion] = []
    while True:
        word = parser.word("sort key")
        reverse = word == "REVERSE"
        if reverse:
            parser.space()
            word = parser.word("sort key")
        try:
            criteria.append(Criterion(SortKey(word), reverse))
        except ValueError:
            raise parser.fail(f"sort key {', '.join(key.value for key in SortKey)}, not {word[:40]}") from None
        if len(criteria) > CRITERIA_MAX:
            raise parser.fail(f"at most {CRITERIA_MAX} sort keys")
        if parser.take(b")"):
            return tuple(criteria)
        parser.space()


async def sort(session: Session, arguments: SortArguments) -> Done:
    wanted = arguments.search
    selected, returned = session.the_selected(), wanted.returned
    place, query = await search.begin(session, wanted)
    found = await search.find(session, place, query)
    uids = await session.call(sorting.sort, selected.mailbox_id, found.uids, arguments.criteria)
    if returned is not None and "SAVE" in returned:
        selected.saved = search.saved(uids, returned, wanted.partial)
    numbers = uids if wanted.is_uid else await session.call(_numbers_in_order, selected.uids, uids)
    modseq = found.modseq if wanted.has_modseq and uids else 0
    if returned is None:
        ending = b" (MODSEQ %d)\r\n" % modseq if modseq else b"\r\n"
        session.send(b"* SORT" + b"".join([b" %d" % number for number in numbers]) + ending)
    elif returned != {"SAVE"}:
        session.send(search.esearch_line(session.tag, numbers, returned, wanted, modseq))
    return await search.end(session)


def _numbers_in_order(known: array[int], uids: Sequence[int]) -> array[int]:
    """The message numbers of known UIDs, in their order."""
    number_of = {uid: number for number, uid in enumerate(known, 1)}
    return array("I", [number_of[uid] for uid in uids])
