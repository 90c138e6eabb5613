"""The verdict on an incoming message for one account, step by step; the first step that decides wins (junk.md 4).

verdict = analyze(incoming)
if isinstance(verdict, AskBlocklists):          # only for strangers: nobody else's address is told to a list
    verdict = conclude(verdict, listed_in="bl.example" or "")

Reads the database, in a thread; changes nothing but the key of an address for its first subjectpass token.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from django.db import DatabaseError

from accounts.models import Ruleset
from protocols.message.source import Source
from protocols.names import Address
from server import db
from server.statements import Statement
from store import mailboxes
from store.errors import StoreError
from store.models import Mailbox

from . import rates, reputation, rulesets, subjectpass
from .classifying import AccountSettings, score, settings_of
from .reports import NOTHING as NOT_A_REPORT
from .reports import Found
from .reputation import Method, Reputation, Sender
from .rulesets import Facts

log = logging.getLogger(__name__)

STRICT_THRESHOLD: Final = 0.25  # for strangers with something odd about them
THRESHOLD_NOISE: Final = 0.05  # so that trying does not tell which words count

AUTH_REQUIRED: Final = "message-auth-required"  # the reason; no verdict on the sender, but a rule of the address
REFUSED: Final = "error processing"  # deliberately vague: it teaches spammers nothing, and honest senders try again


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message for one recipient. Domains in A-labels where it is not said otherwise."""

    account_id: int
    address_id: int | None
    canonical: str
    mailbox: str
    """Where the address delivers to; "" is Inbox."""
    sender: Sender
    author: Address | None
    """The single From address."""
    mail_from: str
    spf_domain: str
    """The domain that SPF passes for, "" for none; ``spf_is_hello``: it is that of EHLO."""
    spf_is_hello: bool
    spf_failed: bool
    """SPF says fail or softfail."""
    signed_by: tuple[str, ...]
    """Domains with a passing DKIM signature."""
    iprev_passed: bool
    has_tls: bool
    policy_refusal: str
    """Why the From domain's DMARC policy refuses the message, "" where it does not."""
    dmarc_passed: bool
    is_addressed: bool
    """The recipient is in To or Cc."""
    header: bytes
    source: Source
    structure: Mapping[str, Any]
    subject: str
    size: int
    received: datetime
    blocklists: tuple[str, ...] = ()
    auth_refusal: str = ""
    """What the address says to messages whose From domain nobody vouches for, if this is one; "" otherwise."""
    report: Found = NOT_A_REPORT


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of the message for this recipient, and why.

    ``mailbox``: where it goes, or would have gone. ``keep``: a rejected message is kept among the rejects.
    ``into_instead``: a mailbox that takes what would be rejected.
    """

    accept: bool
    reason: str
    mailbox: str
    code: int = 451
    enhanced: str = "4.3.0"
    text: str = REFUSED
    keep: bool = True
    into_instead: str = ""
    forwarder: Sender | None = None
    """The message was forwarded here: what is left to say of its sender without its forwarder."""
    is_mailing_list: bool = False
    is_first_time: bool = False
    """Nothing is known of the sender, and nothing bad of the message: a spammer is kept waiting."""
    explanation: tuple[str, ...] = field(default=())
    """What was found on the way, for people."""
    report: Found = NOT_A_REPORT

    @property
    def dmarc_override(self) -> str:
        """Why a policy was not followed, as DMARC reports name it."""
        return "mailing_list" if self.is_mailing_list else "forwarded" if self.forwarder is not None else ""


@dataclass(frozen=True, slots=True)
class AskBlocklists:
    """All that is left to ask: whether these zones, one after another, list the client."""

    zones: tuple[str, ...]
    case: _Case


class _Decided(Exception):
    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.reason)
        self.verdict = verdict


def analyze(incoming: Incoming) -> Verdict | AskBlocklists:
    """The verdict, or what is left to be asked for it. Never raises for what a sender did."""
    case = _Case(incoming)
    try:
        return case.analyze()
    except _Decided as decided:
        return decided.verdict


def conclude(asked: AskBlocklists, listed_in: str) -> Verdict:
    """The verdict, once blocklists were asked; ``listed_in`` is the zone that lists the client, or ""."""
    try:
        return asked.case.conclude(listed_in)
    except _Decided as decided:
        return decided.verdict


_mailbox_id: Final = Statement(
    lambda account_id, name: Mailbox.objects.filter(account_id=account_id, name=name, expunged=False).values_list("pk")
)


class _Case:
    """One message and what was found out about it so far."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._sender = incoming.sender
        self._base = Verdict(False, "", incoming.mailbox, report=incoming.report)
        self._reputation = Reputation(None, conclusive=False, method=Method.NONE)
        self._found: list[str] = []
        self._settings: AccountSettings = settings_of(incoming.account_id)

    def analyze(self) -> Verdict | AskBlocklists:
        self._check_rates()
        self._apply_ruleset()
        if self._incoming.policy_refusal and self._base.forwarder is None:
            self._reject("dmarc-policy", 550, "5.7.26", self._incoming.policy_refusal)
        if self._incoming.auth_refusal:
            self._reject(AUTH_REQUIRED, 550, "5.7.26", self._incoming.auth_refusal)
        self._judge_sender()
        if self._incoming.report.is_report:
            return self._accepted("reporting")
        self._check_policies()
        self._check_subjectpass()
        self._judge_content()
        if self._incoming.blocklists:
            return AskBlocklists(self._incoming.blocklists, self)
        return self.conclude("")

    def conclude(self, listed_in: str) -> Verdict:
        if listed_in:
            self._found.append(f"the client's address is listed in {listed_in}")
            self._reject_or_offer("dns-blocklisted", moderate=True)
        accepted = self._accepted("no-bad-signals")
        waits = not (accepted.forwarder is not None or self._settings.no_first_time_sender_delay)
        return replace(accepted, is_first_time=waits)

    # Steps 1 to 5: how much, and where to.

    def _check_rates(self) -> None:
        incoming = self._incoming
        try:
            over = rates.exceeded_lately(incoming.account_id, self._sender.networks, incoming.size, incoming.received)
        except DatabaseError:
            log.exception("rates cannot be counted")
            self._reject("reputation-error")
        if over is not None:
            raise _Decided(
                replace(self._base, reason="high-rate", code=452, enhanced="4.2.2", text=str(over), keep=False)
            )

    def _apply_ruleset(self) -> None:
        incoming = self._incoming
        candidates = rulesets.of_address(incoming.address_id) if incoming.address_id is not None else ()
        if not candidates:
            return  # most addresses have none, and all that they could look at need not be decoded
        facts = self._facts()
        ruleset = rulesets.first_match(candidates, facts)
        if ruleset is None:
            return
        self._found.append(f"ruleset {ruleset.position + 1} of {incoming.canonical} matches")
        self._base = replace(
            self._base,
            mailbox=ruleset.mailbox,
            into_instead=ruleset.accept_rejects_to_mailbox,
        )
        if rulesets.allows_list(ruleset, facts):
            self._base = replace(self._base, is_mailing_list=True)
            raise _Decided(self._accepted("list-allow"))
        if ruleset.is_forward:
            self._sender = _without_forwarder(self._sender, ruleset)
            self._base = replace(self._base, forwarder=self._sender)

    def _facts(self) -> Facts:
        incoming = self._incoming
        signed = frozenset(incoming.signed_by)
        spf = frozenset({incoming.spf_domain}) if incoming.spf_domain else frozenset()
        return Facts(
            incoming.mail_from,
            str(incoming.author) if incoming.author is not None else "",
            verified=signed | spf,
            vouched=signed if incoming.spf_is_hello else signed | spf,
            fields=rulesets.fields_of(incoming.header),
        )

    # Steps 8 to 13: who sends it.

    def _judge_sender(self) -> None:
        incoming = self._incoming
        try:
            self._reputation = found = reputation.judge(self._sender, self._mailbox(), incoming.received)
        except DatabaseError:
            log.exception("reputation cannot be found")
            self._reject("reputation-error")
        leaning = {None: "says nothing", True: "is bad", False: "is good"}[found.junk]
        sure = "conclusively" if found.conclusive else "not conclusively"
        self._found.append(f"reputation by {found.method} {leaning}, {sure}")
        if found.conclusive:
            if found.junk:
                self._reject(found.method)
            raise _Decided(self._accepted(found.method))

    def _mailbox(self) -> int | None:
        """The mailbox that it goes to, if there is one already."""
        try:
            name = mailboxes.canonical_name(self._base.mailbox or mailboxes.INBOX)
        except StoreError:
            return None
        row = _mailbox_id.row(self._incoming.account_id, name)
        return row[0] if row is not None else None

    def _check_policies(self) -> None:
        if not self._reputation.method.is_weak:
            return
        if self._incoming.spf_failed:
            self._reject("spf-policy")
        if not self._incoming.iprev_passed and self._reputation.junk:
            self._reject("iprev")

    # Steps 14 to 17: what it says.

    def _check_subjectpass(self) -> None:
        incoming = self._incoming
        period = self._settings.subject_pass_period
        if not period or incoming.author is None or "(pass:" not in incoming.subject:
            return
        try:
            key = subjectpass.known_key(incoming.account_id, incoming.canonical)
        except DatabaseError:
            log.exception("subjectpass key cannot be read")
            self._reject("subjectpass-error")
        if subjectpass.verify(key, incoming.subject, incoming.author, period, incoming.received):
            raise _Decided(self._accepted("subjectpass"))

    def _judge_content(self) -> None:
        incoming = self._incoming
        learnt = self._settings.filter
        if learnt is None:
            return
        try:
            found = score(incoming.account_id, learnt, incoming.source, incoming.structure, incoming.mail_from)
        except DatabaseError:
            log.exception("junk filter cannot be read")
            self._reject("junk-filter-error")
        except Exception:
            log.exception("message cannot be classified")
            self._reject("junk-classify-error")
        threshold, why = self._threshold(learnt.threshold)
        self._found.append(f"content is junk with probability {found.probability:.4f}, threshold {threshold:.4f}{why}")
        if found.spam_words or found.ham_words:
            shown = [f"{word.word} {word.score:.3f}" for word in (*found.spam_words[:5], *found.ham_words[:5])]
            self._found.append(f"words: {', '.join(shown)}")
        if found.probability <= threshold:
            return
        odd = self._reputation.method.is_weak and not incoming.iprev_passed
        if not found.significant and not odd:
            self._found.append("too little was learnt to reject for it")
            return
        moderate = bool(why) and found.probability <= learnt.threshold
        self._reject_or_offer("junk-content-strict" if why else "junk-content", moderate=moderate)

    def _threshold(self, configured: float) -> tuple[float, str]:
        """The threshold for this message, and why it is low if it is."""
        incoming = self._incoming
        threshold = configured + random.uniform(-THRESHOLD_NOISE, THRESHOLD_NOISE)
        if threshold <= STRICT_THRESHOLD:
            return threshold, ""
        if self._reputation.method.is_weak and not incoming.iprev_passed:
            return STRICT_THRESHOLD, " for a stranger without a name in reverse DNS"
        if not incoming.has_tls:
            return STRICT_THRESHOLD, " since it came without TLS"
        if not incoming.is_addressed and self._base.forwarder is None:
            return STRICT_THRESHOLD, " since its recipient is neither in To nor in Cc"
        return threshold, ""

    # The end.

    def _accepted(self, reason: str) -> Verdict:
        return replace(self._base, accept=True, reason=str(reason), explanation=tuple(self._found))

    def _reject(self, reason: str, code: int = 451, enhanced: str = "4.3.0", text: str = REFUSED) -> None:
        raise _Decided(
            replace(
                self._base,
                reason=str(reason),
                code=code,
                enhanced=enhanced,
                text=text,
                explanation=tuple(self._found),
            )
        )

    def _reject_or_offer(self, reason: str, *, moderate: bool) -> None:
        """Steps 19 and 20: a stranger who may be no spammer is told how to get through."""
        incoming = self._incoming
        if (
            moderate
            and incoming.author is not None
            and incoming.dmarc_passed
            and self._reputation.method is Method.NONE
            and self._settings.subject_pass_period
        ):
            with db.write():
                key = subjectpass.key_of(incoming.account_id, incoming.canonical)
            token = subjectpass.generate(key, incoming.author, incoming.received)
            self._found.append(f"{reason}, and a way through was offered")
            text = f"message resembles spam, to get through send it again with {token} in its subject"
            self._reject("give-subjectpass", 550, "5.7.1", text)
        self._reject(reason)


def _without_forwarder(sender: Sender, ruleset: Ruleset) -> Sender:
    """A forwarder gets neither blame nor credit for what it forwards."""
    return replace(
        sender,
        networks=("", "", ""),
        ehlo_domain="",
        mail_from_domain="",
        dkim_domains=tuple(
            d for d in sender.dkim_domains if not rulesets.is_below((rulesets.ascii_of(d),), ruleset.verified_domain)
        ),
    )
