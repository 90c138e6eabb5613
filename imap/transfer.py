"""COPY, MOVE and EXPUNGE, each also by UID (RFC 9051 6.4.3, 6.4.7 to 6.4.9, RFC 4315, RFC 6851)."""

from __future__ import annotations

from dataclasses import dataclass

from server import faults
from store import mailboxes, messages
from store.db import AccountTx
from store.errors import MailboxNotFound
from store.messages import Copied, Expunged
from store.models import Mailbox

from .answers import Done, no_destination, read_mailbox_name
from .session import Session
from .sets import SequenceSet, compact
from .syntax import Parser


@dataclass(frozen=True, slots=True)
class TransferArguments:
    numbers: SequenceSet
    mailbox: bytes
    is_uid: bool


@dataclass(frozen=True, slots=True)
class _Transferred:
    copied: Copied
    destination_id: int
    keywords: list[str]  # of the destination


def parse(parser: Parser, *, is_uid: bool) -> TransferArguments:
    parser.space()
    numbers = parser.sequence_set()
    parser.space()
    mailbox = parser.astring()
    parser.end()
    return TransferArguments(numbers, mailbox, is_uid)


async def copy(session: Session, arguments: TransferArguments) -> Done:
    selected = session.the_selected()
    uids = await session.resolve(arguments.numbers, is_uid=arguments.is_uid)
    name = read_mailbox_name(arguments.mailbox, utf8=session.utf8)
    if not uids:
        return Done()

    def job(tx: AccountTx) -> _Transferred:
        source = tx.mailbox(selected.mailbox_id)
        destination = _destination(tx, name)
        return _Transferred(messages.copy(tx, source, uids, destination), destination.pk, list(destination.keywords))

    done = await session.change(job)
    faults.point("imap.before_reply")
    await _tell_arrived(session, done)
    return Done(code=_copyuid(done.copied))


async def move(session: Session, arguments: TransferArguments) -> Done:
    selected = session.the_selected()
    uids = await session.resolve(arguments.numbers, is_uid=arguments.is_uid)
    name = read_mailbox_name(arguments.mailbox, utf8=session.utf8)

    def job(tx: AccountTx, source: Mailbox) -> _Transferred | None:
        if not uids:
            return None
        destination = _destination(tx, name)
        return _Transferred(messages.move(tx, source, uids, destination), destination.pk, list(destination.keywords))

    done = await session.change_mailbox(job)
    if done is None:
        return Done()
    faults.point("imap.before_reply")
    await session.tell_pending()
    session.send(b"* OK [%b] moved\r\n" % _copyuid(done.copied))
    session.send_lines(selected.remove(done.copied.source_uids, qresync=session.qresync))
    selected.changed_by_us(done.copied.modseq, selected.keywords)
    await _tell_arrived(session, done)
    return Done(code=highestmodseq(session))


def _destination(tx: AccountTx, name: str) -> Mailbox:
    try:
        return mailboxes.get(tx, name)
    except MailboxNotFound as exc:
        raise no_destination(exc) from exc


async def _tell_arrived(session: Session, done: _Transferred) -> None:
    await session.tell_arrived(done.destination_id, done.copied.uids, done.copied.modseq, done.keywords)


def _copyuid(copied: Copied) -> bytes:
    return b"COPYUID %d %b %b" % (copied.uidvalidity, compact(copied.source_uids), compact(copied.uids))


def highestmodseq(session: Session) -> bytes:
    """The code that ends a removal: a client with QRESYNC keeps it (RFC 7162 3.2.7)."""
    return b"HIGHESTMODSEQ %d" % session.the_selected().highest_modseq if session.condstore else b""


# EXPUNGE.


def parse_uid_expunge(parser: Parser) -> SequenceSet:
    parser.space()
    numbers = parser.sequence_set()
    parser.end()
    return numbers


async def expunge(session: Session, numbers: SequenceSet | None) -> Done:
    """Remove what the session knows and is marked deleted; with ``numbers`` only of these UIDs."""
    selected = session.the_selected()
    known = await (session.known_uids() if numbers is None else session.resolve(numbers, is_uid=True))

    def job(tx: AccountTx, mailbox: Mailbox) -> tuple[Expunged, int]:
        removed = messages.expunge(tx, mailbox, messages.marked_deleted(mailbox, known))
        return removed, mailbox.modseq

    removed, modseq = await session.change_mailbox(job)
    faults.point("imap.before_reply")
    await session.tell_pending()
    session.send_lines(selected.remove(removed.uids, qresync=session.qresync))
    selected.changed_by_us(modseq, selected.keywords)
    return Done(code=highestmodseq(session))
