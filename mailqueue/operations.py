"""What people do to the queue: list, hold, schedule, re-route, fail and drop messages; by one filter everywhere.

wanted = Filter.parse({"to": "@far.example", "hold": "true"})
fail(wanted)                        # Changed(affected=3, busy=(1201,))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final, Self, TypeVar, cast

from django.db.models import F, Q, QuerySet, Value
from django.db.models.expressions import RawSQL
from django.db.models.functions import Concat

from accounts.models import Account, OutgoingEvent, Transport
from protocols.names import BadDomain, parse_domain
from server import db
from store import rows as store_rows
from store.db import write_tx

from . import conditions, hooks, notices, wakeup
from .conditions import BadFilter, Changed, Moment, time_text
from .hooks import Event
from .models import DeliveryAttempt, Outgoing, QueueMessage, RetiredMessage, State
from .outcomes import Outcome, Status
from .retiring import retire_message

BATCH: Final = 500  # rows of a transaction: others wait for the writer
CANCELED: Final = "delivery canceled by admin"

M = TypeVar("M", bound=Outgoing)


@dataclass(frozen=True, slots=True)
class Filter:
    """Conditions that must all hold; an empty one is none. ``transport`` "" is messages without one, None any.

    ``next_attempt`` and ``hold`` are of queued messages, ``last_activity`` and ``success`` of retired ones. Among
    queued messages an index finds each but ``sender``, and ``to`` where it is no domain: those are compared with
    message after message, in the order of the list.
    """

    ids: tuple[int, ...] = ()
    account: str = ""
    sender: str = ""
    to: str = ""
    submitted: Moment | None = None
    next_attempt: Moment | None = None
    last_activity: Moment | None = None
    hold: bool | None = None
    success: bool | None = None
    transport: str | None = None
    max: int = 0

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Self:
        """From texts by name (``from`` for the sender); what is not there is no condition. Raises BadFilter."""
        parsed = conditions.parse_all(_PARSERS, values, may_be_empty=("transport",))
        if "from" in parsed:
            parsed["sender"] = parsed.pop("from")
        return cls(**parsed)

    @property
    def is_empty(self) -> bool:
        return all(getattr(self, field.name) == field.default for field in fields(self))

    def queued(self) -> QuerySet[QueueMessage]:
        """The queued messages that meet it; ``max`` is left to the caller."""
        query = self._common(QueueMessage.objects.defer("prefix", "dsn_utf8"))
        if self.next_attempt is not None:
            query = query.filter(self.next_attempt.condition("next_attempt"))
        return query if self.hold is None else query.filter(hold=self.hold)

    def retired(self) -> QuerySet[RetiredMessage]:
        query = self._common(RetiredMessage.objects.all())
        if self.last_activity is not None:
            query = query.filter(self.last_activity.condition("last_activity"))
        return query if self.success is None else query.filter(success=self.success)

    def _common(self, query: QuerySet[M]) -> QuerySet[M]:
        if self.ids:
            query = query.filter(pk__in=self.ids)
        if self.account:
            query = query.filter(_of_account(self.account))
        if self.sender:
            query = _with_address(query, "sender", self.sender)
        if self.to:
            query = _with_address(query, "rcpt", self.to)
        if self.submitted is not None:
            query = query.filter(self.submitted.condition("queued"))
        if self.transport:
            query = query.exclude(transport=RawSQL("''", ()))  # the index has no others
        return query if self.transport is None else query.filter(transport=self.transport)


# Looking.


def to_json(message: QueueMessage | RetiredMessage, attempts: Sequence[DeliveryAttempt]) -> dict[str, Any]:
    """A message as interfaces show it. Times are RFC 3339."""
    values: dict[str, Any] = {
        "id": message.pk,
        "base_id": message.base_id,
        "queued": time_text(message.queued),
        "hold": message.hold,
        "account": message.account_name,
        "sender": message.sender,
        "recipient": message.recipient,
        "attempts": message.attempts,
        "max_attempts": message.max_attempts,
        "next_attempt": time_text(message.next_attempt),
        "last_attempt": time_text(message.last_attempt),
        "size": message.size,
        "kind": message.kind,
        "message_id": message.message_id,
        "subject": message.subject,
        "transport": message.transport,
        "require_tls": message.require_tls,
        "from_id": message.from_id,
        "extra": message.extra,
    }
    if isinstance(message, RetiredMessage):
        values |= {
            "success": message.success,
            "last_activity": time_text(message.last_activity),
            "keep_until": time_text(message.keep_until),
        }
    else:
        values["state"] = message.state
    values["attempts_log"] = [_attempt_json(attempt) for attempt in attempts]
    return values


def histories(messages: Sequence[Outgoing]) -> dict[int, list[DeliveryAttempt]]:
    """The attempts of these messages, oldest first, by id."""
    found: dict[int, list[DeliveryAttempt]] = {message.pk: [] for message in messages}
    for attempt in DeliveryAttempt.objects.filter(message_id__in=found).order_by("start", "pk"):
        found[attempt.message_id].append(attempt)
    return found


def content(queue_id: int) -> Iterator[bytes]:
    """A message as it will be sent. Raises QueueMessage.DoesNotExist."""
    message = QueueMessage.objects.select_related("blob").get(pk=queue_id)
    with message.reader() as reader:
        yield from reader.chunks()


# Changing.


def set_hold(wanted: Filter, *, hold: bool) -> Changed:
    """Put on hold, or let go. For a message that is being delivered it holds after the attempt."""
    return _update(wanted, lambda rows: rows.exclude(hold=hold).update(hold=hold))


def schedule(wanted: Filter, wait: timedelta, *, from_now: bool) -> Changed:
    """Have the next attempt at now and so much time, else so much later than planned. An attempt like any other."""
    moment = db.now() + wait if from_now else F("next_attempt") + wait
    return _update(wanted, lambda rows: rows.update(next_attempt=moment))


def set_transport(wanted: Filter, name: str) -> Changed:
    """Have messages go over a transport, "" for as the routes say. Raises BadFilter for one that does not exist."""
    if name and not Transport.objects.filter(name=name).exists():
        raise BadFilter("transport", f"{name!r} does not exist")
    return _update(wanted, lambda rows: rows.update(transport=name))


def set_require_tls(wanted: Filter, value: bool | None) -> Changed:
    """True: REQUIRETLS; False: TLS-Required: No; None: as the recipient's domain asks."""
    return _update(wanted, lambda rows: rows.update(require_tls=value))


def fail(wanted: Filter) -> Changed:
    """Give up on messages, and tell their senders."""
    return _end(wanted, tell=True)


def drop(wanted: Filter) -> Changed:
    """Give up on messages, and tell nobody."""
    return _end(wanted, tell=False)


def _update(wanted: Filter, change: Callable[[QuerySet[QueueMessage]], int]) -> Changed:
    affected = 0
    ids = _ids_of(wanted)
    for start in range(0, len(ids), BATCH):
        with db.write():
            affected += change(QueueMessage.objects.filter(pk__in=ids[start : start + BATCH]))
            wakeup.on_commit()
    return Changed(affected)


def _end(wanted: Filter, *, tell: bool) -> Changed:
    affected, busy = 0, []
    for pk in _ids_of(wanted):
        message = QueueMessage.objects.filter(pk=pk).select_related("blob").first()
        if message is None:
            continue  # it left meanwhile
        if _ended(message, tell=tell):
            affected += 1
        elif QueueMessage.objects.filter(pk=pk).exists():
            busy.append(pk)
    return Changed(affected, tuple(busy))


def _ids_of(wanted: Filter) -> list[int]:
    """Those that are changed, each in its turn: who looks at one meanwhile waits for a few, not for all."""
    rows = wanted.queued().order_by("next_attempt", "pk")
    return list(rows.values_list("pk", flat=True)[: wanted.max or None])


def _ended(message: QueueMessage, *, tell: bool) -> bool:
    """End one message; False if it is being delivered, or gone, by now."""
    notice = notices.failed(message, Outcome(Status.PERMANENT, CANCELED)) if tell else None
    with write_tx(*([notice.account_id] if notice is not None else [])) as tx:
        now = db.now()
        waiting = {"id": message.pk, "state": State.QUEUED}
        if not store_rows.update_where(QueueMessage, {"last_attempt": now}, waiting):
            return False
        store_rows.insert(DeliveryAttempt, {"message_id": message.pk, "start": now, "error": CANCELED})
        retire_message(message, success=False, now=now)
        event = OutgoingEvent.FAILED if tell else OutgoingEvent.CANCELED
        hooks.queue(message, Event(event, error=CANCELED), now)
        store_rows.delete_where(QueueMessage, waiting)
        if notice is not None:
            notice.deliver(tx)
    return True


# Reading conditions.

_PARSERS: Final[Mapping[str, conditions.Parser]] = {
    "ids": conditions.ids,
    "account": conditions.anything,
    "from": conditions.anything,
    "to": conditions.anything,
    "submitted": Moment.parse,
    "next_attempt": Moment.parse,
    "last_activity": Moment.parse,
    "hold": conditions.flag,
    "success": conditions.flag,
    "transport": conditions.anything,
    "max": conditions.count,
}


def _of_account(name: str) -> Q:
    """The messages of an account with this name; those of one that is gone have the name alone."""
    account_id = Account.objects.filter(name=name).values_list("pk", flat=True).first()
    return Q(account_id=account_id) if account_id is not None else Q(account=None, account_name=name)


def _with_address(query: QuerySet[M], which: str, text: str) -> QuerySet[M]:
    """Those with the text in their address; ``@shop.example`` is a whole domain."""
    if text.startswith("@"):
        return query.filter(**{f"{which}_domain": _domain(text[1:])})
    whole = Concat(F(f"{which}_localpart"), Value("@"), F(f"{which}_domain"))
    name = f"{which}_address"
    return cast("QuerySet[M]", query.alias(**{name: whole}).filter(**{f"{name}__icontains": text}))


def _domain(text: str) -> str:
    """A domain as messages have it."""
    try:
        return parse_domain(text).name()
    except BadDomain:
        return text.lower()  # an address literal, or nothing


def _attempt_json(attempt: DeliveryAttempt) -> dict[str, Any]:
    return {
        "start": time_text(attempt.start),
        "duration_ms": attempt.duration_ms,
        "success": attempt.success,
        "code": attempt.code,
        "secode": attempt.secode,
        "error": attempt.error,
        "smtp_lines": attempt.smtp_lines,
        "transport": attempt.transport,
        "remote_host": attempt.remote_host,
        "remote_ip": attempt.remote_ip,
    }
