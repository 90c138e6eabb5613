"""Telling listeners that an account changed: a hint to ask the database, never the change itself.

A commit publishes ``acct:<id>`` with the new modification sequence on Redis, for other processes and nodes. In a mail
process a ChangeHub hands it to the sessions; a process's own commits reach its hub directly, without Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Final, Self

import redis
import redis.asyncio
from django.conf import settings

log = logging.getLogger(__name__)

CHANNEL_PREFIX: Final = "acct:"
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
    """The connection to Redis that commits are announced over; made at the first use, after the fork."""

    def __init__(self) -> None:
        self._client: redis.Redis | None = None
        self._lock = threading.Lock()
        self._failing = False

    def publish(self, changed: Mapping[int, int]) -> None:
        try:
            self._send(self._connected(), changed)
            self._failing = False
        except redis.RedisError as exc:
            if not self._failing:
                log.warning("changes are not announced to other processes: Redis is away", extra={"err": str(exc)})
            self._failing = True

    def _send(self, client: redis.Redis, changed: Mapping[int, int]) -> None:
        if len(changed) == 1:
            for account_id, modseq in changed.items():
                client.publish(f"{CHANNEL_PREFIX}{account_id}", int(modseq))  # an enum would be written as its name
            return
        with client.pipeline(transaction=False) as pipeline:
            for account_id, modseq in changed.items():
                pipeline.publish(f"{CHANNEL_PREFIX}{account_id}", int(modseq))
            pipeline.execute()

    def _connected(self) -> redis.Redis:
        with self._lock:
            if self._client is None:
                self._client = redis.Redis.from_url(settings.MOX_CACHE_URL, socket_timeout=1, socket_connect_timeout=1)
            return self._client


_publisher = _Publisher()


class Subscription:
    """Interest of a session in an account: ``event`` is set at each change, and cleared by the session.

    ``modseq`` is the highest that was heard of: a session that is there already has nothing to ask.
    """

    __slots__ = ("_hub", "account_id", "event", "modseq")

    def __init__(self, hub: ChangeHub, account_id: int) -> None:
        self._hub = hub
        self.account_id = account_id
        self.modseq = 0
        self.event = asyncio.Event()

    def close(self) -> None:
        self._hub._remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class ChangeHub:
    """The one listener of a process for changes of all accounts its sessions care about. Lives on an event loop."""

    def __init__(self) -> None:
        self._subscriptions: dict[int, set[Subscription]] = {}
        self._ending_watchers: dict[int, list[Callable[[Ending], None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending: dict[int, int] = {}
        self._pending_lock = threading.Lock()

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        _local_listeners.append(self._changed_here)
        self._task = self._loop.create_task(self._listen(), name="change-hub")

    async def close(self) -> None:
        with contextlib.suppress(ValueError):
            _local_listeners.remove(self._changed_here)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def subscribe(self, account_id: int) -> Subscription:
        """Be woken at changes of an account, until the subscription is closed."""
        subscription = Subscription(self, account_id)
        self._subscriptions.setdefault(account_id, set()).add(subscription)
        return subscription

    def watch_endings(self, account_id: int, ends: Callable[[Ending], None]) -> Callable[[], None]:
        """Have ``ends(why)`` called when sessions of an account are to end; what this gives stops that."""
        watchers = self._ending_watchers.setdefault(account_id, [])
        watchers.append(ends)

        def unwatch() -> None:
            with contextlib.suppress(ValueError):
                watchers.remove(ends)
            if not watchers and self._ending_watchers.get(account_id) is watchers:
                del self._ending_watchers[account_id]

        return unwatch

    def _remove(self, subscription: Subscription) -> None:
        subscriptions = self._subscriptions.get(subscription.account_id)
        if subscriptions is not None:
            subscriptions.discard(subscription)
            if not subscriptions:
                del self._subscriptions[subscription.account_id]

    def _changed_here(self, account_id: int, modseq: int) -> None:
        """Called by the writer's thread after a commit of this process."""
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

    def _wake_all(self) -> None:
        for subscriptions in self._subscriptions.values():
            for subscription in subscriptions:
                subscription.event.set()

    async def _listen(self) -> None:
        while True:
            client = redis.asyncio.Redis.from_url(settings.MOX_CACHE_URL)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.psubscribe(f"{CHANNEL_PREFIX}*")
                    self._wake_all()  # something may have been missed before the subscription held
                    async for message in pubsub.listen():
                        channel: bytes = message["channel"]
                        self._wake(int(channel[len(CHANNEL_PREFIX) :]), int(message["data"]))
            except (redis.RedisError, OSError) as exc:
                log.info("change notifications: Redis is away, trying again", extra={"err": str(exc)})
                await asyncio.sleep(RECONNECT_DELAY)
            finally:
                await client.aclose()
