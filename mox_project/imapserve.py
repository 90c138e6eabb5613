"""One IMAP session on standard input and output, for tunnels: whoever runs it is logged in.

Standard input and output may be anything: pipes, files, a socket. Two threads copy between them and a socket pair,
whose other end is a connection like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from typing import Final

import imap.server
from protocols.stream import Stream, StreamClosed
from server import ratelimit
from server.cids import next_cid
from server.connections import Connection, ConnectionLog, Service
from server.models import Listener, ServerSettings, TLSMode
from store.bridge import Bridge

log = logging.getLogger(__name__)

THREADS: Final = 2  # for the database: one session asks for one thing at a time
CHUNK: Final = 64 * 1024  # bytes copied at a time
STDIN, STDOUT = 0, 1


def run(account_id: int, login_address: str) -> None:
    """Serve one session of an account until it ends."""
    settings = ServerSettings.current()
    ours, theirs = socket.socketpair()
    threading.Thread(target=_copy_in, args=(theirs,), name="stdin", daemon=True).start()
    output = threading.Thread(target=_copy_out, args=(theirs,), name="stdout")
    output.start()
    try:
        asyncio.run(_serve(ours, settings, account_id, login_address))
    finally:
        with contextlib.suppress(OSError):
            ours.close()
        output.join()


async def _serve(sock: socket.socket, settings: ServerSettings, account_id: int, login_address: str) -> None:
    bridge = Bridge(THREADS)
    await bridge.start()
    try:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, sock=sock)
        cid = next_cid()
        connection = Connection(
            stream,
            cid,
            Service("imap", ratelimit.Service.IMAP, False, False, _no_handler, lambda _refusal, _connection: b""),
            Listener(name="imapserve", tls_mode=TLSMode.NONE),
            settings,
            asyncio.Event(),
            ConnectionLog(log, {"cid": cid, "remote": "stdin"}),
        )
        try:
            await imap.server.serve_logged_in(connection, bridge, account_id, login_address)
        except (StreamClosed, TimeoutError, ConnectionError) as exc:
            connection.log.debug("connection ended", extra={"err": str(exc) or type(exc).__name__})
        stream.close()
        await stream.wait_closed()
    finally:
        await bridge.close()


async def _no_handler(_connection: Connection) -> None:
    """Nothing is accepted by this service."""


def _copy_in(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the session is over
        while data := os.read(STDIN, CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)


def _copy_out(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more
        while data := sock.recv(CHUNK):
            while data:
                data = data[os.write(STDOUT, data) :]
    sock.close()
