"""Slow mode after wrong passwords, on a server of its own: the others have its delays switched off."""

from __future__ import annotations

import time
from collections.abc import Callable

from mox_project import localserve
from tests.system.imap.wire import Wire
from tests.system.servers import Server, source_ip


def test_the_fourth_wrong_password_is_slow_until_a_right_one(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start("--ip", server.ip, env={"MOX_SMTP_BAD_CLIENT_DELAY": "100ms", "MOX_SMTP_AUTH_FAIL_DELAY": "1s"})
    wire = Wire(server.ip, server.imap_port, source=source_ip())
    started = time.monotonic()
    for _ in range(3):
        wire.no("LOGIN mox@localhost wrong-password", code="AUTHENTICATIONFAILED")
    started = time.monotonic()
    wire.timeout = 60
    wire.ok(f"LOGIN mox@localhost {localserve.PASSWORD}")  # a step of slow mode before the read
    assert time.monotonic() - started >= 0.1
    started = time.monotonic()
    for _ in range(5):
        wire.ok("NOOP")
    assert time.monotonic() - started < 2
