"""From a submitted message to the queue: what it is asked, and what its refusals are in SMTP (RFC 6409).

done = await hand_over(bridge, submitted, rules)
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from mailqueue import submit
from mailqueue.errors import (
    BadFrom,
    BadHeader,
    BadMessage,
    ExtraTwice,
    FromIDNeedsOneRecipient,
    FromIDUsed,
    MessageLimitReached,
    RecipientLimitReached,
    SubmitError,
)
from mailqueue.submit import Prepared
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Body, Mail, Path
from server.db import DatabaseBusy
from store.bridge import Bridge
from store.errors import StorageFull, StoreError

from . import headers, metrics
from .content import Content
from .errors import SMTPError
from .localserve import QUEUE_PREFIX, RCPT_PREFIX, SpecialFailure, special_failure
from .transaction import Done, Peer, Rules

log = logging.getLogger(__name__)


class Result(enum.Enum):
    """What became of a submission, as the metric names it."""

    OK = "ok"
    BAD_MESSAGE = "badmessage"
    BAD_FROM = "badfrom"
    BAD_HEADER = "badheader"
    MESSAGE_LIMIT = "messagelimiterror"
    RECIPIENT_LIMIT = "recipientlimiterror"
    LOCALSERVE = "localserveerror"
    QUEUE = "queueerror"


_REFUSALS: Final = {
    BadMessage: (554, "5.6.0", Result.BAD_MESSAGE),
    BadHeader: (550, "5.6.0", Result.BAD_HEADER),
    BadFrom: (550, "5.7.1", Result.BAD_FROM),
    MessageLimitReached: (451, "4.7.1", Result.MESSAGE_LIMIT),
    RecipientLimitReached: (451, "4.7.1", Result.RECIPIENT_LIMIT),
    ExtraTwice: (554, "5.6.0", Result.BAD_HEADER),
    FromIDNeedsOneRecipient: (554, "5.5.3", Result.BAD_FROM),
    FromIDUsed: (554, "5.1.7", Result.BAD_FROM),
}


@dataclass(frozen=True, slots=True)
class Submitted:
    """A message as it came from a user, and who that is."""

    peer: Peer
    account_id: int
    login_address: str
    mail: Mail
    recipients: Sequence[Path]
    content: Content
    received: datetime


class _Refused(Exception):
    """The message is not taken."""

    def __init__(self, result: Result, error: SMTPError) -> None:
        super().__init__(str(error))
        self.result = result
        self.error = error


async def hand_over(bridge: Bridge, message: Submitted, rules: Rules) -> Done:
    """Queue the message; after that it is on disk. Raises SMTPError, and what the store raises."""
    try:
        done, result = await _hand_over(bridge, message, rules)
    except _Refused as exc:
        metrics.submissions.labels(exc.result.value).inc()
        raise exc.error from exc
    except Exception:
        metrics.submissions.labels(Result.QUEUE.value).inc()
        raise
    metrics.submissions.labels(result.value).inc()
    return done


async def _hand_over(bridge: Bridge, message: Submitted, rules: Rules) -> tuple[Done, Result]:
    prepared = await _prepare(bridge, message, rules)
    try:
        if rules.pedantic and prepared.smtputf8 and not message.mail.smtputf8:
            text = "message needs SMTPUTF8, which MAIL did not ask for"  # RFC 6531 3.6
            raise _Refused(Result.BAD_MESSAGE, SMTPError(550, "5.6.0", text))
        special = _special(message.recipients) if rules.localserve else None
        if special is not None:
            await bridge.call(prepared.discard)
            return Done(special.reply, silence=special.silence), Result.LOCALSERVE
        ids = await bridge.write([message.account_id], prepared.enqueue)
    except (_Refused, SubmitError, StoreError, DatabaseBusy) as exc:
        await bridge.call(prepared.discard)
        if isinstance(exc, SubmitError):
            raise _refusal(exc) from exc
        if isinstance(exc, StoreError) and not isinstance(exc, StorageFull):  # the account was removed, say
            raise SMTPError(451, "4.3.0", "message cannot be queued", cause=str(exc)) from exc
        raise
    # Whatever else happens, the change may have been committed, or still be: then its content must be there.
    if prepared.signing_error:
        metrics.errors.labels("dkimsign").inc()
    log.info(
        "submitted",
        extra={
            "login": message.login_address,
            "mailfrom": str(message.mail.reverse_path),
            "size": message.content.size,
            "queue_ids": ids,
        },
    )
    return Done(Reply(250, "2.2.0", "message is queued")), Result.OK


async def _prepare(bridge: Bridge, message: Submitted, rules: Rules) -> Prepared:
    """Everything before the transaction. Raises _Refused, StorageFull."""
    undeclared = rules.pedantic and message.content.has_8bit and message.mail.body is not Body.EIGHT_BIT
    text = "message has 8-bit content, which needs BODY=8BITMIME with MAIL"  # RFC 6152
    not_declared = _Refused(Result.BAD_MESSAGE, SMTPError(500, "5.6.0", text))
    try:
        prepared = await bridge.compute(submit.prepare, _request(message, rules))
    except SubmitError as exc:
        if undeclared and not isinstance(exc, BadMessage):  # which is looked for before, and everything else after
            raise not_declared from exc
        raise _refusal(exc) from exc
    if undeclared:
        await bridge.call(prepared.discard)
        raise not_declared
    return prepared


def _request(message: Submitted, rules: Rules) -> submit.Request:
    mail = message.mail

    def received(recipient: Path | None, smtputf8: bool) -> bytes:
        return headers.submitted(
            message.peer, recipient, message.received, smtputf8=smtputf8, require_tls=mail.require_tls
        )

    return submit.Request(
        account_id=message.account_id,
        mail_from=mail.reverse_path,
        recipients=message.recipients,
        content=message.content.data,
        received=received,
        login_address=message.login_address,
        has_8bit=message.content.has_8bit,
        smtputf8=mail.smtputf8,
        require_tls=mail.require_tls or None,
        not_before=mail.hold.release(message.received) if mail.hold is not None else None,
        future_release_request=mail.hold.request if mail.hold is not None else "",
        authenticated=True,
        pedantic=rules.pedantic,
    )


def _refusal(exc: SubmitError) -> _Refused:
    code, enhanced, result = _REFUSALS[type(exc)]
    return _Refused(result, SMTPError(code, enhanced, str(exc)))


def _special(recipients: Sequence[Path]) -> SpecialFailure | None:
    """How the first recipient fails that fails here: not those that failed at RCPT, or will when they are delivered."""
    for path in recipients:
        if not path.localpart.lower().startswith((RCPT_PREFIX, QUEUE_PREFIX)):
            special = special_failure(path.localpart)
            if special is not None:
                return special
    return None
