"""The call that tells an account's program of a message that came in.

    if account_id in incoming.wanting({account_id}):               # a thread that uses the database
        payload = incoming.payload_of(part, content, header)           # none of the database; once for a message
        ...
        incoming.store(account_id, payload, meta, now)       # in the transaction that stores the message

What cannot be read of a message, hostile as it may be, is left out; the call is made.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from accounts.models import WebhookEndpoint
from protocols.message import Part, iter_headers
from protocols.message.bodies import readable_texts
from protocols.message.charset import clean_text
from protocols.message.source import Readable
from protocols.message.structure import Envelope
from server.statements import Statement
from store import rows

from . import hooks, mailjson
from .models import Hook

ACCOUNTS_PER_QUERY: Final = 500
SUBJECT_MAX: Final = 1000  # characters in the row; the payload has it all

# Whoever sends such a message wants no automatic answer.
_AUTOMATIC_FIELDS: Final = frozenset({"list-id", "list-unsubscribe", "list-unsubscribe-post", "precedence"})


@dataclass(frozen=True, slots=True)
class Meta:
    """How a message came to an account."""

    msg_id: int
    mail_from: str
    mail_from_validated: bool
    msg_from_validated: bool
    rcpt_to: str
    dkim_verified_domains: tuple[str, ...]
    remote_ip: str
    received: datetime
    mailbox: str


_wanting: Final = Statement(
    lambda kind, *account_ids: WebhookEndpoint.objects.filter(kind=kind, account_id__in=account_ids).values_list(
        "account_id"
    )
)


def wanting(account_ids: Collection[int]) -> frozenset[int]:
    """Those of these accounts that have a webhook for what comes in."""
    ordered = sorted(account_ids)
    found: set[int] = set()
    for start in range(0, len(ordered), ACCOUNTS_PER_QUERY):
        part = ordered[start : start + ACCOUNTS_PER_QUERY]
        found.update(row[0] for row in _wanting.rows(WebhookEndpoint.Kind.INCOMING.value, *part))
    return frozenset(found)


def payload_of(part: Part, content: Readable, header: bytes) -> dict[str, Any]:
    """What the call says of the message itself; ``header`` is its header section."""
    envelope = part.envelope or Envelope()
    texts = readable_texts(part, content)
    return {
        "Version": hooks.VERSION,
        **mailjson.header_fields(envelope),
        "InReplyTo": clean_text(envelope.in_reply_to),
        "References": [one.lower() for one in mailjson.references(part, content)],
        "Text": texts.text,
        "HTML": texts.html,
        "Structure": mailjson.structure(part),
        "Automated": _is_automated(part, header),
    }


def store(account_id: int, payload: dict[str, Any], meta: Meta, now: datetime) -> None:
    """Queue the call, in the transaction that stores the message."""
    endpoint = hooks.wanted(account_id, WebhookEndpoint.Kind.INCOMING)
    if endpoint is None:
        return
    said = {key: value for key, value in payload.items() if key != "Automated"}
    said["Meta"] = {
        "MsgID": meta.msg_id,
        "MailFrom": meta.mail_from,
        "MailFromValidated": meta.mail_from_validated,
        "MsgFromValidated": meta.msg_from_validated,
        "RcptTo": meta.rcpt_to,
        "DKIMVerifiedDomains": list(meta.dkim_verified_domains),
        "RemoteIP": meta.remote_ip,
        "Received": hooks.timestamp(meta.received),
        "MailboxName": meta.mailbox,
        "Automated": payload["Automated"] or not meta.mail_from,
    }
    values = {
        "message_id": clean_text(payload["MessageID"])[:SUBJECT_MAX],
        "subject": clean_text(payload["Subject"])[:SUBJECT_MAX],
        "is_incoming": True,
        "payload": hooks.compact(said),
    }
    rows.insert(Hook, {**hooks.common(account_id, endpoint, now), **values})


def _is_automated(part: Part, header: bytes) -> bool:
    """Whether a program sent it, which must not be answered by another (RFC 3834)."""
    if part.media_type == "MULTIPART" and part.media_subtype == "REPORT":
        return True
    for found in iter_headers(header):
        name = found.name.lower()
        if name in _AUTOMATIC_FIELDS:
            return True
        if name == "auto-submitted" and found.value().partition(b";")[0].strip().lower() != b"no":
            return True
    return False
