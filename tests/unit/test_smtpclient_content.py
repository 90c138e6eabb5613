"""Content on its way to a server: the same bytes, in blocks, whatever the server does meanwhile."""

from __future__ import annotations

import asyncio
import io
import random
import time
import tracemalloc
from collections.abc import Sequence

import pytest

from protocols.message.source import BLOCK as MIB
from protocols.smtpclient import Delivery, RecipientResult, Timeouts
from protocols.smtpclient.transaction import BLOCK
from protocols.smtpdata import END
from protocols.smtpsyntax import Path
from tests.unit.smtp_sink import CONTENT, QUIT, SOON, Peer, Script, Sink, converse, deliver, opening, outcome, path

LARGE = 30 * MIB
ACCEPTED = "accepted: 250 2.0.0 queued"


class Repeated:
    """A source of any size, which costs nothing: one line again and again."""

    LINE = b"." + b"0123456789abcdef" * 3 + b"012345678901\r\n"

    def __init__(self, size: int) -> None:
        assert len(self.LINE) == 63
        self.size = size - size % len(self.LINE)
        self.most = 0

    def read_at(self, offset: int, length: int, /) -> bytes:
        self.most = max(self.most, length)
        start = offset % len(self.LINE)
        end = min(offset + length, self.size)
        return (self.LINE * ((end - offset) // len(self.LINE) + 2))[start : start + max(0, end - offset)]


def taking(received: list[bytes], *extensions: str) -> Script:
    """A server that takes one message."""

    async def script(peer: Peer) -> None:
        await peer.greet(*extensions)
        await envelope(peer)
        received.append(await peer.content())
        await peer.play("S: 250 2.0.0 queued\n" + QUIT)
        await peer.left()

    return script


async def envelope(peer: Peer) -> None:
    """Everything before the content, for one transaction without PIPELINING."""
    while not (command := await peer.line()).startswith(b"DATA"):
        assert command.startswith((b"MAIL", b"RCPT")), command
        await peer.say("250 OK")
    await peer.say("354 go")


def after_354(received: list[bytes]) -> Script:
    """A server that keeps the very bytes that come after 354, until there are no more."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await envelope(peer)
        data = b""
        while not data.endswith(b"\r\n.\r\n") and data != b".\r\n":
            data += await peer.stream.read_block(SOON)
        received.append(data)
        await peer.play("S: 250 2.0.0 queued\n" + QUIT)

    return script


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"Subject: x\r\n\r\nhello\r\n", b"Subject: x\r\n\r\nhello\r\n.\r\n"),
        (b"Subject: x\r\n\r\nno end", b"Subject: x\r\n\r\nno end\r\n.\r\n"),
        (b"a: b\r\n\r\n.\r\n..\r\n.x\r\nx.\r\n", b"a: b\r\n\r\n..\r\n...\r\n..x\r\nx.\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b"", b".\r\n"),
        (b"\r\n", b"\r\n.\r\n"),
        (b"a: \0\xff\r\n", b"a: \0\xff\r\n.\r\n"),
    ],
)
def test_dots_at_the_start_of_lines_are_doubled_and_the_last_line_gets_its_end(content: bytes, wire: bytes) -> None:
    received: list[bytes] = []
    assert outcome(deliver(after_354(received), content=content)) == {"b@far.example": ACCEPTED}
    assert received == [wire]


@pytest.mark.parametrize(
    "content", [b"a: b\r\n\r\nx\ny\r\n", b"a: b\r\n\r\nx\ry\r\n", b"a: b\r\n\r\nx\r", b"\n", b"a\r\r\n"]
)
def test_content_with_a_bare_line_end_is_not_sent_to_its_end(content: bytes) -> None:
    """Some server would see a line end in it, and perhaps the end of the message: a way to smuggle in another."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await envelope(peer)
        _, end = await peer.rest()
        assert not end.endswith(b".\r\n")

    (result,) = deliver(script, content=content).results
    assert result.error is not None
    assert result.error.permanent
    assert result.error.enhanced == "5.6.0"


@pytest.mark.parametrize("seed", range(4))
def test_a_large_message_arrives_as_it_is(seed: int) -> None:
    chance = random.Random(seed)
    content = b""
    while len(content) < 3 * BLOCK:
        line = chance.choice([b".", b"..", b"", b"x" * chance.randrange(200), chance.randbytes(40)])
        content += line.translate(None, b"\r\n") + b"\r\n"
    received: list[bytes] = []
    deliver(taking(received), content=io.BytesIO(content), has_8bit=True)
    assert received == [content]


def test_each_transaction_has_the_whole_content() -> None:
    content = b"a: b\r\n\r\n" + b"x" * 70 + b"\r\n"
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet("LIMITS RCPTMAX=1")
        for number in range(3):
            if number:
                await peer.play("C: RSET\nS: 250 OK")
            await envelope(peer)
            received.append(await peer.content())
            await peer.say("250 2.0.0 queued")
        await peer.play(QUIT)

    recipients = tuple(f"{name}@far.example" for name in "bcd")
    assert outcome(deliver(script, to=recipients, content=io.BytesIO(content))) == dict.fromkeys(recipients, ACCEPTED)
    assert received == [content] * 3


def test_a_large_message_is_never_in_memory_as_a_whole() -> None:
    source = Repeated(LARGE)

    async def script(peer: Peer) -> None:
        await peer.greet()
        await envelope(peer)
        assert await peer.skip_content() == source.size + source.size // len(source.LINE) + 3
        await peer.play("S: 250 2.0.0 queued\n" + QUIT)

    async def talk(sink: Sink) -> int:
        session = await sink.connect()
        tracemalloc.start()
        try:
            delivery = await session.deliver(Path(), [path("b@far.example")], source, has_8bit=False)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert outcome(delivery) == {"b@far.example": ACCEPTED}
        await session.quit()
        return peak

    assert converse(talk, script) < 4 * MIB  # both sides' buffers among it
    assert source.most <= BLOCK


def test_the_cost_grows_with_the_size_and_no_faster() -> None:
    def seconds(size: int) -> float:
        async def script(peer: Peer) -> None:
            await peer.greet()
            await envelope(peer)
            await peer.skip_content()
            await peer.play("S: 250 2.0.0 queued\n" + QUIT)

        began = time.process_time()
        deliver(script, content=Repeated(size))
        return time.process_time() - began

    seconds(MIB)
    assert seconds(40 * MIB) < 20 * max(seconds(4 * MIB), 0.02)


def test_a_message_larger_than_the_servers_size_is_not_even_begun() -> None:
    source = Repeated(LARGE)
    (result,) = deliver(opening("SIZE 1000000") + QUIT, content=source).results
    assert result.error is not None
    assert (result.error.permanent, result.error.enhanced) == (True, "5.3.4")
    assert source.most == 0


def test_a_server_that_refuses_in_the_middle_is_heard() -> None:
    """It has had enough, says so and closes while megabytes are still to come."""

    async def script(peer: Peer) -> None:
        await peer.greet("PIPELINING")
        await peer.play("C: MAIL FROM:<a@client.example>\nC: RCPT TO:<b@far.example>\nC: DATA")
        await peer.say("250 OK", "250 OK", "354 go")
        await peer.stream.read_block(SOON)
        await peer.say("552 5.3.4 too big for me")
        peer.reset()

    delivery = deliver(script, content=Repeated(LARGE))
    assert outcome(delivery) == {"b@far.example": "permanent: 552 5.3.4 too big for me"}


def test_a_server_that_refuses_in_the_middle_and_reads_on_gets_no_more() -> None:
    source = Repeated(LARGE)

    async def script(peer: Peer) -> None:
        await peer.greet()
        await envelope(peer)
        await peer.stream.read_block(SOON)
        await peer.say("451 4.3.1 disk full")
        size, _ = await peer.rest()
        assert size < LARGE

    assert outcome(deliver(script, content=source)) == {"b@far.example": "temporary: 451 4.3.1 disk full"}


def test_a_server_that_does_not_read_is_given_up() -> None:
    waiting = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.greet()
        await envelope(peer)
        peer.stream.transport.pause_reading()
        await waiting.wait()

    async def talk(sink: Sink) -> Delivery:
        session = await sink.connect(timeouts=Timeouts(write=0.1))
        delivery = await session.deliver(Path(), [path("b@far.example")], Repeated(LARGE), has_8bit=False)
        waiting.set()
        return delivery

    assert outcome(converse(talk, script)) == {"b@far.example": "temporary: timeout during data"}


def test_content_that_ends_early_is_not_taken_for_the_whole() -> None:
    class Short(Repeated):
        def read_at(self, offset: int, length: int, /) -> bytes:
            return super().read_at(offset, length) if offset < self.size // 2 else b""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await envelope(peer)
        _, end = await peer.rest()
        assert end != END

    with pytest.raises(EOFError, match="content ended after"):
        deliver(script, content=Short(4 * BLOCK))


def test_content_that_cannot_be_read_is_an_error_of_ours() -> None:
    class Broken(Repeated):
        def read_at(self, offset: int, length: int, /) -> bytes:
            raise OSError("disk away")

    async def script(peer: Peer) -> None:
        await peer.greet()
        await envelope(peer)
        await peer.left()

    with pytest.raises(OSError, match="disk away"):
        deliver(script, content=Broken(BLOCK))


def test_a_late_reply_to_the_end_of_data_is_waited_for() -> None:
    """The server thinks longer about the content than any other reply may take."""
    told: list[str] = []

    class Hooks:
        async def before_dot(self, recipients: Sequence[Path]) -> None:
            told.append("dot")

        async def after_reply(self, results: Sequence[RecipientResult]) -> None:
            told.append(str(results[0].accepted))

    async def script(peer: Peer) -> None:
        await peer.greet("PIPELINING")
        await peer.play("C: MAIL FROM:<a@client.example>\nC: RCPT TO:<b@far.example>\nC: DATA")
        await peer.say("250 OK", "250 OK", "354 go")
        await peer.content()
        # No reply within the time for other replies, nor within that of the delivery as a whole.
        with pytest.raises(TimeoutError):
            await peer.stream.read_block(4 * limit)
        await peer.play("S: 250 2.0.0 queued\n" + QUIT)

    limit = 0.2
    timeouts = Timeouts(reply=limit, delivery=2 * limit, end_of_data=SOON)
    assert outcome(deliver(script, hooks=Hooks(), timeouts=timeouts)) == {"b@far.example": ACCEPTED}
    assert told == ["dot", "250 2.0.0 queued"]


def test_no_reply_to_the_end_of_data_within_its_time_leaves_the_outcome_unknown() -> None:
    script = opening("PIPELINING") + "C: MAIL FROM:<a@client.example>\nC: RCPT TO:<b@far.example>\nC: DATA\n"
    script += "S: 250 OK\nS: 250 OK\nS: 354 go\nC: Subject: hello\nC:\nC: Hello.\nC: .\n"
    (result,) = deliver(script, timeouts=Timeouts(end_of_data=0.05)).results
    assert result.error is not None
    assert result.error.sent
    assert str(result.error) == "timeout during end-of-data"


def test_the_default_times_are_those_that_make_no_duplicates() -> None:
    timeouts = Timeouts()
    assert timeouts.end_of_data == 600  # RFC 5321 4.5.3.2.6
    assert (timeouts.reply, timeouts.write, timeouts.tls_handshake, timeouts.quit) == (30, 30, 60, 5)


@pytest.mark.parametrize("recipients", [500, 1000])
def test_many_recipients_are_pipelined_to_a_server_that_reads_slowly(recipients: int) -> None:
    """It answers a command before it reads the next, and its replies are long: neither side may wait for the other."""
    addresses = tuple(f"{'r' * 60}{number}@{'d' * 60}.example" for number in range(recipients))
    answer = "250 2.1.5 " + "x" * 1000

    async def script(peer: Peer) -> None:
        await peer.greet("PIPELINING")
        peer.stream.transport.pause_reading()
        for _ in range(1000):
            await asyncio.sleep(0)  # the client has time to send all it would send at once
        peer.stream.transport.resume_reading()
        await peer.play("C: MAIL FROM:<a@client.example>\nS: 250 OK")
        for address in addresses:
            await peer.play(f"C: RCPT TO:<{address}>\nS: {answer}")
        await peer.play("C: DATA\nS: 354 go")
        assert await peer.content() == CONTENT
        await peer.play("S: 250 2.0.0 queued\n" + QUIT)

    assert outcome(deliver(script, to=addresses)) == dict.fromkeys(addresses, ACCEPTED)


def test_more_recipients_than_a_transaction_may_have_go_in_several() -> None:
    addresses = tuple(f"r{number}@far.example" for number in range(2500))
    taken: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.greet("PIPELINING")
        while sum(taken) < len(addresses):
            commands = []
            while (command := await peer.line()) != b"DATA":
                commands.append(command)
            taken.append(sum(command.startswith(b"RCPT") for command in commands))
            await peer.say(*["250 OK"] * len(commands), "354 go")
            await peer.content()
            await peer.say("250 2.0.0 queued")
        await peer.play(QUIT)

    assert outcome(deliver(script, to=addresses)) == dict.fromkeys(addresses, ACCEPTED)
    assert taken == [1000, 1000, 500]
