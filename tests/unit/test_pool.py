"""Threads that work for event loops: results, exceptions, context, callers that are cancelled, the end."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

from store.pool import Threads

name: contextvars.ContextVar[str] = contextvars.ContextVar("name")


def test_it_gives_results_and_exceptions_to_who_called() -> None:
    def halved(number: int) -> int:
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number // 2

    async def calls() -> list[int | BaseException]:
        pool = Threads(3, "test")
        found = await asyncio.gather(*(pool.call(halved, number) for number in range(100)), return_exceptions=True)
        pool.close()
        return found

    for number, found in enumerate(asyncio.run(calls())):
        assert str(found) == (f"{number} is odd" if number % 2 else str(number // 2))


def test_it_runs_with_the_context_of_the_caller_in_threads_of_its_own() -> None:
    async def call(pool: Threads, caller: str) -> tuple[str, str]:
        name.set(caller)
        return await pool.call(lambda: (name.get(), threading.current_thread().name))

    async def calls() -> list[tuple[str, str]]:
        pool = Threads(1, "test")
        found = await asyncio.gather(call(pool, "one"), call(pool, "two"))
        pool.close()
        return list(found)

    assert asyncio.run(calls()) == [("one", "test-1"), ("two", "test-1")]


def test_as_many_run_at_a_time_as_there_are_threads() -> None:
    barrier = threading.Barrier(4)

    async def calls() -> None:
        pool = Threads(4, "test")
        await asyncio.gather(*(pool.call(barrier.wait, 20) for _ in range(8)))  # breaks unless four meet, twice
        pool.close()

    asyncio.run(calls())


def test_a_caller_that_is_cancelled_stops_nothing() -> None:
    began, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go_on.wait(20)
        done.set()

    async def calls() -> str:
        pool = Threads(1, "test")
        caller = asyncio.ensure_future(pool.call(work))
        await asyncio.to_thread(began.wait, 20)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go_on.set()
        after = await pool.call(lambda: "next")
        pool.close()
        return after

    assert asyncio.run(calls()) == "next"
    assert done.is_set()


def test_calls_that_wait_when_it_closes_are_cancelled() -> None:
    began, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        began.set()
        return go_on.wait(20)

    async def calls() -> list[object]:
        pool = Threads(1, "test")
        running = asyncio.ensure_future(pool.call(work))
        waiting = asyncio.ensure_future(pool.call(lambda: "never"))
        await asyncio.to_thread(began.wait, 20)
        pool.close()
        go_on.set()
        return list(await asyncio.gather(running, waiting, return_exceptions=True))

    ran, waited = asyncio.run(calls())
    assert ran is True
    assert isinstance(waited, asyncio.CancelledError)


def test_two_event_loops_share_it() -> None:
    pool = Threads(2, "test")

    def loop() -> int:
        async def calls() -> int:
            return sum(await asyncio.gather(*(pool.call(int, 1) for _ in range(200))))

        return asyncio.run(calls())

    sums: list[int] = []
    threads = [threading.Thread(target=lambda: sums.append(loop())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert sums == [200, 200]
