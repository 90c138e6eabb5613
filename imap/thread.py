"""THREAD and UID THREAD (RFC 5256)."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocols import imapthreads
from protocols.imapthreads import Forest, Threaded
from store.threadable import threadable

from . import search, searchargs
from .answers import Done
from .searchargs import SearchArguments
from .session import Session
from .syntax import Parser

_ALGORITHMS: Final[dict[str, Callable[[Sequence[Threaded]], Forest]]] = {
    "ORDEREDSUBJECT": imapthreads.ordered_subject,
    "REFERENCES": imapthreads.references,
}


@dataclass(frozen=True, slots=True)
class ThreadArguments:
    algorithm: str
    search: SearchArguments


def parse(parser: Parser, *, is_uid: bool) -> ThreadArguments:
    parser.space()
    algorithm = parser.word("threading algorithm")
    if algorithm not in _ALGORITHMS:
        raise parser.fail(f"threading algorithm {' or '.join(_ALGORITHMS)}, not {algorithm[:40]}")
    parser.space()
    return ThreadArguments(algorithm, searchargs.parse_after_charset(parser, is_uid=is_uid))


async def thread(session: Session, arguments: ThreadArguments) -> Done:
    selected = session.the_selected()
    place, query = await search.begin(session, arguments.search)
    found = await search.find(session, place, query)
    known = None if arguments.search.is_uid else selected.uids
    threads = await session.call(_threads, selected.mailbox_id, found.uids, known, arguments.algorithm)
    session.send(b"* THREAD %b\r\n" % threads if threads else b"* THREAD\r\n")
    return await search.end(session)


def _threads(mailbox_id: int, uids: array[int], known: array[int] | None, algorithm: str) -> bytes:
    """The threads of these messages as they are sent; with message numbers where ``known`` says what those are."""
    found = threadable(mailbox_id, uids)
    forest = _ALGORITHMS[algorithm](found.messages)
    if known is None:
        return forest.formatted(found.uids)
    number_of = {uid: number for number, uid in enumerate(known, 1)}
    return forest.formatted([number_of[uid] for uid in found.uids])
