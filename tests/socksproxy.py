"""A real SOCKS proxy, started by a test: microsocks, a Debian package."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from protocols.socks import Proxy

START_TIMEOUT = 20.0  # seconds; far above what a start takes, also on a busy machine

needs_proxy = pytest.mark.skipif(not shutil.which("microsocks"), reason="Debian package is missing: microsocks")


@dataclass(frozen=True, slots=True)
class Running:
    """A proxy, and the address that it connects from."""

    proxy: Proxy
    source: str


@contextlib.contextmanager
def socks_proxy(ip: str, source: str, *, username: str = "", password: str = "") -> Iterator[Running]:
    """A proxy on a free port of ``ip``, whose connections come from ``source``."""
    with socket.socket() as free:
        free.bind((ip, 0))
        port = free.getsockname()[1]
    login = ["-u", username, "-P", password] if username else []
    command = ["microsocks", "-i", ip, "-p", str(port), "-b", source, *login]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_listening(process, ip, port)
        yield Running(Proxy(ip, port, username, password), source)
    finally:
        process.terminate()
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], ip: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((ip, port), timeout=1):
            return
        time.sleep(0.02)
    raise AssertionError(f"{process.args!r} does not listen")
