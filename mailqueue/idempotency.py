"""Calls that clients repeat when they do not know whether they were done: done once, and answered the same each time.

    begun = begin(write, account_id, "Send", key, digest)       # Replay: what was answered before
    begun.complete(response, status)                            # in the transaction that does it
    begun.abandon()                                             # it was not done

The answer is stored in the transaction that queues the message: either both are there, or none.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeAlias

from server import db
from store.db import Tx

from .models import IdempotencyKey

KEPT: Final = timedelta(hours=24)
LOCKED: Final = timedelta(minutes=2)  # longer than any call takes: then the process that worked on it is dead
CLEANUP_BATCH: Final = 1000

Write: TypeAlias = Callable[[Callable[[Tx], Any]], Any]
"""Runs a job of the group commit."""


class KeyMismatch(Exception):
    """The key was used for another request."""


class InProgress(Exception):
    """Another call with this key has not ended."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What was answered to the same call before."""

    response: dict[str, Any]
    status: int


@dataclass(frozen=True, slots=True)
class Begun:
    """A call that is being worked on."""

    pk: int
    owner: uuid.UUID
    write: Write

    def complete(self, response: Mapping[str, Any], status: int) -> None:
        """Store the answer, in a transaction. Raises InProgress if it took so long that another took its place."""
        mine = IdempotencyKey.objects.filter(pk=self.pk, owner=self.owner, response__isnull=True)
        if not mine.update(response=json.dumps(dict(response)), status=status, expires=db.now() + KEPT):
            raise InProgress

    def abandon(self) -> None:
        """Nothing was done: the key is free again."""
        mine = IdempotencyKey.objects.filter(pk=self.pk, owner=self.owner, response__isnull=True)
        self.write(lambda tx: mine.delete())


def begin(write: Write, account_id: int, method: str, key: str, digest: bytes) -> Begun | Replay:
    """Take a key for a request with this digest. Raises KeyMismatch, InProgress."""
    owner = uuid.uuid4()

    def take(tx: Tx) -> IdempotencyKey:
        now = db.now()
        fresh = {"request_hash": digest, "owner": owner, "locked_until": now + LOCKED, "expires": now + KEPT}
        new = IdempotencyKey(account_id=account_id, method=method, key=key, **fresh)
        IdempotencyKey.objects.bulk_create([new], ignore_conflicts=True)
        row = IdempotencyKey.objects.select_for_update().get(account_id=account_id, method=method, key=key)
        if row.owner == owner:
            return row
        is_dead = row.response is None and row.locked_until <= now and bytes(row.request_hash) == digest
        if is_dead or row.expires <= now:
            IdempotencyKey.objects.filter(pk=row.pk).update(response=None, status=0, **fresh)
            row.owner = owner
        return row

    row = write(take)
    if row.owner == owner:
        return Begun(row.pk, owner, write)
    if bytes(row.request_hash) != digest:
        raise KeyMismatch
    if row.response is None:
        raise InProgress
    return Replay(json.loads(row.response), row.status)


def clean_up() -> int:
    """Remove keys that have expired; how many."""
    removed = 0
    while True:
        with db.write():
            expired = IdempotencyKey.objects.filter(expires__lte=db.now()).values_list("pk", flat=True)
            count, _ = IdempotencyKey.objects.filter(pk__in=list(expired[:CLEANUP_BATCH])).delete()
        removed += count
        if count < CLEANUP_BATCH:
            return removed
