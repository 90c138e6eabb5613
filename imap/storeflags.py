"""STORE and UID STORE (RFC 9051 6.4.6, RFC 7162 3.1.3)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from server import faults
from store import messages
from store.db import AccountTx
from store.errors import BadFlag
from store.flags import FlagRow, Flags, parse_words
from store.messages import FlagMode, FlagResult
from store.models import Mailbox

from .answers import Done
from .selected import Selected
from .session import Session
from .sets import SequenceSet, compact
from .syntax import NUMBER64_MAX, Parser

BATCH: Final = 4000  # messages in one transaction: others wait meanwhile
LINES_ON_LOOP: Final = 200  # response lines made on the event loop; more are made in a thread

_MODES: Final = {b"+": FlagMode.ADD, b"-": FlagMode.REMOVE}


@dataclass(frozen=True, slots=True)
class StoreArguments:
    numbers: SequenceSet
    mode: FlagMode
    silent: bool
    flags: Flags
    is_uid: bool
    unchanged_since: int | None = None


def parse(parser: Parser, *, is_uid: bool) -> StoreArguments:
    parser.space()
    numbers = parser.sequence_set()
    parser.space()
    unchanged_since = None
    if parser.take(b"("):
        if parser.word("UNCHANGEDSINCE") != "UNCHANGEDSINCE":
            raise parser.fail("UNCHANGEDSINCE before this")
        parser.space()
        unchanged_since = parser.number("modification sequence", most=NUMBER64_MAX)
        parser.expect(b")")
        parser.space()
    mode = next((mode for sign, mode in _MODES.items() if parser.take(sign)), FlagMode.REPLACE)
    item = parser.word("FLAGS or FLAGS.SILENT")
    if item not in ("FLAGS", "FLAGS.SILENT"):
        raise parser.fail(f"FLAGS or FLAGS.SILENT, not {item[:40]}")
    parser.space()
    if parser.peek(b"("):
        words = parser.flag_list()
    else:
        words = [parser.flag()]
        while parser.take(b" "):
            words.append(parser.flag())
    try:
        flags = parse_words(words)
    except BadFlag as exc:
        raise parser.fail(f"flags ({exc})") from exc
    parser.end()
    return StoreArguments(numbers, mode, item == "FLAGS.SILENT", flags, is_uid, unchanged_since)


async def store(session: Session, arguments: StoreArguments) -> Done:
    selected = session.the_selected()
    uids = await session.resolve(arguments.numbers, is_uid=arguments.is_uid)
    if arguments.unchanged_since is not None:
        session.enable_condstore()
    modified: list[int] = []
    missing = False
    # An empty set goes through too: a read-only or removed mailbox must say so.
    for start in range(0, max(len(uids), 1), BATCH):
        result = await _store_batch(session, arguments, uids[start : start + BATCH])
        modified += result.modified
        missing |= bool(result.missing)
    if modified:
        named = modified if arguments.is_uid else [selected.number(uid) for uid in modified]
        return Done(code=b"MODIFIED %b" % compact(named), text=b"some messages had changed")
    if missing:
        return Done(code=b"EXPUNGEISSUED", text=b"some messages no longer exist")
    return Done()


async def _store_batch(session: Session, arguments: StoreArguments, uids: array[int]) -> FlagResult:
    def change(tx: AccountTx, mailbox: Mailbox) -> tuple[FlagResult, list[str]]:
        result = messages.set_flags(
            tx, mailbox, uids, arguments.mode, arguments.flags, unchanged_since=arguments.unchanged_since
        )
        return result, list(mailbox.keywords)

    result, keywords = await session.change_mailbox(change)
    faults.point("imap.before_reply")
    selected = session.the_selected()
    if len(result.rows) <= LINES_ON_LOOP:
        lines = _lines(selected, arguments, result, session.condstore)
    else:
        lines = await session.call(_lines, selected, arguments, result, session.condstore)
    for row in result.rows:
        selected.pending.changed.pop(row.uid, None)  # the newest flags are told now
    modseq = max((row.modseq for row in result.rows), default=0)
    selected.changed_by_us(modseq, keywords)
    session.send_lines(selected.keyword_lines())
    session.send(lines)
    await session.flush_if_much()
    return result


def _lines(selected: Selected, arguments: StoreArguments, result: FlagResult, condstore: bool) -> bytes:
    """What the client is told of each message."""
    if not arguments.silent:
        return b"".join(_full(selected, result.rows, condstore))
    # Silence is about what the client did itself, not about what others did meanwhile.
    foreign = selected.pending.changed.keys() | frozenset(result.modified)
    if not condstore:
        return b"".join(_full(selected, (row for row in result.rows if row.uid in foreign), condstore))
    return b"".join(
        selected.flags_line(row, condstore)
        if row.uid in foreign
        else selected.fetch_line(row.uid, b"MODSEQ (%d)" % row.modseq)
        for row in result.rows
    )


def _full(selected: Selected, rows: Iterable[FlagRow], condstore: bool) -> Iterable[bytes]:
    return (selected.flags_line(row, condstore) for row in rows)
