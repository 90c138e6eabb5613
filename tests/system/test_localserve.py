"""localserve as a new user meets it: start, stop, crash of a child, a second one, wrong directories, health."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.system.servers import PROJECT, START_TIMEOUT, Server

OwnServer = Callable[[], Server]


def get(server: Server, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{server.ip}:{server.metrics_port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def greeting(server: Server, port: int) -> bytes:
    with server.connect(port) as client:
        return client.recv(1000)


def localserve(*options: str) -> subprocess.CompletedProcess[str]:
    """A run that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "manage.py", "localserve", *options], cwd=PROJECT, capture_output=True, text=True, timeout=60
    )


def test_a_new_directory_is_served_and_the_stop_is_clean(new_server: OwnServer) -> None:
    server = new_server()
    server.start("--ip", server.ip)
    assert greeting(server, server.smtp_port).startswith(b"220 localhost ESMTP mox\r\n")
    assert greeting(server, server.imap_port).startswith(b"* OK [CAPABILITY ")
    text = "".join(server.output)
    assert f"{server.ip}:1025" in text
    assert "mox@localhost moxmoxmox" in text
    children = psutil.Process(server.pid).children(recursive=True)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 5
    _, alive = psutil.wait_procs(children, timeout=0)
    assert alive == [], "processes were left behind"


def test_a_child_that_dies_is_named_and_restarted(own_server: OwnServer) -> None:
    server = own_server()
    server.start("--ip", server.ip)
    before = server.kill_child("mail-1")
    line = server.wait_for_line("process died")
    assert "child=mail-1" in line
    assert 'cause="signal 9"' in line
    deadline = time.monotonic() + 30
    while server.child_pid("mail-1") in (None, before):
        assert time.monotonic() < deadline, server.tail()
        os.sched_yield()
    assert greeting(server, server.smtp_port).startswith(b"220 ")  # accepted by the new process once it is up
    assert server.stop() == 0


def test_its_children_end_with_a_supervisor_that_is_killed_and_it_starts_again(own_server: OwnServer) -> None:
    server = own_server()
    server.start("--ip", server.ip)
    children = psutil.Process(server.pid).children(recursive=True)
    os.kill(server.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == [], "processes outlived their supervisor"
    server.start()
    assert server.stop() == 0


def test_a_second_server_runs_beside_the_first(server: Server, own_server: OwnServer) -> None:
    second = own_server()
    second.start("--ip", second.ip)
    assert greeting(second, second.smtp_port).startswith(b"220 ")
    assert greeting(server, server.smtp_port).startswith(b"220 ")
    assert second.stop() == 0


def test_a_directory_that_is_served_already_is_refused(server: Server) -> None:
    refused = localserve("--dir", str(server.directory))
    assert refused.returncode == 1
    assert f"process {server.pid} is serving {server.directory} already" in refused.stderr


def test_an_address_in_use_is_named(server: Server, new_server: OwnServer) -> None:
    other = new_server()
    other.start("--ip", server.ip, wait=False)
    assert other.wait_for_end(START_TIMEOUT) == 1
    assert re.search(rf"cannot bind {server.ip}:1025 for smtp: process \d+ \(python\S*\) listens there", other.tail())


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    refused = localserve("--dir", str(tmp_path))
    assert refused.returncode == 1
    assert "is not a localserve directory; choose another with --dir, it must not exist yet" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_initonly_makes_the_directory_and_the_address_stays(directory: Path) -> None:
    made = directory / "initonly"
    assert localserve("--dir", str(made), "--ip", "127.0.0.77", "--initonly").returncode == 0
    assert (made / "localhost.crt").is_file()
    assert (made / "localhost.key").stat().st_mode & 0o777 == 0o600
    refused = localserve("--dir", str(made), "--ip", "127.0.0.78", "--initonly")
    assert refused.returncode == 1
    assert "--ip applies only to a new directory" in refused.stderr


def test_a_path_too_long_for_sockets_is_explained(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    refused = localserve("--dir", str(deep), "--ip", "127.0.0.79")
    assert refused.returncode == 1
    assert "use a data directory with a shorter path" in refused.stderr


def test_it_says_how_it_is_doing(server: Server) -> None:
    assert get(server, "/healthz") == (200, "ok\n")
    status, ready = get(server, "/readyz")
    assert (status, json.loads(ready)) == (200, {"ready": True, "problems": {}})
    status, metrics = get(server, "/metrics")
    assert status == 200
    assert "mox_connections_count" in metrics


@pytest.mark.parametrize("name", ["redis", "web-1", "worker-delivery", "worker-maintenance", "beat"])
def test_mail_flows_whichever_process_is_killed(own_server: OwnServer, name: str) -> None:
    server = own_server()
    server.start("--ip", server.ip)
    server.kill_child(name)
    server.wait_for_line(f"child={name}")
    assert greeting(server, server.smtp_port).startswith(b"220 ")
    assert greeting(server, server.imap_port).startswith(b"* OK ")
    assert server.stop() == 0
