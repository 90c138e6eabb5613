"""ESEARCH: one search over many mailboxes, whichever is selected (RFC 7377)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server import db
from store import reading
from store.reading import MailboxView

from . import searchargs
from .answers import Bad, Done, Refused, mailbox_name
from .filters import GivenFilter, Kind, parse_filter, surroundings_of
from .search import find, result, saved
from .searchargs import CHARSETS, Place, SearchArguments, has_message_numbers, resolved
from .session import Session
from .syntax import Parser

SOURCES_MAX: Final = 100  # of one command: each is compared with all mailboxes

_ALL: Final = frozenset({"ALL"})


@dataclass(frozen=True, slots=True)
class MultiSearchArguments:
    sources: tuple[GivenFilter, ...]
    search: SearchArguments

    @property
    def only_selected(self) -> bool:
        return all(source.kind is Kind.SELECTED for source in self.sources)


def parse(parser: Parser) -> MultiSearchArguments:
    sources = [GivenFilter(Kind.SELECTED)]
    if parser.take(b" IN "):
        parser.expect(b"(")
        sources = [_source(parser)]
        while not parser.take(b")"):
            parser.space()
            sources.append(_source(parser))
            if len(sources) > SOURCES_MAX:
                raise parser.fail(f"at most {SOURCES_MAX} sources")
    return MultiSearchArguments(tuple(sources), searchargs.parse(parser, is_uid=True))


def _source(parser: Parser) -> GivenFilter:
    source = parse_filter(parser)
    if source.kind is Kind.SELECTED_DELAYED:
        raise parser.fail("SELECTED, not SELECTED-DELAYED, before this")
    return source


async def esearch(session: Session, arguments: MultiSearchArguments) -> Done:
    asked = arguments.search
    returned = asked.returned or _ALL
    if session.selected is None and any(source.kind is Kind.SELECTED for source in arguments.sources):
        raise Bad("no mailbox is selected")
    if "SAVE" in returned and not arguments.only_selected:
        raise Bad("SAVE is about the selected mailbox alone")
    if asked.charset not in CHARSETS:
        raise Refused(f"charset {asked.charset[:40]!r} is not known", "BADCHARSET (US-ASCII UTF-8)")
    if session.uidonly and has_message_numbers(asked.key):
        raise Bad("message numbers after ENABLE UIDONLY", "UIDREQUIRED")
    if asked.has_modseq:
        session.enable_condstore()
    for view in await session.call(_views, session, arguments.sources):
        place = await _place(session, view.id)
        if place is None:
            continue  # it was removed meanwhile
        query = await session.call(resolved, asked.key, place)
        found = await find(session, place, query, returned, asked.partial, one_of_many=True)
        if "SAVE" in returned:
            session.the_selected().saved = saved(found.uids, returned, asked.partial)
        if found.uids and returned != {"SAVE"}:
            name = mailbox_name(view.name, utf8=session.utf8)
            results = result(found.uids, returned, asked.partial, found.modseq * asked.has_modseq)
            session.send(
                b'* ESEARCH (TAG "%b" MAILBOX %b UIDVALIDITY %d) UID%b\r\n'
                % (session.tag, name, view.uidvalidity, results)
            )
            await session.flush_if_much()
    return Done()


def _views(session: Session, sources: tuple[GivenFilter, ...]) -> list[MailboxView]:
    """The mailboxes that are meant, each once, sorted by name."""
    selected_id = None if session.selected is None else session.selected.mailbox_id
    filters = [source.decoded(utf8=session.utf8) for source in sources]
    with_selected = any(source.kind is Kind.SELECTED for source in sources)
    with db.read():
        listing, surroundings = reading.mailboxes(session.account_id), surroundings_of(session.account_id)
    return [
        view
        for view in listing.views
        if (with_selected and view.id == selected_id)
        or any(given.matches(view.name, surroundings) for given in filters)
    ]


async def _place(session: Session, mailbox_id: int) -> Place | None:
    """What is to be searched of a mailbox: of the selected one, what the session knows."""
    selected = session.selected
    if selected is not None and selected.mailbox_id == mailbox_id:
        await session.known_uids()
        return Place.of_selected(selected)
    opened = await session.call(reading.reopen, mailbox_id)
    return None if opened is None else Place(mailbox_id, opened.uids)
