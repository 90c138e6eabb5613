"""What a queue does around the end of the data: in time, exactly once, and never when there is doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from protocols.smtpclient import RecipientResult
from protocols.smtpsyntax import Path
from tests.unit.smtp_sink import (
    CONTENT,
    DATA,
    DONE,
    GO,
    MAIL,
    OK,
    ONE,
    PIPELINED,
    QUIT,
    RSET,
    SENT,
    THREE,
    B,
    C,
    D,
    Peer,
    Sink,
    converse,
    deliver,
    path,
)


class Recorder:
    """Hooks that write down what they were told, and what the server had got by then."""

    def __init__(self, fail: str = "") -> None:
        self.calls: list[str] = []
        self._fail = fail

    async def before_dot(self, recipients: Sequence[Path]) -> None:
        self.calls.append(f"before dot: {' '.join(map(str, recipients))}")
        if self._fail == "before dot":
            raise RuntimeError("the database is away")

    async def after_reply(self, results: Sequence[RecipientResult]) -> None:
        self.calls += [f"after reply: {result.recipient} {result.accepted or result.error}" for result in results]
        if self._fail == "after reply":
            raise RuntimeError("the database is away")


def test_the_hooks_are_called_around_each_end_of_data_for_those_that_were_accepted() -> None:
    script = PIPELINED + MAIL + B + C + D + DATA + OK * 2 + "S: 550 no c\nS: 452 too many\n" + GO + SENT + DONE
    script += RSET + MAIL + D + DATA + OK * 3 + GO + SENT + "S: 451 4.3.0 try again\n" + QUIT
    hooks = Recorder()
    deliver(script, to=THREE, hooks=hooks)
    assert hooks.calls == [
        "before dot: b@far.example",
        "after reply: b@far.example 250 2.0.0 queued as 1",
        "before dot: d@far.example",
        "after reply: d@far.example 451 4.3.0 try again",
    ]


def test_the_dot_is_not_sent_when_the_hook_before_it_fails() -> None:
    content = SENT.replace("C: .\n", "")
    hooks = Recorder(fail="before dot")
    with pytest.raises(RuntimeError, match="database"):
        deliver(PIPELINED + MAIL + B + DATA + OK * 2 + GO + content, hooks=hooks)
    assert hooks.calls == ["before dot: b@far.example"]


def test_nothing_more_is_sent_when_the_hook_after_the_reply_fails() -> None:
    hooks = Recorder(fail="after reply")
    script = PIPELINED + MAIL + B + C + DATA + OK * 2 + "S: 452 too many\n" + GO + SENT + DONE
    with pytest.raises(RuntimeError, match="database"):
        deliver(script, to=THREE[:2], hooks=hooks)


def test_the_hook_after_the_reply_hears_of_an_unknown_outcome() -> None:
    hooks = Recorder()
    deliver(PIPELINED + MAIL + B + DATA + OK * 2 + GO + SENT + "closes\n", hooks=hooks)
    assert hooks.calls[1:] == ["after reply: b@far.example connection closed by server during end-of-data"]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("closes\n", "connection closed by server during data"),
        ("resets\n", "connection closed by server during data"),
        ("S: 421 4.3.2 going down\ncloses\n", "421 4.3.2 going down"),
        ("S: 250 never mind\ncloses\n", "unexpected reply to data: 250 never mind"),
    ],
)
def test_a_connection_that_was_lost_before_the_dot_leaves_no_doubt(said: str, text: str) -> None:
    """The server leaves while the hook is busy: it cannot have taken the message."""
    leave = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.play(PIPELINED + MAIL + B + DATA + OK * 2 + GO + SENT.replace("C: .\n", ""))
        await leave.wait()
        await peer.play(said)
        await peer.left()

    async def talk(sink: Sink) -> RecipientResult:
        session = await sink.connect()
        told: list[RecipientResult] = []

        class Slow:
            async def before_dot(self, recipients: Sequence[Path]) -> None:
                leave.set()
                while not session.stream.ended:
                    await session.stream.look()

            async def after_reply(self, results: Sequence[RecipientResult]) -> None:
                told.extend(results)

        delivery = await session.deliver(
            path("a@client.example"), [path(ONE[0])], CONTENT, has_8bit=False, hooks=Slow()
        )
        assert list(delivery.results) == told
        return told[0]

    error = converse(talk, script).error
    assert error is not None
    assert str(error) == text
    assert not error.sent


def test_a_cancelled_delivery_ends_the_connection_without_the_dot() -> None:
    reached = asyncio.Event()

    class Stuck:
        async def before_dot(self, recipients: Sequence[Path]) -> None:
            reached.set()
            await asyncio.Event().wait()

        async def after_reply(self, results: Sequence[RecipientResult]) -> None:
            raise AssertionError("there was no reply")

    async def talk(sink: Sink) -> None:
        session = await sink.connect()
        delivering = asyncio.create_task(
            session.deliver(path("a@client.example"), [path(ONE[0])], CONTENT, has_8bit=False, hooks=Stuck())
        )
        await reached.wait()
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
        assert not session.usable

    converse(talk, PIPELINED + MAIL + B + DATA + OK * 2 + GO + SENT.replace("C: .\n", ""))
