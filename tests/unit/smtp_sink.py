"""A scripted SMTP server on loopback: each connection plays the next transcript, and whatever differs fails the test.

    delivery = deliver('''
        S: 220 far.example
        C: EHLO client.example
        S: 250 far.example
        ...
    ''')

"S:" lines are sent, "C:" lines must come, as they are written. "closes" and "resets" end the connection from this side,
and the transcript; "starttls" is a handshake. After any other last line the client must say nothing more and leave.
Where a transcript will not do, a script is a coroutine function that takes the `Peer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Any, TypeAlias, TypeVar, cast

import uvloop

from protocols.message.source import Readable
from protocols.names import IPDomain, parse_domain
from protocols.smtpclient import Delivery, Hooks, Session, TLSMode, TLSPolicy, connect
from protocols.smtpdata import END, DataReader
from protocols.smtpsyntax import Path, parse_rcpt
from protocols.stream import Stream, StreamClosed

SOON = 15.0  # seconds: far more than anything here takes, so that a hang fails the test
LOCALHOST = IPv4Address("127.0.0.1")
CLIENT = IPDomain(domain=parse_domain("client.example"))
PLAIN = TLSPolicy(TLSMode.SKIP)
CONTENT = b"Subject: hello\r\n\r\nHello.\r\n"
SENT = """
    C: Subject: hello
    C:
    C: Hello.
    C: .
"""
QUIT = """
    C: QUIT
    S: 221 bye
"""

# The lines of transactions.
ONE = ("b@far.example",)
THREE = ("b@far.example", "c@far.example", "d@far.example")

MAIL = "C: MAIL FROM:<a@client.example>\n"
B, C, D = (f"C: RCPT TO:<{address}>\n" for address in THREE)
OK = "S: 250 OK\n"
DATA = "C: DATA\n"
GO = "S: 354 go\n"
DONE = "S: 250 2.0.0 queued as 1\n"
LONE_DOT = "C: .\n"
RSET = "C: RSET\n"
ACCEPTED = "accepted: 250 2.0.0 queued as 1"

T = TypeVar("T")


class ServerStream(Stream):
    """A stream whose transport and socket can be had."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, transport)
        self.socket = transport.get_extra_info("socket")


class Peer:
    """The server's side of one connection."""

    def __init__(self, stream: ServerStream, context: ssl.SSLContext | None) -> None:
        self.stream = stream
        self.context = context

    async def play(self, transcript: str) -> None:
        lines = [line.strip() for line in transcript.splitlines() if line.strip()]
        for number, line in enumerate(lines):
            said = lines[max(0, number - 3) : number]
            match line[:2]:
                case "S:":
                    self.stream.write(f"{line[3:]}\r\n".encode())
                    if not lines[number + 1 : number + 2] or lines[number + 1][:2] != "S:":
                        await self.stream.flush(SOON)
                case "C:":
                    try:
                        came = (await self.line()).decode()
                    except StreamClosed as exc:
                        raise AssertionError(f"client left where {line!r} should have come, after {said}") from exc
                    assert came == line[3:], f"after {said}"
                case _:
                    await self._do(line)

    async def line(self) -> bytes:
        line = await self.stream.read_line(1 << 20, SOON)
        assert line.endswith(b"\r\n"), line
        return line[:-2]

    async def say(self, *lines: str) -> None:
        await self.say_bytes("".join(f"{line}\r\n" for line in lines).encode())

    async def say_bytes(self, data: bytes) -> None:
        self.stream.write(data)
        await self.stream.flush(SOON)

    async def content(self) -> bytes:
        """What comes after 354, without its end."""
        reader = DataReader(limit=1 << 30)
        blocks = []
        while not reader.done:
            blocks.append(reader.feed(await self.stream.read_block(SOON)))
        self.stream.unread(reader.rest)
        assert not reader.violation
        return b"".join(blocks)

    async def rest(self) -> tuple[int, bytes]:
        """All that comes until the client leaves: how many bytes, and the last few."""
        size, end = 0, b""
        with contextlib.suppress(StreamClosed):
            while True:
                block = await self.stream.read_block(SOON)
                size, end = size + len(block), (end + block)[-5:]
        return size, end

    async def skip_content(self) -> int:
        """Read what comes after 354 to its end; gives its bytes on the wire."""
        size, end = 0, b""
        while end != END:
            block = await self.stream.read_block(SOON)
            size, end = size + len(block), (end + block)[-len(END) :]
        return size

    def reset(self) -> None:
        """End the connection as a server does that has not read all there was: what it sent arrives, then a reset."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.abort()

    async def greet(self, *extensions: str) -> None:
        await self.play(opening(*extensions))

    async def left(self) -> None:
        """The client says nothing more, and leaves."""
        try:
            block = await self.stream.read_block(SOON)
        except StreamClosed:
            return
        raise AssertionError(f"client went on with {block[:200]!r}")

    async def _do(self, action: str) -> None:
        match action:
            case "closes":
                self.stream.close()
            case "resets":
                self.reset()
            case "starttls":
                assert self.context is not None
                await self.stream.start_tls(self.context, SOON)
            case _:
                raise ValueError(f"no line of a transcript: {action!r}")


Script: TypeAlias = str | Callable[[Peer], Awaitable[None]]


class Sink:
    """A server that plays one script for each connection."""

    def __init__(self, scripts: tuple[Script, ...], context: ssl.SSLContext | None) -> None:
        self._scripts = list(scripts)
        self._context = context
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    async def start(self, ip: str = str(LOCALHOST), port: int = 0) -> None:
        self._server = await asyncio.get_running_loop().create_server(self._accept, ip, port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def connect(self, **options: Any) -> Session:
        """A session of the client under test; ``options`` are those of `smtpclient.connect`."""
        return await connect([LOCALHOST], self.port, **{"hello": CLIENT, "tls": PLAIN, **options})

    async def finish(self) -> None:
        """Wait for all connections. Raises what went wrong in one, AssertionError for scripts not played."""
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._tasks)
        assert not self._scripts, f"{len(self._scripts)} more connections were expected"

    async def stop(self) -> BaseException | None:
        """End all connections; gives what went wrong in one of them."""
        assert self._server is not None
        self._server.close()
        wrong = None
        for task in self._tasks:
            if not task.done():
                task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                wrong = wrong or result
        return wrong

    def _accept(self) -> Stream:
        stream = ServerStream()
        self._tasks.append(asyncio.get_running_loop().create_task(self._play(stream)))
        return stream

    async def _play(self, stream: ServerStream) -> None:
        await asyncio.sleep(0)  # now the stream has its connection
        try:
            assert self._scripts, "one connection too many"
            script = self._scripts.pop(0)
            peer = Peer(stream, self._context)
            if isinstance(script, str):
                await peer.play(script)
                if not script.rstrip().endswith(("closes", "resets")):
                    await peer.left()
            else:
                await script(peer)
        finally:
            stream.close()


def converse(
    talk: Callable[[Sink], Awaitable[T]],
    *scripts: Script,
    context: ssl.SSLContext | None = None,
    on_uvloop: bool = False,
) -> T:
    """Let the client talk to servers that follow the scripts; gives what ``talk`` does."""

    async def main() -> T:
        sink = Sink(scripts, context)
        async with asyncio.timeout(2 * SOON):
            await sink.start()
            try:
                result = await talk(sink)
                await sink.finish()
            except BaseException as exc:
                wrong = await sink.stop()
                if wrong is not None and wrong is not exc:
                    raise wrong from exc
                raise
            return result

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if on_uvloop else None) as runner:
        return runner.run(main())


def deliver(
    *scripts: Script,
    to: tuple[str, ...] = ("b@far.example",),
    content: Readable = CONTENT,
    mail_from: Path | None = None,
    has_8bit: bool = False,
    smtputf8: bool = False,
    require_tls: bool = False,
    hooks: Hooks | None = None,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> Delivery:
    """One message over one session, which quits at the end."""

    async def talk(sink: Sink) -> Delivery:
        session = await sink.connect(**options)
        try:
            return await session.deliver(
                path("a@client.example") if mail_from is None else mail_from,
                [path(address) for address in to],
                content,
                has_8bit=has_8bit,
                smtputf8=smtputf8,
                require_tls=require_tls,
                hooks=hooks,
            )
        finally:
            await session.quit()

    return converse(talk, *scripts, context=context)


def outcome(delivery: Delivery) -> dict[str, str]:
    """What became of each recipient, in one line: the text of the reply or the error, with how it counts."""
    lines = {}
    for result in delivery.results:
        if result.accepted is not None:
            assert result.error is None
            lines[str(result.recipient)] = f"accepted: {result.accepted}"
        else:
            assert result.error is not None
            kind = "permanent" if result.error.permanent else "temporary"
            lines[str(result.recipient)] = f"{kind}: {result.error}"
    return lines | {str(recipient): "untried" for recipient in delivery.untried}


def path(address: str) -> Path:
    return parse_rcpt(f" TO:<{address}>", smtputf8=True)


def opening(*extensions: str) -> str:
    """A greeting and an EHLO that is answered with these extensions."""
    said = ["far.example", *extensions]
    lines = [f"S: 250-{line}" for line in said[:-1]] + [f"S: 250 {said[-1]}"]
    return "\n".join(["S: 220 far.example ESMTP", "C: EHLO client.example", *lines, ""])


PIPELINED = opening("PIPELINING")
STEPPED = opening("SIZE")
