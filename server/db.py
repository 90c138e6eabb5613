"""The only place that opens transactions: ``write()`` and ``read()``.

SQLite has one writer at a time. Waiting for it by SQLite's busy handler is unfair and slow (it polls), so the threads
of one process queue on a lock of their own and only different processes meet in the busy handler.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final, TypeVar

from django.db import OperationalError, connection, transaction

log = logging.getLogger(__name__)

RETRY_DELAYS: Final = (0.05, 0.2, 0.8)  # seconds between tries when the database is locked or asks to retry
_RETRY_SQLSTATES: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock detected

T = TypeVar("T")

_sqlite_writer = threading.RLock()
_snapshot = threading.local()  # is_open: this thread has a read() open, which Django knows nothing of


class DatabaseBusy(Exception):
    """The database stayed locked, or is restarting: the client should try again later."""


@contextlib.contextmanager
def write(*, durable: bool = True) -> Iterator[None]:
    """A transaction that may write; on SQLite it holds the write lock from its start (BEGIN IMMEDIATE).

    Inside another ``write()`` it is a savepoint. One that is not ``durable`` nobody is told of: it may be lost with
    the power, whole and with what came after it, and others do not wait until the disk has it. Raises DatabaseBusy when
    the lock cannot be had.
    """
    if connection.in_atomic_block:
        with transaction.atomic():
            yield
        return
    with _writer_turn(), contextlib.ExitStack() as stack:
        if not durable and connection.vendor == "sqlite":
            # In WAL mode a commit is then no sync; the next one that is durable takes it along.
            _execute("PRAGMA synchronous=NORMAL")
            stack.callback(_execute, "PRAGMA synchronous=FULL")
        _begin(stack)
        if not durable and connection.vendor == "postgresql":
            _execute("SET LOCAL synchronous_commit TO off")
        yield


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def retrying(function: Callable[[], T]) -> T:
    """Run a function that makes a whole ``write()``; again after a deadlock or serialization failure (PostgreSQL)."""
    for delay in RETRY_DELAYS:
        try:
            return function()
        except OperationalError as exc:
            if not is_transient(exc):
                raise
            log.info("transaction is tried again", extra={"err": str(exc)})
            time.sleep(delay)
    try:
        return function()
    except OperationalError as exc:
        if is_transient(exc):
            raise DatabaseBusy(str(exc)) from exc
        raise


@contextlib.contextmanager
def read() -> Iterator[None]:
    """A consistent snapshot without a write lock, for queries that must agree.

    In a transaction, and in another ``read()``, it is part of that.
    """
    if connection.in_atomic_block or getattr(_snapshot, "is_open", False):
        yield
        return
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
        _snapshot.is_open = True
        try:
            yield
        finally:
            _snapshot.is_open = False
            with connection.cursor() as cursor:
                cursor.execute("ROLLBACK")
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield


def now() -> datetime:
    """The time by the one clock that all nodes share: the database server's, where it is one."""
    if connection.vendor != "postgresql":
        return datetime.now(UTC)
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        moment: datetime = cursor.fetchone()[0]
    return moment


def is_transient(exc: OperationalError) -> bool:
    """Whether trying again may help: locked (SQLite), deadlock, serialization failure or a lost connection."""
    if getattr(exc.__cause__, "sqlstate", None) in _RETRY_SQLSTATES:
        return True
    text = str(exc)
    return "database is locked" in text or "database table is locked" in text


@contextlib.contextmanager
def _writer_turn() -> Iterator[None]:
    if connection.vendor != "sqlite":
        yield
        return
    with _sqlite_writer:
        yield


def _begin(stack: contextlib.ExitStack) -> None:
    for delay in (*RETRY_DELAYS, None):
        try:
            stack.enter_context(transaction.atomic())
            return
        except OperationalError as exc:
            if not is_transient(exc):
                raise
            if delay is None:
                raise DatabaseBusy(f"database stays locked: {exc}") from exc
            log.info("database is locked, trying again", extra={"err": str(exc)})
            time.sleep(delay)
