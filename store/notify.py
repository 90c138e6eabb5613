"""Telling listeners that an account changed: a hint to ask the database, never the change itself.

A commit publishes ``acct:<id>`` with the new modification sequence on Redis, for other processes and nodes. In a mail
process a ChangeHub listens for the accounts that have sessions there, and hands it to them; a process's own commits
reach its hub directly, without Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self

import redis
import redis.asyncio
from django.conf import settings

log = logging.getLogger(__name__)

CHANNEL_PREFIX: Final = "acct:"
NO_CHANNEL: Final = f"{CHANNEL_PREFIX}0"  # of no account
RECONNECT_DELAY: Final = 1.0  # seconds until a lost Redis is tried again; sessions poll meanwhile


class Ending(enum.IntEnum):
    """Why open sessions of an account end: published in place of a modification sequence, which is never so high."""

    RENUMBERED = (1 << 63) - 2
    """Clients have to start anew: their mailboxes have other UIDs, or UIDVALIDITY."""
    REMOVED = (1 << 63) - 1


ENDING_TEXTS: Final = {
    Ending.RENUMBERED: "mailboxes have new uids, connect again",
    Ending.REMOVED: "account was removed",
}

_local_listeners: list[Callable[[int, int], None]] = []


def publish(changed: Mapping[int, int]) -> None:
    """Tell that these accounts changed, with their last modification sequence. Never raises: it is only a hint."""
    for account_id, modseq in changed.items():
        for listener in _local_listeners:
            listener(account_id, modseq)
    _publisher.publish(changed)


class _Publisher:
    """The connection to Redis that commits are announced over; made at the first use, after the fork.

    Redis is told to answer nothing on it: the writer would wait for each answer, between two commits.
    """

    def __init__(self) -> None:
        self._connection: Any = None  # a redis.Connection, whose methods are not typed
        self._lock = threading.Lock()
        self._failing = False

    def publish(self, changed: Mapping[int, int]) -> None:
        with self._lock:
            try:
                self._connected().send_packed_command([b"".join(map(_publish_command, changed.items()))])
                self._failing = False
            except redis.RedisError as exc:
                self._connection = None
                if not self._failing:
                    log.warning("changes are not announced to other processes: Redis is away", extra={"err": str(exc)})
                self._failing = True

    def _connected(self) -> Any:
        if self._connection is None:
            pool = redis.ConnectionPool.from_url(settings.MOX_CACHE_URL, socket_timeout=1, socket_connect_timeout=1)
            connection: Any = pool.make_connection()
            connection.connect()
            connection.send_command("CLIENT", "REPLY", "OFF")
            self._connection = connection
        return self._connection


def _publish_command(changed: tuple[int, int]) -> bytes:
    account_id, modseq = changed
    channel, number = b"%s%d" % (CHANNEL_PREFIX.encode(), account_id), b"%d" % modseq
    return b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(channel), channel, len(number), number)


_publisher = _Publisher()


class Subscription:
    """Interest of a session in an account: ``event`` is set at each change, and cleared by the session.

    ``modseq`` is the highest that was heard of: a session that is there already has nothing to ask.
    """

    __slots__ = ("_hub", "account_id", "event", "missed", "modseq")

    def __init__(self, hub: ChangeHub, account_id: int) -> None:
        self._hub = hub
        self.account_id = account_id
        self.modseq = 0
        self.missed = False  # something may have happened that was not heard of
        self.event = asyncio.Event()

    def has_news(self, position: int) -> bool:
        """Whether a session with this position has something to ask."""
        missed, self.missed = self.missed, False
        return missed or self.modseq > position

    def close(self) -> None:
        self._hub._remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ChangeHub:
    """The one listener of a process for changes of the accounts its sessions care about. Lives on an event loop."""

    def __init__(self) -> None:
        self._wanted_changed = asyncio.Event()  # the accounts that somebody cares about are others
        self._subscriptions: dict[int, set[Subscription]] = {}
        self._ending_watchers: dict[int, list[Callable[[Ending], None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending: dict[int, int] = {}
        self._pending_lock = threading.Lock()
        self._closing = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        _local_listeners.append(self._changed_here)
        self._task = self._loop.create_task(self._listen(), name="change-hub")

    async def close(self) -> None:
        with contextlib.suppress(ValueError):
            _local_listeners.remove(self._changed_here)
        # A command that is under way on the connection swallows the cancellation of its task, or fails in its place.
        self._closing = True
        self._wanted_changed.set()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def subscribe(self, account_id: int) -> Subscription:
        """Be woken at changes of an account, until the subscription is closed."""
        subscription = Subscription(self, account_id)
        self._subscriptions.setdefault(account_id, set()).add(subscription)
        self._wanted_changed.set()
        return subscription

    def watch_endings(self, account_id: int, ends: Callable[[Ending], None]) -> Callable[[], None]:
        """Have ``ends(why)`` called when sessions of an account are to end; what this gives stops that."""
        watchers = self._ending_watchers.setdefault(account_id, [])
        watchers.append(ends)
        self._wanted_changed.set()

        def unwatch() -> None:
            with contextlib.suppress(ValueError):
                watchers.remove(ends)
            if not watchers and self._ending_watchers.get(account_id) is watchers:
                del self._ending_watchers[account_id]
                self._wanted_changed.set()

        return unwatch

    def _remove(self, subscription: Subscription) -> None:
        subscriptions = self._subscriptions.get(subscription.account_id)
        if subscriptions is not None:
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._subscriptions[subscription.account_id]
                self._wanted_changed.set()

    def _changed_here(self, account_id: int, modseq: int) -> None:
        """Called by the writer's thread after a commit of this process."""
        if account_id not in self._subscriptions and account_id not in self._ending_watchers:
            return  # who subscribes from now on reads the account after that
        with self._pending_lock:
            first = not self._pending
            self._pending[account_id] = max(modseq, self._pending.get(account_id, 0))
        if first and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._wake_pending)

    def _wake_pending(self) -> None:
        with self._pending_lock:
            pending, self._pending = self._pending, {}
        for account_id, modseq in pending.items():
            self._wake(account_id, modseq)

    def _wake(self, account_id: int, modseq: int) -> None:
        if modseq >= Ending.RENUMBERED:
            for ends in tuple(self._ending_watchers.get(account_id, ())):
                ends(Ending(modseq))
            return
        for subscription in self._subscriptions.get(account_id, ()):
            if modseq > subscription.modseq:
                subscription.modseq = modseq
                subscription.event.set()

    def _wake_all(self, account_id: int) -> None:
        for subscription in self._subscriptions.get(account_id, ()):
            subscription.missed = True
            subscription.event.set()

    async def _listen(self) -> None:
        while not self._closing:
            client = redis.asyncio.Redis.from_url(settings.MOX_CACHE_URL)
            try:
                async with client.pubsub() as pubsub, asyncio.TaskGroup() as tasks:
                    await pubsub.subscribe(NO_CHANNEL)  # a subscriber without any channel cannot listen
                    tasks.create_task(self._ask_for_wanted(pubsub))
                    tasks.create_task(self._hear(pubsub))
            except* (redis.RedisError, OSError) as group:
                if not self._closing:
                    error = str(group.exceptions[0])
                    log.info("change notifications: Redis is away, trying again", extra={"err": error})
                    await asyncio.sleep(RECONNECT_DELAY)
            finally:
                await client.aclose()

    async def _ask_for_wanted(self, pubsub: redis.asyncio.client.PubSub) -> None:
        """Subscribe to the accounts that sessions of this process care about, and to no others."""
        asked: set[int] = set()
        while not self._closing:
            self._wanted_changed.clear()
            wanted = self._subscriptions.keys() | self._ending_watchers.keys()
            if new := wanted - asked:
                await pubsub.subscribe(*(f"{CHANNEL_PREFIX}{account_id}" for account_id in new))
            if gone := asked - wanted:
                await pubsub.unsubscribe(*(f"{CHANNEL_PREFIX}{account_id}" for account_id in gone))
            asked = wanted
            await self._wanted_changed.wait()

    async def _hear(self, pubsub: redis.asyncio.client.PubSub) -> None:
        async for message in pubsub.listen():
            account_id = int(message["channel"][len(CHANNEL_PREFIX) :])
            if message["type"] == "message":
                self._wake(account_id, int(message["data"]))
            elif message["type"] == "subscribe":
                self._wake_all(account_id)  # something may have been missed before the subscription held
