"""APPEND: messages from the client into a mailbox, all of them or none (RFC 9051 6.3.12, RFC 3502, RFC 4315)."""

from __future__ import annotations

from dataclasses import dataclass

from server import faults
from store import mailboxes, messages, reading
from store.db import AccountTx
from store.errors import StoreError
from store.messages import Placement

from .answers import Done, placing_refusal, read_mailbox_name
from .session import Session
from .sets import compact
from .syntax import Parser
from .upload import Announced, Upload, parse_message


@dataclass(frozen=True, slots=True)
class AppendArguments:
    """``first``: others may be announced after it."""

    mailbox: bytes
    first: Announced


@dataclass(frozen=True, slots=True)
class _Appended:
    placements: list[Placement]
    keywords: list[str]


def parse(parser: Parser) -> AppendArguments:
    """The arguments up to the announcement of the first message."""
    parser.space()
    mailbox = parser.astring()
    parser.space()
    return AppendArguments(mailbox, parse_message(parser))


async def append(session: Session, arguments: AppendArguments) -> Done:
    account_id, utf8 = session.account_id, session.utf8

    def check(size: int) -> None:
        reading.mailbox(account_id, read_mailbox_name(arguments.mailbox, utf8=utf8))
        reading.check_quota(account_id, size)

    upload = Upload(session, check, several=True)
    await upload.receive(arguments.first)
    appended = await _add(session, read_mailbox_name(arguments.mailbox, utf8=utf8), upload)
    faults.point("imap.before_reply")
    last, uids = appended.placements[-1], [placement.uid for placement in appended.placements]
    await session.tell_arrived(last.mailbox_id, uids, last.modseq, appended.keywords)
    return Done(code=b"APPENDUID %d %b" % (last.uidvalidity, compact(uids)))


async def _add(session: Session, name: str, upload: Upload) -> _Appended:
    def add(tx: AccountTx) -> _Appended:
        mailbox = mailboxes.get(tx, name)
        placements = [messages.add(tx, mailbox, message) for message in upload.messages]
        return _Appended(placements, list(mailbox.keywords))

    try:
        return await session.change(add)
    except StoreError as exc:
        # Only here is it sure that nothing was stored: an error of the database may come after the commit.
        await upload.discard()
        raise placing_refusal(exc) from exc
