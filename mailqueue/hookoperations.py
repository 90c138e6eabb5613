"""What people do to the calls of webhooks that wait: list, schedule, cancel; and make one again that was done with.

wanted = HookFilter.parse({"account": "anna", "event": "failed"})
cancel(wanted)                      # Changed(affected=3, busy=())
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final, Self, TypeVar

from django.db.models import F, QuerySet

from accounts.models import OutgoingEvent, WebhookEndpoint
from server import db
from store import rows

from . import conditions, hooks, retiring
from .conditions import BadFilter, Changed, Moment, time_text
from .models import Hook, HookAttempt, RetiredHook, Webhook

BATCH: Final = 500  # rows of a transaction
CANCELED: Final = "canceled by admin"
INCOMING: Final = "incoming"
EVENTS: Final = (INCOMING, *OutgoingEvent.values)

W = TypeVar("W", bound=Webhook)


class HookError(Exception):
    """A call cannot be made again; the text says why."""


@dataclass(frozen=True, slots=True)
class HookFilter:
    """Conditions that must all hold; an empty one is none.

    ``next_attempt`` is of calls that wait, ``last_activity`` of retired ones.
    """

    ids: tuple[int, ...] = ()
    account: str = ""
    event: str = ""
    submitted: Moment | None = None
    next_attempt: Moment | None = None
    last_activity: Moment | None = None
    max: int = 0

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Self:
        """From texts by name; what is not there is no condition. Raises BadFilter."""
        return cls(**conditions.parse_all(_PARSERS, values))

    @property
    def is_empty(self) -> bool:
        return all(getattr(self, field.name) == field.default for field in fields(self))

    def waiting(self) -> QuerySet[Hook]:
        """The calls that wait; ``max`` is left to the caller. Without their secrets."""
        query = self._common(Hook.objects.defer("authorization"))
        return query if self.next_attempt is None else query.filter(self.next_attempt.condition("next_attempt"))

    def retired(self) -> QuerySet[RetiredHook]:
        query = self._common(RetiredHook.objects.all())
        return query if self.last_activity is None else query.filter(self.last_activity.condition("last_activity"))

    def _common(self, query: QuerySet[W]) -> QuerySet[W]:
        query = query.select_related("account")
        if self.ids:
            query = query.filter(pk__in=self.ids)
        if self.account:
            query = query.filter(account__name=self.account)
        if self.event:
            is_incoming = self.event == INCOMING
            query = query.filter(is_incoming=is_incoming, outgoing_event="" if is_incoming else self.event)
        return query if self.submitted is None else query.filter(self.submitted.condition("submitted"))


# Looking.


def to_json(hook: Hook | RetiredHook, attempts: Sequence[HookAttempt], *, payload: bool = False) -> dict[str, Any]:
    """A call as interfaces show it, with ``payload`` what it says too. Times are RFC 3339. Never with its secret."""
    values: dict[str, Any] = {
        "id": hook.pk,
        "submitted": time_text(hook.submitted),
        "queue_msg_id": hook.queue_msg_id,
        "from_id": hook.from_id,
        "message_id": hook.message_id,
        "subject": hook.subject,
        "extra": hook.extra,
        "account": hook.account.name,
        "event": hook.event,
        "url": hook.url,
        "authorization": hook.has_authorization,
        "attempts": hook.attempts,
        "next_attempt": time_text(hook.next_attempt),
    }
    if isinstance(hook, RetiredHook):
        values |= {
            "success": hook.success,
            "last_activity": time_text(hook.last_activity),
            "keep_until": time_text(hook.keep_until),
            "superseded_by_id": hook.superseded_by_id,
        }
    if payload:
        values["payload"] = json.loads(hook.payload)
    values["attempts_log"] = [
        {
            "start": time_text(attempt.start),
            "duration_ms": attempt.duration_ms,
            "success": attempt.success,
            "code": attempt.code,
            "error": attempt.error,
            "url": attempt.url,
            "response": attempt.response,
        }
        for attempt in attempts
    ]
    return values


def histories(found: Sequence[Webhook]) -> dict[int, list[HookAttempt]]:
    """The attempts of these calls, oldest first, by id."""
    attempts: dict[int, list[HookAttempt]] = {hook.pk: [] for hook in found}
    for attempt in HookAttempt.objects.filter(hook_id__in=attempts).order_by("start", "pk"):
        attempts[attempt.hook_id].append(attempt)
    return attempts


# Changing.


def schedule(wanted: HookFilter, wait: timedelta, *, from_now: bool) -> Changed:
    """Have the next attempt at now and so much time, else so much later than planned."""
    moment = db.now() + wait if from_now else F("next_attempt") + wait
    affected = 0
    ids = _ids_of(wanted)
    for start in range(0, len(ids), BATCH):
        with db.write():
            affected += Hook.objects.filter(pk__in=ids[start : start + BATCH]).update(next_attempt=moment)
    return Changed(affected)


def cancel(wanted: HookFilter) -> Changed:
    """Make calls no more. One that is being made right now is busy."""
    affected, busy = 0, []
    for pk in _ids_of(wanted):
        with db.write():
            now = db.now()
            found = Hook.objects.filter(pk=pk).values_list("account_id", "url", "lease_until").first()
            if found is None:
                continue
            account_id, url, lease_until = found
            if lease_until is not None and lease_until > now:
                busy.append(pk)
                continue
            rows.insert(HookAttempt, {"hook_id": pk, "start": now, "url": url, "error": CANCELED})
            retiring.retire_hook(pk, account_id, success=False, now=now)
            affected += 1
    return Changed(affected, tuple(busy))


def requeue(hook_id: int) -> int:
    """Make a call again that retired: the same words, to the URL that the account has now. The id of the new one.

    Raises HookError.
    """
    with db.write():
        old = RetiredHook.objects.filter(pk=hook_id).first()
        if old is None:
            raise HookError(f"no retired webhook {hook_id}")
        kind = WebhookEndpoint.Kind.INCOMING if old.is_incoming else WebhookEndpoint.Kind.OUTGOING
        endpoint = hooks.wanted(old.account_id, kind)
        if endpoint is None:
            raise HookError(f"the account has no webhook for {kind.value} mail any more")
        copied = ("queue_msg_id", "from_id", "message_id", "subject", "extra", "outgoing_event", "payload")
        values = {name: getattr(old, name) for name in copied}
        common = hooks.common(old.account_id, endpoint, db.now())
        return rows.insert(Hook, {**common, **values, "is_incoming": old.is_incoming})


def _ids_of(wanted: HookFilter) -> list[int]:
    rows_wanted = wanted.waiting().order_by("next_attempt", "pk")
    return list(rows_wanted.values_list("pk", flat=True)[: wanted.max or None])


def _event(name: str, text: str) -> str:
    if text not in EVENTS:
        raise BadFilter(name, f'unknown event "{text}", use one of {", ".join(EVENTS)}')
    return text


_PARSERS: Final[Mapping[str, conditions.Parser]] = {
    "ids": conditions.ids,
    "account": conditions.anything,
    "event": _event,
    "submitted": Moment.parse,
    "next_attempt": Moment.parse,
    "last_activity": Moment.parse,
    "max": conditions.count,
}
