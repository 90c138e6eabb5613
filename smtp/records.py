"""What became of a message, for the record that users and postmasters read (junk.decisions)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from junk import decisions
from junk.analysis import Verdict
from junk.decisions import Decided
from protocols.message import Envelope
from protocols.names import Address
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Path
from server.cids import received_id

from .transaction import Peer


@dataclass(frozen=True, slots=True)
class About:
    """A message, as far as it was looked at: one for unknown addresses alone is not."""

    peer: Peer
    mail_from: Path
    size: int
    received: datetime
    author: Address | None = None
    envelope: Envelope | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A copy for an account, or (``account_id`` None) what was refused without one."""

    account_id: int | None
    recipient: Path
    result: str
    verdict: Verdict | None = None
    reply: Reply | None = None


def record(about: About, entries: Iterable[Entry]) -> None:
    """Take note, without waiting for the database."""
    decisions.recorder().record([_decided(about, entry) for entry in entries])


def _decided(about: About, entry: Entry) -> Decided:
    verdict, reply, envelope = entry.verdict, entry.reply, about.envelope
    return Decided(
        account_id=entry.account_id,
        received=about.received,
        recipient=str(entry.recipient),
        mail_from=str(about.mail_from),
        msg_from=str(about.author) if about.author is not None else "",
        subject=envelope.subject if envelope is not None else "",
        message_id=envelope.message_id if envelope is not None else "",
        remote_ip=about.peer.remote_ip,
        size=about.size,
        result=entry.result,
        mailbox=_mailbox(verdict) if verdict is not None else "",
        reason=verdict.reason if verdict is not None else "",
        reply=f"{reply.code} {reply.enhanced} {reply.text}" if reply is not None else "",
        explanation=verdict.explanation if verdict is not None else (),
        received_id=received_id(about.peer.cid),
    )


def _mailbox(verdict: Verdict) -> str:
    instead = "" if verdict.accept else verdict.into_instead
    return instead or verdict.mailbox or "Inbox"
