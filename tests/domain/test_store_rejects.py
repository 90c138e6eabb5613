"""The Rejects mailbox has each rejected message once, for a while, and lets its users rescue what should have come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import Account
from store import blobs, cleanup, mailboxes, messages, reading, rejects
from store.db import write_tx
from store.messages import NewMessage, Placement
from store.models import Message

pytestmark = pytest.mark.database


def reject(account: Account, content: bytes, *, age: timedelta = timedelta()) -> Placement | None:
    prepared = blobs.prepare(content)
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        inbox = mailboxes.get(mine, "Inbox")
        return rejects.add_reject(mine, NewMessage(prepared, received=datetime.now(UTC) - age), inbox)


def message(number: int, *, message_id: bool = True) -> bytes:
    line = b"Message-ID: <%d@x>\r\n" % number if message_id else b""
    return line + b"Subject: %d\r\n\r\nbuy\r\n" % number


def kept(account: Account) -> int:
    return reading.mailbox(account.pk, "Rejects").messages


def test_a_reject_is_seen_and_neutral_and_says_where_it_would_have_gone(account: Account) -> None:
    placed = reject(account, message(1))
    assert placed is not None
    row = Message.objects.get(pk=placed.message_id)
    inbox = reading.mailbox(account.pk, "Inbox").id
    assert (row.mailbox.name, row.seen, row.is_reject, row.mailbox_destined_id) == ("Rejects", True, True, inbox)
    assert (row.junk, row.notjunk, row.message_hash) == (False, False, None)
    assert row.mailbox_orig_id == row.mailbox_id


def test_what_is_there_is_not_stored_again(account: Account) -> None:
    for content in (message(1), message(1), message(1) + b"again", message(2, message_id=False)):
        reject(account, content)
    assert kept(account) == 2
    assert reject(account, message(2, message_id=False)) is None
    assert reject(account, message(3, message_id=False)) is not None


def test_old_ones_go_when_others_come_and_by_themselves(account: Account) -> None:
    reject(account, message(1), age=timedelta(days=15))
    reject(account, message(2), age=timedelta(days=13))
    assert kept(account) == 1, "the first was too old when the second came"
    cleanup.tidy(datetime.now(UTC) + timedelta(days=2))
    assert kept(account) == 0


def test_who_keeps_rejects_keeps_them(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(keep_rejects=True)
    reject(account, message(1), age=timedelta(days=100))
    reject(account, message(2))
    cleanup.tidy()
    assert kept(account) == 2


def test_none_are_stored_beyond_a_number_or_the_quota_or_the_users_wish(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejects, "KEPT_MAX", 2)
    assert [reject(account, message(number)) is None for number in range(3)] == [False, False, True]
    Account.objects.filter(pk=account.pk).update(quota_message_size=1, keep_rejects=True)
    assert reject(account, message(4)) is None
    Account.objects.filter(pk=account.pk).update(quota_message_size=0, rejects_mailbox="")
    assert reject(account, message(5)) is None


def test_it_goes_when_the_message_is_accepted_later(account: Account) -> None:
    reject(account, message(1))
    reject(account, message(2, message_id=False))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        assert rejects.remove_reject(mine, "3@x") == 0
        assert rejects.remove_reject(mine, "1@x") == 1
        assert rejects.remove_reject(mine, "", blobs.prepare(message(2, message_id=False)).sha256) == 1
    assert kept(account) == 0


@pytest.mark.parametrize("how", ["copy", "move"])
def test_one_that_is_taken_out_counts_where_it_should_have_gone(account: Account, how: str) -> None:
    reject(account, message(1))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        source, destination = mailboxes.get(mine, "Rejects"), mailboxes.get(mine, "Archive")
        (messages.copy if how == "copy" else messages.move)(mine, source, [1], destination)
    row = Message.objects.get(account=account, mailbox__name="Archive")
    assert (row.is_reject, row.mailbox_destined_id) == (False, None)
    assert row.mailbox_orig_id == reading.mailbox(account.pk, "Inbox").id
    assert (row.seen, row.notjunk) == (how == "copy", True)
    assert reading.mailbox(account.pk, "Archive").unseen == (how == "move")
    if how == "copy":
        original = Message.objects.get(account=account, mailbox__name="Rejects")
        assert original.is_reject
        assert original.mailbox_destined_id is not None


def test_moving_inside_of_rejects_rescues_nothing(account: Account) -> None:
    reject(account, message(1))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        messages.move(mine, mailboxes.get(mine, "Rejects"), [1], mailboxes.get(mine, "Rejects"))
    assert Message.objects.get(account=account, expunged=False).is_reject
