"""What the calls of webhooks look like, for people and programs that receive them: examples, and their schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from accounts.models import OutgoingEvent

HEADERS: Final = ("X-Mox-Webhook-ID", "X-Mox-Webhook-Attempt")

_DELIVERED: Final[dict[str, Any]] = {
    "Version": 0,
    "Event": "delivered",
    "DSN": False,
    "Suppressing": False,
    "QueueMsgID": 41,
    "FromID": "q3VJ8J3Wb1yq0mY0sZt5xA",
    "MessageID": "<pN1x0u7cQ0mF5m2sTgk3Aw@mail.example.org>",
    "Subject": "Invoice 7",
    "WebhookQueued": "2026-01-05T09:00:00Z",
    "SMTPCode": 250,
    "SMTPEnhancedCode": "2.1.5",
    "Error": "",
    "Extra": {"order": "7"},
    "Recipient": "jane@example.net",
    "MsgID": 0,
}

OUTGOING: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("Delivered: the next server took it.", _DELIVERED),
    (
        "Delayed: it will be tried again.",
        _DELIVERED
        | {
            "Event": "delayed",
            "SMTPCode": 451,
            "SMTPEnhancedCode": "4.3.0",
            "Error": "451 4.3.0 try again later",
        },
    ),
    (
        "Failed: the address is on the suppression list now.",
        _DELIVERED
        | {
            "Event": "failed",
            "Suppressing": True,
            "SMTPCode": 550,
            "SMTPEnhancedCode": "5.1.1",
            "Error": "550 5.1.1 no such user",
        },
    ),
    (
        "Failed, as a notification of another server says that came in later.",
        _DELIVERED
        | {
            "Event": "failed",
            "DSN": True,
            "SMTPCode": 554,
            "SMTPEnhancedCode": "5.4.0",
            "Error": "554 5.4.0 no route",
            "MsgID": 201,
        },
    ),
    (
        "Suppressed: the recipient was on the suppression list, nothing was sent.",
        _DELIVERED
        | {
            "Event": "suppressed",
            "SMTPCode": 0,
            "SMTPEnhancedCode": "",
            "Error": "jane@example.net is on the suppression list",
        },
    ),
    (
        "Canceled: somebody took it from the queue.",
        _DELIVERED
        | {"Event": "canceled", "SMTPCode": 0, "SMTPEnhancedCode": "", "Error": "delivery canceled by admin"},
    ),
)

INCOMING: Final[dict[str, Any]] = {
    "Version": 0,
    "From": [{"Name": "", "Address": "user@example.net"}],
    "To": [{"Name": "", "Address": "app@example.org"}],
    "CC": [],
    "BCC": [],
    "ReplyTo": [],
    "Subject": "question",
    "MessageID": "<9@example.net>",
    "InReplyTo": "",
    "References": [],
    "Date": "2026-01-05T09:00:00Z",
    "Text": "hello ☺\n",
    "HTML": "",
    "Structure": {
        "ContentType": "text/plain",
        "ContentTypeParams": {"charset": "utf-8"},
        "ContentID": "",
        "ContentDisposition": "",
        "Filename": "",
        "DecodedSize": 11,
        "Parts": [],
    },
    "Meta": {
        "MsgID": 201,
        "MailFrom": "user@example.net",
        "MailFromValidated": True,
        "MsgFromValidated": True,
        "RcptTo": "app@example.org",
        "DKIMVerifiedDomains": ["example.net"],
        "RemoteIP": "192.0.2.7",
        "Received": "2026-01-05T09:00:03Z",
        "MailboxName": "Inbox",
        "Automated": False,
    },
}


def descriptions() -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Name, summary, schema and example of each kind of call."""
    outgoing = _schema(_DELIVERED)
    outgoing["properties"]["Event"] = {"type": "string", "enum": list(OutgoingEvent.values)}
    outgoing["properties"]["Extra"] = {"type": "object", "additionalProperties": {"type": "string"}}
    yield "outgoing", "What became of a message that was sent.", outgoing, _DELIVERED
    incoming = _schema(INCOMING)
    incoming["properties"]["Date"] = {"type": ["string", "null"], "format": "date-time"}
    yield "incoming", "A message came in.", incoming, INCOMING


def _schema(example: Any) -> dict[str, Any]:
    """Of a value whose members are always all there."""
    match example:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer"}
        case str():
            return {"type": "string"}
        case list():
            return {"type": "array", "items": _schema(example[0]) if example else {}}
        case _:
            properties = {name: _schema(value) for name, value in example.items()}
            return {"type": "object", "properties": properties, "required": list(properties)}
