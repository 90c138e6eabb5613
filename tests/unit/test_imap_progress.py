"""A long search tells how far it is, and a short one says nothing (RFC 9585)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from imap.progress import Progress
from imap.session import Session

INTERVAL = 0.001  # seconds; what is waited for here is told, not slept for


@dataclass
class Account:
    disabled: frozenset[str] = frozenset()


@dataclass
class Told:
    """What a search sees of its session; ``enough`` is set when so many lines were sent."""

    tag: bytes = b"a1"
    account: Account = field(default_factory=Account)
    lines: list[bytes] = field(default_factory=list)
    wanted: int = 2
    told_at: float = 0.0
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, data: bytes) -> None:
        self.lines.append(data)
        if len(self.lines) >= self.wanted:
            self.enough.set()

    async def flush(self) -> None:
        self.told_at = asyncio.get_running_loop().time()


def told_by(told: Told, total: int, done: int) -> list[bytes]:
    async def main() -> None:
        progress = Progress(cast(Session, told), total, interval=INTERVAL)
        assert await progress.wait(_page(told.enough), done) == "page"

    asyncio.run(main())
    return told.lines


async def _page(ready: asyncio.Event) -> str:
    await ready.wait()
    return "page"


def test_it_tells_again_and_again_how_far_it_is() -> None:
    lines = told_by(Told(), 100, 40)
    assert len(lines) >= 2
    assert set(lines) == {b'* OK [INPROGRESS ("a1" 40 100)] still searching\r\n'}


def test_a_tag_that_would_end_the_code_is_not_named() -> None:
    assert told_by(Told(tag=b"a]1"), 100, 40)[0] == b"* OK [INPROGRESS (NIL 40 100)] still searching\r\n"


def test_other_output_counts_as_a_word_from_us() -> None:
    async def main() -> None:
        told = Told()
        await told.flush()
        assert await Progress(cast(Session, told), 100, interval=100).wait(_page(_set()), 0) == "page"
        assert told.lines == []

    def _set() -> asyncio.Event:
        event = asyncio.Event()
        asyncio.get_running_loop().call_later(10 * INTERVAL, event.set)
        return event

    asyncio.run(main())


def test_a_goal_of_zero_is_no_goal() -> None:
    assert told_by(Told(), 0, 0)[0] == b'* OK [INPROGRESS ("a1" NIL NIL)] still searching\r\n'


def test_who_disabled_it_and_who_is_answered_soon_hear_nothing() -> None:
    async def main(told: Told, work: Any) -> None:
        assert await Progress(cast(Session, told), 100, interval=INTERVAL).wait(work, 0) == "page"

    disabled, soon = Told(account=Account(frozenset({"INPROGRESS"}))), Told()

    async def slow() -> str:
        await asyncio.sleep(10 * INTERVAL)
        return "page"

    async def fast() -> str:
        return "page"

    asyncio.run(main(disabled, slow()))
    asyncio.run(main(soon, fast()))
    assert disabled.lines == soon.lines == []


def test_what_the_search_raises_comes_through() -> None:
    async def broken() -> str:
        raise ValueError("broken")

    async def main() -> None:
        with pytest.raises(ValueError, match="broken"):
            await Progress(cast(Session, Told()), 100).wait(broken(), 0)

    asyncio.run(main())
