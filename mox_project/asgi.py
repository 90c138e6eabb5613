"""The ASGI application, and the web process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvicorn
import uvloop
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mox_project.settings")

STOP_GRACE: Final = 3  # seconds for requests to finish at shutdown
HEALTH_PATHS: Final = ("/healthz", "/readyz", "/metrics")

application = get_asgi_application()


def run(sockets: list[socket.socket], ready: Callable[[], None]) -> None:
    """Serve HTTP on these sockets until SIGTERM. ``ready`` is called when connections are accepted."""
    asyncio.run(_Server(_config(application), ready).serve(sockets))


def run_health_beside(sockets: list[socket.socket]) -> None:
    """Answer what machines ask of a server, in a thread: for a process of a node that has no web process."""

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Server(_config(_health), lambda: None).serve(sockets))

    threading.Thread(target=serve, name="health", daemon=True).start()


async def _health(scope: Any, receive: Any, send: Any) -> None:
    """The application of such a process: a few paths of the whole."""
    if scope["path"] in HEALTH_PATHS:
        await application(scope, receive, send)
        return
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _config(served: Any) -> uvicorn.Config:
    return uvicorn.Config(
        served,
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=STOP_GRACE,
        loop="uvloop",
    )


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
