"""What the tests of the queue share: submitting, routes to sinks, and doing what the workers do, in this process."""

from __future__ import annotations

import email
import email.policy
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from accounts.models import Account, Route, Transport
from mailqueue import leases, submit
from mailqueue.models import DeliveryAttempt, QueueDestination, QueueMessage
from mailqueue.worker import Worker
from protocols.smtpsyntax import Path, parse_rcpt
from server import db
from store.models import Mailbox, Message
from tests.sinks import Sink

SERVER_SECONDS = 5.0  # for what it has taken


def path(address: str) -> Path:
    """A path of SMTP; "" is the null path."""
    if not address:
        return Path()
    return parse_rcpt(f" TO:<{address}>", smtputf8=True)


def message(sender: str, *, subject: str = "hello", to: str = "them@far.example", extra: str = "") -> bytes:
    """A small message without Message-Id and Date."""
    text = f"From: <{sender}>\r\nTo: <{to}>\r\nSubject: {subject}\r\n{extra}\r\nThe text.\r\n"
    return text.encode()


def address_of(account: Account) -> str:
    return f"{account.name}@localhost"


def request(
    account: Account, recipients: Sequence[str], content: bytes | None = None, **options: Any
) -> submit.Request:
    """A request to send, from the account's own address unless told otherwise."""
    own = address_of(account)
    return submit.Request(
        account.pk,
        path(options.pop("mail_from", own)),
        [path(recipient) for recipient in recipients],
        message(own) if content is None else content,
        options.pop("received", lambda recipient, smtputf8: b"Received: from test by localhost; now\r\n"),
        **options,
    )


def send(account: Account, *recipients: str, content: bytes | None = None, **options: Any) -> list[int]:
    """Submit a message; the ids of its rows."""
    return submit.submit(request(account, recipients, content, **options))


def route_to(sink: Sink, account: Account, **options: Any) -> Transport:
    """Have the account's mail go to a sink."""
    transport = Transport.objects.create(
        name=f"sink-{account.name}-{Transport.objects.count()}",
        kind=Transport.Kind.SMTP,
        host=sink.host,
        port=sink.port,
        no_starttls=True,
    )
    Route.objects.create(account=account, transport=transport, **options)
    return transport


def deliver_due() -> None:
    """What the workers do at a wake-up, until nothing is due.

    The tests' server, if it runs in this directory by now, may have taken some of it: then that is waited for.
    """
    deadline = time.monotonic() + SERVER_SECONDS
    while True:
        while claimed := leases.claim_due():
            for lease in claimed:
                Worker.current().deliver(lease)
        others = QueueDestination.objects.filter(lease_until__gt=db.now()).exclude(owner="")
        if not others.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.02)


def make_due(*ids: int) -> None:
    """As if the time until the next attempt had passed."""
    QueueMessage.objects.filter(pk__in=ids).update(next_attempt=db.now() - timedelta(seconds=1))


def attempts(queue_id: int) -> list[DeliveryAttempt]:
    """The history of a message, oldest first."""
    return list(DeliveryAttempt.objects.filter(message_id=queue_id).order_by("start", "pk"))


def row(queue_id: int) -> QueueMessage:
    return QueueMessage.objects.get(pk=queue_id)


def is_queued(queue_id: int) -> bool:
    return QueueMessage.objects.filter(pk=queue_id).exists()


def inbox(account: Account) -> list[bytes]:
    """The messages in the account's Inbox, whole."""
    mailbox = Mailbox.objects.get(account=account, name="Inbox")
    rows = Message.objects.filter(mailbox=mailbox, expunged=False).order_by("uid").select_related("blob")
    return [bytes(row.prefix) + bytes(row.blob.data or b"") for row in rows if row.blob is not None]


def status_of(bounce: bytes) -> str:
    """The enhanced status code of a DSN's first recipient."""
    parsed = email.message_from_bytes(bounce, policy=email.policy.default)
    return str(list(list(parsed.iter_parts())[1].iter_parts())[1]["Status"]).partition(" ")[0]
