"""A mail process: SMTP and IMAP on one event loop, with its thread pool and its group commit."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import uvloop
from django.conf import settings

import imap.server
import smtp.server
from protocols.dns.stub import StubResolver
from server import lookupmetrics
from server.connections import ConnectionServer, Service
from store.bridge import Bridge

log = logging.getLogger(__name__)

THREADS_MORE: Final = 4  # threads besides those for IMAP: preparing deliveries must not wait behind searches


@dataclass(frozen=True, slots=True)
class MailSocket:
    """A bound and listening socket, the service on it, and the listener whose settings hold for it."""

    sock: socket.socket
    service: str  # the name of a Service
    listener_id: int


def run(sockets: Iterable[MailSocket], ready: Callable[[], None]) -> None:
    """Serve until SIGTERM. ``ready`` is called when connections are accepted."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(list(sockets), ready))


async def _serve(sockets: list[MailSocket], ready: Callable[[], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    lookupmetrics.use()
    bridge = Bridge(settings.MOX.imap_threads + THREADS_MORE)
    await bridge.start()
    server = ConnectionServer(bridge.call)
    services = {service.name: service for service in _services(bridge)}
    for mail_socket in sockets:
        await server.listen(mail_socket.sock, services[mail_socket.service], mail_socket.listener_id)
    ready()
    await stop.wait()
    await server.shutdown()
    await bridge.close()


def _services(bridge: Bridge) -> list[Service]:
    environment = settings.MOX
    resolver = StubResolver(environment.dns_resolvers, trust_ad=environment.dns_trust_ad)
    return [*smtp.server.services(bridge, resolver), *imap.server.services(bridge)]
