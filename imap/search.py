"""SEARCH and UID SEARCH, with results to save and ESEARCH (RFC 9051 6.4.4, RFC 4731, RFC 5182)."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from store import search as engine
from store.search import Page, Query

from .answers import Bad, Done, Refused
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
    saves = returned is not None and "SAVE" in returned
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
    if returned is None and session.rev2:
        returned = frozenset({"ALL"})
    if saves:
        selected.saved = array("I")  # as above, until the matches are known
    found = await find(session, place, query, returned)
    if saves:
        selected.saved = found.uids
    with_modseq = arguments.has_modseq and bool(found.uids)
    numbers = found.uids if arguments.is_uid else await session.call(_numbers, selected.uids, found.uids)
    if returned is None:
        session.send(_search_lines(numbers, found.modseq if with_modseq else 0))
    elif returned != {"SAVE"}:
        line = b'* ESEARCH (TAG "%b")' % session.tag + (b" UID" if arguments.is_uid else b"")
        line += result(numbers, returned, found.modseq if with_modseq else 0)
        session.send(line + b"\r\n")
    if await session.call(engine.lost_since, selected.mailbox_id, selected.position):
        return Done(code=b"EXPUNGEISSUED", text=b"some messages no longer exist")
    return Done()


async def find(session: Session, place: Place, query: Query, returned: frozenset[str] | None) -> Found:
    """The matches in a mailbox, as far as they are needed for what is to be returned."""
    if returned is not None and returned & {"MIN", "MAX"} and not returned & {"ALL", "COUNT"}:
        return await _ends(session, place, query, returned)
    found = Found()
    async for page in _pages(session, place, query):
        found.add(page)
    return found


class _pages:
    """The pages of a search, each read in a thread when it is asked for; the client hears of long ones."""

    def __init__(self, session: Session, place: Place, query: Query, *, descending: bool = False) -> None:
        self._session = session
        self._progress = Progress(session, len(place.uids))
        self._scanned = 0
        self._pages: Iterator[Page] = engine.search(place.mailbox_id, query, place.uids, descending=descending)

    def __aiter__(self) -> _pages:
        return self

    async def __anext__(self) -> Page:
        page = await self._progress.wait(self._session.call(next, self._pages, None), self._scanned)
        if page is None:
            raise StopAsyncIteration
        self._scanned = page.scanned
        return page


async def _ends(session: Session, place: Place, query: Query, returned: frozenset[str]) -> Found:
    """Only the first and the last match are wanted: look from each side until there is one."""
    found = Found()
    if "MIN" in returned:
        async for page in _pages(session, place, query):
            if page.matches:
                found.add(Page(page.scanned, page.matches[:1]))
                break
        if not found.uids:
            return found
    if "MAX" in returned:
        async for page in _pages(session, place, query, descending=True):
            if page.matches:
                if not found.uids or page.matches[-1].uid != found.uids[0]:
                    found.add(Page(page.scanned, page.matches[-1:]))
                break
    return found


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


def result(numbers: array[int], returned: frozenset[str], modseq: int) -> bytes:
    """What an ESEARCH response returns of the matches, each item after a space; ``modseq`` 0: none."""
    line = b""
    if "MIN" in returned and numbers:
        line += b" MIN %d" % numbers[0]
    if "MAX" in returned and numbers:
        line += b" MAX %d" % numbers[-1]
    if "COUNT" in returned:
        line += b" COUNT %d" % len(numbers)
    if "ALL" in returned and numbers:
        line += b" ALL " + compact(numbers)
    if modseq:
        line += b" MODSEQ %d" % modseq
    return line
