"""What systemd may ask of a service: to say when it is ready, to say that it lives (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

_MICROSECOND: Final = 1e-6


def notify(*states: str) -> None:
    """Tell the service manager, e.g. ``READY=1``; nothing where none listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # a manager that does not listen must not hold us up
        sock.sendto("\n".join(states).encode(), f"\0{address[1:]}" if address[0] == "@" else address)


def watchdog_interval() -> float:
    """Seconds between signs of life that the service manager wants, halved as it advises; infinity: none are wanted."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) * _MICROSECOND / 2 if text.isdecimal() and int(text) else float("inf")
