"""``mox import``: Maildirs, mbox files and archives from the disk, how far they are, and what ends them."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import Account
from server import db
from store.imports import jobs, work
from store.models import ImportJob, Message

from .importing import free_lease, mail, mbox, messages, names, subjects, tgz, upload

pytestmark = pytest.mark.database


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.imports.staging.BATCH_MESSAGES", 5)


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("import", *words, stdout=out, stderr=out)
    return out.getvalue()


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / name).mkdir(parents=True)
    return tmp_path / "Maildir"


def test_an_mbox_is_imported_with_its_progress(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_command = import_module("store.management.commands.import")
    monkeypatch.setattr(import_command, "PROGRESS_MESSAGES", 10)
    path = tmp_path / "x.mbox"
    path.write_bytes(mbox(*(mail(str(number)) for number in range(23))))
    assert run("mbox", account.name, "inbox/Old", str(path)) == "10...\n20...\n23 imported\n"
    assert subjects(account, "Inbox/Old") == [str(number) for number in range(23)]
    assert run("mbox", account.name, "Inbox/Old", str(path)).endswith("23 imported\n")
    assert len(subjects(account, "Inbox/Old")) == 46
    assert path.exists()


def test_a_maildir_is_imported_but_for_what_is_no_message(account: Account, maildir: Path) -> None:
    (maildir / "cur" / "1709633472.1.host:2,Sa").write_bytes(mail("one"))
    (maildir / "new" / "1709633473.2.host").write_bytes(mail("two"))
    (maildir / "tmp" / "1709633474.3.host").write_bytes(mail("half of"))
    (maildir / "new" / ".hidden").write_bytes(b"")
    (maildir / "dovecot-keywords").write_bytes(b"0 todo\n")
    secret = maildir / "secret"
    secret.write_bytes(mail("secret"))
    (maildir / "cur" / "1709633475.4.host:2,").symlink_to(secret)
    (maildir / "cur" / "1709633476.5.host:2,").mkdir()
    os.mkfifo(maildir / "cur" / "1709633477.6.host:2,")
    output = run("maildir", account.name, "Old", str(maildir))
    assert output.endswith("2 imported\n")
    assert '"cur/1709633475.4.host:2," cannot be read: Too many levels of symbolic links (skipping)' in output
    assert output.count("is no plain file") == 2
    one, two = messages(account, "Old")
    assert (one.flags, one.received.second) == (frozenset({"\\Seen", "todo", "$NotJunk"}), 12)
    assert (two.flags, two.received.second) == (frozenset({"$NotJunk"}), 13)


def test_an_archive_is_imported(account: Account, tmp_path: Path) -> None:
    path = tmp_path / "mail.tgz"
    path.write_bytes(tgz({"Takeout/A.mbox": mbox(mail("x")), "Takeout/readme.txt": b""}))
    output = run("archive", account.name, str(path), "--skip-mailbox-prefix", "Takeout")
    assert output == 'unrecognized file "Takeout/readme.txt" (skipping)\n1 imported\n'
    assert names(account) == {"A"}
    assert path.exists()


@pytest.mark.parametrize(
    ("words", "data", "error"),
    [
        (("mbox", "Old"), b"Subject: x\n\nbody\n", 'first line does not start with "From "'),
        (("mbox", "a//b"), b"", "bad slashes in mailbox name"),
        (("mbox", "Old"), None, "does not exist"),
        (("archive",), b"From x\n", "file is not a zip or gzip file"),
        (("archive",), tgz({"A.mbox": mbox(mail("x" * 3000))})[:-20], "archive ends early"),
        (("maildir", "Old"), b"", "is no Maildir"),
    ],
)
def test_what_cannot_be_imported_leaves_nothing(
    account: Account, tmp_path: Path, words: tuple[str, ...], data: bytes | None, error: str
) -> None:
    path = tmp_path / "file"
    if data is not None:
        path.write_bytes(data)
    if words[0] == "maildir":
        path = tmp_path
    with pytest.raises(CommandError, match=error):
        run(words[0], account.name, *words[1:], str(path))
    assert names(account) == set()
    assert not ImportJob.objects.filter(account=account, state="running").exists()


def test_an_unknown_account_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="account nobody does not exist"):
        run("mbox", "nobody", "Old", str(tmp_path))


def test_the_same_command_goes_on_where_it_was_killed(account: Account, maildir: Path) -> None:
    for number in range(20):
        (maildir / "new" / f"17096334{number:02}.1.host").write_bytes(mail(str(number)))
    connection.close()
    pid = os.fork()
    if not pid:
        try:
            settings.MOX_FAULT = "store.import_staged:2"
            work.work(*jobs.import_path(account.pk, ImportJob.Format.MAILDIR, maildir, mailbox="Old"))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    with pytest.raises(CommandError, match="import already in progress"):
        run("maildir", account.name, "Old", str(maildir))
    free_lease(ImportJob.objects.get(account=account))
    # In the meantime a program has read some of the messages.
    for path in sorted((maildir / "new").iterdir())[:15]:
        path.rename(maildir / "cur" / f"{path.name}:2,S")
    assert run("maildir", account.name, "Old", str(maildir)) == "going on after 10 messages\n20 imported\n"
    assert subjects(account, "Old") == [str(number) for number in range(20)]


def test_an_interrupt_ends_the_import(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.mbox"
    path.write_bytes(mbox(*(mail(str(number)) for number in range(23))))

    def interrupt(self: object, job: ImportJob) -> Callable[[ImportJob], None]:
        def tell(job: ImportJob) -> None:
            raise KeyboardInterrupt

        return tell

    import_command = import_module("store.management.commands.import")
    monkeypatch.setattr(import_command.Command, "_progress", interrupt)
    with pytest.raises(CommandError, match="import is aborted, nothing was imported"):
        run("mbox", account.name, "Old", str(path))
    assert not Message.objects.filter(account=account).exists()
    assert ImportJob.objects.get(account=account).state == "aborted"


def test_imports_are_listed_and_aborted(account: Account) -> None:
    job = upload(account, tgz({"A.mbox": mbox(mail("x"))}))
    assert run("list", account.name) == f"{job.token} {account.name} running: 0 messages\n"
    assert run("abort", job.token) == f"import into account {account.name} is aborted, nothing was imported\n"
    (listed,) = json.loads(run("list", account.name, "--json"))
    assert (listed["token"], listed["state"], listed["error"]) == (job.token, "aborted", "")
    with pytest.raises(CommandError, match="import already finished"):
        run("abort", job.token)


def test_a_worker_takes_up_what_a_command_left_on_its_node(account: Account, tmp_path: Path) -> None:
    path = tmp_path / "x.mbox"
    path.write_bytes(mbox(mail("x")))
    job, _ = jobs.import_path(account.pk, ImportJob.Format.MBOX, path, mailbox="Old")
    free_lease(job)
    with db.write():
        ImportJob.objects.filter(pk=job.pk).update(node="elsewhere")
    work.work_on_due()
    assert subjects(account, "Old") == []
    with db.write():
        ImportJob.objects.filter(pk=job.pk).update(node=job.node, lease_until=db.now() - timedelta(seconds=1))
    work.work_on_due()
    assert subjects(account, "Old") == ["x"]
    assert path.exists()
