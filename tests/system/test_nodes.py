"""A server in parts: one process of each kind on a node of its own, sharing one PostgreSQL and one Redis."""

from __future__ import annotations

import shutil
import smtplib
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import pytest
from imapclient import IMAPClient

from mox_project import embedded_redis
from tests import installation
from tests.nameservers import Signing, Zone, name_servers, needs_name_servers
from tests.system import nodes
from tests.system.nodes import ADDRESS, PASSWORD, Node

KINDS = {
    "mail-a": "mail",
    "mail-b": "mail",
    "web-a": "web",
    "delivery-a": "worker-delivery",
    "webhooks-a": "worker-webhooks",
    "maintenance-a": "worker-maintenance",
    "beat-a": "beat",
}


# The names of the two sides: servers ask for those of who greets them, and of senders.
ZONE = Zone("example.", "remote A 192.0.2.1\ntest MX 10 mail.test\nmail.test A 192.0.2.2", Signing.NONE)

# Seven servers start at once: that takes its time on a busy machine.
pytestmark = [needs_name_servers, pytest.mark.timeout(400)]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The nodes by name."""

    nodes: dict[str, Node]

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="mox-nodes-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def redis_url(open_directory: Path) -> Iterator[str]:
    ip = f"127.0.{installation.worker_number()}.250"
    words = ["--port", "6390", "--bind", ip, "--save", "", "--appendonly", "no", "--dir", str(open_directory)]
    process = subprocess.Popen([embedded_redis.executable(), *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection((ip, 6390), 1).close()
            break
        except OSError:
            assert time.monotonic() < deadline, "Redis does not start"
    yield f"redis://{ip}:6390"
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def resolver(open_directory: Path) -> Iterator[str]:
    with name_servers(open_directory / "dns", f"127.0.{installation.worker_number()}.54", [ZONE]) as running:
        yield str(running.resolver)


@pytest.fixture(scope="module")
def cluster(open_directory: Path, redis_url: str, resolver: str) -> Iterator[Cluster]:
    """All nodes, running; they share secrets, database, Redis and the directory of large content."""
    shared = {
        "MOX_DATABASE_URL": installation.start_postgresql(open_directory / "postgresql"),
        "MOX_CACHE_URL": f"{redis_url}/1",
        "MOX_BROKER_URL": f"{redis_url}/0",
        "MOX_CHANNEL_URL": f"{redis_url}/2",
        "MOX_DNS_RESOLVERS": resolver,
        "MOX_STORAGE_URL": f"file://{open_directory / 'content'}",
        "MOX_SECRET_KEY": "a" * 64,
        "MOX_ENCRYPTION_KEYS": "c2hhcmVkIGJ5IGFsbCBub2RlcyBvZiB0aGlzIHRlc3Q=",
        "MOX_RECEIVED_ID_KEY": "c2hhcmVkIGJ5IGFsbCBub2RlcyBoZXJl",
        # As root the nodes run as another user: the one that has the database, whose socket is for nobody else.
        "MOX_USER": "pgserver",
        **installation.NO_DELAYS,
    }
    (open_directory / "content").mkdir()
    (open_directory / "content").chmod(0o777)
    number = installation.worker_number()
    made = {
        name: Node(open_directory / name, f"127.0.{number}.{240 + at}", env={**shared, "MOX_NODE": name})
        for at, name in enumerate(KINDS)
    }
    for node in made.values():
        node.directory.mkdir()
    listeners = [nodes.listener(name, node.ip, node=name) for name, node in made.items()]
    first = made["mail-a"]
    nodes.set_up(first.directory, *listeners, env=shared)
    relay = made["mail-b"]  # takes mail to others, as if it were theirs
    assert first.mox("shell", "-c", nodes.ROUTE.format(host=relay.ip, port=relay.smtp_port)).returncode == 0
    for node in made.values():
        for name in ("localhost.crt", "localhost.key"):
            if node is not first:
                shutil.copy(first.directory / name, node.directory / name)
    for name, node in made.items():
        node.start("--only", KINDS[name], wait=False)
    try:
        for node in made.values():
            node.wait_for_line('m="ready to serve"', timeout=120)
        yield Cluster(made)
        for node in made.values():
            assert not node.is_running() or node.stop() == 0, node.tail()
    finally:
        for node in made.values():
            if node.is_running():
                node.kill()


def message(subject: str, to: str = ADDRESS, size: int = 0) -> EmailMessage:
    made = EmailMessage()
    made["From"] = ADDRESS
    made["To"] = to
    made["Subject"] = subject
    made["Message-ID"] = f"<{subject.replace(' ', '-')}@{nodes.DOMAIN}>"
    made.set_content("hello\n" + ("x" * 70 + "\n") * (size // 71))
    return made


def deliver(node: Node, sent: EmailMessage) -> None:
    with smtplib.SMTP(node.ip, node.smtp_port, "remote.example", timeout=30) as client:
        client.send_message(sent, "sender@remote.example", [ADDRESS])


def mailbox(node: Node) -> IMAPClient:
    client = IMAPClient(node.ip, node.imap_port, ssl=False, timeout=30)
    client.login(ADDRESS, PASSWORD)
    client.select_folder("INBOX")
    return client


def subjects(client: IMAPClient) -> list[str]:
    client.noop()
    fetched = client.fetch(client.search(), ["ENVELOPE"])
    return [found[b"ENVELOPE"].subject.decode() for found in fetched.values()]


@pytest.mark.parametrize("size", [0, 300_000], ids=["small", "large"])
def test_what_one_mail_node_takes_another_shows(cluster: Cluster, size: int) -> None:
    sent = message(f"over two nodes {size}", size=size)
    deliver(cluster["mail-a"], sent)
    with mailbox(cluster["mail-b"]) as client:
        (uid,) = client.search(["HEADER", "Message-ID", sent["Message-ID"]])
        content = client.fetch([uid], ["BODY[]"])[uid][b"BODY[]"]
    assert content.endswith(sent.as_bytes().replace(b"\n", b"\r\n").partition(b"\r\n\r\n")[2])


def test_a_client_that_waits_hears_of_a_delivery_on_another_node(cluster: Cluster) -> None:
    with mailbox(cluster["mail-b"]) as client:
        before = len(client.search())
        client.idle()
        began = time.monotonic()
        deliver(cluster["mail-a"], message("heard across nodes"))
        answers = client.idle_check(timeout=20)
        took = time.monotonic() - began
        client.idle_done()
    assert (before + 1, b"EXISTS") in answers
    assert took < 5, "told, not found by the next look"


def test_a_flag_set_on_one_node_is_seen_on_another(cluster: Cluster) -> None:
    deliver(cluster["mail-b"], message("to be flagged"))
    with mailbox(cluster["mail-a"]) as here, mailbox(cluster["mail-b"]) as there:
        (uid,) = here.search(["SUBJECT", "to be flagged"])
        here.add_flags([uid], [b"\\Flagged"])
        there.noop()
        assert there.search(["FLAGGED", "SUBJECT", "to be flagged"]) == [uid]


def test_a_submitted_message_is_sent_by_the_node_for_it(cluster: Cluster) -> None:
    with smtplib.SMTP(cluster["mail-a"].ip, 1587, timeout=30) as client:
        client.login(ADDRESS, PASSWORD)
        client.send_message(message("by way of the queue"), ADDRESS, [ADDRESS])
    with mailbox(cluster["mail-b"]) as client:
        client.idle()
        deadline = time.monotonic() + 60
        while True:
            client.idle_done()
            if "by way of the queue" in subjects(client):
                break
            assert time.monotonic() < deadline, cluster["delivery-a"].tail()
            client.idle()
            client.idle_check(timeout=5)


def test_each_node_counts_its_own(cluster: Cluster) -> None:
    def metrics(name: str) -> str:
        node = cluster[name]
        with urllib.request.urlopen(f"http://{node.ip}:{node.metrics_port}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    deadline = time.monotonic() + 60
    while 'mox_task_runs_total{name="store.text",result="success"}' not in metrics("maintenance-a"):
        assert time.monotonic() < deadline, "the clock's tick is not carried out"
    assert "mox_task_runs_total{" in metrics("delivery-a")
    assert 'name="store.text"' not in metrics("delivery-a")
    assert "mox_smtpserver_connection_total" in metrics("mail-a")
    for name in ("web-a", "webhooks-a", "beat-a"):
        assert "mox_smtpserver_connection_total{" not in metrics(name)


def test_nothing_is_lost_with_a_node_that_is_killed(cluster: Cluster) -> None:
    accepted = []
    for number in range(30):
        node = cluster["mail-a" if number % 2 else "mail-b"]
        if number == 15:
            cluster["mail-a"].kill()
        try:
            deliver(node, message(f"before and after {number}"))
        except (OSError, smtplib.SMTPException):
            assert node is cluster["mail-a"]
            continue
        accepted.append(f"before and after {number}")
    assert len(accepted) >= 22
    with mailbox(cluster["mail-b"]) as client:
        assert set(accepted) <= set(subjects(client))
    cluster["mail-a"].start("--only", "mail")
    with mailbox(cluster["mail-a"]) as client:
        assert set(accepted) <= set(subjects(client))
