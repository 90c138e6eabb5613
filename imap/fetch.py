"""FETCH and UID FETCH: batches of narrow rows, made into response lines in a thread, sent without holding anything.

Nothing here parses a message: ENVELOPE and BODYSTRUCTURE are stored as they are sent, sections are found by stored
offsets (``imap/sections.py``). While the client takes what it was sent, no thread, query or transaction waits for it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from store import messages, reading
from store.db import AccountTx
from store.errors import MailboxGone
from store.flags import SEEN, FlagRow
from store.models import Mailbox

from . import qresync
from .answers import Done, Refused
from .fetchargs import FetchArguments, FetchItem, Item
from .fetchcontent import ContentPlan, Streamed, content_batch
from .fetchrows import RowPlan, row_batch

if TYPE_CHECKING:
    from .session import Session

SEEN_BATCH: Final = 100  # messages that are marked seen in one transaction, before their content is sent
SIZES_BATCH: Final = 1000  # messages whose sizes are looked at together
CONTENT_BATCH_BYTES: Final = 2 << 20  # bytes of messages read before they are sent
CONTENT_BATCH: Final = 200  # and messages
HEADER_COST: Final = 70_000  # bytes at most that are read of a message for its header alone


async def fetch(session: Session, arguments: FetchArguments) -> Done:
    if arguments.vanished:
        session.require_qresync("VANISHED")
    uids = await session.resolve(arguments.numbers, is_uid=arguments.is_uid)
    if arguments.changed_since is not None or Item.MODSEQ in arguments.items:
        session.enable_condstore()
    if arguments.partial is not None:
        uids = await session.call(_part, session.the_selected().mailbox_id, uids, arguments)
    if arguments.vanished:
        # Before any FETCH, whose numbers would confuse (RFC 7162 3.2.6).
        await _send_vanished(session, arguments)
    with_modseq = arguments.changed_since is not None or (session.qresync and arguments.is_uid)
    rows = RowPlan.of(arguments.items, with_modseq=with_modseq, utf8=session.utf8, uidonly=session.uidonly)
    if rows is not None:
        missing = await _send_rows(session, rows, uids, arguments.changed_since)
        unknown_encoding = False
    else:
        plan = ContentPlan(
            arguments.items,
            with_modseq=with_modseq,
            rev2=session.rev2,
            utf8=session.utf8,
            uidonly=session.uidonly,
        )
        missing, unknown_encoding = await _send_contents(session, plan, uids, arguments.changed_since or 0)
    if unknown_encoding:
        raise Refused("a part has a transfer encoding that is not known", "UNKNOWN-CTE")
    if missing:
        raise Refused("some messages no longer exist", "EXPUNGEISSUED")
    return Done()


async def send_items(session: Session, items: Sequence[FetchItem], uids: array[int]) -> None:
    """Send items of new messages that nobody asked for by FETCH; those that are gone again are left out."""
    rows = RowPlan.of(items, with_modseq=session.qresync, utf8=session.utf8, uidonly=session.uidonly)
    if rows is not None:
        await _send_rows(session, rows, uids, None)
        return
    plan = ContentPlan(
        items, with_modseq=session.qresync, rev2=session.rev2, utf8=session.utf8, uidonly=session.uidonly
    )
    await _send_contents(session, plan, uids, 0)


def _part(mailbox_id: int, uids: array[int], arguments: FetchArguments) -> array[int]:
    """Those of the messages that PARTIAL names; of those that changed, where only they are asked for (RFC 9394 3.3)."""
    assert arguments.partial is not None
    if arguments.changed_since:
        uids = array(
            "I", [row.uid for row in reading.flag_rows(mailbox_id, uids, changed_since=arguments.changed_since)]
        )
    return array("I", arguments.partial.of(uids))


async def _send_vanished(session: Session, arguments: FetchArguments) -> None:
    selected = session.the_selected()
    assert arguments.changed_since is not None
    opened = await session.call(reading.highest_deleted_modseq, session.account_id)
    last = selected.uids[-1] if selected.uids else 0
    known = selected.saved_ranges() if arguments.numbers.saved else arguments.numbers.resolved(max(last, 1))
    await qresync.send_vanished(session, known, arguments.changed_since, opened)


async def _send_rows(session: Session, plan: RowPlan, uids: array[int], changed_since: int | None) -> bool:
    """Send items that are columns. Gives whether messages were missing."""
    selected = session.the_selected()
    missing = False
    for start in range(0, len(uids), plan.batch):
        part = uids[start : start + plan.batch]
        numbers = selected.numbers(part)
        data, found = await session.call(row_batch, selected.mailbox_id, plan, part, numbers, changed_since or 0)
        missing |= changed_since is None and found < len(part)
        if data:
            session.send(data)
        await session.flush_if_much()
    return missing


async def _send_contents(
    session: Session, plan: ContentPlan, uids: array[int], changed_since: int
) -> tuple[bool, bool]:
    """Send items of content. Gives whether messages were missing, and whether parts could not be decoded."""
    selected = session.the_selected()
    set_seen = plan.sets_seen and not selected.read_only
    missing = unknown_encoding = False
    step = SEEN_BATCH if set_seen else SIZES_BATCH
    for start in range(0, len(uids), step):
        part = uids[start : start + step]
        sizes = await session.call(
            reading.rows, selected.mailbox_id, part, ("uid", "size", "bits"), changed_since=changed_since
        )
        missing |= not changed_since and len(sizes) < len(part)
        seen_now: frozenset[int] = frozenset()
        if set_seen:
            seen_now = await _mark_seen(session, [uid for uid, _, bits in sizes if not bits & SEEN])
        for batch in _batches([(uid, size) for uid, size, _ in sizes], whole=plan.reads_bodies):
            numbers = selected.numbers(batch)
            made = await session.call(
                content_batch, selected.mailbox_id, plan, batch, numbers, seen_now, session.condstore
            )
            unknown_encoding |= made.unknown_encoding
            missing |= made.found < len(batch)
            await _send_pieces(session, made.pieces)
    return missing, unknown_encoding


def _batches(sizes: list[tuple[int, int]], *, whole: bool) -> Iterator[array[int]]:
    """UIDs in batches whose content together is not much more than CONTENT_BATCH_BYTES."""
    batch, total = array("I"), 0
    for uid, size in sizes:
        batch.append(uid)
        total += size if whole else min(size, HEADER_COST)
        if total >= CONTENT_BATCH_BYTES or len(batch) >= CONTENT_BATCH:
            yield batch
            batch, total = array("I"), 0
    if batch:
        yield batch


async def _mark_seen(session: Session, uids: list[int]) -> frozenset[int]:
    """Set \\Seen on messages that do not have it; gives those that now do."""
    if not uids:
        return frozenset()

    def mark(tx: AccountTx, mailbox: Mailbox) -> list[FlagRow]:
        return messages.mark_seen(tx, mailbox, uids)

    try:
        rows = await session.change_mailbox(mark)
    except MailboxGone:
        return frozenset()  # what the client knows can still be read
    selected = session.the_selected()
    for row in rows:
        selected.pending.changed.pop(row.uid, None)  # the flags go out with the content
    if rows:
        selected.changed_by_us(max(row.modseq for row in rows), selected.keywords)
    return frozenset(row.uid for row in rows)


async def _send_pieces(session: Session, pieces: list[bytes | Streamed]) -> None:
    streams = [piece for piece in pieces if isinstance(piece, Streamed)]
    try:
        for piece in pieces:
            if not isinstance(piece, Streamed):
                session.send(piece, has_content=True)
                continue
            # Each block is read when the client took the one before.
            while block := await session.call(piece.next_block):
                session.send(block, has_content=True)
                await session.flush()
        await session.flush_if_much()
    finally:
        for stream in streams:
            stream.close()
