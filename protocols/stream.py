"""One connection of a line-based protocol: buffered reads with deadlines, gathered writes, TLS, deflate, slow mode.

    stream = Stream()                          # the protocol of an asyncio transport; see server.connections
    line = await stream.read_line(2048, timeout=30)
    stream.write(b"250 OK\\r\\n")
    await stream.flush(timeout=30)

Reading stops at a bounded buffer, writing waits for the peer: a client that does not read costs nothing but its socket.
Nothing here is known of SMTP or IMAP.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, cast

from .deflate import BadDeflate, Deflate

BUFFER_HIGH: Final = 256 * 1024  # bytes received and not yet read: then the socket is left alone
BUFFER_LOW: Final = 64 * 1024  # and read again from here
WRITE_HIGH: Final = 256 * 1024  # bytes that the socket did not take yet, before flush() waits
BLOCK_MAX: Final = 256 * 1024  # bytes handed out by one read_block()
SLOW_RESERVE: Final = 2.0  # seconds before a write's deadline at which slow mode gives up being slow
PACKED_AT_ONCE: Final = 64 * 1024  # bytes compressed before others get their turn: some milliseconds
REST_AFTER: Final = 10.0  # seconds without a write, after which no memory is kept for compressing
TLS_SHUTDOWN: Final = 1.0  # seconds for a peer's close_notify: many never send one


class StreamClosed(Exception):
    """The peer closed the connection, or it was lost or aborted."""


class LineTooLong(Exception):
    """A line has more bytes than the protocol allows."""


class TLSFailed(Exception):
    """The handshake failed. ``reason``: "eof", "timeout", or OpenSSL's name of what went wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"TLS handshake failed: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TLSState:
    """What was agreed in the handshake: version as OpenSSL writes it ("TLSv1.3"), cipher by its standard name."""

    version: str
    cipher: str
    ssl_object: ssl.SSLObject


class Stream(asyncio.Protocol):
    """One connection, used by one task at a time; one more may write and flush while the first waits to read."""

    def __init__(self) -> None:
        self.remote_ip = self.local_ip = ""
        self.remote_port = self.local_port = 0
        self.tls: TLSState | None = None
        self.slow = 0.0
        self.lost_with: Exception | None = None
        """What ended the connection, where it was an error: here a client learns of alerts after a handshake."""
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._searched = 0  # bytes at the start of the buffer that are known to hold no LF
        self._reader: asyncio.Future[None] | None = None
        self._reading_paused = False
        self._eof = False
        self._lost = asyncio.Event()
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._deflate: Deflate | None = None
        self._packing = asyncio.Lock()  # two that flush do not mix their blocks
        self._packed = 0  # how often something was compressed
        self._resting: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        if not self.remote_ip:
            self.remote_ip, self.remote_port = _address(transport.get_extra_info("peername"))
            self.local_ip, self.local_port = _address(transport.get_extra_info("sockname"))

    def data_received(self, data: bytes) -> None:
        if self._deflate is None:
            self._buffer += data
        else:
            self._deflate.received(data)
        if self._held >= BUFFER_HIGH and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._eof = True
        self._wake()
        return self.tls is None  # a half-closed connection still gets its answers; TLS has no such thing

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self.lost_with = exc
        self._lost.set()
        self._writable.set()
        if self._resting is not None:
            self._resting.cancel()
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Reading.

    @property
    def buffered(self) -> int:
        """Bytes received and not yet read."""
        return len(self._buffer)

    @property
    def closed(self) -> bool:
        return self._lost.is_set()

    @property
    def ended(self) -> bool:
        """The peer sends no more; what it sent may still be buffered."""
        return self._eof

    def line_waiting(self) -> bool:
        """Whether a complete line is in the buffer."""
        return self._line_end() >= 0

    async def look(self) -> None:
        """Let what has arrived come into the buffer, without waiting for more."""
        await asyncio.sleep(0)  # the event loop asks the socket
        await asyncio.sleep(0)  # and hands out what it got

    async def read_line(self, limit: int, timeout: float) -> bytes:  # noqa: ASYNC109 # the deadline is part of the protocol
        """The next line with its LF, and the CR before it.

        Raises LineTooLong if ``limit`` bytes came without LF (they stay in the buffer), TimeoutError after ``timeout``
        seconds, StreamClosed.
        """
        await self._go_slow()
        end = self._line_end()
        if end < 0:
            async with asyncio.timeout(timeout):
                while (end := self._line_end()) < 0:
                    if len(self._buffer) >= limit:
                        raise LineTooLong(f"line of more than {limit} bytes")
                    await self._more()
        if end >= limit:
            raise LineTooLong(f"line of more than {limit} bytes")
        self._searched = 0
        return self._take(end + 1)

    async def read_block(self, timeout: float) -> bytes:  # noqa: ASYNC109 # as above
        """Whatever is there: at least one byte, at most 256 KiB. Raises TimeoutError, StreamClosed."""
        await self._go_slow()
        if not self._buffer:
            async with asyncio.timeout(timeout):
                while not self._buffer:
                    await self._more()
        return self._take(min(len(self._buffer), BLOCK_MAX))

    async def read_exactly(self, size: int, timeout: float) -> bytes:  # noqa: ASYNC109 # as above
        """So many bytes, for small sizes; TimeoutError after ``timeout`` seconds without progress, StreamClosed."""
        await self._go_slow()
        while (have := len(self._buffer)) < size:
            async with asyncio.timeout(timeout):
                while len(self._buffer) == have:
                    await self._more()
        return self._take(size)

    async def blocks(self, size: int, timeout: float) -> AsyncIterator[bytes]:  # noqa: ASYNC109 # as above
        """So many bytes in pieces. TimeoutError after ``timeout`` seconds without progress, StreamClosed."""
        while size:
            if not self._buffer:
                async with asyncio.timeout(timeout):
                    while not self._buffer:
                        await self._more()
            block = self._take(min(size, len(self._buffer), BLOCK_MAX))
            size -= len(block)
            yield block

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of what comes next."""
        self._buffer[:0] = data
        self._searched = 0

    def discard(self) -> None:
        """Drop what is buffered."""
        self._buffer.clear()
        self._searched = 0
        self._resume_reading()

    @property
    def _held(self) -> int:
        """Bytes that came and take memory."""
        return len(self._buffer) + (self._deflate.waiting if self._deflate is not None else 0)

    # Writing.

    @property
    def pending(self) -> int:
        """Bytes written and not yet flushed."""
        return self._pending_size

    def write(self, data: bytes) -> None:
        """Collect bytes for the next flush()."""
        self._pending.append(data)
        self._pending_size += len(data)

    def send(self) -> None:
        """Send what was written without waiting: for bounded amounts, read while they go out. Raises StreamClosed."""
        data = self._collected()
        if data and self._deflate is not None:
            data = self._deflate.pack(data) + self._deflate.flush()
        self._send(data)

    async def flush(self, timeout: float) -> None:  # noqa: ASYNC109 # as above
        """Send what was written, and wait until the peer took most of it. Raises TimeoutError, StreamClosed."""
        if self._deflate is not None:
            await self._flush_packed()
        else:
            data = self._collected()
            if data and self.slow:
                data = await self._dribble(data, timeout)
            self._send(data)
        if not self._writable.is_set():
            async with asyncio.timeout(timeout):
                await self._writable.wait()
            if self._lost.is_set():
                raise StreamClosed("connection lost")

    # Deflate.

    @property
    def deflated(self) -> bool:
        """Whether both directions are compressed."""
        return self._deflate is not None

    def start_deflate(self) -> None:
        """From here on both directions are compressed (RFC 4978): what is buffered came so already."""
        self._deflate = Deflate()
        self._deflate.received(bytes(self._buffer))
        self._buffer.clear()
        self._searched = 0

    def end_deflate(self) -> None:
        """From here on nothing is compressed; what is buffered and not unpacked came so already."""
        if self._deflate is not None:
            self._buffer += self._deflate.end()
            self._deflate = None

    async def _flush_packed(self) -> None:
        deflate = self._deflate
        assert deflate is not None
        async with self._packing:
            data = self._collected()
            if not data:
                return
            self._packed += 1
            for start in range(0, len(data), PACKED_AT_ONCE):
                if start:
                    await asyncio.sleep(0)
                self._send(deflate.pack(data[start : start + PACKED_AT_ONCE]))
            self._send(deflate.flush())
        if self._resting is None:
            self._rest_later()

    def _rest_later(self) -> None:
        self._resting = asyncio.get_running_loop().call_later(REST_AFTER, self._rest, self._packed)

    def _rest(self, packed: int) -> None:
        self._resting = None
        if self._deflate is None:
            return
        if packed == self._packed and not self._packing.locked():
            self._deflate.rest()
        else:
            self._rest_later()

    # TLS and the end.

    async def start_tls(
        self,
        context: ssl.SSLContext,
        timeout: float,  # noqa: ASYNC109 # as above
        *,
        server_side: bool = True,
        server_hostname: str | None = None,
    ) -> None:
        """A handshake. Raises TLSFailed. ``server_hostname``: the name that a client asks for (SNI), None for none.

        Bytes in the buffer belong to the handshake: clients start it as soon as they may. What came before they were
        told that they may is the caller's to refuse; on a client's side that is anything.
        """
        transport = self._transport
        if transport is None or self._lost.is_set():
            raise TLSFailed("eof")
        # From here on what comes stays in the socket until the TLS layer is there.
        self._reading_paused = False
        transport.pause_reading()
        early = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        handshake = asyncio.ensure_future(
            asyncio.get_running_loop().start_tls(
                transport,
                self,
                context,
                server_side=server_side,
                server_hostname=server_hostname,
                ssl_handshake_timeout=timeout,
                ssl_shutdown_timeout=TLS_SHUTDOWN,
            )
        )
        try:
            if early:
                await asyncio.sleep(0)  # now the transport has its TLS layer, whose connection_made comes next
                if (layer := transport.get_protocol()) is not self:
                    asyncio.get_running_loop().call_soon(_feed, layer, early)
            upgraded = await handshake
        except ssl.SSLError as exc:
            raise TLSFailed(exc.reason or str(exc)) from exc
        except (ConnectionError, OSError) as exc:
            # A handshake that takes too long ends in a ConnectionAbortedError whose text says so.
            raise TLSFailed("timeout" if "longer than" in str(exc) else "eof") from exc
        finally:
            handshake.cancel()
        if upgraded is None:
            raise TLSFailed("eof")
        self._transport = upgraded
        upgraded.set_write_buffer_limits(high=WRITE_HIGH)
        ssl_object: ssl.SSLObject = upgraded.get_extra_info("ssl_object")
        cipher = ssl_object.cipher()
        self.tls = TLSState(ssl_object.version() or "", cipher[0] if cipher else "", ssl_object)

    def close(self) -> None:
        """End the connection after what was flushed; does not wait."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        await self._lost.wait()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the connection, and what was received and not yet read, to another protocol. Raises StreamClosed."""
        transport = self._transport
        if transport is None or self._lost.is_set() or transport.is_closing():
            raise StreamClosed("connection lost")
        received, eof = bytes(self._buffer), self._eof
        self._buffer.clear()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if received:
            protocol.data_received(received)
        if eof:
            protocol.eof_received()
        self._resume_reading()

    # Inside.

    def _line_end(self) -> int:
        end = self._buffer.find(b"\n", self._searched)
        self._searched = len(self._buffer) if end < 0 else end
        return end

    def _take(self, size: int) -> bytes:
        data = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        self._searched = max(0, self._searched - size)
        if self._reading_paused and self._held <= BUFFER_LOW:
            self._resume_reading()
        return data

    def _resume_reading(self) -> None:
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            with contextlib.suppress(RuntimeError):  # the transport is closing
                self._transport.resume_reading()

    async def _more(self) -> None:
        """Wait for bytes. Raises StreamClosed at the end of the input."""
        if self._deflate is not None:
            while not self._unpacked(self._deflate):
                if not self._deflate.waiting:
                    break
                await asyncio.sleep(0)
            else:
                return
        if self._eof:
            raise StreamClosed("closed by the peer")
        self._resume_reading()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _unpacked(self, deflate: Deflate) -> bool:
        """Unpack some of what came. Raises StreamClosed where it cannot be, or ended."""
        try:
            data = deflate.unpack()
        except BadDeflate as exc:
            self.abort()
            raise StreamClosed(f"what the peer sent is not deflate: {exc}") from exc
        if not data and deflate.ended:
            raise StreamClosed("the peer ended its compressed stream")
        self._buffer += data
        return bool(data)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _collected(self) -> bytes:
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        return data

    def _send(self, data: bytes) -> None:
        if self._lost.is_set() or self._transport is None:
            raise StreamClosed("connection lost")
        if data:
            self._transport.write(data)

    async def _go_slow(self) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)

    async def _dribble(self, data: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 # as above
        """Send a byte at a time for as long as the deadline allows; gives what is left to be sent."""
        steps = max(0, int((timeout - SLOW_RESERVE) / self.slow))
        for position in range(min(steps, len(data))):
            self._send(data[position : position + 1])
            await asyncio.sleep(self.slow)
        return data[steps:]


def _feed(layer: asyncio.BaseProtocol, data: bytes) -> None:
    """Hand bytes to a TLS layer as its transport would."""
    buffered = cast(asyncio.BufferedProtocol, layer)  # asyncio's and uvloop's are, without saying so
    view = memoryview(data)
    while view:
        buffer = memoryview(cast(bytearray, buffered.get_buffer(len(view))))
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        buffered.buffer_updated(size)
        view = view[size:]


def _address(name: object) -> tuple[str, int]:
    if isinstance(name, tuple) and len(name) >= 2:
        ip, port = str(name[0]).partition("%")[0], int(name[1])
        return ip.removeprefix("::ffff:") if "." in ip else ip, port
    return "", 0


class Deadline:
    """One deadline over several waits: seconds that are left of it.

    deadline = Deadline(1800)
    await stream.read_block(deadline.left(30))
    """

    __slots__ = ("_at", "_loop")

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time() + seconds

    def left(self, most: float) -> float:
        """Seconds until the deadline, at most ``most``. Raises TimeoutError when it has passed."""
        left = self._at - self._loop.time()
        if left <= 0:
            raise TimeoutError
        return min(left, most)
