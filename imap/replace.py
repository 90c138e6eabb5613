"""REPLACE and UID REPLACE: a message for another one, both or neither (RFC 8508)."""

from __future__ import annotations

from dataclasses import dataclass

from server import faults
from store import mailboxes, messages, reading
from store.db import AccountTx
from store.errors import MessageGone, StoreError
from store.messages import Placement
from store.models import Mailbox

from .answers import Done, Refused, placing_refusal, read_mailbox_name
from .session import Session
from .sets import SequenceSet
from .syntax import Parser
from .transfer import highestmodseq
from .upload import Announced, Upload, parse_message


@dataclass(frozen=True, slots=True)
class ReplaceArguments:
    """``number`` is of one message, or ``*``."""

    number: SequenceSet
    mailbox: bytes
    message: Announced
    is_uid: bool


@dataclass(frozen=True, slots=True)
class _Replaced:
    placement: Placement
    keywords: list[str]  # of the mailbox with the new message
    modseq: int


def parse(parser: Parser, *, is_uid: bool) -> ReplaceArguments:
    """The arguments up to the announcement of the message."""
    parser.space()
    number = None if parser.take(b"*") else parser.number("message number", least=1)
    parser.space()
    mailbox = parser.astring()
    parser.space()
    return ReplaceArguments(SequenceSet(((number, number),)), mailbox, parse_message(parser), is_uid)


async def replace(session: Session, arguments: ReplaceArguments) -> Done:
    selected, account_id, utf8 = session.the_selected(), session.account_id, session.utf8
    uids = await session.resolve(arguments.number, is_uid=arguments.is_uid)

    def check(size: int) -> None:
        if selected.read_only:
            raise Refused("mailbox is open read-only")
        name = read_mailbox_name(arguments.mailbox, utf8=utf8)
        old = reading.rows(selected.mailbox_id, uids, ("size",), live_only=True)
        if not old:
            raise MessageGone("the message to be replaced does not exist")
        reading.mailbox(account_id, name)
        reading.check_quota(account_id, size - old[0][0])

    upload = Upload(session, check)
    await upload.receive(arguments.message)
    name = read_mailbox_name(arguments.mailbox, utf8=utf8)

    def job(tx: AccountTx, source: Mailbox) -> _Replaced:
        removed = messages.remove(tx, source, uids)
        if not removed.uids:
            raise MessageGone("the message to be replaced was removed")
        destination = mailboxes.get(tx, name)
        placement = messages.add(tx, destination, upload.messages[0])
        return _Replaced(placement, list(destination.keywords), removed.modseq)

    try:
        done = await session.change_mailbox(job)
    except StoreError as exc:
        await upload.discard()
        raise placing_refusal(exc) from exc
    faults.point("imap.before_reply")
    await session.tell_pending()
    placement = done.placement
    session.send(b"* OK [APPENDUID %d %d] replaced\r\n" % (placement.uidvalidity, placement.uid))
    await session.tell_arrived(placement.mailbox_id, [placement.uid], placement.modseq, done.keywords)
    session.send_lines(selected.remove(uids, qresync=session.qresync))
    selected.changed_by_us(done.modseq, selected.keywords)
    return Done(code=highestmodseq(session))
