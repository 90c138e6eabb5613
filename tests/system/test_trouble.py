"""A full disk and a locked database: temporary refusals, nothing acknowledged is lost, and work goes on afterwards."""

from __future__ import annotations

import contextlib
import os
import smtplib
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mox_project import localserve
from tests.system.servers import Server, source_ip
from tests.system.test_crashes import (
    LARGE,
    SMALL,
    USER,
    append,
    deliver,
    hold_everything,
    imap,
    message,
    numbers_in_inbox,
    numbers_in_queue,
    store_check,
    submit,
)

OwnServer = Callable[[], Server]

DISK_SIZE = 48 << 20  # bytes of the small disk; a new directory takes a few
FILLER = "x" * 76 + "\r\n"


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """A file system of a few megabytes in this directory."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def refused_submission(server: Server, number: int, body: str) -> int:
    """The code with which the content of a submitted message is refused."""
    text = f"From: <{USER}>\r\nSubject: number {number}\r\n\r\n{body}"
    with smtplib.SMTP(server.ip, server.submission_port, timeout=30, source_address=(source_ip(), 0)) as client:
        client.login(USER, localserve.PASSWORD)
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail(USER, ["bo@remote.example"], text)
        return refused.value.smtp_code


def test_a_full_disk_refuses_for_now_and_keeps_what_was_acknowledged(new_server: OwnServer) -> None:
    server = new_server()
    with small_disk(server.directory.parent / f"disk-{server.ip}"):
        server.directory = server.directory.parent / f"disk-{server.ip}" / "data"
        server.start("--ip", server.ip)
        hold_everything(server)
        assert deliver(server, 1, SMALL)
        assert submit(server, 1, LARGE)
        filled = server.directory / "filler"
        with filled.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 65536)
                file.flush()
        with smtplib.SMTP(server.ip, server.smtp_port, timeout=30, source_address=(source_ip(), 0)) as client:
            with pytest.raises(smtplib.SMTPDataError) as refused:
                client.sendmail("a@example.org", ["mox@localhost"], message(2, FILLER * 20_000))
            assert refused.value.smtp_code in (451, 452)
        assert not append(server, 3, FILLER * 20_000)
        assert refused_submission(server, 3, FILLER * 20_000) in (451, 452)
        with imap(server) as reading:
            assert reading.select("Inbox", readonly=True)[0] == "OK"  # reading goes on
        filled.unlink()
        assert deliver(server, 4, LARGE)
        assert append(server, 5, LARGE)
        assert submit(server, 5, LARGE)
        assert numbers_in_queue(server) == {1: 1, 5: 1}
        assert numbers_in_inbox(server) == {1: 1, 4: 1, 5: 1}
        assert server.stop() == 0
        store_check(server)


def test_a_locked_database_refuses_for_now(own_server: OwnServer) -> None:
    server = own_server()
    database = server.directory / "mox.sqlite3"
    server.start("--ip", server.ip, env={"MOX_DATABASE_URL": f"sqlite:///{database}?timeout=0.1"})
    hold_everything(server)
    assert deliver(server, 1, SMALL)
    other = sqlite3.connect(database, isolation_level=None, timeout=20)
    other.execute("BEGIN IMMEDIATE")
    with smtplib.SMTP(server.ip, server.smtp_port, timeout=30, source_address=(source_ip(), 0)) as client:
        with pytest.raises(smtplib.SMTPDataError) as refused:
            client.sendmail("a@example.org", ["mox@localhost"], message(2, SMALL))
        assert refused.value.smtp_code == 451
        assert refused_submission(server, 2, SMALL) == 451
        with imap(server) as reading:
            assert reading.select("Inbox")[0] == "OK"
            answer, text = reading.store("1", "+FLAGS", r"(\Flagged)")
            assert (answer, text[0][:13]) == ("NO", b"[UNAVAILABLE]")
            other.execute("ROLLBACK")
            other.close()
            assert reading.store("1", "+FLAGS", r"(\Flagged)")[0] == "OK"
        client.sendmail("a@example.org", ["mox@localhost"], message(3, SMALL))
    assert submit(server, 3, SMALL)
    assert numbers_in_queue(server) == {3: 1}
    assert numbers_in_inbox(server) == {1: 1, 3: 1}
    assert server.stop() == 0
    store_check(server)
