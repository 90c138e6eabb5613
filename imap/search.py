"""SEARCH and UID SEARCH, with results to save and ESEARCH (RFC 9051 6.4.4, RFC 4731, RFC 5182, RFC 9394)."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from store import search as engine
from store.queries import Query
from store.search import Page

from .answers import Bad, Done, Refused
from .partial import Partial
from .progress import Progress
from .searchargs import CHARSETS, Place, SearchArguments, has_message_numbers, resolved
from .session import Session
from .sets import compact

NUMBERS_PER_LINE: Final = 100  # of an untagged SEARCH


@dataclass(slots=True)
class Found:
    """The matches: UIDs ascending, and the highest modification sequence among them."""

    uids: array[int] = field(default_factory=lambda: array("I"))
    modseq: int = 0

    def add(self, page: Page) -> None:
        self.uids.extend(match.uid for match in page.matches)
        self.modseq = max(self.modseq, max((match.modseq for match in page.matches), default=0))


async def search(session: Session, arguments: SearchArguments) -> Done:
    selected, returned = session.the_selected(), arguments.returned
    place, query = await begin(session, arguments)
    if returned is None and session.rev2:
        returned = frozenset({"ALL"})
    found = await find(session, place, query, returned, arguments.partial)
    if returned is not None and "SAVE" in returned:
        selected.saved = saved(found.uids, returned, arguments.partial)
    modseq = found.modseq if arguments.has_modseq and found.uids else 0
    numbers = found.uids if arguments.is_uid else await session.call(_numbers, selected.uids, found.uids)
    if returned is None:
        session.send(_search_lines(numbers, modseq))
    elif returned != {"SAVE"}:
        session.send(esearch_line(session.tag, numbers, returned, arguments, modseq))
    return await end(session)


async def begin(session: Session, arguments: SearchArguments) -> tuple[Place, Query]:
    """What SEARCH, SORT and THREAD begin with: where and what to search, once it is known that they can be answered."""
    selected = session.the_selected()
    saves = arguments.returned is not None and "SAVE" in arguments.returned
    if arguments.charset not in CHARSETS:
        if saves:
            selected.saved = array("I")  # what a failed search leaves behind (RFC 5182 2.1)
        raise Refused(f"charset {arguments.charset[:40]!r} is not known", "BADCHARSET (US-ASCII UTF-8)")
    if arguments.has_modseq:
        session.enable_condstore()
    if session.uidonly:
        if has_message_numbers(arguments.key):
            raise Bad("message numbers after ENABLE UIDONLY", "UIDREQUIRED")  # RFC 9586 3.5
        await session.known_uids()
    place = Place.of_selected(selected)
    query = await session.call(resolved, arguments.key, place)
    if saves:
        selected.saved = array("I")  # as above, until the matches are known
    return place, query


async def end(session: Session) -> Done:
    """What they end with: OK, which says whether messages could not be searched any more."""
    selected = session.the_selected()
    if await session.call(engine.lost_since, selected.mailbox_id, selected.position):
        return Done(code=b"EXPUNGEISSUED", text=b"some messages no longer exist")
    return Done()


async def find(
    session: Session,
    place: Place,
    query: Query,
    returned: frozenset[str] | None = None,
    partial: Partial | None = None,
    *,
    one_of_many: bool = False,
) -> Found:
    """The matches in a mailbox, as far as they are needed for what is to be returned.

    ``one_of_many``: it is not the only one that is searched.
    """
    progress = Progress(session, 0 if one_of_many else len(place.uids))
    if returned is not None and not returned & {"ALL", "COUNT"}:
        ends = returned & {"MIN", "MAX"}
        if ends and partial is None:
            return await _ends(progress, place, query, returned)
        if partial is not None and not ends:
            return await _first(progress, place, query, partial)
    found = Found()
    async for page in _pages(progress, place, query):
        found.add(page)
    return found


def saved(uids: Sequence[int], returned: frozenset[str], partial: Partial | None) -> array[int]:
    """What $ is after a search with SAVE: all matches, or those asked for by position (RFC 5182 2.4, RFC 9394 3.2)."""
    kept: Collection[int] = uids
    if uids and returned & {"MIN", "MAX", "PARTIAL"} and not returned & {"ALL", "COUNT"}:
        kept = {uids[0]} if "MIN" in returned else set()
        if "MAX" in returned:
            kept.add(uids[-1])
        if partial is not None:
            kept.update(partial.of(uids))
    return array("I", sorted(kept))


class _pages:
    """The pages of a search, each read in a thread when it is asked for; the client hears of long ones."""

    def __init__(self, progress: Progress, place: Place, query: Query, *, descending: bool = False) -> None:
        self._progress = progress
        self._scanned = 0
        self._pages: Iterator[Page] = engine.search(place.mailbox_id, query, place.uids, descending=descending)

    def __aiter__(self) -> _pages:
        return self

    async def __anext__(self) -> Page:
        page = await self._progress.wait(self._progress.session.call(next, self._pages, None), self._scanned)
        if page is None:
            raise StopAsyncIteration
        self._scanned = page.scanned
        return page


async def _ends(progress: Progress, place: Place, query: Query, returned: frozenset[str]) -> Found:
    """Only the first and the last match are wanted: look from each side until there is one."""
    found = Found()
    if "MIN" in returned:
        async for page in _pages(progress, place, query):
            if page.matches:
                found.add(Page(page.scanned, page.matches[:1]))
                break
        if not found.uids:
            return found
    if "MAX" in returned:
        async for page in _pages(progress, place, query, descending=True):
            if page.matches:
                if not found.uids or page.matches[-1].uid != found.uids[0]:
                    found.add(Page(page.scanned, page.matches[-1:]))
                break
    return found


async def _first(progress: Progress, place: Place, query: Query, partial: Partial) -> Found:
    """As many matches from the beginning or the end as PARTIAL needs, and of no others the modification sequence."""
    pages: list[Page] = []
    count = 0
    async for page in _pages(progress, place, query, descending=partial.from_end):
        pages.append(page)
        count += len(page.matches)
        if count >= partial.high:
            break
    if partial.from_end:
        pages.reverse()
    matches = [match for page in pages for match in page.matches]
    wanted = frozenset(partial.of([match.uid for match in matches]))
    modseq = max((match.modseq for match in matches if match.uid in wanted), default=0)
    return Found(array("I", [match.uid for match in matches]), modseq)


def _numbers(known: array[int], uids: array[int]) -> array[int]:
    """The message numbers of known UIDs, ascending."""
    wanted = frozenset(uids)
    return array("I", [number for number, uid in enumerate(known, 1) if uid in wanted])


def _search_lines(numbers: array[int], modseq: int) -> bytes:
    ending = b" (MODSEQ %d)\r\n" % modseq if modseq else b"\r\n"
    lines = [
        b"* SEARCH" + b"".join(b" %d" % number for number in numbers[start : start + NUMBERS_PER_LINE])
        for start in range(0, max(len(numbers), 1), NUMBERS_PER_LINE)
    ]
    return b"\r\n".join(lines) + ending


def esearch_line(
    tag: bytes, numbers: Sequence[int], returned: frozenset[str], arguments: SearchArguments, modseq: int
) -> bytes:
    """The ESEARCH response of a search in the selected mailbox."""
    line = b'* ESEARCH (TAG "%b")' % tag + (b" UID" if arguments.is_uid else b"")
    return line + result(numbers, returned, arguments.partial, modseq) + b"\r\n"


def result(numbers: Sequence[int], returned: frozenset[str], partial: Partial | None, modseq: int) -> bytes:
    """What an ESEARCH response returns of the matches, each item after a space; ``modseq`` 0: none.

    The matches are told in the order in which they are given.
    """
    line = b""
    if "MIN" in returned and numbers:
        line += b" MIN %d" % numbers[0]
    if "MAX" in returned and numbers:
        line += b" MAX %d" % numbers[-1]
    if "COUNT" in returned:
        line += b" COUNT %d" % len(numbers)
    if "ALL" in returned and numbers:
        line += b" ALL " + compact(numbers)
    if partial is not None:
        line += b" PARTIAL (%b %b)" % (partial.label, compact(partial.of(numbers)) or b"NIL")
    if modseq:
        line += b" MODSEQ %d" % modseq
    return line
