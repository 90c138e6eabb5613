"""Servers as a user runs them: `manage.py localserve` in processes of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

PROJECT = Path(__file__).parents[2]
START_TIMEOUT = 60.0  # seconds; far above what a start takes, also on a busy machine
STOP_TIMEOUT = 20.0

SMTP, SUBMISSION, SUBMISSIONS, IMAP, IMAPS = 1025, 1587, 1465, 1143, 1993
HTTP, HTTPS, METRICS = 1080, 1443, 1081

_source_numbers = itertools.count(1)


def source_ip() -> str:
    """A client address that no limit has counted yet, in a network of its own (a /21 in 127.64.0.0/10)."""
    number = next(_source_numbers)
    return f"127.{64 + (number >> 5) % 64}.{(number & 31) << 3}.1"


class Server:
    """A localserve on an address and a directory."""

    smtp_port, submission_port, submissions_port = SMTP, SUBMISSION, SUBMISSIONS
    imap_port, imaps_port = IMAP, IMAPS
    http_port, https_port, metrics_port = HTTP, HTTPS, METRICS

    def __init__(self, directory: Path, ip: str) -> None:
        self.directory = directory
        self.ip = ip
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.output: list[str] = []
        """Lines of its output so far."""

    @property
    def certificate(self) -> Path:
        return self.directory / "localhost.crt"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *options: str, env: Mapping[str, str] | None = None, wait: bool = True) -> None:
        """Start it, and with ``wait`` return when it says that it is ready."""
        self._process = subprocess.Popen(
            self._command(*options),
            cwd=PROJECT,
            env={**_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines = queue.Queue()
        threading.Thread(target=self._read, args=(self._process, self._lines), daemon=True).start()
        if wait:
            self.wait_for_line("ready\n", whole=True)

    def _command(self, *options: str) -> list[str]:
        return [sys.executable, "manage.py", "localserve", "--dir", str(self.directory), *options]

    def wait_for_line(self, text: str, timeout: float = START_TIMEOUT, *, whole: bool = False) -> str:
        """The next line of output that contains this, or (``whole``) is this; lines before it are passed."""
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} within {timeout} s:\n{self.tail()}") from None
            if line is None:
                raise AssertionError(f"the server ended without a line with {text!r}:\n{self.tail()}")
            if line == text or (text in line and not whole):
                return line

    def wait_for_end(self, timeout: float = STOP_TIMEOUT) -> int:
        """Its exit status, once it has ended."""
        assert self._process is not None
        return self._process.wait(timeout)

    def stop(self) -> int:
        """Stop it as Ctrl-C does; gives its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self.wait_for_end()

    def kill(self) -> None:
        """Kill all its processes at once, as a power cut does."""
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self._process.pid)
            family = [parent, *parent.children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, timeout=STOP_TIMEOUT)
        self._process.wait(STOP_TIMEOUT)

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def child_pid(self, name: str) -> int | None:
        """The process id of one of its processes, e.g. ``mail-1``; None while it does not run."""
        try:
            return int((self.directory / "run" / f"{name}.pid").read_text())
        except (FileNotFoundError, ValueError):  # the supervisor is about to write it
            return None

    def kill_child(self, name: str) -> int:
        """Kill one of its processes; gives the process id that it had."""
        pid = self.child_pid(name)
        assert pid, f"{name} does not run"
        os.kill(pid, signal.SIGKILL)
        return pid

    def connect(self, port: int, timeout: float = 20) -> socket.socket:
        """A connection from a client address of its own."""
        return socket.create_connection((self.ip, port), timeout, source_address=(source_ip(), 0))

    def tail(self, lines: int = 40) -> str:
        return "".join(self.output[-lines:])

    def _read(self, process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.output.append(line)
            lines.put(line)
        lines.put(None)


def _environment() -> dict[str, str]:
    """That of the tests, without what a browser in them needs: servers never use the database on an event loop."""
    return {name: value for name, value in os.environ.items() if name != "DJANGO_ALLOW_ASYNC_UNSAFE"}


@contextlib.contextmanager
def running(server: Server, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """The server, started; it is stopped or killed at the end."""
    server.start(*options, env=env)
    try:
        yield server
    finally:
        if server.is_running():
            server.kill()
