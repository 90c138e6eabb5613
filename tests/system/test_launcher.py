"""`serve` as root: nothing but the launcher stays root, and what could lead it astray is refused."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import installation
from tests.system import nodes
from tests.system.nodes import Node

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can open low ports and become somebody else")

SMTP, IMAP = 25, 143


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="mox-root-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def node(open_directory: Path) -> Node:
    """A server on the ports of mail, not started."""
    made = Node(open_directory / "data", f"127.0.{installation.worker_number()}.199")
    nodes.set_up(made.directory, nodes.listener("public", made.ip, low_ports=True))
    return made


@pytest.fixture
def running(node: Node) -> Iterator[Node]:
    node.start()
    yield node
    if node.is_running():
        assert node.stop() == 0


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_only_the_launcher_is_root_and_the_ports_are_open(running: Node) -> None:
    for port in (SMTP, IMAP):
        with running.connect(port) as client:
            assert client.recv(1000).startswith((b"220 ", b"* OK "))
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    children = psutil.Process(running.pid).children(recursive=True)
    assert len(children) == 8, "the supervisor and its seven processes"
    for child in children:
        status = status_of(child.pid)
        assert status["Uid"].split() == [nobody] * 4
        assert status["Groups"] == ""
        assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
        assert status["NoNewPrivs"] == "1"
    assert status_of(running.pid)["Uid"].split() == ["0"] * 4
    assert not [line for line in psutil.Process(running.pid).memory_maps() if "django" in line.path]


def test_the_server_ends_with_a_launcher_that_is_killed(running: Node) -> None:
    children = psutil.Process(running.pid).children(recursive=True)
    psutil.Process(running.pid).kill()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []


def test_the_data_belongs_to_the_user_and_keys_to_nobody_else(running: Node) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    found = {path: path.lstat() for path in [running.directory, *running.directory.rglob("*")]}
    assert {status.st_uid for status in found.values()} == {uid}
    assert running.directory.stat().st_mode & 0o7777 == 0o2750
    assert all(not status.st_mode & 0o007 for path, status in found.items() if path.parent.name != "run")
    for key in (running.directory / "keys").iterdir():
        assert key.stat().st_mode & 0o777 == 0o600


def test_links_that_the_user_planted_lead_root_nowhere(node: Node, open_directory: Path) -> None:
    secret = open_directory / "shadow"
    secret.write_text("root's")
    secret.chmod(0o600)
    other = open_directory / "other"
    other.write_text("root's too")
    other.chmod(0o600)
    (node.directory / "link").symlink_to(secret)
    (node.directory / "up").symlink_to(open_directory)
    os.link(other, node.directory / "hard")
    node.directory.chmod(0o777)  # so that all is looked at
    node.start()
    assert node.directory.stat().st_mode & 0o7777 == 0o2750
    for path in (secret, other):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)
    assert node.stop() == 0
    for name in ("link", "up", "hard"):
        (node.directory / name).unlink()


def test_modules_in_the_data_directory_are_not_imported(node: Node, open_directory: Path) -> None:
    planted = open_directory / "was-imported"
    for name in ("json", "socket", "django", "mox_project"):
        (node.directory / f"{name}.py").write_text(f"open({str(planted)!r}, 'w')")
    before = Path.cwd()
    os.chdir(node.directory)
    try:
        asked = node.mox("serve", "--only", "nothing")
    finally:
        os.chdir(before)
    assert asked.returncode != 0
    assert not planted.exists()
    for name in ("json", "socket", "django", "mox_project"):
        (node.directory / f"{name}.py").unlink()


def test_a_user_without_privileges_is_needed(node: Node) -> None:
    for user, text in {
        "root": "MOX_USER='root' is root: name a user without privileges",
        "0": "MOX_USER='0' is root",
        "nobody-of-the-name": "user 'nobody-of-the-name' does not exist: make it with useradd -d ",
    }.items():
        refused = Node(node.directory, node.ip, env={"MOX_USER": user}).mox("serve")
        assert refused.returncode == 1
        assert text in refused.stderr


def test_the_environment_file_names_the_user_only_if_it_is_roots(node: Node) -> None:
    file = node.directory / "mox.env"
    file.write_text("MOX_USER=root\n")
    env = {name: value for name, value in node.env.items() if name != "MOX_USER"}
    stranger = Node(node.directory, node.ip)
    stranger.env = env
    assert "MOX_USER='root' is root" in stranger.mox("serve").stderr
    os.chown(file, pwd.getpwnam("nobody").pw_uid, 0)
    ignored = stranger.mox("serve")
    assert "is root" not in ignored.stderr
    file.unlink()


def test_sockets_of_somebody_else_are_refused(node: Node) -> None:
    refused = Node(node.directory, node.ip, env={"MOX_SOCKETS": "127.0.0.1:25"}).mox("serve")
    assert refused.returncode == 1
    assert "MOX_SOCKETS is set" in refused.stderr
