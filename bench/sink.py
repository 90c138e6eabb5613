"""An SMTP server that takes all mail and drops it, run in its own process.

It can hold back its greeting until told to start (so that a queue fills before
its delivery is timed), and counts messages at their final dot.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import signal
import time
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from typing import Any

_READY = (
    b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 104857600\r\n"
)


class SinkProtocol(asyncio.Protocol):
    """Accepts everything; finds the end of data across packet borders."""

    def __init__(self, gate: Event | None, count: Any, size: Any, last: Any, delay: float = 0.0) -> None:
        self._delay = delay
        self._gate = gate
        self._count = count
        self._size = size
        self._last = last
        self._buf = bytearray()
        self._data = False
        self._tail = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._greet()

    def _greet(self) -> None:
        if self._gate is None or self._gate.is_set():
            self._transport.write(b"220 sink ESMTP\r\n")
        elif not self._transport.is_closing():
            asyncio.get_running_loop().call_later(0.02, self._greet)

    def data_received(self, data: bytes) -> None:
        while data:
            if self._data:
                seam = self._tail + data
                end = seam.find(b"\r\n.\r\n")
                if end < 0:
                    self._size.value += len(data)
                    self._tail = seam[-4:]
                    return
                data = seam[end + 5 :]
                self._data = False
                self._count.value += 1
                self._last.value = time.perf_counter()
                self._take()
                continue
            self._buf += data
            data = b""
            while not self._data and (end := self._buf.find(b"\r\n")) >= 0:
                line = bytes(self._buf[:end])
                del self._buf[: end + 2]
                self._command(line)
            if self._data and self._buf:
                data = bytes(self._buf)
                self._buf.clear()

    def _take(self) -> None:
        if self._delay:
            asyncio.get_running_loop().call_later(self._delay, self._transport.write, b"250 2.0.0 taken\r\n")
        else:
            self._transport.write(b"250 2.0.0 taken\r\n")

    def _command(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"EHLO":
            self._transport.write(_READY)
        elif verb == b"DATA":
            self._data = True
            self._tail = b"\r\n"
            self._transport.write(b"354 go\r\n")
        elif verb == b"QUIT":
            self._transport.write(b"221 2.0.0 bye\r\n")
            self._transport.close()
        else:
            self._transport.write(b"250 2.0.0 ok\r\n")


class Sink:
    """A sink in a child process; ``open()`` lets held connections proceed. ``delay``: seconds before it takes one."""

    def __init__(self, host: str, port: int, held: bool = False, delay: float = 0.0) -> None:
        self._delay = delay
        self.count: Synchronized[int] = multiprocessing.Value("q", 0)
        self.size: Synchronized[int] = multiprocessing.Value("q", 0)
        self.last: Synchronized[float] = multiprocessing.Value("d", 0.0)
        self._gate = multiprocessing.Event()
        self._ready = multiprocessing.Event()
        if not held:
            self._gate.set()
        self._process = multiprocessing.Process(target=self._main, args=(host, port), daemon=True)

    def start(self) -> None:
        self._process.start()
        if not self._ready.wait(10):
            raise RuntimeError("sink did not start")

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def open(self) -> None:
        self._gate.set()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(5)

    def _main(self, host: str, port: int) -> None:
        async def serve() -> None:
            loop = asyncio.get_running_loop()
            make = lambda: SinkProtocol(self._gate, self.count, self.size, self.last, self._delay)  # noqa: E731
            server = await loop.create_server(make, host, port, backlog=1024)
            self._ready.set()
            await server.serve_forever()

        asyncio.run(serve())


def main() -> None:
    """Run a sink until interrupted, printing how many messages came in."""
    p = argparse.ArgumentParser(prog="bench.sink", description="SMTP server that drops all mail.")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=2525)
    args = p.parse_args()
    sink = Sink(args.host, args.port)
    sink.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seen = 0
    try:
        while True:
            time.sleep(5)
            if sink.count.value != seen:
                seen = sink.count.value
                print(f"{seen} messages, {sink.size.value >> 20} MB", flush=True)
    except KeyboardInterrupt:
        sink.stop()


if __name__ == "__main__":
    main()
