"""Messages that come with a command: APPEND of one or many, and REPLACE (RFC 9051 6.3.12, RFC 3502, 3516, 6855 4).

    upload = Upload(session, check, several=True)
    await upload.receive(arguments.first)     # and those that are announced after it
    upload.messages                           # ready to be stored, all of them or none

The literals are not read with the command: whether there is a place for a message is checked before the client is asked
for it. Each goes to memory, from 64 kB on to a temporary file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, Final

from django.conf import settings

from protocols.stream import LineTooLong
from store import blobs
from store.blobs import PreparedBlob
from store.errors import BadFlag, StoreError
from store.flags import NO_FLAGS, Flags, parse_words
from store.messages import NewMessage

from .answers import Bad, Bye, Refused, placing_refusal
from .binary import NotEncodable, with_binary_encoded
from .session import Session
from .syntax import BadSyntax, LiteralAnnounced, Parser, announced_literal

MEMORY_MAX: Final = 64 * 1024  # bytes of a message kept in memory while it comes in
MESSAGES_MAX: Final = 500  # of one command: they are stored in one transaction, for which others wait
TOGETHER_MAX: Final = 32 << 20  # bytes of small messages, and of structures, that wait in memory to be stored
STRUCTURE_COST: Final = 40  # bytes of memory that a structure takes for each byte of its BODYSTRUCTURE
DROPPED_MAX: Final = 1_000_000  # bytes of refused messages that are read and dropped; with more the connection ends
FUTURE_MAX: Final = timedelta(days=1)  # that the date of a message may be ahead: clocks and zones differ
LITERAL_TIMEOUT: Final = 30.0  # seconds without progress
LINE_MAX: Final = 65_536  # bytes of what follows a message: nothing, or flags and date of the next one


@dataclass(frozen=True, slots=True)
class Announced:
    """A message about to come. ``utf8``: in the form that says that its header is UTF-8 (RFC 6855 4)."""

    flags: Flags
    received: datetime | None
    literal: LiteralAnnounced
    utf8: bool


def parse_message(parser: Parser) -> Announced:
    """Flags, date, and the announcement of the message, before which the parser stays."""
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
    utf8 = parser.take(b"UTF8 (")
    literal = parser.announced()
    if utf8 and not literal.binary:
        raise parser.fail("literal8")
    return Announced(flags, received, literal, utf8)


class Upload:
    """The messages of one command. ``check(size)``, in a thread: whether there is a place for so many bytes in all.

    It raises Refused or StoreError, as ``receive`` does then, when the client has heard it in time or all is read.
    """

    def __init__(self, session: Session, check: Callable[[int], None], *, several: bool = False) -> None:
        self._session = session
        self._check = check
        self._several = several
        self.messages: list[NewMessage] = []
        self._size = 0
        self._in_memory = 0
        self._dropped = 0

    async def receive(self, first: Announced) -> None:
        """Read the messages, to the end of the command. Raises Refused, Bad, Bye; nothing is kept then."""
        try:
            await self._receive(first)
        except Exception:
            await self.discard()
            raise

    async def discard(self) -> None:
        """The messages will not be stored."""
        blobs_on_disk = [message.blob for message in self.messages if message.blob.storage_name]
        self.messages.clear()
        if blobs_on_disk:
            await self._session.call(_discard, blobs_on_disk)

    async def _receive(self, first: Announced) -> None:
        announced: Announced | None = first
        problem: Refused | Bad | None = None
        while announced is not None:
            if problem is None:
                problem = await self._problem(announced)
            if problem is None:
                problem = await self._read(announced)
            elif announced.literal.synchronizing:
                raise problem
            else:
                await self._drop(announced.literal)
            announced = await self._next(announced)
        if problem is not None:
            raise problem

    async def _problem(self, announced: Announced) -> Refused | Bad | None:
        """Why this message is not wanted."""
        size = announced.literal.size
        limit = self._session.connection.settings.imap_append_limit
        if announced.utf8 and not self._session.utf8_accept:
            return Bad("UTF8 needs ENABLE UTF8=ACCEPT first", whole=True)
        if limit and size > limit:
            return Refused(f"message of {size} bytes, at most {limit} are accepted", "TOOBIG")
        if len(self.messages) >= MESSAGES_MAX:
            return Refused(f"at most {MESSAGES_MAX} messages in one command", "LIMIT")
        if self._in_memory > TOGETHER_MAX:
            return Refused("too many messages in one command, send fewer", "LIMIT")
        try:
            await self._session.call(self._check, self._size + size)
        except StoreError as exc:
            return placing_refusal(exc)
        except Refused as exc:
            return exc
        return None

    async def _read(self, announced: Announced) -> Refused | Bad | None:
        """Ask for a message and read it. Gives why it cannot be taken after all."""
        session, literal = self._session, announced.literal
        if literal.synchronizing:
            session.send(b"+ \r\n")
            await session.flush()
        with tempfile.SpooledTemporaryFile(max_size=MEMORY_MAX, dir=str(settings.MOX.temporary_dir)) as spool:
            has_nul = await self._spool(literal, spool)
            if not literal.size:
                return Refused("empty message, append cancelled")
            if has_nul and not literal.binary:
                return Bad("NUL in a literal that is not literal8", whole=True)
            try:
                blob = await session.call(_prepare, spool, binary=literal.binary)
            except NotEncodable as exc:
                return Refused(str(exc), "UNKNOWN-CTE")
            except StoreError as exc:
                return placing_refusal(exc)
        received = announced.received
        if received is not None and received > datetime.now(UTC) + FUTURE_MAX:
            received = None  # somebody's clock is wrong, and it would be the newest message for long
        self.messages.append(NewMessage(blob, flags=announced.flags, received=received))
        self._size += literal.size
        self._in_memory += len(blob.data or b"") + STRUCTURE_COST * len(blob.imap_bodystructure)
        return None

    async def _spool(self, literal: LiteralAnnounced, spool: IO[bytes]) -> bool:
        """Read a literal. Gives whether there is a NUL in it."""
        has_nul = False
        received = 0
        async for block in self._session.stream.blocks(literal.size, LITERAL_TIMEOUT):
            has_nul = has_nul or b"\0" in block
            received += len(block)
            if received > MEMORY_MAX:
                await self._session.call(spool.write, block)
            else:
                spool.write(block)
        return has_nul

    async def _drop(self, literal: LiteralAnnounced) -> None:
        """Read past a message that is not wanted and on its way already."""
        self._dropped += literal.size
        if self._dropped > DROPPED_MAX:
            raise Bye("[ALERT] message is refused, and too large to be read for nothing")
        async for _ in self._session.stream.blocks(literal.size, LITERAL_TIMEOUT):
            pass

    async def _next(self, announced: Announced) -> Announced | None:
        """What follows a message: the end of the command, or the next message."""
        try:
            line = await self._session.stream.read_line(LINE_MAX, LITERAL_TIMEOUT)
        except LineTooLong:
            raise Bye("[ALERT] line too long") from None
        line = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if line:
            self._session.trace_received(line)
        try:
            if b"\0" in line:
                raise BadSyntax("NUL in a command")
            parser = Parser(line)
            if announced.utf8:
                parser.expect(b")")
            if parser.at_end():
                return None
            if not self._several:
                raise parser.fail("end of command after the message")
            parser.space()
            return parse_message(parser)
        except BadSyntax as exc:
            another = announced_literal(line)
            if another is not None and not another.synchronizing:
                self._session.logged_out = True  # its bytes could be taken for commands
            raise Bad(str(exc), whole=True) from exc


def _prepare(spool: IO[bytes], *, binary: bool) -> PreparedBlob:
    """Raises NotEncodable, StorageFull."""
    if not binary:
        return blobs.prepare(spool, normalize_newlines=True)
    with with_binary_encoded(spool, settings.MOX.temporary_dir) as encoded:
        return blobs.prepare(encoded, normalize_newlines=True)


def _discard(prepared: list[PreparedBlob]) -> None:
    for blob in prepared:
        blob.discard()
