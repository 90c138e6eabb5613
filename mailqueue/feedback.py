"""What comes in for the unique sender of a message that was sent: mostly a DSN, which says what became of it.

    if feedback.concerns(account_id, path):            # a thread that uses the database
        report = feedback.read(content, part)          # none of the database
        ...
        feedback.store(account_id, path, report, message_id, now)     # in the transaction that stores what came in

Whatever a DSN says is believed about the one message that its recipient address names, and about nothing else: who got
that message knows the address, and nobody can guess it. No address that the DSN names is looked at.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from django.db.models import Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Lower

from accounts.models import OutgoingEvent
from protocols import dsn
from protocols.message import Part, is_dsn
from protocols.message.charset import clean_text
from protocols.message.source import Readable
from protocols.smtpsyntax import Path
from store import rows

from . import hooks, suppressions
from .fromids import id_in
from .hooks import Event
from .models import DeliveryAttempt, Outgoing, QueueMessage, RetiredMessage
from .outcomes import without_class
from .paths import domain_texts
from .suppressions import Source

log = logging.getLogger(__name__)

ERROR_MAX: Final = 1000  # characters of what a DSN says
REPORTS_MAX: Final = 100  # about one message; somebody who goes on is not listened to any more
SAME_MAX: Final = 3  # ids that are alike but for case: more than one is no match

_DIAGNOSTIC: Final = re.compile(r"([2-5][0-9]{2})(?:[ -](?:([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.]))?|$)", re.ASCII)
_EVENTS: Final = {
    dsn.Action.FAILED: OutgoingEvent.FAILED,
    dsn.Action.DELAYED: OutgoingEvent.DELAYED,
    dsn.Action.DELIVERED: OutgoingEvent.DELIVERED,
    dsn.Action.RELAYED: OutgoingEvent.RELAYED,
    dsn.Action.EXPANDED: OutgoingEvent.EXPANDED,
}
_ARRIVED: Final = frozenset({OutgoingEvent.DELIVERED, OutgoingEvent.RELAYED, OutgoingEvent.EXPANDED})


@dataclass(frozen=True, slots=True)
class Report:
    """What a message that came in says about the one it answers. ``secode``: the enhanced code without its class."""

    event: OutgoingEvent
    is_dsn: bool
    error: str = ""
    code: int = 0
    secode: str = ""

    @property
    def is_success(self) -> bool:
        return self.event in _ARRIVED

    @property
    def enhanced(self) -> str:
        return f"{self.code // 100}.{self.secode}" if self.code and self.secode else ""


def read(content: Readable, part: Part) -> Report:
    """What a message says, whatever it is; ``part`` is its structure."""
    if not is_dsn(part):
        return Report(OutgoingEvent.UNRECOGNIZED, False, "incoming message is no DSN")
    try:
        found, _ = dsn.parse(content)
    except dsn.DsnError as exc:
        return Report(OutgoingEvent.UNRECOGNIZED, True, _text(f"DSN cannot be understood: {exc}"))
    if len(found.recipients) != 1:
        error = f"DSN is about {len(found.recipients)} recipients, and must be about one"
        return Report(OutgoingEvent.UNRECOGNIZED, True, error)
    (recipient,) = found.recipients
    event = _EVENTS[recipient.action]
    code, secode = _codes(recipient)
    said = recipient.diagnostic or f"{recipient.status} {recipient.status_comment}".strip()
    error = "" if event in _ARRIVED else _text(said) or f"DSN says {recipient.action}"
    return Report(event, True, error, code, secode)


def _codes(recipient: dsn.DsnRecipient) -> tuple[int, str]:
    """The code of the reply that the DSN tells of, and the enhanced code without its class: webapi.md section 16."""
    status_class, status_secode = recipient.status[:1], without_class(recipient.status)
    match = _DIAGNOSTIC.match(recipient.diagnostic) if recipient.diagnostic_type == "smtp" else None
    if match is None:
        return {"4": 400, "5": 500}.get(status_class, 0), status_secode
    code = int(match[1])
    if match[2] is not None and match[2][0] == match[1][0]:
        return code, without_class(match[2])
    return code, status_secode if status_class == match[1][0] else ""


def concerns(account_id: int, path: Path) -> bool:
    """Whether mail for this address of an account answers a message that it sent."""
    return _find(account_id, path) is not None


def store(account_id: int, path: Path, report: Report, msg_id: int, now: datetime) -> None:
    """Add what was said to the history of the message, and tell the account's program; in a transaction.

    ``msg_id``: of the message that came in. Nothing where the message that was sent is gone meanwhile.
    """
    message = _find(account_id, path)
    if message is None:
        return
    attempts = DeliveryAttempt.objects.filter(message_id=message.pk)
    if attempts.count() >= REPORTS_MAX:
        log.warning("more is said about a message than anybody wants to know", extra={"queue_id": message.pk})
        return
    suppressing = report.event is OutgoingEvent.FAILED and suppressions.after_failure(
        message, report.code, report.secode, Source.DSN, now
    )
    said = {"success": report.is_success, "code": report.code, "secode": report.secode, "error": report.error}
    rows.insert(DeliveryAttempt, {"message_id": message.pk, "start": now, **said})
    if isinstance(message, RetiredMessage):
        changed: dict[str, object] = {"last_activity": now}
        if report.event is OutgoingEvent.FAILED:
            changed["success"] = False  # what the next server took, and could not deliver
        rows.update(RetiredMessage, message.pk, changed)
    event = Event(report.event, report.code, report.enhanced, report.error, suppressing, report.is_dsn, msg_id)
    hooks.queue(message, event, now)
    log.info(
        "feedback on a message",
        extra={"queue_id": message.pk, "result": report.event.value, "code": report.code, "err": report.error},
    )


def has_bounced(message: Outgoing, since: datetime) -> bool:
    """Whether a DSN came back, since an attempt began, before its result is stored."""
    if not message.from_id:
        return False
    return DeliveryAttempt.objects.filter(message_id=message.pk, start__gte=since, code__gte=500).exists()


def _find(account_id: int, path: Path) -> Outgoing | None:
    """The message of the account, queued or retired, that has this address as its sender."""
    from_id = id_in(path)
    if not from_id:
        return None
    _, domain = domain_texts(path)
    found: dict[int, Outgoing] = {}
    for model in (RetiredMessage, QueueMessage):
        same = model._default_manager.filter(account_id=account_id, sender_domain=domain)
        # Servers fold localparts although they must not. The empty ones are not in the index.
        folded = same.exclude(from_id=RawSQL("''", ())).alias(folded=Lower("from_id"))
        found.update((row.pk, row) for row in folded.filter(folded=Lower(Value(from_id)))[:SAME_MAX])
    exact = [message for message in found.values() if message.from_id == from_id]
    matches = exact or list(found.values())
    return matches[0] if len(matches) == 1 else None


def _text(said: str) -> str:
    """As it is stored and told: one line, not too long, and nothing in it that a terminal obeys."""
    shown = "".join(character if character.isprintable() else " " for character in clean_text(said[: 4 * ERROR_MAX]))
    return " ".join(shown.split())[:ERROR_MAX]
