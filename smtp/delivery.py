"""From a received message to the mailboxes of its recipients: checks, header lines, one transaction, and the outcome.

outcomes = await deliver(bridge, message, Circumstances(rules, resolver))
reply = final_reply(outcomes)  # of smtp.outcomes
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import IO, Final

from django.conf import settings

from accounts.addresses import Resolved, ResolvedAlias
from junk.analysis import Verdict
from junk.reputation import Sender
from protocols.dns import Resolver
from protocols.message import FromError, from_address, header_section
from protocols.names import Address
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Mail, Path
from protocols.spf import SpfResult
from server.ratelimit import networks_of
from store import blobs
from store.bridge import Bridge
from store.delivery import Delivery
from store.flags import NO_FLAGS, SEEN, Flags
from store.messages import NewMessage, Origin

from . import headers, records
from .content import Content
from .copies import Copy, Plan, agreed, canonical_author, first, may_post, plan
from .errors import SMTPError
from .events import Interest, interests, joins
from .forged import without_results_of
from .judging import Case, judge
from .localserve import RCPT_PREFIX, special_failure
from .outcomes import Outcome, Recipient, Result
from .records import About, Entry
from .storing import Judged, JudgedCopy, Telling, store
from .transaction import Peer, Rules
from .verification import Verification, verify

log = logging.getLogger(__name__)

MAX_RECEIVED: Final = 100  # Received fields; a message with more goes round in circles (RFC 5321 6.3)
SMALL: Final = 16 * 1024  # bytes of a message that is taken apart between others
KNOWN_ADDRESSES: Final = 4096  # clients whose networks are remembered: senders come again

_TLS_VERSIONS: Final = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_NO_TLS: Final = 1
_UNKNOWN_TLS: Final = 0


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
    # localserve is for trying out, and tells in its log.
    telling = Telling(case, received.smtputf8, message.mail.require_tls, active=not rules.localserve)
    stored = await store(bridge, judged, telling, refused)
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


def _judged(
    message: Message, received: Prepared, case: Case, planned: Plan, verdicts: Sequence[Verdict]
) -> list[Judged]:
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
            JudgedCopy(
                copy.resolved.account_name,
                verdict,
                _delivery(message, copy, received, results[verdict.dmarc_override], case, verdict),
            )
            for copy, verdict in zip(copies, members, strict=True)
        )
        judged.append(Judged(recipients[path], first(members), stored))
    return judged


def _entries(outcomes: Iterable[Outcome], judged: Sequence[Judged]) -> Iterator[Entry]:
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
