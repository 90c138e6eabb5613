"""Delivering what is due for one destination: group after group over one connection, until none is left.

The network runs on an event loop of this task's own; the database is used from threads beside it. A message costs one
commit: what is to be stored of the last one goes in with the ``dot`` of this one and the claim of the next.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Final, ParamSpec, TypeVar

import uvloop
from django.db import InterfaceError, OperationalError
from prometheus_client import Counter, Histogram

from protocols.smtpclient import Delivery, RecipientResult, Session, SMTPError, connect
from protocols.smtpsyntax import Path
from server import faults
from server.connections import panic_total
from server.db import DatabaseBusy
from server.models import ServerSettings
from store.pool import Threads
from store.writer import GroupWriter

from . import leases, results
from .journal import Entry, Journal
from .leases import Claimed, Group, Lease, LostLease
from .outcomes import NO_CONNECTION, UNKNOWN_OUTCOME, Connection, Outcome, Status, without_class
from .paths import path_of
from .plans import Impossible, IPAddress, Plan, plan
from .results import Result
from .schedule import Schedule
from .steps import Step

log = logging.getLogger(__name__)

MESSAGES_PER_CONNECTION: Final = 100
DRAIN_SECONDS: Final = 60.0  # then the destination queues up behind the others
DRAIN_GROUPS: Final = 500
RESULT_WAIT: Final = 0.05  # seconds that a result waits for the dot of the next message, to be committed with it
# Seconds between tries to store results: the other server may have the message, so they must not be lost.
RETRY_DELAYS: Final = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 140)

LABELS_MAX: Final = 300  # combinations that the metric of replies has: codes are what other servers make up
_seen_labels: set[tuple[str, str, str]] = set()

P = ParamSpec("P")
T = TypeVar("T")

Settled = tuple[Claimed, Outcome]

connections = Counter("mox_queue_connection", "Connections made for delivery.", ["result"])
deliveries = Histogram(
    "mox_queue_delivery_duration_seconds",
    "Seconds of delivery attempts, by group.",
    ["attempt", "transport", "tlsmode", "result"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 60, 120),
)
command_duration = Histogram(
    "mox_smtpclient_command_duration_seconds",
    "Seconds from a command to its reply.",
    ["cmd", "code", "secode"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 60, 120),
)


class Interrupted(Exception):
    """The worker stops, or the lease was lost: nothing more is to be sent."""


class Drain:
    """One run of a delivery task. `stop` may be called from any thread."""

    def __init__(self, lease: Lease, journal: Journal, database: Threads, writer: GroupWriter) -> None:
        self.lease = lease
        self._journal = journal
        self._database = database
        self._writer = writer
        self._schedule = Schedule.of_server()
        self._next: Group | None = None  # claimed, for when this one is done
        self._claiming = True  # another group may be claimed
        self._unstored: list[Settled] = []
        self._noting: list[asyncio.Task[None]] = []  # entries on their way into the journal, for what is unstored
        self._storing: asyncio.Task[Group | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._session: Session | None = None
        self._plan: Plan | None = None
        self._messages = 0  # over this connection
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._interruptible = False  # waiting for the network, and the end of the data was not sent

    def run(self, group: Group | None) -> None:
        """Deliver this group and those that follow; the lease is released at the end. Blocks."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            self._loop = runner.get_loop()
            runner.run(self._run(group))

    def stop(self) -> None:
        """End soon: before the end of the data at once, else after its answer."""
        self._stopping = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        if self._interruptible and self._task is not None:
            self._task.cancel()

    async def _run(self, group: Group | None) -> None:
        self._task = asyncio.current_task()
        ends = time.monotonic() + DRAIN_SECONDS
        groups = 0
        try:
            while group is not None:
                faults.point("queue.claimed")
                groups += 1
                self._claiming = not self._stopping and time.monotonic() < ends and groups < DRAIN_GROUPS
                await self._attempt(group)
                group = await self._following()
            await self._disconnect()
        except (Interrupted, asyncio.CancelledError):
            self._abort()
            await self._give_back(group)
        except LostLease:
            self._abort()
            return
        except BaseException:
            self._abort()
            raise

    async def _following(self) -> Group | None:
        """The next group, once what came of the last one is stored, or soon will be. Raises LostLease."""
        following, self._next = self._next, None
        return following if following is not None else await self._commit(claim=self._claiming)

    async def _give_back(self, group: Group | None) -> None:
        """The drain was interrupted: what was not sent is no attempt, what was settled is stored."""
        try:
            await self._commit()
        except LostLease:
            return
        for given in (group, self._next):
            if given is not None:
                await self._call(leases.give_back, self.lease, given)

    # One group.

    async def _attempt(self, group: Group) -> None:
        """Settle all messages of a group. Raises Interrupted, LostLease, CancelledError."""
        began = time.monotonic()
        delivering = _Delivering(self, group)
        try:
            outcomes = await self._deliver(group, delivering)
        except (Interrupted, LostLease):
            raise
        except Exception as exc:
            panic_total.labels("mailqueue").inc()
            log.exception("delivery failed", extra={"destination": self.lease.destination})
            self._abort()
            failed = Outcome(Status.TEMPORARY, f"internal error: {exc}", secode="3.0")
            outcomes = {member.message.pk: failed for member in group.members}
        found = [(member, outcomes[member.message.pk]) for member in group.members]
        self._observe(group, found, time.monotonic() - began)
        self._store_later([settled for settled in found if settled[0].message.pk not in delivering.settled])

    async def _deliver(self, group: Group, delivering: _Delivering) -> dict[int, Outcome]:
        """The outcome for each message, by id."""
        try:
            wanted = await self._call(lambda: plan(group, ServerSettings.current()))
        except Impossible as exc:
            return {member.message.pk: exc.outcome for member in group.members}
        outcomes: dict[int, Outcome] = {}
        left = list(group.members)
        while left:
            try:
                session = await self._connected(wanted)
            except SMTPError as exc:
                failed = _outcome_of_error(exc, _described(wanted, None))
                outcomes.update((member.message.pk, failed) for member in left)
                break
            delivering.connection = _described(wanted, session)
            batch = left[: wanted.recipients_max or None]
            delivery = await self._transmit(session, batch, delivering)
            by_path = {_recipient(member): member for member in batch}
            for result in delivery.results:
                outcomes[by_path[result.recipient].message.pk] = _outcome_of(result, delivering.connection)
            untried = [by_path[path] for path in delivery.untried]
            left = untried + left[len(batch) :]
            if untried:
                # The server takes no more over this connection, or it was at its end when we came back to it.
                await self._disconnect()
        return outcomes

    async def _transmit(self, session: Session, members: Sequence[Claimed], delivering: _Delivering) -> Delivery:
        message = members[0].message
        with message.reader() as content:
            self._interruptible = True
            try:
                self._check_stop()
                delivery = await session.deliver(
                    path_of(message.sender_localpart, message.sender_domain),
                    [_recipient(member) for member in members],
                    content,
                    has_8bit=message.has_8bit,
                    smtputf8=message.smtputf8,
                    require_tls=bool(message.require_tls),
                    hooks=delivering,
                )
            finally:
                self._interruptible = False
        self._messages += 1
        if not session.usable:
            await self._disconnect()
        return delivery

    # The connection.

    async def _connected(self, wanted: Plan) -> Session:
        """The open connection if it will do, else a new one. Raises SMTPError."""
        if self._session is not None:
            if self._plan == wanted and self._messages < MESSAGES_PER_CONNECTION:
                return self._session
            await self._disconnect()
        self._interruptible = True
        try:
            self._check_stop()
            session = await connect(
                wanted.addresses or await self._addresses(wanted),
                wanted.port,
                hello=wanted.hello,
                tls=wanted.tls,
                credentials=wanted.credentials,
                timeouts=wanted.timeouts,
                observe=_observe_command,
            )
        except SMTPError as exc:
            connections.labels("timeout" if "timeout" in str(exc) else "error").inc()
            log.info("no connection for delivery", extra={"remote": wanted.host, "err": str(exc)})
            raise
        except asyncio.CancelledError:
            connections.labels("canceled").inc()
            raise
        finally:
            self._interruptible = False
        connections.labels("ok").inc()
        self._session, self._plan, self._messages = session, wanted, 0
        return session

    async def _addresses(self, wanted: Plan) -> tuple[IPAddress, ...]:
        """Raises SMTPError."""
        try:
            async with asyncio.timeout(wanted.timeouts.connect):
                found = await asyncio.get_running_loop().getaddrinfo(wanted.host, wanted.port, proto=6)
        except (OSError, TimeoutError) as exc:
            raise SMTPError(f"address of {wanted.host} cannot be found: {exc}", enhanced="4.4.3") from exc
        return tuple(dict.fromkeys(ip_address(entry[4][0]) for entry in found))

    async def _disconnect(self) -> None:
        session = self._session
        self._forget()
        if session is not None:
            await session.quit()

    def _abort(self) -> None:
        session = self._session
        self._forget()
        if session is not None:
            session.abort()

    def _forget(self) -> None:
        self._session = self._plan = None

    # The database.

    async def enter_dot(self, members: Sequence[Claimed]) -> None:
        """Commit that the end of the data goes out next. Raises LostLease, Interrupted."""
        self._interruptible = False
        self._check_stop()
        dot = [member.message.pk for member in members]
        if self._next is None:
            self._next = await self._commit(dot, claim=self._claiming)
        else:
            await self._commit(dot)
        faults.point("queue.before_dot")

    def settle(self, answered: list[Settled]) -> None:
        """The end of the data was answered: that goes into the journal at once, and is stored soon."""
        faults.point("queue.after_dot")
        entry = Entry(self.lease.token, tuple((member.message.pk, outcome) for member, outcome in answered))
        self._noting.append(asyncio.create_task(self._call(self._note, entry)))
        self._store_later(answered)

    def _note(self, entry: Entry) -> None:
        self._journal.append(entry)
        faults.point("queue.after_journal")

    def _store_later(self, settled: Sequence[Settled]) -> None:
        """With the next commit; where the next message takes its time, soon."""
        self._unstored += settled
        if self._timer is None and self._unstored:
            self._timer = asyncio.get_running_loop().call_later(RESULT_WAIT, self._store_now)

    def _store_now(self) -> None:
        self._timer = None
        self._storing = asyncio.create_task(self._commit_now())

    async def _commit(self, dot: Sequence[int] = (), *, claim: bool = False) -> Group | None:
        """Store what is unstored, then that these messages' end of data goes out, and claim a group, in one commit.

        Raises LostLease: nothing of it was done.
        """
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._storing is not None:
            storing, self._storing = self._storing, None
            await storing
        return await self._commit_now(dot, claim=claim)

    async def _commit_now(self, dot: Sequence[int] = (), *, claim: bool = False) -> Group | None:
        unstored, self._unstored = self._unstored, []
        noting, self._noting = self._noting, []
        if not (unstored or dot or claim):
            return None
        step = Step(self.lease, self._schedule, await self._decided(unstored), dot, claim)
        try:
            claimed = await self._write(step)
        except LostLease:
            await self._forget_notes(noting)
            raise
        except BaseException:
            self._unstored, self._noting = unstored + self._unstored, noting + self._noting
            raise
        await self._forget_notes(noting)
        return claimed

    async def _write(self, step: Step) -> Group | None:
        for delay in (*RETRY_DELAYS, None):
            try:
                return await self._writer.run(step.accounts, step.write)
            except (DatabaseBusy, OperationalError, InterfaceError) as exc:
                if not step.results or delay is None:
                    raise
                extra = {"destination": self.lease.destination, "err": str(exc)}
                log.warning("results cannot be stored yet", extra=extra)
                await asyncio.sleep(delay)
        raise AssertionError("the last try returns or raises")

    async def _forget_notes(self, noting: Sequence[asyncio.Task[None]]) -> None:
        """The journal needs these entries no more."""
        for note in noting:
            await note
            self._journal.settled()

    async def _decided(self, unstored: Sequence[Settled]) -> list[Result]:
        """What the outcomes mean; in a thread where somebody is to be told of one."""

        def decide() -> list[Result]:
            return [results.decide(member, outcome, self._schedule) for member, outcome in unstored]

        if all(outcome.status is Status.DELIVERED for _, outcome in unstored):
            return decide()
        return await self._call(decide)

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what uses the database in a thread for that; not to be interrupted."""
        return await self._database.call(functools.partial(function, *args, **kwargs))

    def _check_stop(self) -> None:
        if self._stopping:
            raise Interrupted

    def _observe(self, group: Group, outcomes: Sequence[tuple[Claimed, Outcome]], seconds: float) -> None:
        statuses = {outcome.status for _, outcome in outcomes}
        if len(statuses) > 1 and Status.DELIVERED in statuses:
            result = "okpartial"
        elif Status.DELIVERED in statuses:
            result = "ok"
        else:
            result = "permerror" if Status.PERMANENT in statuses else "temperror"
        first = outcomes[0][1].connection
        deliveries.labels(str(group.first.attempts), first.transport, first.tls_mode, result).observe(seconds)
        for member, outcome in outcomes:
            log.info(
                "delivery attempt",
                extra={
                    "queue_id": member.message.pk,
                    "mailfrom": member.message.sender,
                    "rcptto": member.message.recipient,
                    "attempt": member.message.attempts,
                    "result": outcome.status.value,
                    "remote": outcome.connection.remote_host,
                    "code": outcome.code,
                    "err": outcome.error,
                },
            )


class _Delivering:
    """The hooks of one group: what is done around the end of the data."""

    def __init__(self, drain: Drain, group: Group) -> None:
        self.connection = NO_CONNECTION
        self.settled: set[int] = set()
        """Messages whose end of data was answered: the drain knows."""
        self._drain = drain
        self._by_path = {_recipient(member): member for member in group.members}

    async def before_dot(self, recipients: Sequence[Path]) -> None:
        await self._drain.enter_dot([self._by_path[path] for path in recipients])

    async def after_reply(self, answered: Sequence[RecipientResult]) -> None:
        outcomes = [(self._by_path[result.recipient], _outcome_of(result, self.connection)) for result in answered]
        self.settled.update(member.message.pk for member, _ in outcomes)
        self._drain.settle(outcomes)


def _recipient(member: Claimed) -> Path:
    return path_of(member.message.rcpt_localpart, member.message.rcpt_domain)


def _described(wanted: Plan, session: Session | None) -> Connection:
    tls = session.tls if session is not None else None
    return Connection(
        transport=wanted.transport,
        remote_host=wanted.host,
        remote_ip=session.stream.remote_ip if session is not None else "",
        local_ip=session.stream.local_ip if session is not None else "",
        tls_mode=wanted.tls.mode.value,
        tls_version=tls.version if tls is not None else "",
    )


def _outcome_of(result: RecipientResult, over: Connection) -> Outcome:
    if result.error is not None:
        return _outcome_of_error(result.error, over)
    assert result.accepted is not None, "a result is one of the two"
    reply = result.accepted
    return Outcome(
        Status.DELIVERED,
        code=reply.code,
        secode=without_class(reply.enhanced),
        lines=reply.lines,
        connection=over,
        by_remote=True,
    )


def _outcome_of_error(error: SMTPError, over: Connection) -> Outcome:
    text = f"{UNKNOWN_OUTCOME}: {error}" if error.sent else str(error)
    return Outcome(
        Status.PERMANENT if error.permanent else Status.TEMPORARY,
        text,
        code=error.code,
        secode=without_class(error.enhanced),
        lines=error.lines,
        connection=over,
        by_remote=bool(error.lines),
    )


def _observe_command(command: str, code: int, enhanced: str, seconds: float) -> None:
    labels = (command, str(code), enhanced)
    if labels not in _seen_labels:
        if len(_seen_labels) >= LABELS_MAX:
            labels = (command, "other", "")
        _seen_labels.add(labels)
    command_duration.labels(*labels).observe(seconds)
