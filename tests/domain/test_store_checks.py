"""The consistency checker finds what is wrong, and says where."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages

from accounts.models import Account
from server import db
from store import blobs, checks, messages, reading
from store.db import write_tx
from store.flags import parse_words
from store.messages import NewMessage
from store.models import AccountState, Blob, ChangeEvent, Mailbox, Message, Recipient

pytestmark = pytest.mark.database

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 5000


@pytest.fixture
def filled(account: Account) -> Iterator[Account]:
    """An account with messages; whatever a test breaks is mended by removing the messages again."""
    inbox = reading.mailbox(account.pk, "Inbox").id
    for content in (b"Subject: one\r\n\r\nbody\r\n", LARGE):
        prepared = blobs.prepare(content)
        with write_tx(account.pk) as tx:
            mine = tx.account(account.pk)
            messages.add(mine, mine.mailbox(inbox), NewMessage(prepared, flags=parse_words(["\\Seen", "todo"])))
    assert checks.check_account(account) == []
    yield account
    with db.write():
        Message.objects.filter(account=account).delete()
        Recipient.objects.filter(account=account).delete()
        ChangeEvent.objects.filter(account=account).delete()
        Mailbox.objects.filter(account=account).update(parent=None)
        Mailbox.objects.filter(account=account).exclude(name="Inbox").delete()
        Mailbox.objects.filter(account=account).update(
            total=0, deleted=0, unread=0, unseen=0, size=0, modseq=3, create_modseq=2, expunged=False
        )
        AccountState.objects.filter(account=account).update(
            message_size=0, last_modseq=100, next_uidvalidity=4_000_000_000, highest_deleted_modseq=0
        )


def one(account: Account) -> Message:
    return Message.objects.filter(account=account, blob__storage_name="").get()


def large(account: Account) -> Message:
    return Message.objects.filter(account=account).exclude(blob__storage_name="").get()


def inbox(account: Account) -> Mailbox:
    return Mailbox.objects.get(account=account, name="Inbox")


def _break_file(account: Account) -> None:
    name = large(account).blob.storage_name  # type: ignore[union-attr]  # a live message has content
    storages["messages"].delete(name)
    storages["messages"].save(name, ContentFile(b"short"))


BREAKS: dict[str, tuple[Callable[[Account], object], str]] = {
    "count": (lambda a: Mailbox.objects.filter(pk=inbox(a).pk).update(unseen=5), "unseen is 5"),
    "size": (lambda a: AccountState.objects.filter(account=a).update(message_size=1), "message_size is 1"),
    "uidnext": (lambda a: Mailbox.objects.filter(pk=inbox(a).pk).update(uidnext=2), "uid 2 is not in 1..1"),
    "uidvalidity": (
        lambda a: AccountState.objects.filter(account=a).update(next_uidvalidity=1),
        "is not below the account's next",
    ),
    "last_modseq": (lambda a: AccountState.objects.filter(account=a).update(last_modseq=2), "last_modseq 2"),
    "mailbox modseq": (lambda a: Mailbox.objects.filter(pk=inbox(a).pk).update(modseq=2), "above that of its mailbox"),
    "parent": (lambda a: Mailbox.objects.filter(pk=inbox(a).pk).update(name="a/b"), "its parent is none, not a"),
    "name": (lambda a: Mailbox.objects.filter(pk=inbox(a).pk).update(name="#x"), "cannot start with #"),
    "removed mailbox": (lambda a: Mailbox.objects.filter(pk=inbox(a).pk).update(expunged=True), "removed mailbox"),
    "message size": (lambda a: Message.objects.filter(pk=one(a).pk).update(size=7), "size is 7"),
    "inline content": (lambda a: Blob.objects.filter(messages=one(a)).update(data=b"x"), "content has 1 bytes"),
    "file gone": (
        lambda a: storages["messages"].delete(large(a).blob.storage_name),  # type: ignore[union-attr]  # as above
        "cannot be read",
    ),
    "file cut": (_break_file, "has 5 bytes"),
    "offsets": (
        lambda a: Blob.objects.filter(messages=one(a)).update(structure={"head": 9, "body": 5, "end": 20}),
        "offsets are not nested",
    ),
    "envelope": (lambda a: Blob.objects.filter(messages=one(a)).update(imap_envelope=b""), "ENVELOPE"),
    "keyword list": (lambda a: Mailbox.objects.filter(pk=inbox(a).pk).update(keywords=[]), "todo"),
    "no thread": (lambda a: Message.objects.filter(pk=one(a).pk).update(thread_id=None), "has no thread"),
    "own parent": (
        lambda a: Message.objects.filter(pk=one(a).pk).update(thread_parent_ids=[large(a).pk, one(a).pk]),
        "is its own parent",
    ),
    "parents": (
        lambda a: Message.objects.filter(pk=one(a).pk).update(thread_parent_ids=[large(a).pk, 1]),
        "are not those of its parent",
    ),
    "parents of one that is left": (
        lambda a: Message.objects.filter(pk=one(a).pk).update(thread_parent_ids=[999_999_999, large(a).pk, 1]),
        "are not those of its parent",
    ),
    "keyword order": (lambda a: Message.objects.filter(pk=one(a).pk).update(keywords=" z a "), "not sorted"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_it_finds(filled: Account, name: str) -> None:
    spoil, expected = BREAKS[name]
    with db.write():
        spoil(filled)
    assert any(expected in problem for problem in checks.check_account(filled)), checks.check_account(filled)


def test_a_registered_check_runs_with_the_others(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_registered", [])

    @checks.register
    def never_satisfied(account: Account) -> Iterator[str]:
        yield from (f"complaint {number}" for number in range(50))

    problems = checks.check_account(account)
    assert problems[0] == f"{account.name}: complaint 0"
    assert len(problems) == checks.LINES_PER_KIND + 1
