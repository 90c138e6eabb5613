"""Workers, Redis and mail processes killed with mail in flight: every message arrives, and none twice unnoticed."""

from __future__ import annotations

import contextlib
import json
import os
import smtplib
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from mox_project import localserve
from tests.sinks import Sink, sink
from tests.system.servers import PROJECT, Server, running, source_ip

OwnServer = Callable[[], Server]

USER = "mox@localhost"
FAST = {"MOX_QUEUE_BACKOFF_BASE": "1s"}  # attempts, and what was interrupted, come again soon
SECONDS = 90.0  # for everything to arrive

VICTIMS = ("worker-delivery", "redis", "mail-1", "worker-delivery", "beat", "worker-delivery")

_ROUTE = """
from accounts.models import Route, Transport
transport = Transport.objects.create(name="sink", kind="smtp", host={host!r}, port={port}, no_starttls=True)
Route.objects.create(transport=transport)
"""


@pytest.fixture
def elsewhere() -> Iterator[Sink]:
    with sink() as started:
        yield started


def manage(server: Server, *words: str) -> str:
    """The output of a command on the directory of a server."""
    environment = {**os.environ, "MOX_DATA_DIR": str(server.directory)}
    done = subprocess.run(
        [sys.executable, "manage.py", *words], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def route_everything(server: Server, to: Sink) -> None:
    """Have all mail go to a sink."""
    manage(server, "shell", "-c", _ROUTE.format(host=to.host, port=to.port))


def submit(server: Server, number: int) -> bool:
    """Whether a message got its 250; ``number`` is its recipient's localpart."""
    recipient = f"n{number}x@far.example"
    text = f"From: <{USER}>\r\nTo: <{recipient}>\r\nSubject: number {number}\r\n\r\nbody\r\n"
    try:
        with smtplib.SMTP(server.ip, server.submission_port, timeout=20, source_address=(source_ip(), 0)) as client:
            client.login(USER, localserve.PASSWORD)
            client.sendmail(USER, [recipient], text)
    except (OSError, smtplib.SMTPException):
        return False
    return True


def received(at: Sink) -> Counter[str]:
    """How often each recipient's message came."""
    return Counter(recipient for message in list(at.received) for recipient in message.recipients)


def history(server: Server) -> dict[str, Any]:
    """What is known of each message that left the queue, by recipient."""
    listed = json.loads(manage(server, "queue", "retired", "list", "--json", "-n", "1000"))
    return {message["recipient"]: message for message in listed}


def wait_until_done(server: Server, recipients: set[str], at: Sink) -> None:
    """Wait until each message arrived, and its result is stored. Raises TimeoutError."""
    with at.arrived:
        if not at.arrived.wait_for(lambda: recipients <= received(at).keys(), SECONDS):
            missing = recipients - received(at).keys()
            raise TimeoutError(
                f"{len(missing)} messages did not arrive, such as {sorted(missing)[:3]}:\n{server.tail()}"
            )
    for _ in range(60):  # each look takes a second: starting the command does
        if not json.loads(manage(server, "queue", "list", "--json")):
            return
    raise TimeoutError(f"the queue is not empty:\n{manage(server, 'queue', 'list')}\n{server.tail()}")


def check_doubles(server: Server, recipients: set[str], at: Sink) -> None:
    """Each message once; one that came twice says so in its history."""
    told = history(server)
    assert told.keys() >= recipients
    for recipient, count in received(at).items():
        assert told[recipient]["success"], told[recipient]
        unknown = [a for a in told[recipient]["attempts_log"] if a["error"].startswith("outcome unknown")]
        assert count <= 1 + len(unknown), (recipient, count, told[recipient]["attempts_log"])


@pytest.mark.parametrize(
    ("fault", "doubles"),
    [
        ("queue.claimed", False),
        ("queue.before_dot", False),
        ("queue.after_dot", True),
        ("queue.after_journal", False),
        ("store.before_commit", False),
    ],
)
def test_it_delivers_everything_though_the_worker_dies_at(
    own_server: OwnServer, elsewhere: Sink, fault: str, *, doubles: bool
) -> None:
    server = own_server()
    route_everything(server, elsewhere)
    with running(server, env={**FAST, "MOX_FAULT": f"{fault}:5"}):
        recipients = {f"n{n}x@far.example" for n in range(15) if submit(server, n) or submit(server, n)}
        wait_until_done(server, recipients, elsewhere)
        check_doubles(server, recipients, elsewhere)
        if not doubles:
            assert set(received(elsewhere).values()) == {1}
        if fault.startswith("queue."):
            server_died = [line for line in server.output if "process died" in line and "worker-delivery" in line]
            assert len(server_died) >= 2, server.tail()


def test_it_delivers_everything_though_processes_are_killed_at_any_moment(
    own_server: OwnServer, elsewhere: Sink
) -> None:
    server = own_server()
    route_everything(server, elsewhere)
    with running(server, env=FAST):
        accepted: set[str] = set()

        def work(start: int) -> None:
            for number in range(start, start + 50):
                if submit(server, number):
                    accepted.add(f"n{number}x@far.example")

        clients = [threading.Thread(target=work, args=(start,)) for start in range(0, 200, 50)]
        for client in clients:
            client.start()
        # A kill each time that some more have arrived: no two runs are cut at the same places.
        for count, name in enumerate(VICTIMS):
            with elsewhere.arrived, contextlib.suppress(TimeoutError):
                elsewhere.wait_for(count * 15, seconds=20)
            pid = server.child_pid(name)
            if pid is not None:
                psutil.Process(pid).kill()
        for client in clients:
            client.join()
        assert len(accepted) > 100
        wait_until_done(server, accepted, elsewhere)
        check_doubles(server, accepted, elsewhere)
