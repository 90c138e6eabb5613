"""From a received message to the mailboxes of its recipients: checks, header lines, one transaction, and the outcome.

outcomes = await deliver(bridge, message, Circumstances(rules, resolver))
reply = final_reply(outcomes)
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import IO, Final, TypeAlias

from django.conf import settings
from django.db import OperationalError

from accounts.addresses import Destination, Resolved, ResolvedAlias
from junk.analysis import Verdict
from junk.reputation import Sender
from mailqueue.submit import Prepared as Bounce
from protocols.dns import Resolver
from protocols.message import FromError, from_address, header_section
from protocols.names import Address
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Mail, Path
from protocols.spf import SpfResult
from server.db import DatabaseBusy
from server.ratelimit import networks_of
from store import blobs
from store.bridge import Bridge
from store.db import Tx
from store.delivery import Delivering, Delivery
from store.errors import MailboxGone, OverQuota, StoreError
from store.flags import NO_FLAGS, SEEN, Flags
from store.messages import NewMessage, Origin

from . import headers, records, telling
from .content import Content
from .copies import Copy, Plan, agreed, canonical_author, first, may_post, plan
from .errors import SMTPError
from .events import Interest, interests, joins
from .forged import without_results_of
from .judging import Case, judge
from .localserve import RCPT_PREFIX, special_failure
from .records import About, Entry
from .transaction import Peer, Rules
from .verification import Verification, verify

log = logging.getLogger(__name__)

MAX_RECEIVED: Final = 100  # Received fields; a message with more goes round in circles (RFC 5321 6.3)
DSN_TRIES: Final = 3  # at a DSN: who fails may change while it is written
OVER_QUOTA: Final = Reply(452, "4.2.2", "mailbox is full, try again later")
SMALL: Final = 16 * 1024  # bytes of a message that is taken apart between others
KNOWN_ADDRESSES: Final = 4096  # clients whose networks are remembered: senders come again

_TLS_VERSIONS: Final = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_NO_TLS: Final = 1
_UNKNOWN_TLS: Final = 0

Failed: TypeAlias = dict[Path, Reply]
"""Recipients that a message fails for, and why."""


class Result(enum.Enum):
    """What became of a message for one recipient, as the metric names it."""

    DELIVERED = "delivered"
    REJECT = "reject"
    HIGH_RATE = "highrate"
    UNKNOWN_USER = "unknownuser"
    ACCOUNT_ERROR = "accounterror"
    DELIVERY_ERROR = "delivererror"


@dataclass(frozen=True, slots=True)
class Recipient:
    """An accepted RCPT. ``resolved`` is None for an unknown localpart of a hosted domain: refused after DATA."""

    path: Path
    resolved: Destination | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one recipient. ``reply`` is None where the message was stored, or withheld because of others."""

    recipient: Recipient
    result: Result
    reply: Reply | None = None
    silence: float = 0.0  # seconds to wait before the reply
    reason: str = ""
    """Of the verdict."""
    kept: bool = False
    """It was rejected, and a copy is where its recipient finds it; of an alias, some member."""
    accounts: tuple[str, ...] = ()
    """Those that it was stored for: one, or some of an alias."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it was received."""

    peer: Peer
    mail: Mail
    recipients: Sequence[Recipient]
    content: Content
    received: datetime


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where and how a message came in."""

    rules: Rules
    resolver: Resolver
    blocklists: Sequence[str] = ()
    first_time_delay: float = 0.0
    """Seconds that somebody of whom nothing is known waits for the answer."""
    wait: Callable[[float], Awaitable[object]] = asyncio.sleep
    """Waits, unless the connection ends before."""


async def deliver(
    bridge: Bridge, message: Message, around: Circumstances, spf_known: SpfResult | None = None
) -> list[Outcome]:
    """Verify and judge the message, and store it for its recipients; an outcome for each, in their order.

    ``spf_known``: what SPF said at RCPT. Raises SMTPError for a message that nobody gets, and what the store raises.
    """
    rules = around.rules
    outcomes = {each.path: refusal for each in message.recipients if (refusal := _refusal(each, rules)) is not None}
    about = About(message.peer, message.mail.reverse_path, message.content.size, message.received)
    if len(outcomes) == len(message.recipients):
        await bridge.call(check_loop, message.content.data)
        records.record(about, _entries(outcomes.values(), ()))
        return list(outcomes.values())
    is_small = message.content.size <= min(SMALL, settings.MOX_BLOB_INLINE_MAX)
    received = await (bridge.brief if is_small else bridge.call)(prepare, message, rules)
    about = replace(about, author=received.author, envelope=received.blob.part.envelope)
    try:
        case = await _case(message, received, around, spf_known)
        author = await bridge.call(canonical_author, received.author) if _has_alias(message) else ""
        outcomes |= _not_for_alias(message, outcomes, author, case.verification)
        wanted = [
            (each.path, each.resolved) for each in message.recipients if each.path not in outcomes and each.resolved
        ]
        if not wanted:
            await bridge.call(received.blob.discard)
            records.record(about, _entries(outcomes.values(), ()))
            return [outcomes[recipient.path] for recipient in message.recipients]
        planned = plan(wanted, author)
        copies = [copy for of_recipient in planned.copies.values() for copy in of_recipient]
        verdicts = await judge(bridge, around.resolver, case, copies, around.blocklists)
        judged = _judged(message, received, case, planned, verdicts)
        if any(each.verdict.is_first_time for each in judged) and around.first_time_delay:
            await around.wait(around.first_time_delay)
    except BaseException:
        await bridge.call(received.blob.discard)
        raise
    refused = list(outcomes.values())
    stored = await _store(bridge, judged, _Sender(message, received, case, rules), refused)
    outcomes |= {outcome.recipient.path: outcome for outcome in stored}
    records.record(about, _entries(outcomes.values(), judged))
    return [
        outcomes.get(recipient.path)
        or _as_covered(recipient, [outcomes[path] for path in planned.covered[recipient.path]])
        for recipient in message.recipients
    ]


async def _case(message: Message, received: Prepared, around: Circumstances, spf_known: SpfResult | None) -> Case:
    """The message with all that can be asked about its sender."""
    verification = await verify(
        around.resolver,
        message.peer,
        message.mail.reverse_path,
        message.content.data,
        received.author,
        smtputf8=received.smtputf8,
        localserve=around.rules.localserve,
        spf_known=spf_known,
    )
    origin = _origin(message, received.author, verification)
    return Case(
        message.peer,
        message.mail.reverse_path,
        received.blob,
        received.author,
        origin,
        verification,
        message.received,
    )


def _has_alias(message: Message) -> bool:
    return any(isinstance(recipient.resolved, ResolvedAlias) for recipient in message.recipients)


def _not_for_alias(
    message: Message, refused: Mapping[Path, Outcome], author: str, verification: Verification
) -> dict[Path, Outcome]:
    """The refusals of aliases that its author may not send to, among those that are not refused yet."""
    reply = Reply(550, "5.7.2", "you may not send to this address")
    return {
        recipient.path: Outcome(recipient, Result.REJECT, reply, reason="alias")
        for recipient in message.recipients
        if recipient.path not in refused
        and isinstance(recipient.resolved, ResolvedAlias)
        and not may_post(recipient.resolved, author, verification)
    }


def _as_covered(recipient: Recipient, covering: Sequence[Outcome]) -> Outcome:
    """The outcome for an alias whose members get the message as other recipients: the best of theirs."""
    best = next((outcome for outcome in covering if outcome.result is Result.DELIVERED), covering[0])
    return replace(best, recipient=recipient)


def final_reply(outcomes: Sequence[Outcome]) -> Reply:
    """The reply to DATA that sums up the outcomes."""
    if any(outcome.result is Result.DELIVERED for outcome in outcomes):
        return Reply(250, "2.2.0", "message is stored")
    failed = [(outcome, outcome.reply) for outcome in outcomes if outcome.reply is not None]
    withheld = len(failed) < len(outcomes)
    if len({(reply.code, reply.enhanced) for _, reply in failed}) == 1:
        first = failed[0][1]
        code, enhanced, close = first.code, first.enhanced, first.close
        lines = [f"<{o.recipient.path}>: {reply.text}" if withheld else reply.text for o, reply in failed]
    else:
        code, enhanced = (554, "5.3.0") if any(reply.code >= 500 for _, reply in failed) else (451, "4.3.0")
        close = False
        lines = [f"<{o.recipient.path}>: {reply.code} {reply.enhanced} {reply.text}" for o, reply in failed]
    if withheld:
        lines.append("the other recipients did not get the message either")
    return Reply(code, enhanced, "\n".join(dict.fromkeys(lines)), close)


def check_loop(content: bytes | IO[bytes]) -> None:
    """Raises SMTPError for a message that has passed too many servers."""
    section, _ = header_section(content)
    fields = b"\n" + section.lower()
    if fields.count(b"\nreceived:") + fields.count(b"\nreceived ") > MAX_RECEIVED:
        raise SMTPError(550, "5.4.6", f"mail loop, message has more than {MAX_RECEIVED} Received headers")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message whose content is ready to be stored. ``author``: its From address, if it has exactly one."""

    blob: blobs.PreparedBlob
    author: Address | None
    smtputf8: bool
    interests: Mapping[tuple[Path, int], Interest]
    """What else is to be done with the copies of some recipients and accounts."""


def _copies(recipients: Sequence[Recipient]) -> Iterator[tuple[Path, int]]:
    """The accounts that may get a copy, each with the recipient that leads there."""
    for recipient in recipients:
        if isinstance(recipient.resolved, ResolvedAlias):
            for account_id in dict.fromkeys(member.resolved.account_id for member in recipient.resolved.members):
                yield recipient.path, account_id
        elif recipient.resolved is not None:
            yield recipient.path, recipient.resolved.account_id


def prepare(message: Message, rules: Rules) -> Prepared:
    """What is known of a message without asking anybody; content of some size is on disk afterwards.

    For a pool thread. Raises SMTPError for a message that is refused, StorageFull.
    """
    check_loop(message.content.data)
    blob = blobs.prepare(without_results_of(message.peer.hostname, message.content.data))
    try:
        smtputf8 = blob.needs_smtputf8(
            message.content.data,
            (message.mail.reverse_path, *(recipient.path for recipient in message.recipients)),
            has_8bit=message.content.has_8bit,
            said=message.mail.smtputf8,
        )
        if smtputf8 and rules.pedantic and not message.mail.smtputf8:
            raise SMTPError(550, "5.6.0", "message needs SMTPUTF8, which MAIL did not ask for")  # RFC 6531 3.6
        try:
            author = from_address(blob.part)
        except FromError:
            author = None
        found = interests(_copies(message.recipients), blob.part, message.content.data)
        return Prepared(blob, author, smtputf8, found)
    except BaseException:
        blob.discard()
        raise


@dataclass(frozen=True, slots=True)
class _JudgedCopy:
    """A copy of a message, what becomes of it, and the message to store."""

    account_name: str
    verdict: Verdict
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class _Judged:
    """A recipient with its copies. ``verdict``: what the sender hears of."""

    recipient: Recipient
    verdict: Verdict
    copies: tuple[_JudgedCopy, ...]

    @property
    def is_wanted(self) -> bool:
        """Whether somebody takes it."""
        return any(_is_wanted(copy.verdict) for copy in self.copies)


def _judged(
    message: Message, received: Prepared, case: Case, planned: Plan, verdicts: Sequence[Verdict]
) -> list[_Judged]:
    """What the transaction needs, for each recipient that gets copies; ``verdicts`` in the order of the copies."""
    results = {
        override: case.verification.header(message.peer.hostname, smtputf8=received.smtputf8, override=override)
        for override in {verdict.dmarc_override for verdict in verdicts}
    }
    recipients = {recipient.path: recipient for recipient in message.recipients}
    rest = iter(verdicts)
    judged = []
    for path, copies in planned.copies.items():
        members = agreed([next(rest) for _ in copies])
        stored = tuple(
            _JudgedCopy(
                copy.resolved.account_name,
                verdict,
                _delivery(message, copy, received, results[verdict.dmarc_override], case, verdict),
            )
            for copy, verdict in zip(copies, members, strict=True)
        )
        judged.append(_Judged(recipients[path], first(members), stored))
    return judged


def _entries(outcomes: Iterable[Outcome], judged: Sequence[_Judged]) -> Iterator[Entry]:
    """For the record: each copy, and each recipient that has none."""
    copies = {each.recipient.path: each.copies for each in judged}
    for outcome in outcomes:
        path, resolved = outcome.recipient.path, outcome.recipient.resolved
        if path not in copies:
            account_id = resolved.account_id if isinstance(resolved, Resolved) else None
            yield Entry(account_id, path, outcome.result.value, reply=outcome.reply)
        for copy in copies.get(path, ()):
            # Of an alias, some members may have it and others not.
            missed = outcome.result is Result.DELIVERED and copy.account_name not in outcome.accounts
            result = Result.REJECT if missed else outcome.result
            yield Entry(copy.delivery.account_id, path, result.value, copy.verdict, outcome.reply)


class _Undone(Exception):
    """Nothing was stored; the outcomes tell why."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("nothing was stored")
        self.outcomes = outcomes


@dataclass(frozen=True, slots=True)
class _Sender:
    """Whom a DSN goes to if the message fails for some of its recipients, and about which message."""

    message: Message
    received: Prepared
    case: Case
    rules: Rules

    @property
    def is_told(self) -> bool:
        """Whether one is sent. localserve is for trying out, and tells in its log."""
        return not self.rules.localserve

    async def notice(self, bridge: Bridge, failed: Failed) -> Bounce | None:
        """The DSN; None where there is none to send, or nobody to send it to."""
        if not failed or not self.is_told:
            return None
        require_tls = self.message.mail.require_tls
        return await bridge.call(telling.prepare, self.case, self.received.smtputf8, require_tls, list(failed.items()))


async def _store(
    bridge: Bridge, judged: Sequence[_Judged], sender: _Sender, refused: Sequence[Outcome | None]
) -> list[Outcome]:
    """One change of the group commit for all recipients, and for the DSN if it fails for some."""
    failed = _failed(refused)
    if any(each.is_wanted for each in judged):
        failed |= {each.recipient.path: _rejection(each.verdict) for each in judged if not each.is_wanted}
    blob = sender.received.blob
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
    judged: Sequence[_Judged],
    sender: _Sender,
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
            if sender.is_told and (now_failed := _failed([*refused, *outcomes])):
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
        await bridge.call(sender.received.blob.discard)
    if notice is not None and not delivered:
        await bridge.call(notice.discard)
    return outcomes


def _failed(outcomes: Sequence[Outcome | None]) -> Failed:
    return {o.recipient.path: o.reply for o in outcomes if o is not None and o.reply is not None}


def _is_wanted(verdict: Verdict) -> bool:
    return verdict.accept or bool(verdict.into_instead)


def _rejection(verdict: Verdict) -> Reply:
    return Reply(verdict.code, verdict.enhanced, verdict.text)


def _stored(delivering: Delivering, judged: _Judged) -> Outcome:
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


def _stored_copy(delivering: Delivering, recipient: Recipient, copy: _JudgedCopy) -> Outcome:
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


def _refusal(recipient: Recipient, rules: Rules) -> Outcome | None:
    """Why a recipient gets nothing, whatever the message is."""
    localpart = recipient.path.localpart
    if rules.localserve and not localpart.lower().startswith(RCPT_PREFIX):
        special = special_failure(localpart)
        if special is not None:
            return Outcome(recipient, Result.DELIVERY_ERROR, special.reply, special.silence)
    if recipient.resolved is None:
        return Outcome(recipient, Result.UNKNOWN_USER, Reply(550, "5.1.1", "no such user"))
    return None


def _origin(message: Message, author: Address | None, verification: Verification) -> Origin:
    """How the message came."""
    peer, path = message.peer, message.mail.reverse_path
    masked1, masked2, masked3 = _masked_addresses(peer.remote_ip)
    hello, sender = peer.hello.name.domain, path.domain.domain
    return Origin(
        remote_ip=peer.remote_ip,
        remote_ip_masked1=masked1,
        remote_ip_masked2=masked2,
        remote_ip_masked3=masked3,
        ehlo_domain=hello.name() if hello is not None else "",
        mail_from=str(path),
        mail_from_localpart=path.localpart,
        mail_from_domain=sender.name() if sender is not None else "",
        msg_from_localpart=author.localpart if author is not None else "",
        msg_from_domain=author.domain.name() if author is not None else "",
        received_tls_version=_TLS_VERSIONS.get(peer.tls_version, _UNKNOWN_TLS) if peer.tls_version else _NO_TLS,
        received_tls_ciphersuite=peer.tls_cipher,
        received_require_tls=message.mail.require_tls,
        **verification.origin(),
    )


@lru_cache(maxsize=KNOWN_ADDRESSES)
def _masked_addresses(remote_ip: str) -> list[str]:
    """The address of the narrow, the middle and the wide network around a client."""
    return [network.partition("/")[0] for network in networks_of(remote_ip)]


def _delivery(
    message: Message, copy: Copy, received: Prepared, results: bytes, case: Case, verdict: Verdict
) -> Delivery:
    path = copy.path
    prefix = headers.prefix(
        message.peer,
        message.mail.reverse_path,
        path,
        copy.delivered_to,
        message.received,
        results,
        smtputf8=received.smtputf8,
        require_tls=message.mail.require_tls,
        verdict=headers.verdict_fields(verdict.reason, verdict.explanation, verdict.report.errors),
    )
    domain = path.domain.domain
    own = replace(
        case.origin,
        rcpt_to_localpart=path.localpart,
        rcpt_to_domain=domain.name() if domain is not None else "",
        is_mailing_list=verdict.is_mailing_list,
    )
    dkim_domains = case.verification.dkim_domains
    if verdict.forwarder is not None:
        own, dkim_domains = _forwarded(own, verdict.forwarder), verdict.forwarder.dkim_domains
    instead = not verdict.accept and bool(verdict.into_instead)
    new = NewMessage(
        received.blob,
        prefix,
        received=message.received,
        origin=own,
        dkim_domains=dkim_domains,
        flags=Flags(SEEN) if instead or verdict.report.is_report else NO_FLAGS,
        is_reject=instead,
    )
    account_id = copy.resolved.account_id
    if instead:
        return Delivery(account_id, verdict.into_instead, new)
    interest = received.interests.get((path, account_id))
    joined = (*joins(interest, path, case, verdict.mailbox), *verdict.report.joins())
    return Delivery(account_id, verdict.mailbox, new, joined)


def _forwarded(origin: Origin, left: Sender) -> Origin:
    """A forwarder gets neither blame nor credit: what names it is kept where reputation does not look."""
    masked1, masked2, masked3 = left.networks
    return replace(
        origin,
        is_forward=True,
        remote_ip_masked1=masked1,
        remote_ip_masked2=masked2,
        remote_ip_masked3=masked3,
        orig_ehlo_domain=origin.ehlo_domain,
        ehlo_domain=left.ehlo_domain,
        mail_from_domain=left.mail_from_domain,
    )
