"""Imports: what archives hold comes to the right mailboxes with its flags and times, and nothing else does."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.core.files.storage import storages

from accounts.models import Account
from server import db
from store.imports import jobs
from store.models import Blob, ImportItem, ImportJob, Mailbox, Message, Recipient, Subscription

from .importing import (
    RECEIVED,
    imported,
    mail,
    make_mailbox,
    mbox,
    messages,
    names,
    run,
    subjects,
    tgz,
    upload,
    zipped,
)

pytestmark = pytest.mark.database

Make = Callable[[dict[str, bytes | None]], bytes]


@pytest.mark.parametrize("make", [tgz, zipped])
def test_mboxes_and_maildirs_become_mailboxes(account: Account, make: Make) -> None:
    job = imported(
        account,
        make(
            {
                "./Lists/python.mbox": mbox(mail("one"), mail("two", body=">From here\n>>From there\n")),
                "./inbox/cur/1709633472.1.host:2,FS": mail("three"),
                "./inbox/new/1709633473.2.host": mail("four"),
                "./Empty/new": None,
                "./Empty/cur": None,
            }
        ),
    )
    assert (job.state, job.error, job.problems, job.messages) == ("done", "", [], 4)
    assert names(account) == {"Lists", "Lists/python", "Empty"}
    assert [stored.content for stored in messages(account, "Lists/python")] == [
        b"Subject: one\r\n\r\nhello\r\n",
        b"Subject: two\r\n\r\nFrom here\r\n>From there\r\n",
    ]
    assert [stored.received for stored in messages(account, "Lists/python")] == [RECEIVED] * 2
    three, four = messages(account, "Inbox")
    assert three.flags == {"\\Flagged", "\\Seen"}
    assert four.flags == frozenset()
    assert (three.received, four.received) == (RECEIVED, RECEIVED + timedelta(seconds=1))
    assert set(job.mailboxes.values_list("name", "messages")) == {("Lists/python", 2), ("Inbox", 2), ("Empty", 0)}
    assert Subscription.objects.filter(account=account, name="Lists/python").exists()
    assert Message.objects.filter(account=account).values("modseq", "create_modseq").distinct().count() == 1
    assert not storages["messages"].exists(f"imports/{job.token}")


def test_flags_of_an_mbox_are_set_and_not_kept_in_the_message(account: Account) -> None:
    text = mail(
        "x", "Status: RO", "X-Status: AFTD", "X-Keywords: todo,$Forwarded, NonJunk phishing", "To: b@example.org"
    )
    imported(account, tgz({"Some.mbox": mbox(text)}))
    (stored,) = messages(account, "Some")
    assert stored.content == b"Subject: x\r\nTo: b@example.org\r\n\r\nhello\r\n"
    assert stored.flags == {
        *("\\Seen", "\\Answered", "\\Flagged", "\\Draft", "\\Deleted", "$Forwarded", "$NotJunk", "$Phishing", "todo")
    }


def test_letters_are_keywords_also_when_they_are_explained_later(account: Account) -> None:
    keywords = b"0 $Forwarded\n1 todo\n2 Junk\n3 bad{word\n"
    job = imported(
        account,
        tgz(
            {
                "inbox/cur/1.1:2,Sabz": mail("one"),
                "inbox/cur/1.2:2,cd": mail("two"),
                "inbox/dovecot-keywords": keywords,
                "Inbox/new/1.3:2,b": mail("three"),
                "Junk/new/1.4:2,b": mail("four"),
            }
        ),
    )
    assert [stored.flags for stored in messages(account, "Inbox")] == [
        {"\\Seen", "$Forwarded", "todo"},
        set(),
        {"todo"},
    ]
    assert [stored.flags for stored in messages(account, "Junk")] == [{"$Junk"}]
    assert "todo" in Mailbox.objects.get(account=account, name="Inbox").keywords
    assert len(job.problems) == 3
    assert any("letter z" in problem for problem in job.problems)
    assert any("mailbox Junk: no keyword is known for letter b" in problem for problem in job.problems)
    assert any("bad{word" in problem for problem in job.problems)


def test_junk_flags_follow_the_mailbox(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(automatic_junk_flags=False)
    letters = b"0 $NotJunk\n"
    files: dict[str, bytes | None] = {}
    for name in ("Spam/x", "Junk", "Other"):
        files |= {
            f"{name}/dovecot-keywords": letters,
            f"{name}/cur/1.1:2,a": mail("a"),
            f"{name}/cur/1.2:2,": mail("b"),
        }
    imported(account, tgz(files))
    assert [stored.flags for stored in messages(account, "Spam/x")] == [{"$NotJunk"}, {"$Junk"}]
    assert [stored.flags for stored in messages(account, "Junk")] == [{"$Junk"}, {"$Junk"}]
    assert [stored.flags for stored in messages(account, "Other")] == [{"$NotJunk"}, set()]
    Account.objects.filter(pk=account.pk).update(automatic_junk_flags=True)
    imported(account, tgz({"Lists/a.mbox": mbox(mail("x")), "Neutral.mbox": mbox(mail("y"))}))
    assert [stored.flags for stored in messages(account, "Lists/a")] == [{"$NotJunk"}]
    assert [stored.flags for stored in messages(account, "Neutral")] == [set()]


def test_messages_are_added_to_mailboxes_that_exist(account: Account) -> None:
    make_mailbox(account, "Lists/a")
    before = Mailbox.objects.get(account=account, name="Lists/a")
    imported(account, tgz({"Lists/a.mbox": mbox(mail("one"))}))
    imported(account, tgz({"Lists/a.mbox": mbox(mail("two"), mail("three"))}))
    after = Mailbox.objects.get(account=account, name="Lists/a")
    assert subjects(account, "Lists/a") == ["one", "two", "three"]
    assert [stored.uid for stored in messages(account, "Lists/a")] == [1, 2, 3]
    assert after.uidvalidity == before.uidvalidity
    assert after.modseq > before.modseq


def test_a_prefix_is_cut_from_names(account: Account) -> None:
    files: dict[str, bytes | None] = {"Takeout/Mail/All.mbox": mbox(mail("x")), "Takeout/Mailing.mbox": mbox(mail("y"))}
    imported(account, tgz({**files, "Takeout/Mail/cur/1.1": mail("z")}), "/Takeout/Mail/")
    assert names(account) == {"All", "Takeout", "Takeout/Mailing"}
    assert subjects(account, "Inbox") == ["z"]


def test_names_are_normalized(account: Account) -> None:
    imported(account, zipped({"Entwu\u0308rfe.mbox": mbox(mail("x")), "INBOX/sub.mbox": mbox(mail("y"))}))
    assert names(account) == {"Entw\u00fcrfe", "Inbox/sub"}


def test_received_falls_back_to_the_date_header(account: Account) -> None:
    dated = mail("x", "Date: Tue, 5 Mar 2024 11:11:12 +0100")
    undated = mail("y")
    imported(account, tgz({"A.mbox": b"From a\n" + dated + b"\nFrom b\n" + undated, "B/new/name": mail("z")}))
    first, second = messages(account, "A")
    assert first.received == RECEIVED
    assert datetime.now(UTC) - second.received < timedelta(minutes=5)
    assert messages(account, "B")[0].received == RECEIVED  # of the file
    assert Message.objects.get(account=account, subject_base="x").received_offset == 60


def test_sent_mail_has_its_recipients(account: Account) -> None:
    fields = ("To: Bo <bo@example.org>, bo@example.org", "Cc: c@other.example", "Date: Tue, 5 Mar 2024 10:11:12 +0000")
    imported(account, tgz({"Sent.mbox": mbox(mail("x", *fields)), "Other.mbox": mbox(mail("y", *fields))}))
    recipients = Recipient.objects.filter(account=account)
    assert set(recipients.values_list("message__mailbox__name", "localpart", "domain", "sent")) == {
        ("Sent", "bo", "example.org", RECEIVED),
        ("Sent", "c", "other.example", RECEIVED),
    }
    assert recipients.count() == 2


def test_content_without_a_header_is_stored_as_it_is(account: Account) -> None:
    imported(account, tgz({"A/cur/1.1": b"just text\n", "A/cur/1.2": b"", "A/cur/1.3": b"\nbody"}))
    assert [stored.content for stored in messages(account, "A")] == [b"\r\njust text\r\n", b"", b"\r\nbody"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../../x.mbox", "cannot have an element . or .."),
        ("a/../x.mbox", "cannot have an element . or .."),
        ("/etc/x.mbox", "is an absolute name"),
        ("a\nb.mbox", "control characters not allowed"),
        ("a\x00b.mbox", "control characters not allowed"),
        ("#a.mbox", "cannot start with #"),
        ("/".join("x" * 101) + ".mbox", "mailbox name too long"),
        ("x" * 1001 + "/cur/1", "mailbox name too long"),
        ("readme.txt", 'unrecognized file "readme.txt" (skipping)'),
        ("a/cur/deeper/1", "unrecognized file"),
        ("cur", "unrecognized file"),
    ],
)
def test_names_that_are_no_mailboxes_are_problems(account: Account, name: str, problem: str) -> None:
    files: dict[str, bytes | None] = {name: mbox(mail("x")), "ok.mbox": mbox(mail("y"))}
    archive = _zip_with_raw_name(name) if "\x00" in name else tgz(files)
    job = imported(account, archive)
    assert job.state == "done"
    assert len(job.problems) == 1
    assert problem in job.problems[0]
    assert "\x00" not in job.problems[0]
    assert names(account) == {"ok"}
    assert not [path for path in (Path("/etc/x.mbox"), Path("/x.mbox")) if path.exists()]


def _zip_with_raw_name(name: str) -> bytes:
    archive = zipped({"a?b.mbox": mbox(mail("x")), "ok.mbox": mbox(mail("y"))})
    return archive.replace(b"a?b.mbox", name.encode())


def test_links_and_devices_are_problems(account: Account) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(f"A/cur/{number}")
            info.type = kind
            info.linkname = "/etc/passwd"
            made.addfile(info)
    job = imported(account, buffer.getvalue())
    assert (job.state, job.messages, len(job.problems)) == ("done", 0, 4)
    assert job.problems[0] == '"A/cur/0" is a symbolic link (skipping)'
    assert names(account) == set()


def test_an_mbox_that_is_none_is_a_problem(account: Account) -> None:
    job = imported(account, tgz({"bad.mbox": b"Subject: x\n\nbody\n", "good.mbox": mbox(mail("y")), "empty.mbox": b""}))
    assert job.problems == ['"bad.mbox": first line does not start with "From " (skipping)']
    assert (job.state, job.messages) == ("done", 1)
    assert names(account) == {"bad", "good", "empty"}


def test_a_message_that_is_too_large_is_a_problem(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.imports.staging.size_max", lambda: 1000)
    large = mail("large", body="x" * 2000 + "\n")
    job = imported(account, zipped({"A.mbox": mbox(large, mail("small")), "B/cur/1.1": large, "B/cur/1.2": mail("b")}))
    assert len(job.problems) == 2
    assert "message 1 has 2017 bytes, at most 1000" in job.problems[0]
    assert "more than 1000 bytes" in job.problems[1]
    assert (subjects(account, "A"), subjects(account, "B")) == (["small"], ["b"])


def test_large_messages_are_files(account: Account) -> None:
    large = mail("large", body="a line of text\n" * 100_000)
    imported(account, tgz({"A.mbox": mbox(large), "B/new/1.1": large}))
    for name in ("A", "B"):
        assert messages(account, name)[0].content == large.replace(b"\n", b"\r\n")
    assert Blob.objects.filter(messages__account=account).exclude(storage_name="").count() == 2


@pytest.mark.parametrize("damage", ["cut", "changed"])
@pytest.mark.parametrize("make", [tgz, zipped])
def test_a_damaged_archive_leaves_nothing(account: Account, make: Make, damage: str) -> None:
    archive = make({f"A/cur/{number}.1": mail(str(number), body=f"{number**20}\n" * 5) for number in range(300)})
    if damage == "cut":
        archive = archive[:-3000] if make is tgz else archive[:-1]
    else:
        at = len(archive) // 2 if make is tgz else 100
        archive = archive[:at] + bytes([archive[at] ^ 0xFF]) + archive[at + 1 :]
    job = imported(account, archive)
    assert job.state == "aborted"
    assert "archive" in job.error
    assert names(account) == set()
    assert not Message.objects.filter(account=account).exists()


def test_a_bomb_leaves_nothing(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.archives.entries.RATIO_FREE", 1 << 20)
    info = tarfile.TarInfo("bomb.mbox")
    info.size = 1 << 24
    job = imported(account, gzip.compress(info.tobuf() + bytes(info.size) + bytes(1024)))
    assert job.state == "aborted"
    assert "as no mail does" in job.error
    assert names(account) == set()


def test_nested_archives_are_not_looked_into(account: Account) -> None:
    job = imported(account, zipped({"inner.zip": zipped({"x.mbox": mbox(mail("x"))})}))
    assert job.problems == ['unrecognized file "inner.zip" (skipping)']


@pytest.mark.parametrize("data", [b"", b"From x\n", b"hello", bytes(5000)])
def test_what_is_no_archive_is_refused_at_once(account: Account, data: bytes) -> None:
    with pytest.raises(jobs.ImportRefused, match="file is not a zip or gzip file"):
        upload(account, data)
    assert not ImportJob.objects.filter(account=account).exists()


def test_an_empty_archive_imports_nothing(account: Account) -> None:
    for archive in (tgz({}), zipped({})):
        job = imported(account, archive)
        assert (job.state, job.messages, job.problems) == ("done", 0, [])


def test_an_archive_that_is_too_large_is_refused(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("django.conf.settings.MOX_IMPORT_MAX", 100)
    with pytest.raises(jobs.ImportRefused, match="at most 100 can be imported"):
        upload(account, tgz({"A.mbox": mbox(mail("x" * 1000))}))


def test_quota_ends_an_import(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(quota_message_size=1000)
    job = imported(account, tgz({"A.mbox": mbox(*(mail("x") for _ in range(100)))}))
    assert (job.state, job.error) == ("aborted", "account over maximum total message size 1000")
    assert names(account) == set()


def test_too_many_keywords_are_dropped(account: Account) -> None:
    many = ",".join(f"k{number:03}" for number in range(150))
    job = imported(account, tgz({"A.mbox": mbox(mail("x", f"X-Keywords: {many}"))}))
    assert len(messages(account, "A")[0].flags - {"$NotJunk"}) == 100
    assert "more than 100 keywords" in job.problems[0]
    files: dict[str, bytes | None] = {
        "B.mbox": mbox(*(mail("x", f"X-Keywords: {','.join(f'b{10 * n + m}' for m in range(10))}") for n in range(105)))
    }
    job = imported(account, tgz(files))
    assert len(Mailbox.objects.get(account=account, name="B").keywords) == 1000
    assert job.state == "done"
    assert "more than 1000 keywords" in job.problems[0]


def test_one_import_of_an_account_at_a_time(account: Account, new_account: Callable[[], Account]) -> None:
    archive = tgz({"A.mbox": mbox(mail("x"))})
    first = upload(account, archive)
    with pytest.raises(jobs.ImportRefused, match="import already in progress"):
        upload(account, archive)
    other = upload(new_account(), archive)
    assert run(first).state == run(other).state == "done"
    assert imported(account, archive).state == "done"


def test_problems_are_counted_and_the_first_are_kept(account: Account) -> None:
    job = imported(account, zipped({f"{number}.txt": b"" for number in range(1200)}))
    assert (job.problem_count, len(job.problems)) == (1200, 1000)
    assert job.problems[0] == 'unrecognized file "0.txt" (skipping)'


def test_previews_that_were_made_early_are_kept(account: Account) -> None:
    from store import previews

    job = upload(account, tgz({"A.mbox": mbox(mail("x"))}))
    claimed = jobs.claim_next()
    while claimed is not None and claimed[0].pk != job.pk:
        claimed = jobs.claim_next()
    assert claimed is not None
    from store.imports import completion, linking, staging

    staging.Stager(*claimed).run()
    with db.write():
        previews.store([(ImportItem.objects.get(job=job).blob_id, "hello")])
    linking.link(*claimed)
    completion.complete(*claimed)
    assert Message.objects.get(account=account).preview == "hello"
