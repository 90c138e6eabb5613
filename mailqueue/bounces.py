"""What the sender of an incoming message is told of recipients that did not get it, where others did (RFC 3464).

    bounce = bounces.prepare(received, failures)     # no transaction; None where nobody can be told
    bounce.enqueue(tx)                               # with the deliveries, holding the postmaster's account

A message is delivered to some only if a DSN about the others is queued in the same transaction. It goes to a sender
whom SPF has proven: without that a message has one recipient.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from accounts.models import Account
from protocols import dsn
from protocols.message.composer import message_id
from protocols.names import Address, IPDomain, own_hostname
from protocols.smtpsyntax import Path
from server.models import ServerSettings
from store import blobs

from .models import MessageKind
from .notices import HEADER_MAX, POSTMASTER
from .submit import Prepared, Request, signatures

log = logging.getLogger(__name__)

SUBJECT: Final = "mail delivery failed"


@dataclass(frozen=True, slots=True)
class Received:
    """An incoming message. ``header``: its header section, or as much of it as is to be sent back."""

    sender: Path
    hello: str
    remote_ip: IPv4Address | IPv6Address
    arrival: datetime
    message_id: str
    header: bytes
    smtputf8: bool
    require_tls: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """A recipient that did not get it, and the reply that its sender would have got for it alone."""

    recipient: Path
    code: int
    enhanced: str
    text: str


def postmaster_account() -> int | None:
    """The account for which such notices are queued; None while there is none."""
    name = ServerSettings.current().postmaster_account
    return Account.objects.filter(name=name).values_list("pk", flat=True).first()


def prepare(received: Received, failures: Sequence[Failure]) -> Prepared | None:
    """A DSN about all failures, in both its forms, signed. None where nobody can be told: the log says why."""
    account_id = postmaster_account()
    if received.sender.is_null or account_id is None:
        log.error("failures that nobody can be told of", extra={"sender": str(received.sender), "account": account_id})
        return None
    try:
        return _prepare(account_id, received, failures)
    except Exception:
        # Then nobody gets the message, and its sender hears of it in the reply.
        log.exception("DSN cannot be composed", extra={"sender": str(received.sender)})
        return None


def _prepare(account_id: int, received: Received, failures: Sequence[Failure]) -> Prepared:
    hostname = own_hostname(ServerSettings.current().hostname)
    domain = failures[0].recipient.domain.domain or hostname
    notice = dsn.Dsn(
        from_=Path(POSTMASTER, IPDomain(domain=domain)),
        to=received.sender,
        subject=SUBJECT,
        message_id=message_id(hostname, False),
        text=_text(failures),
        reporting_mta=hostname.ascii,
        recipients=[_recipient(failure) for failure in failures],
        smtputf8=received.smtputf8,
        references=received.message_id,
        received_from=dsn.NameIP(received.hello, received.remote_ip),
        arrival=received.arrival,
        date=datetime.now(UTC),
        original=received.header[:HEADER_MAX],
    )
    author = Address(POSTMASTER, domain)
    content, utf8 = dsn.compose(notice, False), dsn.compose(notice, True) if received.smtputf8 else None
    fields, _ = signatures(content, author, b"", smtputf8=False)
    if utf8 is not None:
        utf8 = signatures(utf8, author, b"", smtputf8=True)[0] + utf8
    # Of its ASCII form only the address of the sender may need SMTPUTF8.
    needs_smtputf8 = not received.sender.localpart.isascii()
    request = Request(
        account_id=account_id,
        mail_from=Path(""),
        recipients=(received.sender,),
        content=content,
        received=lambda _recipient, _smtputf8: b"",  # it begins here
        kind=MessageKind.DSN,
        count_limits=False,
        dsn_utf8=utf8,
    )
    return Prepared(
        request=request,
        blob=blobs.prepare(content),
        prefix=fields,
        mail_froms=(request.mail_from,),
        from_ids=("",),
        require_tls=received.require_tls or None,
        smtputf8=needs_smtputf8,
        message_id=notice.message_id,
        subject=SUBJECT,
        extra={},
    )


def _text(failures: Sequence[Failure]) -> str:
    lines = ["Your message was not delivered to all of its recipients. It failed for:", ""]
    for failure in failures:
        lines += [f"\t{failure.recipient}", f"\t\t{failure.code} {failure.enhanced} {failure.text}", ""]
    lines += ["The others have got it. No further attempts are made.", ""]
    return "\n".join(lines)


def _recipient(failure: Failure) -> dsn.DsnRecipient:
    # What would be tried again is final now: the message has been accepted.
    return dsn.DsnRecipient(
        final=failure.recipient,
        action=dsn.Action.FAILED,
        status=f"5{failure.enhanced[1:]}",
        diagnostic=f"{failure.code} {failure.enhanced} {failure.text}",
        last_attempt=datetime.now(UTC),
    )
