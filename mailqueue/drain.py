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
from typing import Final, ParamSpec, TypeVar

import uvloop
from django.db import InterfaceError, OperationalError
from prometheus_client import Histogram

from server import faults
from server.connections import panic_total
from server.db import DatabaseBusy
from server.models import ServerSettings
from store.pool import Threads
from store.writer import GroupWriter

from . import leases, results
from .carrier import Carrier
from .direct import DirectConnector, Hint, Network
from .interruptions import Interrupted, Interruptions
from .journal import Entry, Journal
from .leases import Claimed, Group, Lease, LostLease
from .outcomes import Outcome, Status, suppressed
from .plans import Impossible, Plan, plan
from .relay import RelayConnector
from .results import Result
from .schedule import Schedule
from .steps import Step
from .tlsresults import Observation

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 60.0  # then the destination queues up behind the others
DRAIN_GROUPS: Final = 500
RESULT_WAIT: Final = 0.05  # seconds that a result waits for the dot of the next message, to be committed with it
# Seconds between tries to store results: the other server may have the message, so they must not be lost.
RETRY_DELAYS: Final = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 140)

P = ParamSpec("P")
T = TypeVar("T")

Settled = tuple[Claimed, Outcome]

deliveries = Histogram(
    "mox_queue_delivery_duration_seconds",
    "Seconds of delivery attempts, by group.",
    ["attempt", "transport", "tlsmode", "result"],
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 60, 120),
)


class Drain:
    """One run of a delivery task. `stop` may be called from any thread."""

    def __init__(
        self, lease: Lease, journal: Journal, database: Threads, writer: GroupWriter, network: Network
    ) -> None:
        self.lease = lease
        self._journal = journal
        self._database = database
        self._writer = writer
        self._network = network
        self._schedule = Schedule.of_server()
        self._next: Group | None = None  # claimed, for when this one is done
        self._claiming = True  # another group may be claimed
        self._sender = 0  # the account whose turn it is
        self._unstored: list[Settled] = []
        self._noting: list[asyncio.Task[None]] = []  # entries on their way into the journal, for what is unstored
        self._observations: list[Observation] = []
        self._hints: list[Hint] = []
        self._storing: asyncio.Task[Group | None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._interruptions = Interruptions()
        self._carrier = Carrier(self._interruptions)

    def run(self, group: Group | None) -> None:
        """Deliver this group and those that follow; the lease is released at the end. Blocks."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run(group))

    def stop(self) -> None:
        """End soon: before the end of the data at once, else after its answer."""
        self._interruptions.stop()

    async def _run(self, group: Group | None) -> None:
        self._interruptions.begin()
        ends = time.monotonic() + DRAIN_SECONDS
        groups = 0
        try:
            while group is not None:
                faults.point("queue.claimed")
                groups += 1
                self._claiming = not self._interruptions.stopping and time.monotonic() < ends and groups < DRAIN_GROUPS
                await self._attempt(group)
                group = await self._following()
            await self._carrier.disconnect()
        except (Interrupted, asyncio.CancelledError):
            self._carrier.abort()
            await self._give_back(group)
        except LostLease:
            self._carrier.abort()
            return
        except BaseException:
            self._carrier.abort()
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
        self._sender = group.first.account_id or 0
        delivering = _Delivering(self)
        try:
            to_send = group.to_send()
            outcomes = await self._deliver(to_send, delivering) if to_send is not None else {}
        except (Interrupted, LostLease):
            raise
        except Exception as exc:
            panic_total.labels("mailqueue").inc()
            log.exception("delivery failed", extra={"destination": self.lease.destination})
            self._carrier.abort()
            failed = Outcome(Status.TEMPORARY, f"internal error: {exc}", secode="3.0")
            outcomes = {member.message.pk: failed for member in group.members}
        outcomes |= {member.message.pk: suppressed(member.message.recipient) for member in group.not_to_send()}
        found = [(member, outcomes[member.message.pk]) for member in group.members]
        self._observe(group, found, time.monotonic() - began)
        self._store_later([settled for settled in found if settled[0].message.pk not in delivering.settled])

    async def _deliver(self, group: Group, delivering: _Delivering) -> dict[int, Outcome]:
        """The outcome for each message, by id."""
        try:
            wanted = await self._call(lambda: plan(group, ServerSettings.current()))
        except Impossible as exc:
            return {member.message.pk: exc.outcome for member in group.members}
        if isinstance(wanted, Plan):
            return await self._carrier.deliver(group.members, RelayConnector(wanted), delivering)
        connector = DirectConnector(wanted, self._network, self._database, group.first.kind)
        delivering.connector = connector
        try:
            return await self._carrier.deliver(group.members, connector, delivering)
        finally:
            self.learn(connector)

    # The database.

    async def enter_dot(self, members: Sequence[Claimed]) -> None:
        """Commit that the end of the data goes out next. Raises LostLease."""
        dot = [member.message.pk for member in members]
        if self._next is None:
            self._next = await self._commit(dot, claim=self._claiming)
        else:
            await self._commit(dot)
        faults.point("queue.before_dot")

    def settle(self, answered: Sequence[Settled]) -> None:
        """The end of the data was answered: that goes into the journal at once, and is stored soon."""
        faults.point("queue.after_dot")
        entry = Entry(self.lease.token, tuple((member.message.pk, outcome) for member, outcome in answered))
        self._noting.append(asyncio.create_task(self._call(self._note, entry)))
        self._store_later(answered)

    def learn(self, connector: DirectConnector) -> None:
        """What was seen of others' TLS is stored with the next commit: that of what came of the attempt."""
        self._observations += connector.observations()
        self._hints += connector.take_hints()

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
        observations, self._observations = self._observations, []
        hints, self._hints = self._hints, []
        if not (unstored or dot or claim or observations):
            return None
        try:
            decided = await self._decided(unstored)
            step = Step(self.lease, self._schedule, decided, dot, claim, self._sender, observations, hints)
            claimed = await self._write(step)
        except LostLease:
            await self._forget_notes(noting)
            raise
        except BaseException:
            self._unstored, self._noting = unstored + self._unstored, noting + self._noting
            self._observations, self._hints = observations + self._observations, hints + self._hints
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

    def _observe(self, group: Group, outcomes: Sequence[tuple[Claimed, Outcome]], seconds: float) -> None:
        statuses = {outcome.status for _, outcome in outcomes}
        if len(statuses) > 1 and Status.DELIVERED in statuses:
            result = "okpartial"
        elif Status.DELIVERED in statuses:
            result = "ok"
        else:
            result = "permerror" if Status.PERMANENT in statuses else "temperror"
        first = outcomes[0][1].connection
        deliveries.labels(str(group.first.attempts), first.transport, first.tls_label, result).observe(seconds)
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
    """What is done around the end of the data of one group."""

    def __init__(self, drain: Drain) -> None:
        self.settled: set[int] = set()
        """Messages whose end of data was answered: the drain knows."""
        self.connector: DirectConnector | None = None
        self._drain = drain

    async def before_dot(self, members: Sequence[Claimed]) -> None:
        await self._drain.enter_dot(members)

    async def after_reply(self, settled: Sequence[Settled]) -> None:
        self.settled.update(member.message.pk for member, _ in settled)
        if self.connector is not None:
            self._drain.learn(self.connector)
        self._drain.settle(settled)
