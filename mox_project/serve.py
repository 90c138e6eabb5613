"""Which processes make a running server: what localserve starts under its supervisor."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import Final

from django.conf import settings
from django.db import connections

from server import logs, metricfiles

from . import asgi, celery, embedded_redis, mailserver, sockets
from .environment import Environment
from .sockets import Binding
from .supervisor import ChildProcess

log = logging.getLogger(__name__)

TEMPORARY_AGE: Final = 24 * 3600  # seconds after which a temporary file is left over from a crash

Ready = Callable[[], None]


def prepare_directories(environment: Environment) -> None:
    """Make what the processes expect, and remove what earlier ones left behind."""
    for directory in (environment.run_dir, environment.temporary_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in environment.metrics_dir.glob("*.db"):
        if not path.stem.endswith(f"_{os.getpid()}"):
            path.unlink(missing_ok=True)
    for directory in (environment.temporary_dir, environment.data_dir / "msg" / "tmp"):
        remove_old_files(directory, time.time() - TEMPORARY_AGE)


def remove_old_files(directory: Path, before: float) -> None:
    """Remove files that were last written before a moment (seconds since the epoch)."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        try:
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
        except OSError as exc:
            log.warning("temporary file cannot be removed", extra={"file": path, "err": str(exc)})


def processes(environment: Environment, opened: list[tuple[Binding, socket]], log_level: str) -> list[ChildProcess]:
    """The children to supervise, in the order of their start."""

    def child(name: str, run: Callable[[Ready], None], *, essential: bool = False) -> ChildProcess:
        def in_child(ready: Ready) -> None:
            logs.configure(log_level, environment.log_format, own_time=environment.log_time)
            connections.close_all()
            _reserve_metrics(environment)
            run(ready)

        return ChildProcess(name, in_child, essential)

    mail, http = sockets.mail_sockets(opened), sockets.http_sockets(opened)
    children = []
    if environment.embedded_redis:
        children.append(
            child("redis", lambda ready: embedded_redis.run(environment.redis_socket, ready), essential=True)
        )
    children += [
        child(f"mail-{number}", lambda ready: mailserver.run(mail, ready))
        for number in range(1, environment.mail_workers + 1)
    ]
    children.append(child("web", lambda ready: asgi.run(http, ready)))
    children.append(
        child(
            "worker-maintenance",
            lambda ready: celery.run_worker(
                environment.node, "maintenance", [celery.MAINTENANCE], environment.worker_concurrency, ready
            ),
        )
    )
    schedule = str(environment.run_dir / "beat-schedule")
    children.append(child("beat", lambda ready: celery.run_beat(schedule, ready)))
    return children


def _reserve_metrics(environment: Environment) -> None:
    try:
        metricfiles.reserve(environment.metrics_dir)
    except OSError as exc:
        log.error("no room for metrics, the process may be killed", extra={"err": str(exc)})


def log_level() -> str:
    """The level that the environment names, else the one in the settings."""
    from server.models import ServerSettings

    return settings.MOX.log_level or ServerSettings.current().log_level
