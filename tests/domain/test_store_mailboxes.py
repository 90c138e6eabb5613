"""Mailboxes: names, hierarchy, renaming, special uses, subscriptions, and what listeners hear of each."""

from __future__ import annotations

import pytest

from accounts.models import Account
from store import blobs, changes, mailboxes, messages, reading
from store.db import write_tx
from store.errors import (
    InboxForbidden,
    MailboxError,
    MailboxExists,
    MailboxGone,
    MailboxHasChildren,
    MailboxNotFound,
)
from store.messages import NewMessage

pytestmark = pytest.mark.database


def names(account: Account) -> set[str]:
    return {view.name for view in reading.mailboxes(account.pk).views}


def create(account: Account, *created: str) -> None:
    with write_tx(account.pk) as tx:
        for name in created:
            mailboxes.create(tx.account(account.pk), name)


def rename(account: Account, source: str, destination: str) -> None:
    with write_tx(account.pk) as tx:
        mailboxes.rename(tx.account(account.pk), source, destination)


def put(account: Account, name: str, count: int = 1) -> None:
    for number in range(count):
        prepared = blobs.prepare(b"Subject: %d\r\n\r\n" % number)
        with write_tx(account.pk) as tx:
            mine = tx.account(account.pk)
            messages.add(mine, mailboxes.get(mine, name), NewMessage(prepared))


def test_a_new_account_has_its_mailboxes_all_subscribed(account: Account) -> None:
    listing = reading.mailboxes(account.pk)
    uses = {view.name: view.special_uses for view in listing.views}
    assert uses == {
        "Inbox": (),
        "Archive": ("\\Archive",),
        "Drafts": ("\\Drafts",),
        "Junk": ("\\Junk",),
        "Sent": ("\\Sent",),
        "Trash": ("\\Trash",),
    }
    assert listing.subscribed == set(uses)
    assert len({view.uidvalidity for view in listing.views}) == 1


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", "empty mailbox name"),
        ("/a", "bad slashes in mailbox name"),
        ("a/", "bad slashes in mailbox name"),
        ("a//b", "bad slashes in mailbox name"),
        ("e\u0301", "mailbox name is not in unicode normal form (NFC)"),
        ("#news", "mailbox name cannot start with #"),
        ("a/../b", "mailbox name cannot have an element . or .."),
        ("a\x00", "control characters not allowed in mailbox name"),
        ("a\u2028", "control characters not allowed in mailbox name"),
        ("a\x85", "control characters not allowed in mailbox name"),
        ("a\ud800", "control characters not allowed in mailbox name"),
        ("a" * 1001, "mailbox name too long"),
        ("/".join("a" * 101), "mailbox name too long"),
    ],
)
def test_a_bad_name_is_refused(account: Account, name: str, error: str) -> None:
    with pytest.raises(MailboxError) as caught:
        create(account, name)
    assert str(caught.value).startswith(error)


def test_inbox_has_one_spelling(account: Account) -> None:
    create(account, "INBOX/x", "inBox/y/z")
    assert {"Inbox/x", "Inbox/y", "Inbox/y/z"} <= names(account)
    with pytest.raises(InboxForbidden):
        create(account, "iNBOX")


def test_making_a_child_makes_its_parents_and_subscribes_them(account: Account) -> None:
    create(account, "a/b/c")
    assert {"a", "a/b", "a/b/c"} <= names(account)
    assert {"a", "a/b", "a/b/c"} <= reading.mailboxes(account.pk).subscribed
    with pytest.raises(MailboxExists, match="mailbox already exists"):
        create(account, "a/b")


def test_an_account_may_choose_not_to_subscribe_new_mailboxes(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(subscribe_on_create=False)
    create(account, "quiet")
    assert "quiet" not in reading.mailboxes(account.pk).subscribed


def test_only_leaves_are_removed_and_their_messages_with_them(account: Account) -> None:
    create(account, "a/b")
    put(account, "a/b", 3)
    opened = reading.open_mailbox(account.pk, "a/b")
    with write_tx(account.pk) as tx, pytest.raises(MailboxHasChildren):
        mailboxes.delete(tx.account(account.pk), "a")
    with write_tx(account.pk) as tx:
        mailboxes.delete(tx.account(account.pk), "a/b")
    assert "a/b" not in names(account)
    assert "a/b" in reading.mailboxes(account.pk).subscribed, "the subscription stays"
    changed = changes.mailbox_changes(opened.view.id, opened.modseq)
    assert changed.gone
    assert changed.removed == [1, 2, 3]
    with write_tx(account.pk) as tx, pytest.raises(MailboxGone):
        tx.account(account.pk).mailbox(opened.view.id)
    with write_tx(account.pk) as tx, pytest.raises(InboxForbidden):
        mailboxes.delete(tx.account(account.pk), "INBOX")
    with write_tx(account.pk) as tx, pytest.raises(MailboxNotFound):
        mailboxes.delete(tx.account(account.pk), "a/b")


def test_a_mailbox_made_again_has_another_uidvalidity(account: Account) -> None:
    create(account, "again")
    first = reading.mailbox(account.pk, "again")
    with write_tx(account.pk) as tx:
        mailboxes.delete(tx.account(account.pk), "again")
    create(account, "again")
    second = reading.mailbox(account.pk, "again")
    assert second.uidvalidity > first.uidvalidity
    assert second.id != first.id


def test_renaming_takes_children_along_and_keeps_uids(account: Account) -> None:
    create(account, "old/child", "older")
    put(account, "old/child", 2)
    before = reading.mailbox(account.pk, "old/child")
    rename(account, "old", "x/new")
    after = reading.mailbox(account.pk, "x/new/child")
    assert after.id == before.id
    assert after.uidvalidity > before.uidvalidity
    assert after.uidvalidity == reading.mailbox(account.pk, "x/new").uidvalidity, "one fresh uidvalidity for all"
    assert list(reading.open_mailbox(account.pk, "x/new/child").uids) == [1, 2]
    assert "older" in names(account)
    assert not {"old", "old/child"} & names(account)
    assert {"old", "old/child", "x"} <= reading.mailboxes(account.pk).subscribed, "subscriptions stay with old names"


def test_renaming_under_itself_makes_the_old_name_anew(account: Account) -> None:
    create(account, "a/b/kept")
    put(account, "a/b")
    rename(account, "a/b", "a/b/c/d")
    assert {"a", "a/b", "a/b/c", "a/b/c/d", "a/b/c/d/kept"} <= names(account)
    assert "a/b/kept" not in names(account)
    assert reading.mailbox(account.pk, "a/b").messages == 0
    assert reading.mailbox(account.pk, "a/b/c/d").messages == 1


def test_renaming_onto_something_is_refused_and_changes_nothing(account: Account) -> None:
    create(account, "one/sub", "two/sub")
    before = reading.mailboxes(account.pk).views
    for source, destination in (("one", "two"), ("one", "Inbox"), ("one/sub", "two/sub")):
        with pytest.raises(MailboxExists):
            rename(account, source, destination)
    with pytest.raises(MailboxNotFound):
        rename(account, "absent", "three")
    assert reading.mailboxes(account.pk).views == before


def test_renaming_inbox_moves_its_messages(account: Account) -> None:
    create(account, "Inbox/child")
    put(account, "Inbox", 3)
    before = reading.mailbox(account.pk, "Inbox")
    rename(account, "Inbox", "Archive/2024")
    assert list(reading.open_mailbox(account.pk, "Archive/2024").uids) == [1, 2, 3]
    inbox = reading.mailbox(account.pk, "Inbox")
    assert (inbox.id, inbox.uidvalidity, inbox.messages) == (before.id, before.uidvalidity, 0)
    assert "Inbox/child" in names(account)


def test_a_special_use_moves_to_the_mailbox_that_gets_it(account: Account) -> None:
    create(account, "Bin")
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        mailboxes.set_special_use(mine, mailboxes.get(mine, "Bin"), "trash")
    assert reading.mailbox(account.pk, "Bin").special_uses == ("\\Trash",)
    assert reading.mailbox(account.pk, "Trash").special_uses == ()


def test_names_that_do_not_exist_can_be_subscribed(account: Account) -> None:
    with write_tx(account.pk) as tx:
        mailboxes.subscribe(tx.account(account.pk), "not/there")
    assert "not/there" in reading.mailboxes(account.pk).subscribed
    with write_tx(account.pk) as tx:
        mailboxes.unsubscribe(tx.account(account.pk), "not/there")
    with write_tx(account.pk) as tx, pytest.raises(MailboxNotFound, match="mailbox does not exist"):
        mailboxes.unsubscribe(tx.account(account.pk), "not/there")
    with write_tx(account.pk) as tx:
        mailboxes.unsubscribe(tx.account(account.pk), "Sent")
        mailboxes.unsubscribe(tx.account(account.pk), "Sent")
    assert "Sent" not in reading.mailboxes(account.pk).subscribed


def test_listeners_hear_of_every_change(account: Account) -> None:
    position = reading.mailboxes(account.pk).modseq
    create(account, "p/q")
    rename(account, "p/q", "p/r")
    with write_tx(account.pk) as tx:
        mailboxes.subscribe(tx.account(account.pk), "p/r")
        mailboxes.unsubscribe(tx.account(account.pk), "p/q")
    with write_tx(account.pk) as tx:
        mailboxes.delete(tx.account(account.pk), "p/r")
    feed = changes.events(account.pk, position)
    assert feed.complete
    assert [(event.kind, event.data.get("name") or event.data["new"]) for event in feed.events] == [
        ("mailbox_add", "p"),
        ("mailbox_add", "p/q"),
        ("mailbox_rename", "p/r"),
        ("subscription_add", "p/r"),
        ("subscription_remove", "p/q"),
        ("mailbox_remove", "p/r"),
    ]
    assert [event.modseq for event in feed.events] == sorted(event.modseq for event in feed.events)
    assert changes.events(account.pk, feed.modseq).events == []
