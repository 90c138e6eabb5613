"""Exports: what leaves an account comes back into another with flags, times and bytes, and other programs read it."""

from __future__ import annotations

import io
import mailbox
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import Account
from store import blobs, messages
from store.db import write_tx
from store.exports import Archive, Export, ExportRefused, Format, Request
from store.flags import parse_words
from store.mailboxes import ensure
from store.messages import NewMessage, Origin
from store.models import Blob, Message

from . import importing
from .importing import RECEIVED, imported

pytestmark = pytest.mark.database

LARGE = b"Subject: large\r\n\r\n" + b"From here to there\r\n" * 60_000
MAILS: list[tuple[str, bytes, list[str]]] = [
    ("Inbox", b"Subject: one\r\nStatus: said so\r\nContent-Length: 5\r\n\r\nFrom me\r\n>From you\r\n", ["\\Seen"]),
    ("Inbox", b"Subject: two\r\n\r\nno end of line", ["\\Flagged", "\\Answered", "todo"]),
    ("Inbox", b"Subject: \xff\xfe\r\n\r\n\x00\x01binary\xff\r\n\r\n\r\n", ["\\Deleted", "\\Seen", "$Forwarded"]),
    ("Lists/python", LARGE, ["\\Draft", "$MDNSent", "$Phishing"]),
    ("Lists/python/dev", b"just text\r\n", []),
    ("Lists", b"\r\nbody\r\n", ["\\Seen", "a+b", "todo"]),
    ("cur/new", b"Subject: odd name\r\n\r\nhello\r\n", ["\\Seen"]),
]


@pytest.fixture
def filled(account: Account) -> Account:
    fill(account)
    return account


def fill(account: Account) -> None:
    """Messages of every kind, coming an hour apart, the last one first."""
    Account.objects.filter(pk=account.pk).update(automatic_junk_flags=False)
    with write_tx(account.pk) as tx:
        account_tx = tx.account(account.pk)
        ensure(account_tx, "Empty")
        for number, (name, content, words) in enumerate(MAILS):
            target = account_tx.mailbox_by_name(name) or ensure(account_tx, name)[-1]
            received = RECEIVED - timedelta(hours=number)
            new = NewMessage(
                blobs.prepare(content), b"", parse_words(words), received, Origin(mail_from="ada@x.example")
            )
            messages.add(account_tx, target, new)


def everything(account: Account) -> dict[str, list[tuple[bytes, frozenset[str], datetime]]]:
    found = {}
    for name in {*importing.names(account), "Inbox"}:
        held = sorted(importing.messages(account, name), key=lambda stored: stored.received)
        found[name] = [(stored.content, stored.flags, stored.received) for stored in held]
    return found


def export(account: Account, format: Format, archive: Archive, mailbox: str = "", *, recursive: bool = True) -> bytes:
    made = Export(Request(account.pk, format, archive, mailbox, recursive))
    data = b"".join(made.blocks())
    assert made.problems == []
    return data


@pytest.mark.parametrize("archive", [Archive.TAR, Archive.TGZ, Archive.ZIP])
def test_maildirs_come_back_as_they_were(filled: Account, new_account: Callable[[], Account], archive: Archive) -> None:
    other = new_account()
    Account.objects.filter(pk=other.pk).update(automatic_junk_flags=False)
    first = export(filled, Format.MAILDIR, archive)
    job = imported(other, first)
    assert job.problems == []
    assert everything(other) == everything(filled)
    assert files(export(other, Format.MAILDIR, archive)) == files(first)


@pytest.mark.parametrize("archive", [Archive.TAR, Archive.TGZ, Archive.ZIP])
def test_mboxes_come_back_as_they_were(filled: Account, new_account: Callable[[], Account], archive: Archive) -> None:
    other = new_account()
    Account.objects.filter(pk=other.pk).update(automatic_junk_flags=False)
    first = export(filled, Format.MBOX, archive)
    assert imported(other, first).problems == []
    expected = {
        name: [(_as_in_mbox(content), flags, received) for content, flags, received in held]
        for name, held in everything(filled).items()
    }
    assert everything(other) == expected
    second = export(other, Format.MBOX, archive)
    unsent = {name: data.replace(b"From ada@x.example ", b"From mox ") for name, data in files(first).items()}
    assert files(second) == unsent


def _as_in_mbox(content: bytes) -> bytes:
    """What the form cannot hold: fields with its flags, and an end without a line end."""
    content = content.replace(b"Status: said so\r\nContent-Length: 5\r\n", b"")
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def files(data: bytes) -> dict[str, bytes]:
    """The files of an archive, without the ids in their names."""
    if data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as zip_file:
            assert zip_file.testzip() is None
            found = {name: zip_file.read(name) for name in zip_file.namelist() if not name.endswith("/")}
    else:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            found = {m.name: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}  # type: ignore[union-attr] # files
    return {re.sub(r"\.[0-9]+\.mox:", ".N.mox:", name): data for name, data in found.items()}


def test_messages_are_in_the_order_of_their_coming(filled: Account) -> None:
    text = export(filled, Format.MBOX, Archive.NONE, "Inbox", recursive=False)
    assert re.findall(rb"^From (.*)$", text, re.MULTILINE) == [
        b"ada@x.example Tue Mar  5 08:11:12 2024",
        b"ada@x.example Tue Mar  5 09:11:12 2024",
        b"ada@x.example Tue Mar  5 10:11:12 2024",
    ]
    assert b"\nStatus: R\n" in text
    assert b"\nX-Status: AF\nX-Keywords: todo\n" in text
    assert b"\n>From me\n>>From you\n" in text
    assert b"Content-Length" not in text


def test_pythons_mailbox_reads_maildirs_and_mboxes(filled: Account, tmp_path: Path) -> None:
    call_command("export", "maildir", str(tmp_path / "out"), filled.name)
    read = mailbox.Maildir(tmp_path / "out" / "Inbox")
    assert {(m["Subject"], m.get_flags(), m.get_subdir()) for m in read if m["Subject"] in ("one", "two")} == {
        ("one", "S", "cur"),
        ("two", "FRb", "new"),
    }
    assert sorted(os.listdir(tmp_path / "out" / "Empty")) == ["cur", "new", "tmp"]
    call_command("export", "mbox", str(tmp_path / "mboxes"), filled.name)
    both = mailbox.mbox(tmp_path / "mboxes" / "Lists" / "python.mbox")
    assert [(m["Subject"], m.get_flags()) for m in both] == [("large", "T")]
    assert (tmp_path / "mboxes" / "Lists" / "python" / "dev.mbox").is_file()


def test_times_of_files_are_those_of_messages(filled: Account, tmp_path: Path) -> None:
    call_command("export", "maildir", str(tmp_path / "out"), filled.name, "Inbox")
    for path in (tmp_path / "out" / "Inbox" / "cur").iterdir():
        assert path.name.startswith(f"{int(path.stat().st_mtime)}.")
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_mailbox_is_exported_without_its_parents(filled: Account) -> None:
    below = files(export(filled, Format.MBOX, Archive.TGZ, "Lists/python"))
    assert set(below) == {"python.mbox", "python/dev.mbox"}
    single = files(export(filled, Format.MBOX, Archive.TGZ, "Lists/python", recursive=False))
    assert set(single) == {"python.mbox"}


def test_messages_are_chosen_by_their_ids(filled: Account, new_account: Callable[[], Account]) -> None:
    ids = list(Message.objects.filter(account=filled, mailbox__name="Inbox").values_list("pk", flat=True))
    given = {"format": "mbox", "archive": "none", "messageids": f"{ids[0]}, {ids[1]}"}
    made = Export(Request.parse(filled.pk, given))
    assert re.findall(rb"^Subject: (.*)$", b"".join(made.blocks()), re.MULTILINE) == [b"two", b"one"]
    assert made.count == 2
    with pytest.raises(ExportRefused, match="does not exist"):
        list(Export(Request.parse(new_account().pk, given)).blocks())


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"format": "x", "archive": "tgz"}, "unknown format"),
        ({"format": "mbox", "archive": ""}, "unknown archive"),
        ({"format": "mbox", "archive": "none", "mailbox": "Inbox", "recursive": "on"}, "non-recursive mbox"),
        ({"format": "mbox", "archive": "none"}, "non-recursive mbox"),
        ({"format": "maildir", "archive": "none", "mailbox": "Inbox"}, "non-recursive mbox"),
        ({"format": "mbox", "archive": "zip", "messageids": "1,x"}, "bad message id"),
        ({"format": "mbox", "archive": "zip", "messageids": "1", "mailbox": "Inbox"}, "both mailbox and message ids"),
        ({"format": "mbox", "archive": "zip", "mailbox": "Nowhere"}, "does not exist"),
        ({"format": "mbox", "archive": "zip", "mailbox": "../x"}, "element . or .."),
    ],
)
def test_what_does_not_fit_together_is_refused(account: Account, given: dict[str, str], error: str) -> None:
    with pytest.raises(ExportRefused, match=error):
        Export(Request.parse(account.pk, given))


def test_names_and_types_say_what_it_is(account: Account) -> None:
    shown = {
        (Format.MAILDIR, Archive.TGZ, ""): (r"mailexport-all-\d{8}-\d{6}\.maildir\.tgz", "application/octet-stream"),
        (Format.MBOX, Archive.ZIP, "Inbox"): (r"mailexport-Inbox-\d{8}-\d{6}\.mbox\.zip", "application/zip"),
        (Format.MBOX, Archive.TAR, "Inbox"): (r"mailexport-Inbox-\d{8}-\d{6}\.mbox\.tar", "application/x-tar"),
    }
    for (format, archive, name), (pattern, content_type) in shown.items():
        made = Export(Request(account.pk, format, archive, name))
        assert re.fullmatch(pattern, made.name)
        assert made.content_type == content_type
    single = Export(Request(account.pk, Format.MBOX, Archive.NONE, "Inbox", recursive=False))
    assert single.name.endswith(".mbox")
    assert single.content_type == "application/mbox"


def test_what_cannot_be_read_is_named_and_the_rest_is_there(filled: Account) -> None:
    blob = Blob.objects.exclude(storage_name="").get(messages__account=filled)
    with open(storages["messages"].path(blob.storage_name), "r+b") as file:
        file.truncate(100)
    small = Blob.objects.get(messages__account=filled, messages__subject_base="two")
    Blob.objects.filter(pk=small.pk).update(data=b"short")
    broken = set(Message.objects.filter(blob__in=(blob, small)).values_list("pk", flat=True))
    try:
        for format in Format:
            made = Export(Request(filled.pk, format, Archive.TGZ))
            found = files(b"".join(made.blocks()))
            assert made.count == len(MAILS) - 2
            lines = found["errors.txt"].decode().splitlines()
            assert lines == made.problems
            assert {int(line.split()[1]) for line in lines} == broken
            assert any("ends at byte 100" in line for line in lines)
            assert any("5 bytes are stored" in line for line in lines)
        assert found["Lists/python.mbox"] == b""
    finally:
        with open(storages["messages"].path(blob.storage_name), "wb") as file:
            file.write(LARGE)
        Blob.objects.filter(pk=small.pk).update(data=MAILS[1][1])


def test_an_export_is_of_one_moment_and_ends_with_its_consumer(filled: Account) -> None:
    made = Export(Request(filled.pk, Format.MBOX, Archive.TAR))
    blocks = made.blocks()
    next(blocks)
    blocks.close()
    with write_tx(filled.pk) as tx:  # the snapshot is over: this connection can write
        account_tx = tx.account(filled.pk)
        inbox = account_tx.mailbox_by_name("Inbox")
        assert inbox is not None
        messages.add(account_tx, inbox, NewMessage(blobs.prepare(b"Subject: later\r\n\r\n")))
    assert made.count < len(MAILS)
    assert not connection.in_atomic_block


def test_keywords_without_room_are_named(account: Account) -> None:
    with write_tx(account.pk) as tx:
        account_tx = tx.account(account.pk)
        inbox = account_tx.mailbox_by_name("Inbox")
        assert inbox is not None
        words = [f"k{number:02}" for number in range(28)]
        messages.add(account_tx, inbox, NewMessage(blobs.prepare(b"\r\n"), flags=parse_words(words)))
    made = Export(Request(account.pk, Format.MAILDIR, Archive.TGZ, "Inbox"))
    found = files(b"".join(made.blocks()))
    assert len(found["Inbox/dovecot-keywords"].splitlines()) == 26
    assert [problem.partition(" of ")[0] for problem in made.problems] == [
        "mailbox Inbox: keyword k26",
        "mailbox Inbox: keyword k27",
    ]


def test_commands_write_whole_archives_and_nothing_else(filled: Account, tmp_path: Path) -> None:
    call_command("export", "mbox", "--archive", "zip", str(tmp_path / "out.zip"), filled.name)
    assert len(files((tmp_path / "out.zip").read_bytes())) == len({name for name, _, _ in MAILS}) + 7
    with pytest.raises(CommandError, match="exists already"):
        call_command("export", "mbox", "--archive", "zip", str(tmp_path / "out.zip"), filled.name)
    with pytest.raises(CommandError, match="is not empty"):
        call_command("export", "mbox", str(tmp_path), filled.name)
    with pytest.raises(CommandError, match="--single is for one mailbox"):
        call_command("export", "mbox", "--single", str(tmp_path / "x"), filled.name)
    with pytest.raises(CommandError, match="No such file or directory"):
        call_command("export", "mbox", str(tmp_path / "no" / "x"), filled.name)
    with pytest.raises(CommandError, match="account nobody does not exist"):
        call_command("export", "mbox", str(tmp_path / "x"), "nobody")
    assert os.listdir(tmp_path) == ["out.zip"]


def test_an_export_that_fails_leaves_no_directory(filled: Account, tmp_path: Path) -> None:
    with write_tx(filled.pk) as tx:
        ensure(tx.account(filled.pk), "x" * 300)  # longer than file systems allow
    with pytest.raises(CommandError, match="File name too long"):
        call_command("export", "maildir", str(tmp_path / "out"), filled.name)
    assert os.listdir(tmp_path) == []
    assert "x" * 300 + "/cur" in _names(export(filled, Format.MAILDIR, Archive.TGZ))


def _names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def test_what_is_exported_to_a_directory_can_be_imported(
    filled: Account, new_account: Callable[[], Account], tmp_path: Path
) -> None:
    other = new_account()
    call_command("export", "maildir", str(tmp_path / "out"), filled.name, "Inbox")
    call_command("export", "mbox", "--single", str(tmp_path / "mboxes"), filled.name, "Lists/python")
    out = io.StringIO()
    call_command("import", "maildir", other.name, "Old/Inbox", str(tmp_path / "out" / "Inbox"), stdout=out)
    call_command("import", "mbox", other.name, "Old/python", str(tmp_path / "mboxes" / "python.mbox"), stdout=out)
    assert out.getvalue() == "3 imported\n1 imported\n"
    assert len(importing.messages(other, "Old/Inbox")) == 3
    assert importing.messages(other, "Old/python")[0].content == LARGE


def test_standard_output_takes_an_archive(filled: Account, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    call_command("export", "maildir", "--archive", "tgz", "-", filled.name)
    written = capsysbinary.readouterr()
    assert written.err == b"7 messages exported\n"
    assert len(files(written.out)) == len(MAILS) + 3  # and the keywords of three mailboxes
