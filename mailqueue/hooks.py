"""Calls that tell an account's programs what became of its mail: rows made in the transaction of each event.

    hooks.queue(message, Event(OutgoingEvent.FAILED, 550, "5.1.1", "no such user", suppressing=True), now)

So each event has its call exactly once. Only the latest of a message is worth telling: one that still waits gives way.
Making the calls is not done here.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models.expressions import RawSQL
from prometheus_client import Counter

from accounts.models import OutgoingEvent, WebhookEndpoint
from protocols.message.charset import clean_text
from server.encryption import CannotDecrypt
from server.statements import Statement
from store import rows

from . import retiring
from .models import Hook, MessageKind, Outgoing

log = logging.getLogger(__name__)

VERSION: Final = 0  # of the payload

unqueued = Counter("mox_webhook_unqueued", "Events that no call could be made of.")

_endpoint: Final = Statement(
    lambda account_id, kind: WebhookEndpoint.objects.filter(account_id=account_id, kind=kind).values_list(
        "url", "authorization", "events"
    )
)
_of_message: Final = Statement(
    lambda queue_msg_id: Hook.objects.filter(queue_msg_id=queue_msg_id, queue_msg_id__gt=RawSQL("0", ())).values_list(
        "pk"
    )
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that became of a message. ``enhanced``: the whole enhanced code; ``msg_id``: of what came in."""

    event: OutgoingEvent
    code: int = 0
    enhanced: str = ""
    error: str = ""
    suppressing: bool = False
    dsn: bool = False
    msg_id: int = 0


def queue(message: Outgoing, event: Event, now: datetime) -> None:
    """Have the account's program told, if it wants to know. What the server itself sends is nobody's concern."""
    if message.account_id is None or message.kind != MessageKind.MESSAGE:
        return
    endpoint = wanted(message.account_id, WebhookEndpoint.Kind.OUTGOING)
    if endpoint is None or (endpoint.events and event.event not in endpoint.events):
        return
    older = [row[0] for row in _of_message.rows(message.pk)]
    hook_id = rows.insert(
        Hook,
        {
            **common(message.account_id, endpoint, now),
            "queue_msg_id": message.pk,
            "from_id": message.from_id,
            "message_id": message.message_id,
            "subject": message.subject,
            "extra": message.extra,
            "outgoing_event": event.event,
            "payload": compact(_payload(message, event, now)),
        },
    )
    for pk in older:
        retiring.retire_hook(pk, message.account_id, success=False, now=now, superseded_by_id=hook_id)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where calls go to."""

    url: str
    authorization: bytes
    events: frozenset[str]


def wanted(account_id: int, kind: WebhookEndpoint.Kind) -> Endpoint | None:
    """The account's settings; None where it wants no calls."""
    try:
        row = _endpoint.row(account_id, kind.value)
    except CannotDecrypt:
        # What the event is about stands.
        unqueued.inc()
        log.exception("webhook cannot be queued", extra={"account_id": account_id})
        return None
    return Endpoint(row[0], bytes(row[1]), frozenset(row[2])) if row is not None else None


def common(account_id: int, endpoint: Endpoint, now: datetime) -> dict[str, Any]:
    return {
        "account_id": account_id,
        "url": endpoint.url,
        "authorization": endpoint.authorization,
        "has_authorization": bool(endpoint.authorization),
        "submitted": now,
        "next_attempt": now,
    }


def _payload(message: Outgoing, event: Event, now: datetime) -> dict[str, Any]:
    return {
        "Version": VERSION,
        "Event": event.event.value,
        "DSN": event.dsn,
        "Suppressing": event.suppressing,
        "QueueMsgID": message.pk,
        "FromID": message.from_id,
        "MessageID": message.message_id,
        "Subject": message.subject,
        "WebhookQueued": timestamp(now),
        "SMTPCode": event.code,
        "SMTPEnhancedCode": event.enhanced,
        "Error": event.error,
        "Extra": message.extra,
        "Recipient": message.recipient,
        "MsgID": event.msg_id,
    }


def compact(payload: Mapping[str, Any]) -> str:
    """The JSON that is stored, and sent."""
    return clean_text(json.dumps(payload, ensure_ascii=False, separators=(",", ":")))


def timestamp(moment: datetime) -> str:
    """RFC 3339, whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
