"""Who else is to know of a message that comes in: the message that it answers, and the program of the account."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from mailqueue import feedback, incoming
from mailqueue.fromids import id_in
from protocols.message import Part, header_section
from protocols.smtpsyntax import Path
from store.db import AccountTx
from store.delivery import Join
from store.messages import Placement

from .judging import Case

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Interest:
    """What is to be done with a copy of a message: one of the two."""

    report: feedback.Report | None = None
    payload: dict[str, Any] | None = None


def interests(
    copies: Iterable[tuple[Path, int]], part: Part, content: bytes | IO[bytes]
) -> dict[tuple[Path, int], Interest]:
    """What there is to do for these recipients and accounts; in a thread, before the message is stored.

    A failure is logged: the message is delivered all the same.
    """
    found: dict[tuple[Path, int], Interest] = {}
    report: feedback.Report | None = None
    payload: dict[str, Any] | None = None
    places = list(copies)
    wanting = incoming.wanting({account_id for _, account_id in places})
    unique = {path for path in dict.fromkeys(path for path, _ in places) if id_in(path)}
    for path, account_id in places:
        answers = path in unique and feedback.concerns(account_id, path)
        if not answers and account_id not in wanting:
            continue
        try:
            if answers:
                report = report or feedback.read(content, part)
                found[path, account_id] = Interest(report=report)
            else:
                payload = payload or incoming.payload_of(part, content, header_section(content)[0])
                found[path, account_id] = Interest(payload=payload)
        except Exception:
            log.exception("event of an incoming message cannot be made", extra={"account_id": account_id})
    return found


def joins(interest: Interest | None, path: Path, case: Case, mailbox: str) -> tuple[Join, ...]:
    """What the transaction that stores the copy does besides."""
    if interest is None:
        return ()

    def join(account: AccountTx, placement: Placement) -> None:
        now = datetime.now(UTC)
        if interest.report is not None:
            feedback.store(account.account_id, path, interest.report, placement.message_id, now)
        elif interest.payload is not None:
            origin = case.origin
            meta = incoming.Meta(
                msg_id=placement.message_id,
                mail_from=str(case.reverse_path),
                mail_from_validated=origin.mail_from_validated,
                msg_from_validated=origin.msg_from_validated,
                rcpt_to=str(path),
                dkim_verified_domains=case.verification.dkim_domains,
                remote_ip=origin.remote_ip,
                received=case.received,
                mailbox=mailbox or "Inbox",
            )
            incoming.store(account.account_id, interest.payload, meta, now)

    return (join,)
