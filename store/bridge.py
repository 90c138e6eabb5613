"""The one bridge between sockets (async) and the domain (sync): a thread pool for reads, the group commit for writes.

bridge = Bridge(threads=8)
await bridge.start()
opened = await bridge.call(reading.open_mailbox, account_id, "Inbox")
resolved = await bridge.brief(resolve, path)
placement = await bridge.write([account_id], lambda tx: delivery.deliver(tx, new))
await bridge.close()
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

from django.db import DatabaseError, connection

from .db import Tx
from .notify import ChangeHub
from .pool import Threads
from .writer import GroupWriter

COMPUTING: Final = 2  # one that has the interpreter, and one that waits for the disk, or hashes and signs without it
# Threads of calls that are all Python and some small queries. SQLite answers at once, so more would only wait for each
# other, at a cost; another database takes a while, in which others can ask.
BRIEF_THREADS: Final = {"sqlite": 2}
BRIEF_THREADS_ELSEWHERE: Final = 8

P = ParamSpec("P")
T = TypeVar("T")


class Bridge:
    """What the servers of one mail process share. ``threads``: as many calls run at a time, the others wait in order.

    Each thread keeps its own connection to the database.
    """

    def __init__(self, threads: int) -> None:
        self._pool = Threads(threads, "bridge")
        self._computing = asyncio.Semaphore(COMPUTING)
        self._brief = Threads(BRIEF_THREADS.get(connection.vendor, BRIEF_THREADS_ELSEWHERE), "brief")
        self.writer = GroupWriter()
        self.hub = ChangeHub()

    async def start(self) -> None:
        await self.hub.start()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that uses the database, a disk or much CPU, in a thread of the pool.

        A caller that is cancelled does not stop it: its result is dropped.
        """
        return await self._pool.call(_with_live_connection, functools.partial(function, *args, **kwargs))

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what takes milliseconds of CPU: no more than COMPUTING at a time, the others wait in order.

        More of them would be no faster, since one interpreter runs them all, and would take it from the writer.
        """
        async with self._computing:
            return await self.call(function, *args, **kwargs)

    async def brief(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for what takes a few milliseconds at most, whatever it is given: no file, no large message."""
        return await self._brief.call(_with_live_connection, functools.partial(function, *args, **kwargs))

    async def write(self, account_ids: Sequence[int], job: Callable[[Tx], T], *, sure: bool = False) -> T:
        """Have the group commit run ``job(tx)`` with these accounts locked; returns after the commit.

        See GroupWriter.submit() for what it raises, for what a job may do, and for ``sure``.
        """
        return await self.writer.run(account_ids, job, sure=sure)

    async def close(self) -> None:
        """Commit what waits, and end the threads."""
        await self.hub.close()
        await asyncio.to_thread(self.writer.close)
        self._pool.close()
        self._brief.close()


def _with_live_connection(call: Callable[[], T]) -> T:
    try:
        return call()
    except DatabaseError:
        # The server restarted, say: the next call connects anew.
        connection.close_if_unusable_or_obsolete()
        raise
