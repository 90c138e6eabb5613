"""The ASGI application, and the web process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mox_project.settings")

STOP_GRACE: Final = 3  # seconds for requests to finish at shutdown

application = get_asgi_application()


def run(sockets: list[socket.socket], ready: Callable[[], None]) -> None:
    """Serve HTTP on these sockets until SIGTERM. ``ready`` is called when connections are accepted."""
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=STOP_GRACE,
        loop="uvloop",
    )
    asyncio.run(_Server(config, ready).serve(sockets))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Like uvicorn's, without raising the signal anew at the end: that would make every stop look like a crash."""
        with contextlib.suppress(KeyboardInterrupt), super().capture_signals():
            yield
            self._captured_signals.clear()
