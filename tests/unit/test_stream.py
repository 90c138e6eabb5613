"""The connection under the servers: lines and blocks with limits and deadlines, back-pressure, TLS, slow mode."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop

from protocols.stream import BUFFER_HIGH, Deadline, LineTooLong, Stream, StreamClosed, TLSFailed
from server.selfsigned import make_self_signed

SOON = 10.0  # seconds: far more than anything here takes, so that a hang fails the test


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Stream, socket.socket]]:
    """A stream and the client's end of its connection, a blocking socket."""
    stream = Stream()
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    theirs.settimeout(SOON)
    transport, _ = await loop.connect_accepted_socket(lambda: stream, ours)
    try:
        yield stream, theirs
    finally:
        transport.abort()
        theirs.close()


def run(conversation: Callable[[Stream, socket.socket], Awaitable[None]]) -> None:
    async def main() -> None:
        async with pair() as (stream, client):
            await conversation(stream, client)

    asyncio.run(main())


def test_it_reads_lines_whatever_the_blocks_they_came_in() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        for piece in (b"EH", b"LO a\r", b"\nNOOP\nRS", b"ET\r\n"):
            client.sendall(piece)
        assert await stream.read_line(100, SOON) == b"EHLO a\r\n"
        assert await stream.read_line(100, SOON) == b"NOOP\n"
        assert await stream.read_line(100, SOON) == b"RSET\r\n"
        assert not stream.line_waiting()

    run(conversation)


def test_a_line_longer_than_the_limit_is_refused_before_its_end_comes() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        client.sendall(b"x" * 100)
        with pytest.raises(LineTooLong):
            await stream.read_line(100, SOON)

    run(conversation)


def test_a_line_of_just_the_limit_is_read_and_one_byte_more_refused() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        client.sendall(b"x" * 98 + b"\r\n" + b"x" * 99 + b"\r\n")
        assert len(await stream.read_line(100, SOON)) == 100
        with pytest.raises(LineTooLong):
            await stream.read_line(100, SOON)

    run(conversation)


def test_a_silent_client_times_out_and_a_gone_one_is_noticed() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        with pytest.raises(TimeoutError):
            await stream.read_line(100, 0.01)
        client.sendall(b"half a li")
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(StreamClosed):
            await stream.read_line(100, SOON)

    run(conversation)


def test_what_is_sent_without_waiting_goes_out_while_replies_are_read() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        stream.write(b"x" * (4 * BUFFER_HIGH) + b"\n")
        stream.send()  # nobody reads this yet
        client.sendall(b"first reply\n")
        assert await stream.read_line(100, SOON) == b"first reply\n"
        received = await asyncio.to_thread(client.makefile("rb").readline)
        assert received == b"x" * (4 * BUFFER_HIGH) + b"\n"

    run(conversation)


def test_the_end_of_the_input_is_known_before_all_of_it_is_read() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        client.sendall(b"bye\n")
        await stream.look()
        assert stream.line_waiting()
        client.shutdown(socket.SHUT_WR)
        while not stream.ended:
            await stream.look()
        assert await stream.read_line(100, SOON) == b"bye\n"

    run(conversation)


def test_blocks_give_exactly_so_many_bytes_and_leave_the_rest() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        client.sendall(b"0123456789\r\nnext\r\n")
        assert b"".join([block async for block in stream.blocks(10, SOON)]) == b"0123456789"
        assert await stream.read_exactly(2, SOON) == b"\r\n"
        stream.unread(b"> ")
        assert await stream.read_line(100, SOON) == b"> next\r\n"

    run(conversation)


def test_a_flood_stays_in_the_clients_socket() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        client.setblocking(False)
        sent = 0
        for _ in range(1000):
            try:
                sent += client.send(b"x" * 65536)
            except BlockingIOError:
                if stream.buffered >= BUFFER_HIGH:
                    break
                await asyncio.sleep(0)
        else:
            pytest.fail("64 MB went into a buffer that is bounded")
        assert stream.buffered < 2 * BUFFER_HIGH + 65536
        received = 0
        while received < sent:
            received += len(await stream.read_block(SOON))
        assert received == sent

    run(conversation)


def test_writes_are_sent_together_and_wait_for_a_client_that_does_not_read() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        stream.write(b"250-a\r\n")
        stream.write(b"250 b\r\n")
        assert stream.pending == 14
        await stream.flush(SOON)
        assert client.recv(100) == b"250-a\r\n250 b\r\n"
        stream.write(b"y" * (8 << 20))
        with pytest.raises(TimeoutError):
            await stream.flush(0.05)

    run(conversation)


def test_a_flush_to_a_lost_client_says_so() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        client.close()
        stream.abort()
        await stream.wait_closed()
        stream.write(b"x")
        with pytest.raises(StreamClosed):
            await stream.flush(SOON)

    run(conversation)


def test_slow_mode_sends_single_bytes_and_the_rest_before_the_deadline() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        stream.slow = 0.005
        stream.write(b"abcdef")
        flushing = asyncio.create_task(stream.flush(2.0 + 3 * 0.005))  # three steps fit before the reserve
        pieces: list[bytes] = []
        while b"".join(pieces) != b"abcdef":
            pieces.append(await asyncio.to_thread(client.recv, 100))
        await flushing
        assert pieces[0] == b"a"
        assert pieces[-1].endswith(b"def")

    run(conversation)


def test_a_deadline_counts_over_several_waits() -> None:
    async def main() -> None:
        deadline = Deadline(100)
        assert deadline.left(5) == 5
        assert 99 < deadline.left(1000) <= 100
        passed = Deadline(0)
        with pytest.raises(TimeoutError):
            passed.left(5)

    asyncio.run(main())


@pytest.fixture
def contexts(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    certificate, key = tmp_path / "crt", tmp_path / "key"
    make_self_signed(certificate, key, ["localhost"], [ip_address("127.0.0.1")])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


def test_it_changes_to_tls_and_says_what_was_agreed(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client_context = contexts

    async def conversation(stream: Stream, client: socket.socket) -> None:
        def shake_hands() -> ssl.SSLSocket:
            return client_context.wrap_socket(client, server_hostname="localhost")

        handshake = asyncio.create_task(asyncio.to_thread(shake_hands))
        await stream.start_tls(server, SOON)
        tls_client = await handshake
        assert stream.tls is not None
        assert stream.tls.version == tls_client.version() == "TLSv1.3"
        tls_client.sendall(b"NOOP\r\n")
        assert await stream.read_line(100, SOON) == b"NOOP\r\n"
        stream.write(b"250 OK\r\n")
        await stream.flush(SOON)
        assert await asyncio.to_thread(tls_client.recv, 100) == b"250 OK\r\n"
        tls_client.close()

    run(conversation)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_client_that_begins_the_handshake_early_is_not_left_waiting(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """On a port with TLS from the start its first bytes come while the server still counts connections."""
    server, client_context = contexts

    async def main() -> None:
        async with pair() as (stream, client):

            def shake_hands() -> ssl.SSLSocket:
                return client_context.wrap_socket(client, server_hostname="localhost")

            handshake = asyncio.create_task(asyncio.to_thread(shake_hands))
            stream.unread(await stream.read_block(SOON))
            await stream.start_tls(server, SOON)
            tls_client = await handshake
            tls_client.sendall(b"NOOP\r\n")
            assert await stream.read_line(100, SOON) == b"NOOP\r\n"

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("garbage", [b"EHLO again\r\n", b"\x16\x03\x01\xff\xff\xff"])
def test_what_is_no_handshake_fails_it(contexts: tuple[ssl.SSLContext, ssl.SSLContext], garbage: bytes) -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(TLSFailed) as caught:
            await stream.start_tls(contexts[0], SOON)
        assert caught.value.reason

    run(conversation)


def test_a_handshake_that_never_comes_times_out(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        with pytest.raises(TLSFailed) as caught:
            await stream.start_tls(contexts[0], 0.05)
        assert caught.value.reason == "timeout"

    run(conversation)


# Deflate.


def test_both_directions_are_compressed_from_where_it_is_said() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        packer, unpacker = zlib.compressobj(wbits=-15), zlib.decompressobj(-15)
        packed = packer.compress(b"b NOOP\r\n" * 3) + packer.flush(zlib.Z_SYNC_FLUSH)
        client.sendall(b"a COMPRESS DEFLATE\r\n" + packed[:5])  # which is early, and cut
        assert await stream.read_line(100, SOON) == b"a COMPRESS DEFLATE\r\n"
        stream.start_deflate()
        client.sendall(packed[5:])
        for _ in range(3):
            assert await stream.read_line(100, SOON) == b"b NOOP\r\n"
        stream.write(b"b OK\r\n" * 40_000)  # in several blocks
        await stream.flush(SOON)
        answer = b""
        while len(answer) < 6 * 40_000:
            answer += unpacker.decompress(client.recv(65536))
        assert answer == b"b OK\r\n" * 40_000
        client.sendall(packer.compress(b"c UNAUTHENTICATE\r\n") + packer.flush(zlib.Z_SYNC_FLUSH) + b"d NOOP\r\n")
        assert await stream.read_line(100, SOON) == b"c UNAUTHENTICATE\r\n"
        stream.end_deflate()
        assert await stream.read_line(100, SOON) == b"d NOOP\r\n"
        stream.write(b"d OK\r\n")
        await stream.flush(SOON)
        assert client.recv(100) == b"d OK\r\n"

    run(conversation)


def test_two_that_flush_at_once_do_not_mix_their_answers() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        stream.start_deflate()
        stream.write(b"a" * 1_000_000)
        first = asyncio.create_task(stream.flush(SOON))
        await asyncio.sleep(0)
        stream.write(b"b" * 1_000_000)
        await asyncio.gather(first, stream.flush(SOON))
        unpacker = zlib.decompressobj(-15)
        received = b""
        while len(received) < 2_000_000:
            received += unpacker.decompress(client.recv(65536))
        assert received == b"a" * 1_000_000 + b"b" * 1_000_000

    run(conversation)


def test_a_compressed_flood_stays_in_the_clients_socket() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        stream.start_deflate()
        packer = zlib.compressobj(0, wbits=-15)
        flood = packer.compress(b"a NOOP\r\n" * 1_000_000) + packer.flush(zlib.Z_SYNC_FLUSH)
        client.setblocking(False)
        sent = 0
        most = 0
        for _ in range(20_000):  # each line that is read may let more come in
            with contextlib.suppress(BlockingIOError):
                sent += client.send(flood[sent : sent + 65536])
            assert await stream.read_line(100, SOON) == b"a NOOP\r\n"
            assert stream._deflate is not None
            most = max(most, stream._deflate.waiting + stream.buffered)
        assert sent < 20_000 * 8 + 4 * BUFFER_HIGH
        assert most < 2 * BUFFER_HIGH

    run(conversation)


@pytest.mark.parametrize("garbage", [b"a NOOP\r\n", b"\xff" * 10])
def test_what_is_no_deflate_closes_the_connection(garbage: bytes) -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        stream.start_deflate()
        client.sendall(garbage)
        with pytest.raises(StreamClosed):
            await stream.read_line(100, SOON)
        await stream.wait_closed()

    run(conversation)


def test_flushing_nothing_is_no_line_and_hinders_nobody() -> None:
    async def conversation(stream: Stream, client: socket.socket) -> None:
        stream.start_deflate()
        client.setblocking(False)
        packer = zlib.compressobj(wbits=-15)
        client.sendall(b"\x00\x00\x00\xff\xff" * 10_000 + packer.compress(b"a\r\n") + packer.flush(zlib.Z_SYNC_FLUSH))
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        assert await stream.read_line(100, SOON) == b"a\r\n"
        task.cancel()
        assert turns > 30

    run(conversation)
