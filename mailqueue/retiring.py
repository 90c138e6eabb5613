"""Rows that are done with become history, for as long as their account wants: messages, and calls of webhooks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Field, Model

from accounts.models import Account
from server.models import ServerSettings
from server.statements import Statement, run

from .models import DeliveryAttempt, Hook, HookAttempt, Outgoing, QueueMessage, RetiredHook, RetiredMessage

KEEP_WITHOUT_ACCOUNT: Final = timedelta(hours=168)
KEEP_IN_LOCALSERVE: Final = timedelta(hours=72)

_message_period: Final = Statement(
    lambda account_id: Account.objects.filter(pk=account_id).values_list("keep_retired_message_period")
)
_hook_period: Final = Statement(
    lambda account_id: Account.objects.filter(pk=account_id).values_list("keep_retired_webhook_period")
)


def retire_message(message: Outgoing, *, success: bool, now: datetime) -> None:
    """Keep a message that leaves the queue as history, or not at all. Its row is left to the caller."""
    keep = _keep(_message_period, message.account_id)
    if not keep:
        DeliveryAttempt.objects.filter(message_id=message.pk).delete()
        return
    own = {"recipient_address": message.recipient, "success": success, "last_activity": now, "keep_until": now + keep}
    _copy(QueueMessage, RetiredMessage, message.pk, own)


def retire_hook(hook_id: int, account_id: int, *, success: bool, now: datetime, superseded_by_id: int = 0) -> None:
    """Take a call out of the queue, and keep it as history or not at all."""
    keep = _keep(_hook_period, account_id)
    if keep:
        own = {
            "success": success,
            "last_activity": now,
            "keep_until": now + keep,
            "superseded_by_id": superseded_by_id,
        }
        _copy(Hook, RetiredHook, hook_id, own)
    else:
        HookAttempt.objects.filter(hook_id=hook_id).delete()
    Hook.objects.filter(pk=hook_id).delete()


def _keep(period_of: Statement[Any], account_id: int | None) -> timedelta:
    """How long history is kept; zero: not at all."""
    row = period_of.row(account_id) if account_id is not None else None
    if row is None:
        return KEEP_WITHOUT_ACCOUNT
    period: timedelta = row[0]
    if ServerSettings.current().localserve:
        return max(period, KEEP_IN_LOCALSERVE)
    return period


def _copy(source: type[Model], target: type[Model], pk: int, own: Mapping[str, Any]) -> None:
    """Make a row of a row, with values of its own for the columns that the source lacks."""
    sql, fields = _copying(source, target)
    run(sql, [*(field.get_db_prep_save(own[field.attname], connection) for field in fields), pk])


@functools.cache
def _copying(source: type[Model], target: type[Model]) -> tuple[str, list[Field[Any, Any]]]:
    """The statement, and the fields whose values it takes."""
    quote = connection.ops.quote_name
    kept = {field.attname for field in source._meta.local_concrete_fields}
    fields = target._meta.local_concrete_fields
    copied = ", ".join(quote(field.column or field.attname) for field in fields if field.attname in kept)
    own = [field for field in fields if field.attname not in kept]
    names = ", ".join([*(quote(field.column or field.attname) for field in own), copied])
    tables = quote(target._meta.db_table), quote(source._meta.db_table)
    marks = ", ".join(["%s"] * len(own))
    sql = f"INSERT INTO {tables[0]} ({names}) SELECT {marks}, {copied} FROM {tables[1]} WHERE id = %s"  # noqa: S608 # our own names
    return sql, own
