"""A policy host of MTA-STS: an HTTPS server that answers as a test has it, and keeps what it is asked."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.unit.certificates import Certified, server_context

POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmax_age: 86400\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s" % (len(POLICY), POLICY)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Host:
    """A policy host: what it is asked is kept."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.names: list[str] = []

    @asynccontextmanager
    async def serving(self, answer: bytes | Handler, certified: Certified) -> AsyncIterator[int]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            try:
                request = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(request)
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        def named(_socket: ssl.SSLObject, name: str, _context: ssl.SSLContext) -> None:
            self.names.append(name)

        context = server_context(certified)
        context.sni_callback = named
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
