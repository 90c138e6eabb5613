"""Threads that work for an event loop: asyncio's ``run_in_executor`` at half its cost, which each command pays.

    pool = Threads(8, "bridge")
    result = await pool.call(function, argument)
    pool.close()

A call is a future of the loop, an entry in a queue, and one wake-up of the loop. An executor of the standard library
has a second future with a lock and a condition of its own for each call.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    context: contextvars.Context
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]


class Threads:
    """So many threads, each started when the others are busy. May be used from several event loops."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._started = 0
        self._running = 0  # calls that wait or run
        self._counting = threading.Lock()

    async def call(self, function: Callable[..., T], *args: Any) -> T:
        """Run a function in a thread, with the context variables of the caller.

        A caller that is cancelled does not stop it: its result is dropped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._counting:
            self._running += 1
            is_short = self._running > self._started < self._count
            self._started += is_short
        if is_short:
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        self._calls.put(_Call(function, args, contextvars.copy_context(), loop, future))
        return await future

    def close(self) -> None:
        """End the threads, each after the call that it is at; calls that wait are cancelled."""
        with contextlib.suppress(queue.Empty):
            while (call := self._calls.get_nowait()) is not None:
                call.future.cancel()
        for _ in range(self._started):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            result = error = None
            try:
                result = call.context.run(call.function, *call.args)
            except BaseException as exc:
                error = exc
            with self._counting:
                self._running -= 1
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                call.loop.call_soon_threadsafe(settle, call.future, result, error)
            del call, result, error  # a thread that waits keeps nothing alive


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its result or its exception, unless who waited for it was cancelled."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
