"""Workers, Redis and mail processes killed with mail in flight: every message arrives, and none twice unnoticed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import smtplib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from mox_project import localserve
from tests.sinks import Sink, sink
from tests.system.servers import PROJECT, Server, running, source_ip

T = TypeVar("T")
OwnServer = Callable[[], Server]

WORKER, MAIL, REDIS, BEAT = "worker-delivery", "mail-1", "redis", "beat"
POINTS = {
    WORKER: (
        "queue.claimed",
        "queue.before_dot",
        "queue.after_dot",
        "queue.after_journal",
        "store.before_commit",
        "store.after_commit",
        "",
    ),
    MAIL: ("store.before_commit", "store.after_commit", "smtp.before_reply", ""),
}
IN_FLIGHT = 500
PER_KILL = 50  # more messages, so that there are some on their way at each
CLIENTS = 4

USER = "mox@localhost"
FAST = {"MOX_QUEUE_BACKOFF_BASE": "1s"}  # attempts, and what was interrupted, come again soon
SECONDS = 90.0  # for everything to arrive


@dataclass(frozen=True, slots=True)
class Kill:
    """Which process dies, and at the how manieth pass over which fault point; "": wherever it is."""

    process: str
    point: str = ""
    nth: int = 1


_ROUTE = """
from accounts.models import Account, Route, Transport
transport = Transport.objects.create(name="sink", kind="smtp", host={host!r}, port={port}, no_starttls=True)
Route.objects.create(transport=transport)
Account.objects.update(max_outgoing_messages_per_day=10**7, max_first_time_recipients_per_day=10**7)
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


class Clients:
    """Programs that submit messages, each over one connection until that breaks. Recipients are numbered."""

    def __init__(self, server: Server, at: Sink) -> None:
        self.accepted: set[str] = set()
        self._server = server
        self._sink = at
        self._numbers = itertools.count()
        self._wanted = threading.Condition()
        self._total = 0
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def submit(self, total: int) -> None:
        """Let them submit until so many were accepted in all, with no more than IN_FLIGHT that did not arrive."""
        with self._wanted:
            self._total = total
            self._wanted.notify_all()

    def wait(self) -> None:
        with self._wanted:
            assert self._wanted.wait_for(lambda: len(self.accepted) >= self._total, SECONDS), self._server.tail()

    def end(self) -> None:
        with self._wanted:
            self._total = -1
            self._wanted.notify_all()
        for thread in self._threads:
            thread.join()

    def _may_go_on(self) -> bool:
        in_flight = len(self.accepted) - len(self._sink.received)
        return self._total < 0 or (len(self.accepted) < self._total and in_flight < IN_FLIGHT)

    def _work(self) -> None:
        while True:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                source = (source_ip(), 0)
                with smtplib.SMTP(
                    self._server.ip, self._server.submission_port, timeout=20, source_address=source
                ) as client:
                    client.login(USER, localserve.PASSWORD)
                    while self._submit_one(client):
                        pass
                    return
            time.sleep(0.2)  # the server is being restarted

    def _submit_one(self, client: smtplib.SMTP) -> bool:
        with self._wanted:
            while not self._may_go_on():
                self._wanted.wait(0.2)
            if self._total < 0:
                return False
        recipient = f"n{next(self._numbers)}x@far.example"
        text = f"From: <{USER}>\r\nTo: <{recipient}>\r\nSubject: {recipient}\r\n\r\nbody\r\n"
        client.sendmail(USER, [recipient], text)
        with self._wanted:
            self.accepted.add(recipient)
            self._wanted.notify_all()
        return True


def received(at: Sink) -> Counter[str]:
    """How often each recipient's message came."""
    return Counter(recipient for message in list(at.received) for recipient in message.recipients)


def history(server: Server) -> dict[str, Any]:
    """What is known of each message that left the queue, by recipient."""
    listed = json.loads(manage(server, "queue", "retired", "list", "--json", "-n", "1000000"))
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


class Killer:
    """Kills processes of a server that runs with MOX_FAULT=@file, at a fault point or right away."""

    def __init__(self, server: Server, order: Path) -> None:
        self._server = server
        self._order = order

    def kill(self, kill: Kill) -> None:
        """Have a process die, and wait until it did and another has taken its place."""
        pid = self._wait_for(lambda: self._server.child_pid(kill.process))
        if kill.point:
            complete = self._order.with_suffix(".new")
            complete.write_text(f"{kill.point}:{kill.nth} {pid}")
            complete.rename(self._order)
        else:
            psutil.Process(pid).kill()
        self._wait_for(lambda: self._server.child_pid(kill.process) not in (None, pid))

    def _wait_for(self, what: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + SECONDS
        while True:
            found = what()
            if found:
                return found
            assert time.monotonic() < deadline, self._server.tail()
            time.sleep(0.05)


def kill_and_check(server: Server, at: Sink, kills: Sequence[Kill], *, before: Sequence[Kill] = ()) -> None:
    """Messages are submitted and delivered while processes are killed; each arrives, and twice only where it says so.

    ``before``: while nothing is delivered yet, so that IN_FLIGHT messages wait for those that follow.
    """
    order = server.directory / "fault"
    route_everything(server, at)
    gate = threading.Event()
    at.mail = lambda address: "" if gate.wait(SECONDS) else "421 4.3.2 no"
    with running(server, env={**FAST, "MOX_FAULT": f"@{order}"}):
        killer = Killer(server, order)
        clients = Clients(server, at)
        clients.submit(IN_FLIGHT)
        for kill in before:
            killer.kill(kill)
        clients.wait()
        gate.set()
        for number, kill in enumerate(kills, 1):
            clients.submit(IN_FLIGHT + number * PER_KILL)
            killer.kill(kill)
        clients.wait()
        clients.end()
        assert len(clients.accepted) >= IN_FLIGHT
        wait_until_done(server, clients.accepted, at)
        check_doubles(server, clients.accepted, at)


@pytest.mark.timeout(300)
def test_it_delivers_everything_though_processes_die_at_the_worst_moments(
    own_server: OwnServer, elsewhere: Sink
) -> None:
    before = [Kill(MAIL, "store.before_commit", 40), Kill(MAIL, "smtp.before_reply", 40)]
    rounds = [
        [Kill(WORKER, "queue.claimed", 20), Kill(REDIS), Kill(MAIL, "store.after_commit", 8)],
        [Kill(WORKER, "queue.before_dot", 20), Kill(REDIS), Kill(WORKER, "queue.after_dot", 20), Kill(MAIL)],
        [Kill(WORKER, "queue.after_journal", 20), Kill(REDIS), Kill(WORKER, "store.before_commit", 20), Kill(BEAT)],
    ]
    kill_and_check(own_server(), elsewhere, [kill for kills in rounds for kill in kills], before=before)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_it_delivers_everything_though_processes_die_at_fifty_random_moments(
    own_server: OwnServer, elsewhere: Sink
) -> None:
    seed = int.from_bytes(os.urandom(3))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    kills = []
    for _ in range(50):
        process = chosen.choice([WORKER, WORKER, MAIL, REDIS])
        point = chosen.choice(POINTS.get(process, ("",)))
        kills.append(Kill(process, point, chosen.randint(1, 8 if process == MAIL else 40)))
    kill_and_check(own_server(), elsewhere, kills)
