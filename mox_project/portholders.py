"""Who listens on a port of this machine: so that "address in use" can name the process (Linux; elsewhere nobody)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"  # TCP_LISTEN in /proc/net/tcp


def holder(port: int) -> str:
    """``process 123 (dovecot)``; "" if it cannot be found, which takes being root or its user."""
    wanted = {f"socket:[{inode}]" for inode in _inodes(port)}
    if not wanted:
        return ""
    for descriptor in _PROC.glob("[0-9]*/fd/*"):
        try:
            if os.readlink(descriptor) in wanted:
                process = descriptor.parents[1]
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
        except OSError:
            continue  # it ended, or is somebody else's
    return ""


def _inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]
