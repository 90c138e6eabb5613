"""Each repair mends what the checker finds, and leaves alone what is right."""

from __future__ import annotations

import io
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.management import CommandError, call_command

from accounts.models import Account
from server import db
from store import blobs, changes, checks, mailboxes, messages, metadata, reading, repair, rethreading, text, verify
from store.db import write_tx
from store.errors import MailboxNotFound
from store.flags import parse_words
from store.messages import NewMessage
from store.models import AccountState, Blob, Mailbox, Message

pytestmark = pytest.mark.database

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 5000


def put(account: Account, content: bytes = b"Subject: x\r\n\r\nbody\r\n", mailbox: str = "Inbox") -> Message:
    prepared = blobs.prepare(io.BytesIO(content))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        where = mailboxes.get(mine, mailbox)
        placed = messages.add(mine, where, NewMessage(prepared, prefix=b"A: b\r\n", flags=parse_words(["todo"])))
    return Message.objects.get(pk=placed.message_id)


def run(*words: str) -> list[str]:
    """The lines of a command that ends well."""
    out = io.StringIO()
    call_command(*words, "--json", stdout=out)
    lines: list[str] = json.loads(out.getvalue())["lines"]
    return lines


BREAKS: dict[str, tuple[str, Callable[[Account], object]]] = {
    "counts": (
        "recalculatemailboxcounts",
        lambda a: Mailbox.objects.filter(account=a, name="Inbox").update(unseen=7, total=9, size=3),
    ),
    "account size": (
        "recalculatemailboxcounts",
        lambda a: AccountState.objects.filter(account=a).update(message_size=1),
    ),
    "uidnext": ("fixuidmeta", lambda a: Mailbox.objects.filter(account=a, name="Inbox").update(uidnext=1)),
    "uidvalidity": ("fixuidmeta", lambda a: AccountState.objects.filter(account=a).update(next_uidvalidity=5)),
    "message size": ("fixmsgsize", lambda a: Message.objects.filter(account=a).update(size=3)),
    "content size": ("fixmsgsize", lambda a: Blob.objects.filter(messages__account=a, size__lt=100).update(size=4)),
    "structure": ("reparse", lambda a: Blob.objects.filter(messages__account=a).update(structure={"head": 9})),
    "envelope": ("ensureparsed", lambda a: Blob.objects.filter(messages__account=a).update(imap_envelope=b"")),
    "threads": ("reassignthreads", lambda a: Message.objects.filter(account=a).update(thread_id=None)),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_command_that_the_checker_names_mends_it(account: Account, name: str) -> None:
    command, spoil = BREAKS[name]
    put(account)
    put(account, LARGE)
    idle = ("2 contents parsed", "0 contents parsed", f"{account.name}: 0 messages changed")
    assert all(line in idle for line in run("store", command, account.name)), "there is nothing to mend yet"
    with db.write():
        spoil(account)
    problems = checks.check_account(account)
    assert problems
    hinted = "reparse" if command == "ensureparsed" else command
    assert any(problem.endswith(f"mox store {hinted} {account.name}") for problem in problems)
    assert run("store", command, account.name)
    assert checks.check_account(account) == []


def test_differences_of_counts_are_told(account: Account) -> None:
    put(account)
    with db.write():
        Mailbox.objects.filter(account=account, name="Inbox").update(unseen=7)
    assert run("store", "recalculatemailboxcounts", account.name) == ["mailbox Inbox: unseen is 1, it was 7"]
    assert run("store", "recalculatemailboxcounts", account.name) == []


def test_bumping_changes_uidvalidity_and_no_uid(account: Account) -> None:
    put(account)
    before = {view.name: view for view in reading.mailboxes(account.pk).views}
    assert run("store", "bumpuidvalidity", account.name, "Inbox") == ["mailbox Inbox: new uidvalidity"]
    after = {view.name: view for view in reading.mailboxes(account.pk).views}
    assert after["Inbox"].uidvalidity > before["Inbox"].uidvalidity
    assert after["Inbox"].modseq > before["Inbox"].modseq
    assert after["Sent"] == before["Sent"]
    assert list(reading.open_mailbox(account.pk, "Inbox").uids) == [1]
    repair.bump_uidvalidity(account.pk)
    assert len({view.uidvalidity for view in reading.mailboxes(account.pk).views}) == 1
    with pytest.raises(MailboxNotFound):
        repair.bump_uidvalidity(account.pk, "none")
    with pytest.raises(CommandError, match="does not exist"):
        run("store", "bumpuidvalidity", "nobody")


def test_renumbering_makes_room_and_keeps_all_but_uids(account: Account) -> None:
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        mailboxes.create(mine, "Full/below")
        mailboxes.set_special_use(mine, mailboxes.get(mine, "Full"), "archive")
    kept = [put(account, mailbox="Full") for _ in range(5)]
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        full = mailboxes.get(mine, "Full")
        messages.remove(mine, full, [2, 4])
        metadata.set_entries(mine, full, [metadata.Entry("/private/comment", b"about")])
    with db.write():
        Mailbox.objects.filter(name="Full", account=account).update(uidnext=1 << 32)
        Message.objects.filter(pk=kept[4].pk).update(uid=(1 << 32) - 1)
    before, position = reading.mailbox(account.pk, "Full"), reading.mailboxes(account.pk).modseq
    assert run("store", "reassignuids", account.name, "Full") == ["mailbox Full: 3 messages have new UIDs"]
    after = reading.mailbox(account.pk, "Full")
    assert after.uidvalidity > before.uidvalidity
    assert (after.uidnext, after.special_uses, after.keywords) == (4, ("\\Archive",), ("todo",))
    assert (after.total, after.unseen, after.size) == (before.total, before.unseen, before.size)
    found = Message.objects.filter(account=account, expunged=False).order_by("uid")
    assert [m.pk for m in found] == [kept[0].pk, kept[2].pk, kept[4].pk]
    assert [m.uid for m in found] == [1, 2, 3]
    assert {m.mailbox_orig_id for m in found} == {after.id}
    assert Mailbox.objects.get(account=account, name="Full/below").parent_id == after.id
    assert [entry.value for entry in metadata.entries(account.pk, after.id)] == [b"about"]
    assert changes.mailbox_changes(before.id, position).gone, "a session that has it open learns that it must leave"
    put(account, mailbox="Full")


def test_threads_put_anew_are_those_that_were(account: Account) -> None:
    """Where parents came before their answers, all at once finds what one at a time did."""
    source = random.Random(5)
    subject_of = {"<0@x>": "plan"}
    put(account, b"Subject: plan\r\nMessage-ID: <0@x>\r\n\r\n")
    for number in range(1, 80):
        used = list(subject_of)
        references = " ".join(source.sample(used, min(len(used), source.randint(0, 3))))
        message_id = source.choice(("", *[f"<{number}@x>"] * 4, source.choice(used)))
        subject = subject_of.setdefault(message_id, source.choice(("plan", "Re: plan", "Re: other", "other")))
        if not message_id:
            del subject_of[""]
        header = f"Subject: {subject}\r\nMessage-ID: {message_id}\r\nReferences: {references}\r\n\r\n"
        put(account, header.encode(), source.choice(("Inbox", "Archive")))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        uids = list(reading.open_mailbox(account.pk, "Inbox").uids)
        messages.copy(mine, mailboxes.get(mine, "Inbox"), uids[:20], mailboxes.get(mine, "Sent"))
    columns = ("pk", "thread_id", "thread_parent_ids", "thread_missing_link")
    mine_only = Message.objects.filter(account=account).order_by("pk")
    before = list(mine_only.values_list(*columns))
    assert rethreading.reassign(account.pk) == 0
    with db.write():
        mine_only.update(thread_id=None, thread_parent_ids=[], thread_missing_link=False)
    assert rethreading.reassign(account.pk) == len(before)
    assert list(mine_only.values_list(*columns)) == before


def test_answers_that_came_first_find_their_parents_and_circles_are_cut(account: Account) -> None:
    for number, references in ((3, "<1@x> <2@x>"), (2, "<1@x>"), (1, ""), (4, "<5@x>"), (5, "<6@x>"), (6, "<4@x>")):
        put(account, f"Subject: plan\r\nMessage-ID: <{number}@x>\r\nReferences: {references}\r\n\r\n".encode())
    rethreading.reassign(account.pk)
    found = {m.message_id[0]: m for m in Message.objects.filter(account=account)}
    ids = {name: message.pk for name, message in found.items()}
    assert found["3"].thread_parent_ids == [ids["2"], ids["1"]]
    assert found["1"].thread_parent_ids == []
    assert {found[name].thread_id for name in "123"} == {ids["1"]}
    assert {found[name].thread_id for name in "456"} == {ids["4"]}, "the oldest of a circle begins the thread"
    assert sorted(len(found[name].thread_parent_ids) for name in "456") == [0, 1, 2]
    assert checks.check_account(account) == []


def test_parsing_anew_has_texts_made_anew(account: Account) -> None:
    message = put(account)
    Blob.objects.exclude(messages__account=account).update(text_due=False)  # what other tests left
    text.make_due()
    assert repair.reparse(account.pk, outdated=True) == 0
    assert repair.reparse(account.pk) == 1
    assert Blob.objects.get(messages=message).text_due


def test_verifydata_names_what_is_damaged(account: Account) -> None:
    small, large = put(account), put(account, LARGE)
    name = Blob.objects.get(messages=large).storage_name
    path = Path(storages["messages"].path(name))
    assert _about(account, small, large, hashes=True) == []
    path.write_bytes(LARGE.replace(b"0", b"1"))
    assert _about(account, small, large) == []
    assert "content has changed" in _about(account, small, large, hashes=True)[0]
    path.write_bytes(LARGE[:-1])
    assert "mox store fixmsgsize" in _about(account, small, large)[0]
    path.unlink()
    assert any("cannot be read" in line for line in _about(account, small, large))
    storages["messages"].save(name, ContentFile(LARGE))
    assert _about(account, small, large, hashes=True) == []


def _about(account: Account, *those: Message, hashes: bool = False) -> list[str]:
    """Findings about these messages: other tests leave damage of their own."""
    names = [f"blob {message.blob_id}:" for message in those] + [f"{account.name}: "]
    return [line for line in verify.findings(hashes=hashes, accounts=[account]) if line.startswith(tuple(names))]


def test_verifydata_moves_files_that_belong_to_nothing(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = blobs.prepare(LARGE)  # and then the process died
    path = Path(storages["messages"].path(prepared.storage_name))
    assert prepared.storage_name not in verify.unreferenced_files(), "it may be about to be committed"
    long_ago = time.time() - 5 * 3600
    os.utime(path, (long_ago, long_ago))
    with pytest.raises(CommandError, match="problems found"):
        call_command("verifydata", "--skip-size-check")
    assert f"content file {prepared.storage_name} belongs to nothing" in capsys.readouterr().out
    assert prepared.storage_name in verify.move_unreferenced()
    assert not path.exists()
    assert (path.parent.parent.parent / verify.MOVED / path.name).read_bytes() == LARGE
