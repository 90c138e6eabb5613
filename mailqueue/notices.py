"""What a sender is told of a message that was not, or not yet, delivered: a DSN straight into its Inbox (RFC 3464)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from ipaddress import ip_address
from typing import Final

from prometheus_client import Counter

from accounts.models import Account
from protocols import dsn
from protocols.message import header_section
from protocols.message.composer import message_id
from protocols.names import IPDomain, own_hostname
from protocols.smtpsyntax import Path
from server.models import ServerSettings
from store import blobs
from store.db import Tx
from store.delivery import Delivery
from store.delivery import deliver as deliver_to_store
from store.errors import OverQuota, StoreError
from store.flags import SEEN, Flags
from store.messages import NewMessage

from .models import MessageKind, QueueMessage
from .outcomes import Outcome
from .paths import path_of
from .schedule import Schedule

log = logging.getLogger(__name__)

POSTMASTER: Final = "postmaster"
SUPPRESSED_SECODE: Final = "7.1"  # delivery not authorized (RFC 3463)
HEADER_MAX: Final = 64 * 1024  # bytes of the original's header that are sent back
REPORT_MAILBOXES: Final = {MessageKind.DMARC_REPORT: "dmarc", MessageKind.TLS_REPORT: "tlsrpt"}

report_failures = Counter("mox_queue_dmarcreport_failure", "DMARC and TLS reports that could not be delivered.")
untold = Counter("mox_queue_untold_failures", "Failures that nobody is told of.", ["reason"])


@dataclass(frozen=True, slots=True)
class Notice:
    """A DSN that is ready for the transaction that stores the result."""

    account_id: int
    delivery: Delivery

    def deliver(self, tx: Tx) -> None:
        """Put it into the mailbox. A full mailbox, or an account that is gone, never undoes the result."""
        try:
            with tx.savepoint():
                deliver_to_store(tx, self.delivery)
        except StoreError as exc:
            untold.labels("quota" if isinstance(exc, OverQuota) else "store").inc()
            log.error("DSN cannot be stored", extra={"account_id": self.account_id, "err": str(exc)})


def failed(message: QueueMessage, outcome: Outcome) -> Notice | None:
    """The message will not be delivered. None where nobody is to be told."""
    if message.kind in REPORT_MAILBOXES:
        report_failures.inc()
    text = (
        f"Delivery has failed permanently for your email to:\n\n\t{message.recipient}\n\n"
        "No further attempts are made.\n"
    )
    return _notice(message, outcome, dsn.Action.FAILED, "mail delivery failed", text, None)


def delayed(message: QueueMessage, outcome: Outcome, schedule: Schedule) -> Notice | None:
    """The message is still tried, until the last attempt of its schedule. None where nobody is to be told."""
    if message.kind in REPORT_MAILBOXES:
        return None
    waits = schedule.remaining(message.attempts, message.max_attempts)
    until = schedule.last_attempt_at(message.next_attempt, message.attempts, message.max_attempts)
    planned = f"{len(waits)} more attempts are" if len(waits) != 1 else "One more attempt is"
    text = (
        f"Delivery has been delayed of your email to:\n\n\t{message.recipient}\n\n"
        f"{planned} planned, the next at {format_datetime(message.next_attempt)}, the last at {format_datetime(until)}."
        " If the message still cannot be delivered then, you will be told.\n"
    )
    return _notice(message, outcome, dsn.Action.DELAYED, "mail delivery delayed", text, until)


def _notice(
    message: QueueMessage, outcome: Outcome, action: dsn.Action, subject: str, text: str, until: datetime | None
) -> Notice | None:
    if not message.sender:
        untold.labels("nullsender").inc()
        log.info("failure of a message from the null sender", extra={"queue_id": message.pk, "err": outcome.error})
        return None
    settings = ServerSettings.current()
    account_id, mailbox = _whom(message, settings)
    if account_id is None:
        untold.labels("noaccount").inc()
        log.error("failure that nobody can be told of", extra={"queue_id": message.pk, "err": outcome.error})
        return None
    try:
        content = _compose(message, outcome, action, subject, text, until, settings)
        blob = blobs.prepare(content)
    except Exception:
        # The result stands, whatever is wrong with telling it.
        untold.labels("compose").inc()
        log.exception("DSN cannot be composed", extra={"queue_id": message.pk})
        return None
    sender = path_of(message.sender_localpart, message.sender_domain).text(smtputf8=message.smtputf8)
    hostname = own_hostname(settings.hostname).ascii
    prefix = f"Return-Path: <{POSTMASTER}@{hostname}>\r\nDelivered-To: {sender}\r\n".encode()
    flags = Flags(SEEN) if message.kind in REPORT_MAILBOXES else Flags()
    return Notice(account_id, Delivery(account_id, mailbox, NewMessage(blob, prefix, flags)))


def _whom(message: QueueMessage, settings: ServerSettings) -> tuple[int | None, str]:
    """The account that is told, and the mailbox; "" is Inbox."""
    report = REPORT_MAILBOXES.get(MessageKind(message.kind))
    if message.account_id is not None and report is None:
        return message.account_id, ""
    postmaster = Account.objects.filter(name=settings.postmaster_account).values_list("pk", flat=True).first()
    return postmaster, f"{settings.postmaster_mailbox}/{report}" if report else settings.postmaster_mailbox


def _compose(
    message: QueueMessage,
    outcome: Outcome,
    action: dsn.Action,
    subject: str,
    text: str,
    until: datetime | None,
    settings: ServerSettings,
) -> bytes:
    hostname = own_hostname(settings.hostname)
    if outcome.error:
        text += f"\nError during the last attempt:\n\n\t{outcome.error}\n"
    if outcome.lines:
        text += "\nFull SMTP response:\n\n" + "".join(f"\t{line}\n" for line in outcome.lines)
    remote = None
    if outcome.by_remote and outcome.connection.remote_host:
        ip = outcome.connection.remote_ip
        remote = dsn.NameIP(outcome.connection.remote_host, ip_address(ip) if ip else None)
    diagnostic = " ".join(outcome.lines) or _own_diagnostic(outcome)
    recipient = dsn.DsnRecipient(
        final=path_of(message.rcpt_localpart, message.rcpt_domain),
        action=action,
        status=f"{4 if action is dsn.Action.DELAYED else 5}.{outcome.secode or _own_secode(outcome)}",
        status_comment="" if outcome.by_remote else outcome.error,
        remote_mta=remote,
        diagnostic=diagnostic,
        last_attempt=message.last_attempt,
        will_retry_until=until,
    )
    return dsn.compose(
        dsn.Dsn(
            from_=Path(POSTMASTER, IPDomain(domain=hostname)),
            to=path_of(message.sender_localpart, message.sender_domain),
            subject=subject,
            message_id=message_id(hostname, False),
            text=text,
            reporting_mta=hostname.ascii,
            recipients=[recipient],
            smtputf8=message.smtputf8,
            references=message.message_id,
            arrival=message.queued,
            future_release=message.future_release_request,
            date=datetime.now(UTC),
            original=_header(message),
        ),
        True,
    )


def _own_secode(outcome: Outcome) -> str:
    """Of an outcome that comes without."""
    return SUPPRESSED_SECODE if outcome.suppressed else "0.0"


def _own_diagnostic(outcome: Outcome) -> str:
    """A verdict of this server in the form of a reply, where it has a code."""
    return f"{outcome.code} {outcome.enhanced} {outcome.error}".strip() if outcome.code else ""


def _header(message: QueueMessage) -> bytes:
    """The header of the message as it was sent; without one that is too long for sending back."""
    with message.reader() as reader:
        section, has_end = header_section(reader, HEADER_MAX)
    return (section if has_end else section[: section.rfind(b"\r\n") + 2]) + b"\r\n"
