"""Running mail programs: to their end, in a terminal where they want one, or not at all where they are missing."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import time
from collections.abc import Sequence

import pytest


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing (Debian package {package})")


def run(*arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(arguments, capture_output=True, timeout=90, env={**os.environ, **(environment or {})})
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{arguments[0]} failed with {done.returncode}:\n{output}"
    return output


def in_terminal(arguments: Sequence[str], environment: dict[str, str], timeout: float = 30) -> str:
    """Run a program of a terminal to its end; gives what it wrote."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        arguments, stdin=child, stdout=child, stderr=child, env={**os.environ, **environment}, start_new_session=True
    )
    os.close(child)
    written = b""
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([parent], [], [], 0.2)
            if ready:
                try:
                    block = os.read(parent, 65536)
                except OSError:  # the terminal's other end is closed
                    break
                written += block
            elif process.poll() is not None:
                break
        process.wait(max(deadline - time.monotonic(), 0.1))
    finally:
        process.kill()
        os.close(parent)
    return written.decode("utf-8", "replace")
