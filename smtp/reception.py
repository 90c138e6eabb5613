"""Mail from other servers, on port 25: for accounts of this server alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, Final

from django.conf import settings

from accounts.addresses import Destination
from protocols import spf
from protocols.dns import Resolver
from protocols.names import IPDomain
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Mail, Path, parse_hello, parse_mail
from protocols.spf import SpfResult, SpfStatus
from server.connections import Connection
from store.bridge import Bridge

from . import metrics
from .content import Content
from .delivery import Circumstances, Message, deliver
from .errors import SMTPError
from .outcomes import Outcome, Recipient, Result, final_reply
from .recipients import copies_of, resolve_recipient, takes_tls_reports
from .resolvers import Resolvers
from .sendercheck import check_hello, check_sender_domain
from .session import Session
from .transaction import Done, Transaction
from .verification import spf_args

NAMED_MAX: Final = 10  # accounts of an alias that a line of the log names
COPIES_MAX: Final = 1000  # of a message, in one transaction of the database; an alias has no more members
TOO_MANY_COPIES: Final = "too many members of aliases, send to this one in another transaction"


class Reception(Session):
    """A connection of a server that has mail for us."""

    kind: ClassVar = "deliver"

    def __init__(self, connection: Connection, bridge: Bridge, resolvers: Resolvers) -> None:
        super().__init__(connection, bridge)
        self._resolvers = resolvers
        self._spf: tuple[Transaction, SpfResult] | None = None

    def _starttls_allowed(self) -> bool:
        return not self._connection.listener.smtp_no_starttls

    def _requiretls_allowed(self) -> bool:
        return not self._connection.listener.smtp_no_requiretls

    def _more_extensions(self) -> list[str]:
        return []

    def _hello_name(self, argument: str, *, literal: bool) -> IPDomain:
        return parse_hello(argument, literal=literal, strict=self._rules.pedantic)

    async def _auth(self, argument: str) -> Reply:
        raise SMTPError(503, "5.5.1", "logging in is for the submission ports")

    def _parse_mail(self, argument: str) -> Mail:
        return parse_mail(argument, strict=self._rules.pedantic)

    async def _helo(self, argument: str) -> Reply:
        reply = await super()._helo(argument)
        name = self._peer().hello.name.domain
        if name is not None and not self._rules.localserve:
            try:
                await check_hello(await self._resolver(), name)
            except SMTPError:
                self._hello = None
                raise
        return reply

    async def _check_sender(self, mail: Mail) -> None:
        if mail.reverse_path.domain.ip is not None:
            raise SMTPError(550, "5.7.0", "sender with an address literal")
        domain = mail.reverse_path.domain.domain
        if domain is not None and not self._rules.localserve:
            await check_sender_domain(await self._resolver(), domain)

    async def _check_recipient(self, transaction: Transaction, path: Path) -> None:
        needs_tls = self._connection.listener.smtp_require_starttls and self._stream.tls is None
        if needs_tls and not await self._bridge.brief(takes_tls_reports, path):
            raise SMTPError(530, "5.7.0", "STARTTLS is needed first")
        self._check_count(transaction)
        if transaction.accepted and transaction.mail.reverse_path.is_null:
            raise SMTPError(452, "4.5.3", "a bounce has one recipient")
        if transaction.accepted and not self._rules.localserve and not await self._sender_is_proven(transaction):
            raise SMTPError(452, "4.5.3", "one recipient at a time from a sender without SPF pass")
        if path.domain.ip is not None:
            raise SMTPError(550, "5.1.1", "recipient with an address literal, and no relaying")

    async def _sender_is_proven(self, transaction: Transaction) -> bool:
        """Whether SPF passes: for a message that fails for some a DSN goes to the sender, which must be no victim."""
        if self._spf is None or self._spf[0] is not transaction:
            args = spf_args(self._peer(), transaction.mail.reverse_path)
            self._spf = transaction, await spf.verify(await self._resolver(), args)
        return self._spf[1].status is SpfStatus.PASS

    async def _resolver(self) -> Resolver:
        return await self._resolvers.get(localserve=self._rules.localserve)

    async def _resolve(self, transaction: Transaction, path: Path) -> Destination | None:
        if transaction.is_full:
            raise SMTPError(452, "4.5.3", TOO_MANY_COPIES)
        found = await self._bridge.brief(resolve_recipient, path, in_localserve=self._rules.localserve)
        copies = copies_of(found)
        if transaction.copies and transaction.copies + copies > COPIES_MAX:
            transaction.is_full = True  # looking up a large alias is work, which is not done time and again
            raise SMTPError(452, "4.5.3", TOO_MANY_COPIES)
        transaction.copies += copies
        return found

    async def _take(self, transaction: Transaction, content: Content) -> Done:
        recipients = [Recipient(path, resolved) for path, resolved in transaction.recipients.items()]
        message = Message(self._peer(), transaction.mail, recipients, content, datetime.now(UTC))
        known = self._spf[1] if self._spf is not None and self._spf[0] is transaction else None
        listener = self._connection.listener
        around = Circumstances(
            self._rules,
            await self._resolver(),
            listener.smtp_dnsbls,
            0.0 if self._rules.localserve else listener.smtp_first_time_sender_delay.total_seconds(),
            self._connection.pause,
        )
        outcomes = await deliver(self._bridge, message, around, known)
        if any(outcome.result in (Result.REJECT, Result.HIGH_RATE) for outcome in outcomes):
            self._slow = settings.MOX.smtp_bad_client_delay.total_seconds()
        self._tell(transaction, content.size, outcomes)
        reply = final_reply(outcomes)
        unknown = not reply.ok and any(outcome.result is Result.UNKNOWN_USER for outcome in outcomes)
        pause = settings.MOX.smtp_unknown_rcpt_delay.total_seconds() if unknown else 0.0
        return Done(reply, pause, max(outcome.silence for outcome in outcomes))

    def _tell(self, transaction: Transaction, size: int, outcomes: list[Outcome]) -> None:
        """Metrics and a log line for each recipient."""
        sender = str(transaction.mail.reverse_path)
        for outcome in outcomes:
            metrics.deliveries.labels(outcome.result.value, outcome.reason).inc()
            fields = {"mailfrom": sender, "rcptto": str(outcome.recipient.path), "size": size}
            if outcome.result is Result.DELIVERED:
                named = {"account": " ".join(outcome.accounts[:NAMED_MAX]), "copies": len(outcome.accounts)}
                self._log.info("delivered", extra={**fields, **named})
            else:
                reason = outcome.reply.text if outcome.reply is not None else "withheld because of other recipients"
                self._log.info("not delivered", extra={**fields, "result": outcome.result.value, "reason": reason})
