"""The control socket of a running server: how ``mox stop``, ``mox reload`` and ``mox status`` reach the supervisor.

One word in a line asks, one line of JSON answers. The socket belongs to the user that the server runs as; only that
user and root are heard.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from .problem import EnvironmentProblem

NAME: Final = "control"
PATH_MAX: Final = 100  # bytes; the kernel's limit for the name of a unix socket is 108 on Linux, 104 elsewhere
QUESTION_MAX: Final = 64  # bytes
ANSWER_TIMEOUT: Final = 10.0  # seconds for an answer; the supervisor is never busy for long
STOP_TIMEOUT: Final = 60.0  # seconds for the server to end; worker-delivery may take 30
_PEER: Final = struct.Struct("3i")  # pid, uid, gid


class NotRunning(Exception):
    """No server answers in this directory."""


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A process of a running server. ``uptime`` in seconds; ``restarts`` since the server started."""

    name: str
    pid: int
    is_ready: bool
    uptime: int
    restarts: int


@dataclass(frozen=True, slots=True)
class Status:
    """What the supervisor knows of itself and its processes. ``uptime`` in seconds."""

    version: str
    node: str
    pid: int
    uptime: int
    processes: list[ProcessStatus]

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Status:
        values = json.loads(text)
        return cls(**{**values, "processes": [ProcessStatus(**process) for process in values["processes"]]})


def checked_path(path: Path) -> Path:
    """The path of a socket to be. Raises EnvironmentProblem for one that is too long."""
    if len(os.fsencode(path)) > PATH_MAX:
        raise EnvironmentProblem(
            f"{path} is too long for the name of a socket ({PATH_MAX} bytes): use a data directory with a shorter path"
        )
    return path


def listen(run_dir: Path) -> socket.socket:
    """The socket on which the supervisor is asked. Raises EnvironmentProblem."""
    path = checked_path(run_dir / NAME)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        sock.bind(str(path))
    finally:
        os.umask(mask)
    sock.listen()
    sock.setblocking(False)
    return sock


def accept(listening: socket.socket) -> socket.socket | None:
    """A connection of somebody who may ask; None if it was somebody else's."""
    try:
        sock, _ = listening.accept()
    except OSError:
        return None
    if not _may_ask(sock):
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def question(sock: socket.socket) -> str:
    """What a connection asks, once it can be read; "" if nothing that can be understood."""
    try:
        return sock.recv(QUESTION_MAX).decode("ascii", "replace").strip()
    except OSError:
        return ""


def answer(sock: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # who asked may be gone
        sock.sendall(f"{text}\n".encode())


def _may_ask(sock: socket.socket) -> bool:
    option: Any = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True  # not Linux: the permissions of the socket and its directory decide
    _, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _PEER.size))
    return uid in (0, os.geteuid())


def status(run_dir: Path) -> Status:
    """Raises NotRunning."""
    with _ask(run_dir, "status") as sock:
        return Status.loads(_line(sock))


def reload(run_dir: Path) -> None:
    """Raises NotRunning."""
    with _ask(run_dir, "reload") as sock:
        _line(sock)


def stop(run_dir: Path) -> None:
    """Have the server stop, and wait until it has. Raises NotRunning; TimeoutError if it is still there."""
    with _ask(run_dir, "stop") as sock:
        _line(sock)
        sock.settimeout(STOP_TIMEOUT)
        while sock.recv(QUESTION_MAX):  # the supervisor keeps the connection open until its end
            pass


def _ask(run_dir: Path, word: str) -> socket.socket:
    path = checked_path(run_dir / NAME)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(ANSWER_TIMEOUT)
    try:
        sock.connect(str(path))
        sock.sendall(f"{word}\n".encode())
    except PermissionError as exc:
        sock.close()
        raise NotRunning(f"{path} is for the user that the server runs as, and for root") from exc
    except OSError as exc:
        sock.close()
        raise NotRunning(f"no server is running in {run_dir.parent}") from exc
    return sock


def _line(sock: socket.socket) -> str:
    with sock.makefile() as file:
        line = file.readline()
    if not line:
        raise NotRunning("the server ended before it answered")
    return line
