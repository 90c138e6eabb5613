"""Group commit: the one thread of a process through which it changes accounts.

    writer = GroupWriter()
    placement = await writer.run([account_id], lambda tx: delivery.deliver(tx, new))

All changes that are waiting are made in one transaction, each in a savepoint and with modification sequences of its
own: one fsync for all of them, and a bad one fails alone. A future is done only after the commit. Where all of them are
said to be ``sure`` they are made without savepoints, and if one fails nevertheless, once more with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from django.db import DatabaseError, OperationalError, connection
from prometheus_client import Histogram

from server import db, faults

from . import notify
from .db import Tx, locked
from .errors import StorageFull, StoreError
from .pool import settle

log = logging.getLogger(__name__)

GROUP_MAX: Final = 64  # changes in one commit: bounds what a failing commit fails, and how long it holds the lock

_CLOSED: Final = "server is stopping, try again later"

T = TypeVar("T")

_group_size = Histogram(
    "mox_store_group_commit_size", "Changes written in one commit.", buckets=(1, 2, 4, 8, 16, 32, GROUP_MAX)
)
_duration = Histogram(
    "mox_store_tx_duration_seconds",
    "Seconds from the start of a write transaction to its commit.",
    ["kind"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20),
)


_group_duration = _duration.labels("group")


@dataclass(slots=True)
class _Change:
    account_ids: Sequence[int]
    job: Callable[[Tx], Any]
    future: Future[Any] | asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop | None = None
    """Whose future it is, where it is one of asyncio."""
    sure: bool = False
    outcome: Any = None
    error: BaseException | None = None


class WriterClosed(StoreError):
    """The process is stopping and takes no more changes."""


class GroupWriter:
    """Commits all changes that are waiting together. Safe to use from any thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="group-writer", daemon=True)
        self._thread.start()

    def submit(self, account_ids: Sequence[int], job: Callable[[Tx], T], *, sure: bool = False) -> Future[T]:
        """Have ``job(tx)`` run with these accounts locked; the future is done once that is committed.

        What the job raises undoes it and arrives in the future; so do server.db.DatabaseBusy and StorageFull. A job may
        run more than once (never after a commit): it must have no effect outside the database.

        ``sure``: it hardly ever fails, and reads no counts of accounts and mailboxes but through ``tx``: those of the
        jobs before it may not be written yet.
        """
        future: Future[T] = Future()
        if self._closed:
            future.set_exception(WriterClosed(_CLOSED))
            return future
        self._queue.put(_Change(account_ids, job, future, sure=sure))
        return future

    async def run(self, account_ids: Sequence[int], job: Callable[[Tx], T], *, sure: bool = False) -> T:
        """``submit`` for asyncio. A caller that is cancelled does not stop the change."""
        if self._closed:
            raise WriterClosed(_CLOSED)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._queue.put(_Change(account_ids, job, future, loop, sure))
        return await future

    def close(self) -> None:
        """Commit what is waiting and end the thread."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        stop = False
        while not stop:
            first = self._queue.get()
            group: list[_Change] = []
            if first is None:
                stop = True
            else:
                group.append(first)
            while len(group) < GROUP_MAX:
                try:
                    change = self._queue.get_nowait()
                except queue.Empty:
                    break
                if change is None:
                    stop = True
                    continue
                group.append(change)
            if group:
                self._write(group)
        connection.close()

    def _write(self, group: list[_Change]) -> None:
        try:
            changed = self._commit(group)
        except BaseException as exc:
            connection.close_if_unusable_or_obsolete()  # the server restarted, say: the next commit connects anew
            if len(group) > 1:
                # One of them may be the cause: each has its own transaction now.
                log.info("group commit failed, committing one by one", extra={"err": str(exc), "count": len(group)})
                for change in group:
                    change.outcome = change.error = None
                    self._write([change])
                return
            group[0].error = _explained(exc)
            _tell(group)
            return
        faults.point("store.after_commit")
        _tell(group)
        if changed:
            notify.publish(changed)

    def _commit(self, group: list[_Change]) -> dict[int, int]:
        account_ids = {account_id for change in group for account_id in change.account_ids}
        _group_size.observe(len(group))
        how = _change_each
        if len(group) == 1:
            how = _change_alone
        elif all(change.sure for change in group):
            how = _change_together

        def transact() -> dict[int, int]:
            with _group_duration.time(), db.write():
                tx = locked(account_ids)
                how(tx, group)
                faults.point("store.before_commit")
            return tx.changed()

        try:
            return db.retrying(transact)
        except _OneFailed:
            how = _change_each
            return db.retrying(transact)


def _change_alone(tx: Tx, group: list[_Change]) -> None:
    with tx.change(alone=True):
        group[0].outcome = group[0].job(tx)


def _change_together(tx: Tx, group: list[_Change]) -> None:
    """All or none. Raises _OneFailed."""
    for change in group:
        tx.begin_change()
        try:
            change.outcome = change.job(tx)
        except OperationalError:
            raise
        except Exception as exc:
            raise _OneFailed from exc
    tx.flush()


class _OneFailed(Exception):
    """One of several changes failed, and those before and after it have to be made without it."""


def _change_each(tx: Tx, group: list[_Change]) -> None:
    for change in group:
        change.outcome = None
        try:
            with tx.change():
                change.outcome = change.job(tx)
        except OperationalError:
            raise  # locked, deadlock, disk full: the whole transaction is lost
        except Exception as exc:
            change.error = exc


def _tell(group: Sequence[_Change]) -> None:
    """Give the futures what came of their changes; an event loop is woken once for all of its own."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Change]] = {}
    for change in group:
        if change.loop is not None:
            by_loop.setdefault(change.loop, []).append(change)
        elif change.error is not None:
            change.future.set_exception(change.error)
        else:
            change.future.set_result(change.outcome)
    for loop, changes in by_loop.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_settle_each, changes)


def _settle_each(changes: Sequence[_Change]) -> None:
    for change in changes:
        assert isinstance(change.future, asyncio.Future)
        settle(change.future, change.outcome, change.error)


def _explained(exc: BaseException) -> BaseException:
    if isinstance(exc, DatabaseError) and "disk is full" in str(exc):
        return StorageFull("the disk of the database is full")
    return exc
