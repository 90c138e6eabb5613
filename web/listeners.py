"""Which endpoints a socket serves, as the database says: at most a second old, without a query per request."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from server.models import EndpointKind, Listener, ListenerEndpoint, ServerSettings

from .requests import Endpoint

log = logging.getLogger(__name__)

SNAPSHOT_AGE: Final = 1.0  # seconds that a request may use settings that were just changed


@dataclass(frozen=True, slots=True)
class HTTPSocket:
    """A bound and listening socket, and what it was bound for."""

    sock: socket.socket
    listener_id: int
    port: int
    tls: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Listeners and their enabled endpoints at one moment."""

    taken: float
    listeners: dict[int, Listener]
    endpoints: dict[tuple[int, int, bool], list[Endpoint]]
    settings: ServerSettings

    def endpoints_at(self, where: HTTPSocket) -> list[Endpoint]:
        return self.endpoints.get((where.listener_id, where.port, where.tls), [])


class Listeners:
    """The latest snapshot. Lives on one event loop; ``call`` runs a function that uses the database in a thread."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call
        self._known: Snapshot | None = None
        self._reading = asyncio.Lock()

    async def current(self) -> Snapshot:
        """With the database away, the last one. Raises what the database raises where there is none yet."""
        known = self._fresh()
        if known is not None:
            return known
        async with self._reading:
            known = self._fresh()  # others waited for the same
            if known is not None:
                return known
            try:
                self._known = await self._call(_read)
            except Exception as exc:
                if self._known is None:
                    raise
                log.warning("listeners cannot be read, the last settings stay in force", extra={"err": str(exc)})
                known = self._known
                self._known = Snapshot(time.monotonic(), known.listeners, known.endpoints, known.settings)
            assert self._known is not None
            return self._known

    def _fresh(self) -> Snapshot | None:
        if self._known is not None and time.monotonic() - self._known.taken < SNAPSHOT_AGE:
            return self._known
        return None


def _read() -> Snapshot:
    listeners = {listener.pk: listener for listener in Listener.objects.all()}
    endpoints: dict[tuple[int, int, bool], list[Endpoint]] = {}
    for row in ListenerEndpoint.objects.filter(enabled=True):
        path = row.path if row.path.endswith("/") else f"{row.path}/"
        most = listeners[row.listener_id].max_message_size if row.listener_id in listeners else 0
        endpoint = Endpoint(EndpointKind(row.kind), path, row.forwarded, most)
        endpoints.setdefault((row.listener_id, row.port, row.tls), []).append(endpoint)
    return Snapshot(time.monotonic(), listeners, endpoints, ServerSettings.current())
