"""Mail that other programs keep is imported by the running server's worker, and what it exports they read."""

from __future__ import annotations

import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from django.core.management import call_command

from store.imports import jobs
from store.models import ImportJob
from tests.system.imap.conftest import User
from tests.system.imap.programs import in_terminal, needs
from tests.system.imap.test_mbsync import Mbsync, varied

pytestmark = pytest.mark.database

WAIT = 60.0  # seconds for the worker; far above what it takes, also on a busy machine


def finished(job: ImportJob) -> ImportJob:
    deadline = time.monotonic() + WAIT
    while job.state in ("uploading", "running"):
        assert time.monotonic() < deadline, f"the import is not done: {job.messages} messages, {job.step}"
        time.sleep(0.05)
        job.refresh_from_db()
    return job


@needs("mbsync", "isync")
def test_a_maildir_of_mbsync_is_imported_by_the_worker(imap_user: User, tmp_path: Path) -> None:
    wire = imap_user.session()
    mails = varied(60)
    for number, message in enumerate(mails):
        flags = ("", " (\\Seen)", " (\\Flagged \\Answered)", " (\\Draft)")[number % 4]
        wire.ok(f"APPEND Inbox{flags}", message, nonsync=True)
    Mbsync(imap_user, tmp_path).sync()
    with tarfile.open(tmp_path / "mail.tgz", "w:gz") as archive:
        archive.add(tmp_path / "mail", "mail")
    with open(tmp_path / "mail.tgz", "rb") as file:
        job = finished(jobs.import_archive(imap_user.account.pk, file, "mail"))
    assert (job.state, job.error) == ("done", "")
    assert all("unrecognized file" in problem for problem in job.problems)  # mbsync's own notes
    before = wire.ok("SELECT Inbox")
    assert before.one("EXISTS").number == 2 * len(mails)
    items = wire.ok("FETCH 1:* (FLAGS RFC822.SIZE INTERNALDATE)").fetched()
    flags_of = [set(items[number]["FLAGS"]) - {"\\Recent"} for number in sorted(items)]
    assert sorted(map(sorted, flags_of[: len(mails)])) == sorted(map(sorted, flags_of[len(mails) :]))
    assert wire.ok("STATUS Sent (MESSAGES)").one("STATUS").data[1] == ["MESSAGES", "0"]


@needs("mutt", "mutt")
def test_mutt_shows_the_flags_of_an_exported_mbox(imap_user: User, tmp_path: Path) -> None:
    wire = imap_user.session()
    flags_of = {"read": "\\Seen", "replied": "\\Seen \\Answered", "marked": "\\Flagged", "fresh": ""}
    for subject, flags in flags_of.items():
        message = f"From: ada@example.org\r\nSubject: {subject} one\r\n\r\nFrom the start\r\n".encode()
        wire.ok(f"APPEND Inbox ({flags})", message, nonsync=True)
    call_command("export", "mbox", "--single", str(tmp_path / "out"), imap_user.account.name, "Inbox")
    path = str(tmp_path / "out" / "Inbox.mbox")
    settings = f"set quit=yes wait_key=no mark_old=no folder={tmp_path} index_format='<%Z> %s'"
    screen = in_terminal(
        ["mutt", "-n", "-F", "/dev/null", "-R", "-f", path, "-e", settings, "-e", 'push "<quit>"'],
        {"TERM": "xterm", "HOME": str(tmp_path), "LANG": "C.UTF-8"},
    )
    for shown in ("<   > read one", "<r  > replied one", "<N !> marked one", "<N  > fresh one"):
        assert shown in screen, screen


@needs("unzip", "unzip")
def test_unzip_unpacks_an_exported_archive(imap_user: User, tmp_path: Path) -> None:
    wire = imap_user.session()
    wire.ok("APPEND Inbox", b"Subject: x\r\n\r\nFrom me\r\n", nonsync=True)
    call_command("export", "maildir", "--archive", "zip", str(tmp_path / "mail.zip"), imap_user.account.name)
    subprocess.run(["unzip", "-q", "mail.zip"], cwd=tmp_path, check=True)
    (path,) = (tmp_path / "Inbox" / "new").iterdir()
    assert path.read_bytes() == b"Subject: x\n\nFrom me\n"
