"""Storing a judged message: one transaction for all its recipients, with a DSN about those for whom it fails.

outcomes = await store(bridge, judged, sender, refused)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from django.db import OperationalError

from junk.analysis import Verdict
from mailqueue.submit import Prepared as Bounce
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Path
from server.db import DatabaseBusy
from store.bridge import Bridge
from store.db import Tx
from store.delivery import Delivering, Delivery
from store.errors import MailboxGone, OverQuota, StoreError

from . import telling
from .judging import Case
from .outcomes import Outcome, Recipient, Result

log = logging.getLogger(__name__)

DSN_TRIES: Final = 3  # at a DSN: who fails may change while it is written
OVER_QUOTA: Final = Reply(452, "4.2.2", "mailbox is full, try again later")

Failed: TypeAlias = dict[Path, Reply]
"""Recipients that a message fails for, and why."""


@dataclass(frozen=True, slots=True)
class JudgedCopy:
    """A copy of a message, what becomes of it, and the message to store."""

    account_name: str
    verdict: Verdict
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Judged:
    """A recipient with its copies. ``verdict``: what the sender hears of."""

    recipient: Recipient
    verdict: Verdict
    copies: tuple[JudgedCopy, ...]

    @property
    def is_wanted(self) -> bool:
        """Whether somebody takes it."""
        return any(_is_wanted(copy.verdict) for copy in self.copies)


class _Undone(Exception):
    """Nothing was stored; the outcomes tell why."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("nothing was stored")
        self.outcomes = outcomes


@dataclass(frozen=True, slots=True)
class Telling:
    """Who hears of it if the message fails for some of its recipients: its sender, by a DSN. ``active``: or nobody."""

    case: Case
    smtputf8: bool
    require_tls: bool
    active: bool = True

    async def notice(self, bridge: Bridge, failed: Failed) -> Bounce | None:
        """The DSN; None where there is none to send, or nobody to send it to."""
        if not failed or not self.active:
            return None
        return await bridge.call(telling.prepare, self.case, self.smtputf8, self.require_tls, list(failed.items()))


async def store(
    bridge: Bridge, judged: Sequence[Judged], sender: Telling, refused: Sequence[Outcome | None]
) -> list[Outcome]:
    """One change of the group commit for all recipients, and for the DSN if it fails for some; the outcome for each.

    ``refused``: of recipients that get nothing whatever happens. Raises what the store raises.
    """
    failed = _failed(refused)
    if any(each.is_wanted for each in judged):
        failed |= {each.recipient.path: _rejection(each.verdict) for each in judged if not each.is_wanted}
    blob = sender.case.blob
    for _ in range(DSN_TRIES):
        notice = await sender.notice(bridge, failed)
        try:
            return await _write(bridge, judged, sender, refused, failed, notice)
        except _Undone as undone:
            outcomes = undone.outcomes
            if notice is not None:
                await bridge.call(notice.discard)
            found = _failed([*refused, *outcomes])
            if not any(outcome.result is Result.DELIVERED for outcome in outcomes) or found == failed:
                break
            failed = found  # what only the transaction could know: the DSN is written anew
        except (StoreError, DatabaseBusy):
            if notice is not None:
                await bridge.call(notice.discard)
            await bridge.call(blob.discard)
            raise
    await bridge.call(blob.discard)
    return [o if o.reply is not None else _withheld(o.recipient) for o in outcomes]


async def _write(
    bridge: Bridge,
    judged: Sequence[Judged],
    sender: Telling,
    refused: Sequence[Outcome | None],
    failed: Failed,
    notice: Bounce | None,
) -> list[Outcome]:
    """Raises _Undone where the message fails for others than ``failed``, of whom the notice tells."""

    copies = [copy for each in judged for copy in each.copies]

    def job(tx: Tx) -> list[Outcome]:
        delivering = Delivering(tx, alone=len(copies) == 1)
        outcomes = [_stored(delivering, each) for each in judged]
        if any(outcome.result is Result.DELIVERED for outcome in outcomes):
            if sender.active and (now_failed := _failed([*refused, *outcomes])):
                if notice is None or now_failed != failed:
                    raise _Undone(outcomes)
                notice.enqueue(tx)
        elif any(outcome.result not in (Result.REJECT, Result.HIGH_RATE) for outcome in outcomes):
            raise _Undone(outcomes)
        return outcomes

    accounts = {copy.delivery.account_id for copy in copies}
    if notice is not None:
        accounts.add(notice.request.account_id)
    outcomes = await bridge.write(sorted(accounts), job, sure=notice is None)
    # Whatever else happens, and for a caller that is cancelled, the change may have been committed, or still be: then
    # its content must be there. If it was not, the collector finds the file.
    delivered = any(outcome.result is Result.DELIVERED for outcome in outcomes)
    if not delivered and not any(outcome.kept for outcome in outcomes):
        await bridge.call(sender.case.blob.discard)
    if notice is not None and not delivered:
        await bridge.call(notice.discard)
    return outcomes


def _failed(outcomes: Sequence[Outcome | None]) -> Failed:
    return {o.recipient.path: o.reply for o in outcomes if o is not None and o.reply is not None}


def _is_wanted(verdict: Verdict) -> bool:
    return verdict.accept or bool(verdict.into_instead)


def _rejection(verdict: Verdict) -> Reply:
    return Reply(verdict.code, verdict.enhanced, verdict.text)


def _stored(delivering: Delivering, judged: Judged) -> Outcome:
    """The outcome for a recipient: for an alias, delivered if one member has it, else what the first hears."""
    recipient = judged.recipient
    outcomes = [_stored_copy(delivering, recipient, copy) for copy in judged.copies]
    accounts = tuple(
        copy.account_name
        for copy, outcome in zip(judged.copies, outcomes, strict=True)
        if outcome.result is Result.DELIVERED
    )
    if accounts:
        return Outcome(recipient, Result.DELIVERED, reason=judged.verdict.reason, accounts=accounts)
    # Members who would take it come before those who would not; that they are over quota is said if it is all there is.
    failed = [outcome for outcome in outcomes if outcome.result not in (Result.REJECT, Result.HIGH_RATE)]
    told = next((outcome for outcome in failed if outcome.reply != OVER_QUOTA), (*failed, *outcomes)[0])
    return replace(told, kept=any(outcome.kept for outcome in outcomes))


def _stored_copy(delivering: Delivering, recipient: Recipient, copy: JudgedCopy) -> Outcome:
    verdict = copy.verdict
    about = {"rcptto": str(recipient.path), "account": copy.account_name}
    try:
        if _is_wanted(verdict):
            delivering.deliver(copy.delivery)
            return Outcome(recipient, Result.DELIVERED, reason=verdict.reason)
        kept = verdict.keep and delivering.keep_reject(copy.delivery)
        result = Result.REJECT if verdict.keep else Result.HIGH_RATE
        return Outcome(recipient, result, _rejection(verdict), reason=verdict.reason, kept=kept)
    except OverQuota as exc:
        log.info("recipient is over quota", extra={**about, "err": str(exc)})
        return Outcome(recipient, Result.DELIVERY_ERROR, OVER_QUOTA)
    except MailboxGone as exc:
        log.info("account is gone", extra={**about, "err": str(exc)})
        return Outcome(recipient, Result.ACCOUNT_ERROR, Reply(451, "4.3.0", "account cannot be opened"))
    except OperationalError:
        raise  # the whole transaction is lost: the writer knows what to do
    except StoreError as exc:
        log.warning("message cannot be stored", extra={**about, "err": str(exc)})
        return Outcome(recipient, Result.DELIVERY_ERROR, Reply(451, "4.3.0", "message cannot be stored"))


def _withheld(recipient: Recipient) -> Outcome:
    return Outcome(recipient, Result.DELIVERY_ERROR)
