"""A name server that answers as a test says: over UDP and TCP on one port, bytes or messages, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TypeAlias, cast

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from protocols.dns.servers import NameServer

Reply: TypeAlias = dns.message.Message | bytes | None
Script: TypeAlias = Callable[[dns.message.Message, bool], Reply]
"""Is given the query and whether it came over TCP; None: no answer."""


@dataclass
class ScriptedServer(asyncio.DatagramProtocol):
    """Notes each query as "udp txt example.org."."""

    script: Script
    address: NameServer = field(default_factory=lambda: NameServer(ip_address("127.0.0.1")))
    queries: list[str] = field(default_factory=list)
    messages: list[dns.message.Message] = field(default_factory=list)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._reply(data, over_tcp=False)
        if reply is not None:
            self._transport.sendto(reply, addr)

    async def serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = self._reply(await reader.readexactly(size), over_tcp=True)
            if reply is not None:
                writer.write(len(reply).to_bytes(2, "big") + reply)
                await writer.drain()
        writer.close()

    def _reply(self, data: bytes, *, over_tcp: bool) -> bytes | None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        self.messages.append(query)
        self.queries.append(
            f"{'tcp' if over_tcp else 'udp'} {question.rdtype.name.lower()} {question.name.to_text().lower()}"
        )
        reply = self.script(query, over_tcp)
        return reply.to_wire(max_size=65535) if isinstance(reply, dns.message.Message) else reply


@contextlib.asynccontextmanager
async def serving(script: Script, host: str = "127.0.0.1") -> AsyncIterator[ScriptedServer]:
    """A server with this script on a free port, until the block ends."""
    loop = asyncio.get_running_loop()
    server = ScriptedServer(script)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
        listening.bind((host, 0))
        port = listening.getsockname()[1]
        server.address = NameServer(ip_address(host), port)
        tcp = await asyncio.start_server(server.serve_tcp, sock=listening)
        transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=(host, port))
        try:
            yield server
        finally:
            transport.close()
            tcp.close()


def answer(
    query: dns.message.Message,
    *records: str,
    authority: tuple[str, ...] = (),
    rcode: dns.rcode.Rcode = dns.rcode.NOERROR,
    ad: bool = False,
    ede: tuple[tuple[int, str], ...] = (),
) -> dns.message.Message:
    """An answer with records in zone file form, ``example.org. 300 IN MX 10 mail.example.org.``."""
    response = dns.message.make_response(query, recursion_available=True)
    for section, texts in ((response.answer, records), (response.authority, authority)):
        for text in texts:
            name, ttl, _, rtype, data = text.split(maxsplit=4)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", rtype, data))
    response.set_rcode(rcode)
    response.flags = response.flags | dns.flags.AD if ad else response.flags & ~dns.flags.AD
    if ede:
        options: list[dns.edns.Option] = [dns.edns.EDEOption(dns.edns.EDECode.make(code), text) for code, text in ede]
        response.use_edns(0, 0, 1232, options=options)
        response.set_rcode(rcode)
    return response
