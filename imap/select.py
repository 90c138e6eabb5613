"""SELECT, EXAMINE, CLOSE, UNSELECT (RFC 9051 6.3.2, 6.3.3, 6.4.1, 6.4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from server import faults
from store import messages, objectids, reading
from store.db import AccountTx
from store.errors import MailboxGone, StoreError
from store.models import Mailbox

from . import announce, qresync
from .answers import Bad, Done, mailbox_name, read_mailbox_name, refusal
from .qresync import KnownState
from .selected import Selected, flag_lines
from .session import Session
from .syntax import Parser


@dataclass(frozen=True, slots=True)
class SelectArguments:
    mailbox: bytes
    read_only: bool
    condstore: bool = False
    known: KnownState | None = None  # of QRESYNC


def parse(parser: Parser, *, read_only: bool) -> SelectArguments:
    parser.space()
    mailbox = parser.astring()
    condstore, known = False, None
    if parser.take(b" "):
        parser.expect(b"(")
        while True:
            name = parser.word("CONDSTORE or QRESYNC")
            if name == "CONDSTORE" and not condstore:
                condstore = True
            elif name == "QRESYNC" and known is None:
                parser.space()
                known = qresync.parse_known_state(parser)
            else:
                raise parser.fail(f"CONDSTORE or QRESYNC, each once, not {name[:40]}")
            if parser.take(b")"):
                break
            parser.space()
    parser.end()
    return SelectArguments(mailbox, read_only, condstore, known)


async def select(session: Session, arguments: SelectArguments) -> Done:
    if arguments.known is not None:
        session.require_qresync("QRESYNC")
        if session.uidonly and arguments.known.match is not None:
            raise Bad("message numbers after ENABLE UIDONLY", "UIDREQUIRED")  # RFC 9586 3.6
    if session.selected is not None:
        session.selected = None
        session.send(b"* OK [CLOSED] previous mailbox closed\r\n")
    # News of mailboxes, before the moment that the answer is about.
    await announce.announce(session)
    if arguments.condstore:
        session.enable_condstore()
    name = read_mailbox_name(arguments.mailbox, utf8=session.utf8)
    try:
        # Without message numbers, a list of UIDs is only of use for finding out what vanished.
        with_uids = not session.uidonly or arguments.known is not None
        opened = await session.call(reading.open_mailbox, session.account_id, name, with_uids=with_uids)
    except StoreError as exc:
        raise refusal(exc) from exc
    selected = Selected(opened, read_only=arguments.read_only, uidonly=session.uidonly)
    selected.deaf = session.is_deaf
    view = opened.view
    lines = flag_lines(view.keywords, read_only=arguments.read_only)
    if not session.rev2:
        lines.append(b"* 0 RECENT\r\n")
    lines.append(selected.exists())
    if not session.rev2 and not session.uidonly and opened.first_unseen is not None:
        lines.append(b"* OK [UNSEEN %d] first unseen\r\n" % opened.first_unseen)
    lines.append(b"* OK [UIDVALIDITY %d] uidvalidity\r\n" % view.uidvalidity)
    lines.append(b"* OK [UIDNEXT %d] next uid\r\n" % view.uidnext)
    renamed = b""
    if session.rev2 and name != view.name:
        renamed = b' ("OLDNAME" (%b))' % mailbox_name(name, utf8=True)
    lines.append(b'* LIST () "/" %b%b\r\n' % (mailbox_name(view.name, utf8=session.utf8), renamed))
    if session.condstore:
        lines.append(b"* OK [HIGHESTMODSEQ %d] modseq\r\n" % selected.highest_modseq)
    lines.append(b"* OK [MAILBOXID (%b)] object id\r\n" % objectids.mailbox_id(view.id).encode("ascii"))
    session.send_lines(lines)
    session.selected = selected
    if arguments.known is not None and arguments.known.uidvalidity == view.uidvalidity:
        await qresync.resynchronise(session, opened, arguments.known)
    return Done(code=b"READ-ONLY" if arguments.read_only else b"READ-WRITE")


async def close(session: Session, _: None) -> Done:
    """Remove what is marked deleted, without a word, and leave."""
    selected = session.the_selected()
    if not selected.read_only:
        known = await session.known_uids()

        def expunge(tx: AccountTx, mailbox: Mailbox) -> None:
            messages.expunge(tx, mailbox, messages.marked_deleted(mailbox, known))

        try:
            await session.change_mailbox(expunge)
            faults.point("imap.before_reply")
        except MailboxGone:
            pass
    session.selected = None
    return Done()


async def unselect(session: Session, _: None) -> Done:
    session.selected = None
    return Done()
