"""Processes killed at the worst moments: what was acknowledged is there once, and what is there is consistent."""

from __future__ import annotations

import imaplib
import os
import smtplib
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from mox_project import localserve
from tests.system.servers import PROJECT, Server, source_ip

OwnServer = Callable[[], Server]

USER = "mox@localhost"
TRIES = 8  # messages sent while the fault is armed: more than the pass at which it strikes
SMALL, LARGE = "small body\r\n", "a line of a large message, stored as a file\r\n" * 4000


def message(number: int, body: str) -> str:
    return f"From: <sender@example.org>\r\nTo: <{USER}>\r\nSubject: number {number}\r\n\r\n{body}"


def deliver(server: Server, number: int, body: str, recipient: str = USER) -> bool:
    """Whether the message got its 250."""
    try:
        with smtplib.SMTP(server.ip, server.smtp_port, timeout=20, source_address=(source_ip(), 0)) as client:
            client.sendmail("sender@example.org", [recipient], message(number, body))
    except (OSError, smtplib.SMTPException):
        return False
    return True


def submit(server: Server, number: int, body: str) -> bool:
    """Whether a message to somebody elsewhere got its 250."""
    text = f"From: <{USER}>\r\nTo: <bo@remote.example>\r\nSubject: number {number}\r\n\r\n{body}"
    try:
        with smtplib.SMTP(server.ip, server.submission_port, timeout=20, source_address=(source_ip(), 0)) as client:
            client.login(USER, localserve.PASSWORD)
            client.sendmail(USER, ["bo@remote.example"], text)
    except (OSError, smtplib.SMTPException):
        return False
    return True


def hold_everything(server: Server) -> None:
    """What is submitted from now on stays in the queue."""
    with sqlite3.connect(server.directory / "mox.sqlite3", timeout=20) as database:
        database.execute("INSERT INTO queue_holdrule (sender_domain, recipient_domain) VALUES ('', '')")
    database.close()


def numbers_in_queue(server: Server) -> Counter[int]:
    """How often each numbered message is in the queue; the content of each must be there."""
    with sqlite3.connect(server.directory / "mox.sqlite3", timeout=20) as database:
        rows = database.execute(
            "SELECT subject, q.size, length(prefix), b.size, length(data), storage_name"
            " FROM queue_queuemessage q JOIN store_blob b ON b.id = blob_id"
        ).fetchall()
    database.close()
    for _, size, prefix, content, inline, name in rows:
        stored = inline if inline is not None else (server.directory / "msg" / name).stat().st_size
        assert size - prefix == content == stored, "content is damaged"
    return Counter(int(row[0].removeprefix("number ")) for row in rows)


def imap(server: Server) -> imaplib.IMAP4:
    client = imaplib.IMAP4(server.ip, server.imap_port, timeout=20)
    client.login(USER, localserve.PASSWORD)
    return client


def append(server: Server, number: int, body: str) -> bool:
    """Whether the message got its OK."""
    try:
        with imap(server) as client:
            return client.append("Inbox", "", "", message(number, body).encode())[0] == "OK"
    except (OSError, imaplib.IMAP4.error):
        return False


def numbers_in_inbox(server: Server) -> Counter[int]:
    """How often each numbered message is in Inbox; each is read whole."""
    found: Counter[int] = Counter()
    with imap(server) as client:
        client.select("Inbox", readonly=True)
        _, data = client.fetch("1:*", "(BODY.PEEK[])") if client.untagged_responses["EXISTS"] != [b"0"] else ("", [])
        for item in data:
            if isinstance(item, tuple):
                header, _, body = item[1].decode().partition("\r\n\r\n")
                assert body in (SMALL, LARGE), "content is damaged"
                found[int(header.partition("Subject: number ")[2].split()[0])] += 1
    return found


def store_check(server: Server) -> str:
    """The output of the checker on the server's directory."""
    checked = subprocess.run(
        [sys.executable, "manage.py", "store", "check"],
        cwd=PROJECT,
        env={**os.environ, "MOX_DATA_DIR": str(server.directory)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout


def test_mail_is_found_again_after_everything_was_killed(own_server: OwnServer) -> None:
    server = own_server()
    server.start("--ip", server.ip)
    assert deliver(server, 1, SMALL)
    assert deliver(server, 2, LARGE)
    server.kill()
    server.start()
    assert numbers_in_inbox(server) == {1: 1, 2: 1}
    assert deliver(server, 3, SMALL)
    assert numbers_in_inbox(server) == {1: 1, 2: 1, 3: 1}
    assert server.stop() == 0
    assert "1 accounts are consistent" in store_check(server)


@pytest.mark.parametrize(
    ("point", "body"),
    [
        ("store.after_blob_fsync", LARGE),
        ("store.before_commit", SMALL),
        ("store.before_commit", LARGE),
        ("store.after_commit", SMALL),
        ("smtp.before_reply", SMALL),
        ("smtp.before_reply", LARGE),
    ],
)
def test_a_delivery_that_got_its_250_survives_a_crash_at(own_server: OwnServer, point: str, body: str) -> None:
    check_crash(own_server(), point, body, deliver, numbers_in_inbox)


@pytest.mark.parametrize(
    ("point", "body"),
    [
        ("store.after_blob_fsync", LARGE),
        ("store.before_commit", SMALL),
        ("store.after_commit", LARGE),
        ("imap.before_reply", SMALL),
    ],
)
def test_an_append_that_got_its_ok_survives_a_crash_at(own_server: OwnServer, point: str, body: str) -> None:
    check_crash(own_server(), point, body, append, numbers_in_inbox)


@pytest.mark.parametrize(
    ("point", "body"),
    [
        ("store.after_blob_fsync", LARGE),
        ("store.before_commit", SMALL),
        ("store.after_commit", LARGE),
        ("smtp.before_reply", SMALL),
    ],
)
def test_a_submission_that_got_its_250_survives_a_crash_at(own_server: OwnServer, point: str, body: str) -> None:
    check_crash(own_server(), point, body, submit, numbers_in_queue)


def check_crash(
    server: Server,
    point: str,
    body: str,
    send: Callable[[Server, int, str], bool],
    numbers: Callable[[Server], Counter[int]],
) -> None:
    server.start("--ip", server.ip, env={"MOX_FAULT": f"{point}:3"})
    hold_everything(server)
    acknowledged: set[int] = set()
    refused: set[int] = set()
    for number in range(1, TRIES + 1):
        (acknowledged if send(server, number, body) else refused).add(number)
        if refused:
            break
    assert refused, f"the process was not killed at {point}"
    server.wait_for_line('cause="signal 9"')
    server.kill()
    server.start()
    found = numbers(server)
    assert acknowledged, "nothing was acknowledged before the crash: the test shows nothing"
    assert {number for number in acknowledged if found[number] != 1} == set(), "acknowledged, and not there once"
    assert all(found[number] <= 1 for number in refused)
    assert set(found) <= acknowledged | refused
    assert send(server, 100, body), "the server does not go on after the crash"
    assert server.stop() == 0
    store_check(server)
