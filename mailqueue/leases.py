"""Claims with an end: of destinations by the dispatcher, of the messages to one by the task that delivers to it.

A lease is fenced by its token: what is done with a message is stored only where its row still has the token, so that a
worker that was thought dead changes nothing any more. Nothing here depends on a task being run once, or at all.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet
from django.db.models.expressions import RawSQL
from prometheus_client import Counter

from accounts.models import Transport
from server import db
from server.statements import KEPT_PARAMS, ModelStatement, Statement, run
from store import rows as store_rows
from store.models import Blob

from . import routing, suppressions
from .models import DeliveryAttempt, Phase, QueueDestination, QueueMessage, State
from .paths import ascii_domain
from .schedule import Schedule

log = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=90)
UNSTARTED_LEASE: Final = timedelta(seconds=20)  # until a task shows that it was not lost on its way
GROUP_MAX: Final = 1000  # recipients in one transaction
BACKLOG_CHEAP: Final = 0.02  # seconds of looking for what is due that are spent each time
BACKLOG_REUSE: Final = 10.0  # times as long as it took it is not done again, where it takes longer
RUNNING: Final = "delivering..."  # error text of an attempt under way
_DISPATCH_LOCK: Final = 0x6D6F7801  # key of the advisory lock (PostgreSQL) that lets one dispatcher claim at a time

# What a message has again once nobody delivers it.
WAITING: Final[dict[str, Any]] = {
    "state": State.QUEUED,
    "phase": Phase.NONE,
    "lease_token": None,
    "lease_until": None,
}

lost_leases = Counter("mox_queue_lost_lease", "Results that came after their lease had passed to another worker.")

# As they stand in the conditions of partial indexes. SQLite plans a statement with such a value among its parameters
# anew at each execution, which takes four times as long as to run it.
IS_QUEUED: Final = RawSQL("'queued'", ())
IS_DELIVERING: Final = RawSQL("'delivering'", ())

# The oldest message that waits for each destination: two index look-ups for each, however many wait.
_OLDEST_BY_DESTINATION: Final = """
WITH RECURSIVE waiting(destination) AS (
  SELECT min(destination) FROM queue_queuemessage WHERE state = 'queued' AND NOT hold
  UNION ALL
  SELECT (SELECT min(destination) FROM queue_queuemessage
          WHERE state = 'queued' AND NOT hold AND destination > waiting.destination)
  FROM waiting WHERE waiting.destination IS NOT NULL
)
SELECT destination, (SELECT min(next_attempt) FROM queue_queuemessage q
                     WHERE q.state = 'queued' AND NOT q.hold AND q.destination = waiting.destination)
FROM waiting WHERE destination IS NOT NULL
"""

# The first account, in the order of ids and after a given one, with mail due for a destination (0: mail of none).
_NEXT_SENDER: Final = """
WITH RECURSIVE senders(sender) AS (
  SELECT min(COALESCE(account_id, 0)) FROM queue_queuemessage
  WHERE state = 'queued' AND NOT hold AND destination = %s AND COALESCE(account_id, 0) > %s
  UNION ALL
  SELECT (SELECT min(COALESCE(account_id, 0)) FROM queue_queuemessage
          WHERE state = 'queued' AND NOT hold AND destination = %s AND COALESCE(account_id, 0) > senders.sender)
  FROM senders WHERE senders.sender IS NOT NULL
)
SELECT sender FROM senders
WHERE (SELECT min(next_attempt) FROM queue_queuemessage q
       WHERE q.state = 'queued' AND NOT q.hold AND q.destination = %s AND COALESCE(q.account_id, 0) = sender) <= %s
LIMIT 1
"""


class LostLease(Exception):
    """The lease ended, and the messages are another worker's."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A destination that is this worker's for now."""

    destination: str
    token: uuid.UUID


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message of a group, and the attempt that is recorded for it."""

    message: QueueMessage
    attempt_id: int
    started: datetime


@dataclass(frozen=True, slots=True)
class Group:
    """Messages that one transaction carries: one content, one sender, recipients of one domain, one way."""

    members: tuple[Claimed, ...]
    way: routing.Way | routing.UnknownTransport
    suppressed: frozenset[int] = frozenset()
    """The ids of messages that must not be sent: their recipients are on the account's list."""

    @property
    def first(self) -> QueueMessage:
        return self.members[0].message

    def to_send(self) -> Group | None:
        """The group without messages that must not be sent; None where none is left."""
        if not self.suppressed:
            return self
        members = tuple(member for member in self.members if member.message.pk not in self.suppressed)
        return replace(self, members=members, suppressed=frozenset()) if members else None

    def not_to_send(self) -> list[Claimed]:
        return [member for member in self.members if member.message.pk in self.suppressed]


# Claiming destinations.


def claim_due() -> list[Lease]:
    """Claim the destinations that have mail due and no lease, as many as there are free slots."""
    if not _backlog.look():
        return []
    with db.write():
        if connection.vendor == "postgresql":
            run("SELECT pg_advisory_xact_lock(%s)", [_DISPATCH_LOCK])
        now = db.now()
        free = settings.MOX.queue_max_concurrent - QueueDestination.objects.filter(lease_until__gt=now).count()
        claimed: list[Lease] = []
        while len(claimed) < free and (candidate := _backlog.take()) is not None:
            name, slot = candidate
            # Another dispatcher may have come first. That there is mail due was true a moment ago, and need not be now.
            if not QueueDestination.objects.filter(name=name, slot=slot, lease_until__gt=now).exists():
                claimed.append(_claim(name, slot, now))
        return claimed


class _Backlog:
    """Destinations that are due, in the order of their claims, and found anew for each round but where that costs.

    With thousands of them due it does, and most wait for many rounds: then those that are left are good for ten times
    as long as it took to find them. Whoever comes meanwhile would come after them anyway.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: deque[tuple[str, int]] = deque()
        self._good_until = 0.0

    def look(self) -> bool:
        """Whether any are due."""
        with self._lock:
            began = time.monotonic()
            if began > self._good_until or len(self._left) < settings.MOX.queue_max_concurrent:
                self._left = deque(_due_destinations(db.now()))
                took = time.monotonic() - began
                self._good_until = began + took * BACKLOG_REUSE if took > BACKLOG_CHEAP else 0.0
            return bool(self._left)

    def take(self) -> tuple[str, int] | None:
        """The next one, with a free slot of it."""
        with self._lock:
            return self._left.popleft() if self._left else None


_backlog: Final = _Backlog()


_any_due: Final = Statement(
    lambda now: QueueMessage.objects.filter(
        state=IS_QUEUED, hold=False, next_attempt__lte=RawSQL("%s", (now,))
    ).values_list("pk")[:1]
)
_all_destinations: Final = Statement(
    lambda: QueueDestination.objects.values_list("name", "slot", "lease_until", "used")
)
_destinations: Final = Statement(
    lambda *names: QueueDestination.objects.filter(name__in=names).values_list("name", "slot", "lease_until", "used")
)


def _due_destinations(now: datetime) -> list[tuple[str, int]]:
    """Names, each with a free slot, in the order in which they are to be claimed: those that waited longest first."""
    if _any_due.row(connection.ops.adapt_datetimefield_value(now)) is None:
        return []
    oldest = {name: moment for name, moment in _oldest_by_destination() if moment <= now}
    known = _destinations.rows(*oldest) if len(oldest) <= KEPT_PARAMS else _all_destinations.rows()
    busy: dict[str, set[int]] = {}
    for name, slot, lease_until, used in known:
        if name not in oldest:
            continue
        if lease_until is not None and lease_until > now:
            busy.setdefault(name, set()).add(slot)
        else:
            # One that was just served, and has more, comes after those that have waited meanwhile.
            oldest[name] = max(oldest[name], used)
    slots_of = _Slots()
    found = []
    for name, moment in oldest.items():
        taken = busy.get(name, set())
        free = [slot for slot in range(slots_of(name)) if slot not in taken]
        if len(free) > 1:
            free = free[: _count_due(name, now, len(free))]
        # Each destination has its first connection before another has its second.
        found += [(len(taken) + number, moment, name, slot) for number, slot in enumerate(free)]
    return [(name, slot) for _, _, name, slot in sorted(found)]


def _count_due(name: str, now: datetime, limit: int) -> int:
    due = QueueMessage.objects.filter(destination=name, state=IS_QUEUED, hold=False, next_attempt__lte=now)
    return due[:limit].count()


class _Slots:
    """How many leases a destination may have at a time: as its transport says, else as the server does."""

    def __init__(self) -> None:
        own = list(Transport.objects.exclude(destination_connections=0))
        self._relays = {t.host: t.destination_connections for t in own if t.kind in routing.RELAYS}
        self._has_others = len(self._relays) < len(own)

    def __call__(self, name: str) -> int:
        usual = settings.MOX.queue_per_destination
        if name in self._relays or not self._has_others:
            return self._relays.get(name, usual)
        first = _oldest.row(name)
        if first is None:
            return usual
        try:
            transport = _way(first).transport
        except routing.UnknownTransport:
            return usual
        return (transport.destination_connections if transport is not None else 0) or usual


def _oldest_by_destination() -> list[tuple[str, datetime]]:
    return [(name, _moment(value)) for name, value in run(_OLDEST_BY_DESTINATION, [])]


def _moment(value: datetime | str) -> datetime:
    """SQLite gives the text that it stores."""
    if isinstance(value, datetime):
        return value
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


def _claim(name: str, slot: int, now: datetime) -> Lease:
    lease = Lease(name, uuid.uuid4())
    QueueDestination.objects.update_or_create(
        name=name,
        slot=slot,
        defaults={"token": lease.token, "lease_until": now + UNSTARTED_LEASE, "owner": "", "used": now},
    )
    return lease


# Holding a lease.


def start(lease: Lease, owner: str, schedule: Schedule) -> Group | None:
    """The task that delivers is here: its first group, in a transaction.

    Raises LostLease for a lease that ended, or a task that is run again.
    """
    started = QueueDestination.objects.filter(name=lease.destination, token=lease.token, owner="").update(
        lease_until=db.now() + LEASE, owner=owner
    )
    if not started:
        raise LostLease(f"lease of {lease.destination} ended before its task began")
    return claim_group(lease, schedule)


def renew(tokens: Iterable[uuid.UUID]) -> set[uuid.UUID]:
    """Extend leases and those of their messages; the tokens that are still held."""
    until = db.now() + LEASE
    held = set()
    for token in tokens:
        with db.write():
            if QueueDestination.objects.filter(token=token).update(lease_until=until):
                held.add(token)
                QueueMessage.objects.filter(state=State.DELIVERING, lease_token=token).update(lease_until=until)
    return held


def release(lease: Lease) -> bool:
    """Nothing is being delivered there any more. Returns whether mail is due there: whoever came meanwhile was told
    that somebody is at it."""
    QueueDestination.objects.filter(name=lease.destination, token=lease.token).update(
        token=None, lease_until=None, owner="", used=db.now()
    )
    waiting = QueueMessage.objects.filter(destination=lease.destination, state=State.QUEUED, hold=False)
    return waiting.filter(next_attempt__lte=db.now()).exists()


def give_back(lease: Lease, group: Group) -> None:
    """The end of the data was not sent, and the worker stops: this was no attempt. Harmless without the lease."""
    with db.write():
        for member in group.members:
            message = member.message
            given = store_rows.update_where(
                QueueMessage,
                {**WAITING, "attempts": message.attempts - 1, "next_attempt": member.started},
                {"id": message.pk, "lease_token": lease.token, "state": State.DELIVERING, "phase": Phase.CLAIMED},
            )
            if given:
                DeliveryAttempt.objects.filter(pk=member.attempt_id).delete()


def owned_by(owner: str) -> QuerySet[QueueDestination]:
    """Leases of a worker, a dead one's too."""
    return QueueDestination.objects.filter(owner=owner).exclude(token=None)


# Claiming messages.


def claim_group(lease: Lease, schedule: Schedule, after: int | None = None) -> Group | None:
    """The oldest group due for the destination, in a transaction; None when none is, or the lease has ended.

    ``after``: the account that had its turn (0: none's mail); the oldest of the next one that has mail due is taken,
    so that one who sends thousands of messages does not keep the others waiting.
    """
    if _held.row(lease.destination, _as_stored(lease.token)) is None:
        return None
    now = db.now()
    while True:
        first = _oldest_of_next_sender(lease.destination, after, now) if after is not None else None
        first = first or _oldest.row(lease.destination)
        if first is None or first.next_attempt > now:
            return None
        blob = _content.row(first.blob_id)
        assert blob is not None, "the database keeps content that a message refers to"
        first.blob = blob
        messages = [first, *_companions(first, now)]
        try:
            way: routing.Way | routing.UnknownTransport = _way(first)
        except routing.UnknownTransport as exc:
            way = exc
        if isinstance(way, routing.Way) and way.destination != lease.destination:
            # Routes changed since it was queued: another lease covers it.
            QueueMessage.objects.filter(pk__in=[m.pk for m in messages]).update(destination=way.destination)
            continue
        suppressed = suppressions.listed(first.account_id, messages)
        return Group(tuple(_begin(message, lease, way, schedule, now) for message in messages), way, suppressed)


_held: Final = Statement(
    lambda name, token: QueueDestination.objects.filter(name=name, token=RawSQL("%s", (token,))).values_list("pk")
)


def _as_stored(token: uuid.UUID) -> Any:
    """A token as the database has it."""
    return QueueDestination._meta.get_field("token").get_db_prep_value(token, connection)


def _waiting(destination: str, *conditions: Q) -> QuerySet[QueueMessage]:
    rows = QueueMessage.objects.alias(owner=RawSQL("COALESCE(account_id, 0)", ()))
    rows = rows.filter(*conditions, destination=destination, state=IS_QUEUED, hold=False)
    return _skip_locked(rows.order_by("next_attempt", "pk"))[:1]


_oldest: Final = ModelStatement(QueueMessage, _waiting)
_oldest_of_sender: Final = ModelStatement(
    QueueMessage, lambda destination, sender: _waiting(destination, Q(owner=sender))
)
_content: Final = ModelStatement(Blob, lambda pk: Blob.objects.filter(pk=pk).only("size", "data", "storage_name"))


def _oldest_of_next_sender(destination: str, after: int, now: datetime) -> QueueMessage | None:
    moment = connection.ops.adapt_datetimefield_value(now)
    for bound in (after, -1):  # and around to the first
        found = run(_NEXT_SENDER, [destination, bound, destination, destination, moment])
        if found:
            return _oldest_of_sender.row(destination, found[0][0])
    return None


def _way(message: QueueMessage) -> routing.Way:
    """Raises UnknownTransport."""
    return routing.way(
        message.account_id,
        ascii_domain(message.sender_domain),
        message.rcpt_domain_ascii,
        message.attempts,
        message.transport,
    )


def _companions(first: QueueMessage, now: datetime) -> Sequence[QueueMessage]:
    """The other recipients of the message that the same transaction can carry; of an address given twice, one."""
    if not first.base_id:
        return ()
    same = Q(
        base_id=first.base_id,
        rcpt_domain_ascii=first.rcpt_domain_ascii,
        attempts=first.attempts,
        require_tls=first.require_tls,
        transport=first.transport,
        destination=first.destination,
    )
    others = QueueMessage.objects.filter(same, state=State.QUEUED, hold=False, next_attempt__lte=now)
    found = {first.rcpt_localpart: first}
    for other in _skip_locked(others.exclude(pk=first.pk).order_by("pk"))[: GROUP_MAX - 1]:
        other.blob = first.blob
        found.setdefault(other.rcpt_localpart, other)
    return list(found.values())[1:]


def _skip_locked(query: QuerySet[QueueMessage]) -> QuerySet[QueueMessage]:
    if not connection.features.has_select_for_update_skip_locked:
        return query
    return query.select_for_update(skip_locked=True, of=("self",))


def _begin(
    message: QueueMessage,
    lease: Lease,
    way: routing.Way | routing.UnknownTransport,
    schedule: Schedule,
    now: datetime,
) -> Claimed:
    """An attempt counts from here, before any network use; so does the wait until the next."""
    message.attempts += 1
    message.last_attempt = now
    message.next_attempt = now + schedule.wait_after(message.attempts)
    message.state = State.DELIVERING
    message.phase = Phase.CLAIMED
    message.lease_token, message.lease_until = lease.token, now + LEASE
    store_rows.update(
        QueueMessage,
        message.pk,
        {
            "attempts": message.attempts,
            "last_attempt": message.last_attempt,
            "next_attempt": message.next_attempt,
            "state": message.state,
            "phase": message.phase,
            "lease_token": message.lease_token,
            "lease_until": message.lease_until,
        },
    )
    transport = way.transport.name if isinstance(way, routing.Way) and way.transport is not None else ""
    attempt = {"message_id": message.pk, "start": now, "error": RUNNING, "transport": transport}
    return Claimed(message, store_rows.insert(DeliveryAttempt, attempt), now)


def enter_dot(lease: Lease, ids: Sequence[int]) -> None:
    """The end of the data goes out next, once this is committed: from there the other side may have the message.

    In a transaction. Raises LostLease.
    """
    held = {"id": list(ids), "lease_token": lease.token, "state": State.DELIVERING}
    if len(store_rows.update_where(QueueMessage, {"phase": Phase.DOT}, held)) != len(ids):
        raise LostLease(f"messages to {lease.destination} are another worker's")
