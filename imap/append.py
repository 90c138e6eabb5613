"""APPEND: a message from the client into a mailbox (RFC 9051 6.3.12, RFC 3516, RFC 4315).

The message's literal is not read with the command: mailbox, size and quota are checked before the client is asked for
it. It goes to memory, from 64 kB on to a temporary file.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Final

from django.conf import settings

from protocols.stream import LineTooLong
from server import faults
from store import blobs, mailboxes, messages, reading
from store.blobs import PreparedBlob
from store.db import AccountTx
from store.errors import BadFlag, MailboxNotFound, StoreError
from store.flags import NO_FLAGS, Flags, parse_words
from store.messages import NewMessage, Placement

from .answers import Bad, Bye, Done, Refused, no_destination, read_mailbox_name, refusal
from .binary import NotEncodable, without_nul
from .session import Session
from .syntax import LiteralAnnounced, Parser, announced_literal

MEMORY_MAX: Final = 64 * 1024  # bytes of a message kept in memory while it comes in
DROPPED_MAX: Final = 1_000_000  # bytes of a refused message that are read and dropped; with more the connection ends
LITERAL_TIMEOUT: Final = 30.0  # seconds without progress
LINE_END_MAX: Final = 8192  # bytes of what follows the message


@dataclass(frozen=True, slots=True)
class AppendArguments:
    mailbox: bytes
    flags: Flags
    received: datetime | None
    literal: LiteralAnnounced


@dataclass(frozen=True, slots=True)
class _Appended:
    placement: Placement
    keywords: list[str]


def parse(parser: Parser) -> AppendArguments:
    """The arguments up to the announcement of the message."""
    parser.space()
    mailbox = parser.astring()
    parser.space()
    flags, received = NO_FLAGS, None
    if parser.peek(b"("):
        try:
            flags = parse_words(parser.flag_list())
        except BadFlag as exc:
            raise parser.fail(f"flags ({exc})") from exc
        parser.space()
    if parser.peek(b'"'):
        received = parser.date_time()
        parser.space()
    return AppendArguments(mailbox, flags, received, parser.announced())


async def append(session: Session, arguments: AppendArguments) -> Done:
    literal = arguments.literal
    try:
        name = read_mailbox_name(arguments.mailbox, utf8=session.utf8)
        limit = session.connection.settings.imap_append_limit
        if limit and literal.size > limit:
            raise Refused(f"message of {literal.size} bytes, at most {limit} are accepted", "TOOBIG")
        await session.call(_check_destination, session.account_id, name, literal.size)
    except (Refused, StoreError) as exc:
        if not literal.synchronizing:
            await _drop(session, literal)
        if isinstance(exc, StoreError):
            raise _refused(exc) from exc
        raise
    with tempfile.SpooledTemporaryFile(max_size=MEMORY_MAX, dir=str(settings.MOX.temporary_dir)) as spool:
        has_nul = await _receive(session, literal, spool)
        if not literal.size:
            raise Refused("empty message, append cancelled")
        if has_nul and not literal.binary:
            raise Bad("NUL in a literal that is not literal8")
        blob = await session.call(_prepare, spool, has_nul=has_nul)
    appended = await _add(session, name, arguments, blob)
    faults.point("imap.before_reply")
    placement = appended.placement
    await session.tell_arrived(placement.mailbox_id, [placement.uid], placement.modseq, appended.keywords)
    return Done(code=b"APPENDUID %d %d" % (placement.uidvalidity, placement.uid))


def _check_destination(account_id: int, name: str, size: int) -> None:
    """Raises MailboxNotFound, MailboxError, OverQuota."""
    reading.mailbox(account_id, name)
    reading.check_quota(account_id, size)


def _refused(exc: StoreError) -> Refused:
    return no_destination(exc) if isinstance(exc, MailboxNotFound) else refusal(exc)


async def _drop(session: Session, literal: LiteralAnnounced) -> None:
    """Read past a message that is not wanted and on its way already."""
    if literal.size > DROPPED_MAX:
        raise Bye("[ALERT] message is refused, and too large to be read for nothing")
    async for _ in session.stream.blocks(literal.size, LITERAL_TIMEOUT):
        pass
    await _end_of_command(session)


async def _receive(session: Session, literal: LiteralAnnounced, spool: IO[bytes]) -> bool:
    """Read the message into the spool, and the end of the command. Gives whether there is a NUL in it."""
    if literal.synchronizing:
        session.send(b"+ \r\n")
        await session.flush()
    has_nul = False
    received = 0
    async for block in session.stream.blocks(literal.size, LITERAL_TIMEOUT):
        has_nul = has_nul or b"\0" in block
        received += len(block)
        if received > MEMORY_MAX:
            await session.call(spool.write, block)
        else:
            spool.write(block)
    await _end_of_command(session)
    return has_nul


async def _end_of_command(session: Session) -> None:
    try:
        line = await session.stream.read_line(LINE_END_MAX, LITERAL_TIMEOUT)
    except LineTooLong:
        raise Bye("[ALERT] line too long") from None
    line = line.rstrip(b"\r\n")
    if line:
        another = announced_literal(line)
        if another is not None and not another.synchronizing:
            session.logged_out = True  # its bytes could be taken for commands
        raise Bad("expected end of command after the message")


def _prepare(spool: IO[bytes], *, has_nul: bool) -> PreparedBlob:
    """Raises Refused, StorageFull."""
    if not has_nul:
        return blobs.prepare(spool, normalize_newlines=True)
    try:
        with without_nul(spool, settings.MOX.temporary_dir) as encoded:
            return blobs.prepare(encoded, normalize_newlines=True)
    except NotEncodable as exc:
        raise Refused(str(exc), "UNKNOWN-CTE") from exc


async def _add(session: Session, name: str, arguments: AppendArguments, blob: PreparedBlob) -> _Appended:
    def add(tx: AccountTx) -> _Appended:
        mailbox = mailboxes.get(tx, name)
        placement = messages.add(tx, mailbox, NewMessage(blob, flags=arguments.flags, received=arguments.received))
        return _Appended(placement, list(mailbox.keywords))

    try:
        return await session.change(add)
    except StoreError as exc:
        await session.call(blob.discard)
        raise _refused(exc) from exc
