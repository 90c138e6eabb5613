"""Connections through SOCKS proxies: real ones, and such as answer what no proxy should."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

import pytest

from protocols.smtpclient import ConnectFailed
from protocols.smtpclient.proxied import Proxied
from protocols.socks import Proxy, SocksError, open_stream
from protocols.stream import Stream
from tests.socksproxy import needs_proxy, socks_proxy

SOURCE = "127.0.0.77"
ADDRESS = ip_address("192.0.2.1")
SOON = 10.0  # seconds
T = TypeVar("T")


class Greeter:
    """A server that says hello and remembers who came."""

    def __init__(self) -> None:
        self.peers: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peername")[0])
        writer.write(b"220 hello\r\n")
        writer.write(await reader.readline())
        writer.close()


def at_greeter(talk: Callable[[int], Awaitable[T]], greeter: Greeter) -> T:
    async def run() -> T:
        server = await asyncio.start_server(greeter, "127.0.0.1", 0)
        async with server:
            return await talk(server.sockets[0].getsockname()[1])

    return asyncio.run(run())


@needs_proxy
@pytest.mark.parametrize(("username", "password"), [("", ""), ("user", "pässwörd")])
def test_it_connects_through_a_proxy(username: str, password: str) -> None:
    async def talk(port: int) -> bytes:
        stream = await open_stream(running.proxy, ip_address("127.0.0.1"), port, SOON)
        assert (stream.remote_ip, stream.remote_port) == ("127.0.0.1", port)
        hello = await stream.read_line(100, SOON)
        stream.write(b"and back\r\n")
        await stream.flush(SOON)
        echo = await stream.read_line(100, SOON)
        stream.abort()
        return hello + echo

    greeter = Greeter()
    with socks_proxy("127.0.0.1", SOURCE, username=username, password=password) as running:
        assert at_greeter(talk, greeter) == b"220 hello\r\nand back\r\n"
    assert greeter.peers == [SOURCE]


@needs_proxy
def test_a_proxy_that_wants_another_login_refuses() -> None:
    with socks_proxy("127.0.0.1", SOURCE, username="user", password="secret") as running:
        for proxy in (replace(running.proxy, username="", password=""), replace(running.proxy, password="wrong")):
            with pytest.raises(SocksError, match="the proxy refuses") as caught:
                asyncio.run(open_stream(proxy, ADDRESS, 25, SOON))
            assert not caught.value.by_proxy
            assert "secret" not in repr(proxy) + str(caught.value)


@needs_proxy
def test_errors_of_the_other_side_are_told_with_the_proxy() -> None:
    async def talk(port: int) -> None:
        dial = Proxied(running.proxy)
        stream = await dial([ip_address("127.0.0.9"), ip_address("127.0.0.1")], port, timeout=SOON)
        assert stream.remote_ip == "127.0.0.1"
        stream.abort()
        with pytest.raises(ConnectFailed) as caught:
            await dial([ip_address("127.0.0.9")], port, timeout=SOON)
        reason = f"127.0.0.9 through SOCKS proxy {running.proxy}: connection refused"
        assert str(caught.value) == f"could not connect: {reason}"
        assert not caught.value.permanent

    with socks_proxy("127.0.0.1", SOURCE) as running:
        at_greeter(talk, Greeter())


def test_a_proxy_that_is_not_there_is_named() -> None:
    with pytest.raises(ConnectFailed, match=r"SOCKS proxy 127\.0\.0\.9:1: connection refused"):
        asyncio.run(Proxied(Proxy("127.0.0.9", 1))([ADDRESS], 25, timeout=SOON))
    assert str(Proxy("::1", 1080)) == "[::1]:1080"


def refused(*answers: bytes, username: str = "", address: IPv4Address | IPv6Address = ADDRESS) -> tuple[str, bytes]:
    """What comes of a proxy that gives each of these answers to one request; and what it was sent."""
    sent = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            sent.extend(await reader.read(1000))
            writer.write(answer)
            await writer.drain()
        sent.extend(await reader.read(1000) if answers[-1] else b"")
        writer.close()

    async def run() -> str:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1], username, username and "secret")
            try:
                stream = await open_stream(proxy, address, 25, 0.5)
            except SocksError as exc:
                return str(exc)
            text = f"{stream.local_ip or 'unknown'} {(await stream.read_line(100, SOON)).decode()}"
            stream.abort()
            return text

    return asyncio.run(run()), bytes(sent)


@pytest.mark.parametrize(
    ("answer", "local"),
    [
        (b"\5\0\0\1\xc0\0\2\7\0\x19", "192.0.2.7"),
        (b"\5\0\0\1\0\0\0\0\0\0", "unknown"),
        (b"\5\0\0\4" + bytes(15) + b"\1\0\x19", "::1"),
        (b"\5\0\0\3\4name\0\x19", "unknown"),
    ],
)
def test_it_reads_an_answer_to_its_end_and_no_further(answer: bytes, local: str) -> None:
    text, sent = refused(b"\5\0", answer + b"220 at once\r\n")
    assert text == f"{local} 220 at once\r\n"
    assert sent == b"\5\1\0" + b"\5\1\0\1\xc0\0\2\1\0\x19"


def test_it_sends_what_the_rfcs_have() -> None:
    v6 = ip_address("2001:db8::1")
    text, sent = refused(b"\5\2", b"\1\0", b"\5\0\0\1\0\0\0\0\0\0hello\n", username="user", address=v6)
    assert text == "unknown hello\n"
    assert sent == b"\5\2\0\2" + b"\1\4user\6secret" + b"\5\1\0\4" + v6.packed + b"\0\x19"


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ((b"\4\0",), "not a SOCKS 5 proxy: answers with version 4"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "not a SOCKS 5 proxy: answers with version 72"),
        ((b"\5\xff",), "the proxy refuses: it wants a login"),
        ((b"\5\2",), "bad answer of the proxy: login method 2 was not offered"),
        ((b"\5\1",), "bad answer of the proxy: login method 1 was not offered"),
        ((b"\5",), "timeout"),
        ((b"",), "connection closed by the proxy"),
        ((b"\5\0", b"\4\0\0\1"), "bad answer of the proxy: version 4, reserved byte 0"),
        ((b"\5\0", b"\5\0\1\1"), "bad answer of the proxy: version 5, reserved byte 1"),
        ((b"\5\0", b"\5\0\0\2"), "bad answer of the proxy: address of type 2"),
        ((b"\5\0", b"\5\2\0\1"), "connection not allowed by its rules"),
        ((b"\5\0", b"\5\x09\0\1"), "unknown failure 9"),
        ((b"\5\0", b"\5\0\0\3\xff" + b"n" * 200), "timeout"),
        ((b"\5\0", b"\5\0\0", b""), "timeout"),
        ((b"\5\0", b""), "connection closed by the proxy"),
    ],
)
def test_it_takes_no_other_answers(answers: tuple[bytes, ...], error: str) -> None:
    assert refused(*answers)[0] == error


@pytest.mark.parametrize("answer", [b"\1\1", b"\5\0", b"\1\xff"])
def test_it_takes_no_other_answers_to_a_login(answer: bytes) -> None:
    assert "the proxy" in refused(b"\5\2", answer, username="user")[0]


def test_credentials_must_fit() -> None:
    with pytest.raises(ValueError, match="user name for the SOCKS proxy is longer than 255 bytes"):
        Proxy("proxy.example", 1080, "ü" * 128, "x")
    with pytest.raises(ValueError, match="needs a password"):
        Proxy("proxy.example", 1080, "user")


def test_a_caller_that_gives_up_leaves_no_connection() -> None:
    async def run() -> None:
        closed = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(3)
            opening.cancel()
            await reader.read()
            writer.close()
            closed.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            proxy = Proxy("127.0.0.1", server.sockets[0].getsockname()[1])
            opening: asyncio.Task[Stream] = asyncio.create_task(open_stream(proxy, ADDRESS, 25, SOON))
            with pytest.raises(asyncio.CancelledError):
                await opening
            async with asyncio.timeout(SOON):
                await closed.wait()

    asyncio.run(run())
