"""Records login attempts: merged where equal, written by a thread of its own: no login waits for it or fails by it."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db import DatabaseError, connection
from django.db.models import F

from . import db
from .models import LoginAttempt, LoginResult
from .perprocess import PerProcess

log = logging.getLogger(__name__)

FLUSH_INTERVAL: Final = 1.0  # seconds that attempts are collected before they are written in one transaction
MAX_PENDING: Final = 10_000  # different attempts in memory; more come only from an attack while the database is stuck
MAX_FAILED_ROWS: Final = 10_000  # per account; the oldest go
RETENTION: Final = timedelta(days=30)
UNKNOWN_ACCOUNT: Final = "-"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What makes attempts equal: the columns of LoginAttempt but times and count. Never a password."""

    result: LoginResult
    account_name: str
    login_address: str
    remote_ip: str
    local_ip: str
    tls: str
    client_key_fingerprint: str
    protocol: str
    user_agent: str
    mechanism: str

    @property
    def key(self) -> str:
        """The value of LoginAttempt.key, 64 hex digits."""
        return hashlib.sha256(json.dumps([str(value) for value in astuple(self)]).encode()).hexdigest()


@dataclass(slots=True)
class _Pending:
    first: datetime
    last: datetime
    count: int


class AttemptRecorder:
    """Collects attempts in memory. ``flush()`` writes them; with ``background`` a thread does, a second later."""

    def __init__(self, *, background: bool = True) -> None:
        self._background = background
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: dict[Attempt, _Pending] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._dropped = 0

    def record(self, attempt: Attempt) -> None:
        """Take note of an attempt. Never waits for the database and never raises."""
        self._count(attempt, 1)

    def identify(self, attempt: Attempt, user_agent: str) -> Attempt:
        """The client of a recorded attempt says only now what it is: its attempt counts under that instead."""
        identified = replace(attempt, user_agent=user_agent)
        if identified != attempt:
            self._count(identified, 1)
            self._count(attempt, -1)
        return identified

    def _count(self, attempt: Attempt, count: int) -> None:
        now = datetime.now(UTC)
        with self._lock:
            if (pending := self._pending.get(attempt)) is not None:
                pending.last, pending.count = now, pending.count + count
            elif len(self._pending) >= MAX_PENDING:
                self._dropped += 1
            else:
                self._pending[attempt] = _Pending(now, now, count)
            if self._background and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="login-attempts", daemon=True)
                self._thread.start()
        self._wake.set()

    def flush(self) -> None:
        """Write what was recorded before, in this thread. If the database fails, it is kept for the next time."""
        with self._writing:  # what another thread is about to write is written, too, when this returns
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            taken, self._pending = self._pending, {}
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.warning("login attempts were not recorded, too many at once", extra={"count": dropped})
        if not taken:
            return
        try:
            db.retrying(lambda: _write(taken))
        except (DatabaseError, db.DatabaseBusy) as exc:
            log.warning("login attempts cannot be recorded yet", extra={"err": str(exc)})
            self._put_back(taken)

    def _put_back(self, taken: dict[Attempt, _Pending]) -> None:
        with self._lock:
            for attempt, pending in taken.items():
                if (newer := self._pending.get(attempt)) is not None:
                    newer.first, newer.count = pending.first, newer.count + pending.count
                elif len(self._pending) < MAX_PENDING:
                    self._pending[attempt] = pending

    def _run(self) -> None:
        while True:
            self._wake.wait()
            # Attempts of the next moment join the same transaction.
            time.sleep(FLUSH_INTERVAL)
            self._wake.clear()
            self.flush()
            connection.close()


def _write(taken: dict[Attempt, _Pending]) -> None:
    """Three statements and one for each different count, however many attempts there are; two more per account."""
    by_key = {attempt.key: attempt for attempt in taken}
    with db.write():
        # Locked in one order, so that two processes that write the same rows do not lock each other out.
        known = set(
            LoginAttempt.objects.select_for_update()
            .filter(key__in=by_key)
            .order_by("key")
            .values_list("key", flat=True)
        )
        LoginAttempt.objects.bulk_create(
            [
                _row(key, attempt, taken[attempt])
                for key, attempt in sorted(by_key.items())
                if key not in known and taken[attempt].count > 0
            ],
            # Made by another process in this very moment: its row stays, and counts one attempt less.
            ignore_conflicts=True,
        )
        _add_counts({key: taken[by_key[key]] for key in known})
        _remove_oldest_failures(
            {a.account_name for key, a in by_key.items() if key not in known and a.result != LoginResult.OK}
        )


def _row(key: str, attempt: Attempt, pending: _Pending) -> LoginAttempt:
    return LoginAttempt(
        key=key,
        first=pending.first,
        last=pending.last,
        count=pending.count,
        result=attempt.result,
        account_name=attempt.account_name,
        login_address=attempt.login_address,
        remote_ip=attempt.remote_ip,
        local_ip=attempt.local_ip,
        tls=attempt.tls,
        client_key_fingerprint=attempt.client_key_fingerprint,
        protocol=attempt.protocol,
        user_agent=attempt.user_agent,
        mechanism=attempt.mechanism,
    )


def _add_counts(seen_again: dict[str, _Pending]) -> None:
    by_count: dict[int, list[str]] = {}
    for key, pending in seen_again.items():
        by_count.setdefault(pending.count, []).append(key)
    for count, keys in by_count.items():
        # One time for all of them: they were collected within a second.
        rows = LoginAttempt.objects.filter(key__in=keys)
        if count > 0:
            rows.update(count=F("count") + count, last=max(seen_again[key].last for key in keys))
        elif count < 0:
            rows.filter(count__lte=-count).delete()  # all of them count elsewhere now
            rows.update(count=F("count") + count)


def _remove_oldest_failures(account_names: set[str]) -> None:
    for account_name in account_names:
        failed = LoginAttempt.objects.filter(account_name=account_name).exclude(result=LoginResult.OK)
        too_many = list(failed.order_by("-last", "-pk").values_list("pk", flat=True)[MAX_FAILED_ROWS:])
        if too_many:
            LoginAttempt.objects.filter(pk__in=too_many).delete()


def remove_expired(now: datetime) -> int:
    """Remove attempts that were last made 30 days ago or earlier; gives how many. For the daily clean-up."""
    with db.write():
        removed, _ = LoginAttempt.objects.filter(last__lt=now - RETENTION).delete()
    return removed


recorder: Final = PerProcess(AttemptRecorder, at_exit=AttemptRecorder.flush)
