"""The HTTP server's deadlines, with clients that are slow on purpose; the real deadlines are too long for a test."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from web import handler, server
from web.handler import Bodies, BodyTimeout, BodyTooLarge, Overloaded, Receive, Scope, Send
from web.listeners import HTTPSocket, Listeners

SHORT = 0.3  # seconds
LONG = 20.0


bodies = Bodies()


async def echo_size(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the body; answers with as many bytes as the path says."""
    async with bodies.read(scope, receive, 1 << 20):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * int(scope["path"].strip("/") or 0)})


async def no_database(function: Callable[..., Any], *args: Any) -> Any:
    raise AssertionError("plain HTTP needs no settings")


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server with short deadlines, in a thread."""
    monkeypatch.setattr(server, "HEADER_TIMEOUT", SHORT)
    monkeypatch.setattr(server, "WRITE_TIMEOUT", SHORT)
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    where = HTTPSocket(sock, 1, sock.getsockname()[1], tls=False)
    started = threading.Event()
    running: list[server.Server] = []

    async def serve() -> None:
        running.append(server.Server(echo_size, [where], Listeners(no_database), started.set))
        await running[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert started.wait(LONG)
    yield sock.getsockname()[:2]
    running[0].should_exit = True
    thread.join(LONG)
    assert not thread.is_alive()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=LONG)


def test_who_says_nothing_is_not_waited_for(address: tuple[str, int]) -> None:
    with connect(address) as client:
        assert client.recv(100) == b""


def test_a_header_that_comes_byte_by_byte_ends_at_the_deadline(address: tuple[str, int]) -> None:
    start = time.monotonic()
    with connect(address) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for byte in itertools.chain(b"GET / HTTP/1.1\r\nX: ", itertools.repeat(0x79)):
            client.sendall(bytes([byte]))
            time.sleep(SHORT / 10)  # the client's own slowness
            assert time.monotonic() - start < LONG


def test_many_slow_clients_do_not_keep_others_waiting(address: tuple[str, int]) -> None:
    slow = [connect(address) for _ in range(200)]
    for client in slow:
        client.sendall(b"GET / HT")
    with connect(address) as client:
        client.sendall(b"GET /3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"xxx\r\n0\r\n\r\n")
    for client in slow:
        assert client.recv(100) == b""
        client.close()


def test_the_deadline_is_for_each_request_and_not_for_the_connection(address: tuple[str, int]) -> None:
    with connect(address) as client:
        for _ in range(4):
            time.sleep(SHORT / 2)
            client.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"x\r\n0\r\n\r\n"):
                answer += client.recv(1000)


def test_a_slow_second_request_ends_at_its_deadline(address: tuple[str, int]) -> None:
    with connect(address) as client:
        client.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HT")
        assert b"x" in client.makefile("rb").read()
        client.sendall(b"TP/1.1\r\n")


def test_who_does_not_read_the_answer_is_cut_off(address: tuple[str, int]) -> None:
    with connect(address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /50000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(SHORT * 4)  # the client's own slowness
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while block := client.recv(1 << 20):
                received += len(block)
        assert received < 50_000_000


def sender(*parts: bytes, then_wait: bool = False) -> Receive:
    """A client that sends these pieces of a body, and perhaps never the rest."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left) or then_wait}

    return receive


async def taken(bodies: Bodies, receive: Receive) -> int:
    async with bodies.read({"headers": []}, receive, 100) as body:
        return body.size


def test_bodies_are_bounded_in_size_time_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "BODY_TIMEOUT", SHORT)
    monkeypatch.setattr(handler, "MAX_HELD", 250)

    async def clients() -> None:
        bodies = Bodies()
        assert await taken(bodies, sender(b"x" * 60, b"x" * 40)) == 100
        with pytest.raises(BodyTooLarge):
            await taken(bodies, sender(b"x" * 60, b"x" * 41))
        slow = [asyncio.create_task(taken(bodies, sender(b"x" * 100, then_wait=True))) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await taken(bodies, sender(b"x" * 60))
        assert [type(e) for e in await asyncio.gather(*slow, return_exceptions=True)] == [BodyTimeout, BodyTimeout]
        assert await taken(bodies, sender(b"x" * 60)) == 60, "what was held is free again"

    asyncio.run(clients())
