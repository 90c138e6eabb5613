"""Delivering: quota, mailboxes made on the way, several recipients of one content, failures that stay alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from accounts.models import Account
from server import db
from store import blobs, reading
from store.db import AccountTx, Tx, write_tx
from store.delivery import Delivering, Delivery, deliver
from store.errors import OverQuota
from store.messages import NewMessage, Placement
from store.models import Message
from store.writer import GroupWriter, WriterClosed

pytestmark = pytest.mark.database

CONTENT = b"From: a@example.org\r\nSubject: hello\r\n\r\nbody\r\n"


def new(prefix: bytes = b"") -> NewMessage:
    return NewMessage(blobs.prepare(CONTENT), prefix)


def inbox_size(account: Account) -> int:
    return reading.mailbox(account.pk, "Inbox").messages


def test_it_makes_and_subscribes_a_mailbox_that_is_absent(account: Account) -> None:
    with write_tx(account.pk) as tx:
        deliver(tx, Delivery(account.pk, "Lists/python/dev", new()))
    listing = reading.mailboxes(account.pk)
    assert {view.name for view in listing.views} >= {"Lists", "Lists/python", "Lists/python/dev"}
    assert "Lists/python/dev" in listing.subscribed
    assert reading.mailbox(account.pk, "Lists/python/dev").unread == 1


def test_over_quota_leaves_the_other_recipient_alone(account: Account, new_account: Callable[[], Account]) -> None:
    full = new_account()
    with db.write():
        Account.objects.filter(pk=full.pk).update(quota_message_size=10)
    message = new()
    with write_tx(account.pk, full.pk) as tx:
        delivering = Delivering(tx)
        with pytest.raises(OverQuota, match="account over maximum total message size 10"):
            delivering.deliver(Delivery(full.pk, "", message))
        delivering.deliver(Delivery(account.pk, "", message))
    assert inbox_size(account) == 1
    assert inbox_size(full) == 0


def test_recipients_of_one_transaction_share_content(account: Account, new_account: Callable[[], Account]) -> None:
    other = new_account()
    prepared = blobs.prepare(CONTENT)
    with write_tx(account.pk, other.pk) as tx:
        delivering = Delivering(tx)
        for recipient in (account, other):
            delivering.deliver(Delivery(recipient.pk, "", NewMessage(prepared, b"X: %d\r\n" % recipient.pk)))
    blob_ids = set(Message.objects.filter(account__in=[account, other]).values_list("blob_id", flat=True))
    assert len(blob_ids) == 1


def test_what_joins_a_delivery_is_stored_or_undone_with_it(account: Account) -> None:
    def fails(tx: AccountTx, placement: Placement) -> None:
        assert Message.objects.filter(pk=placement.message_id).exists()
        raise RuntimeError("join failed")

    with write_tx(account.pk) as tx:
        delivering = Delivering(tx)
        with pytest.raises(RuntimeError):
            delivering.deliver(Delivery(account.pk, "New", new(), (fails,)))
        delivering.deliver(Delivery(account.pk, "", new()))
    assert inbox_size(account) == 1
    assert "New" not in {view.name for view in reading.mailboxes(account.pk).views}


@pytest.mark.parametrize("sure", [False, True])
def test_a_bad_change_of_a_group_fails_alone(account: Account, sure: bool) -> None:
    writer = GroupWriter()
    gate = threading.Event()

    def wait(tx: Tx) -> None:
        gate.wait(30)

    def bad(tx: Tx) -> None:
        deliver(tx, Delivery(account.pk, "", new()))
        raise ValueError("bad message")

    def good_one() -> Future[Placement]:
        return writer.submit([account.pk], lambda tx: deliver(tx, Delivery(account.pk, "", new())), sure=sure)

    first = writer.submit([account.pk], wait)  # while it is written, the others gather for the next commit
    good = [good_one() for _ in range(3)]
    failed = writer.submit([account.pk], bad, sure=sure)
    good += [good_one() for _ in range(3)]
    gate.set()
    first.result(30)
    placements = [future.result(30) for future in good]
    with pytest.raises(ValueError, match="bad message"):
        failed.result(30)
    writer.close()
    assert [placement.uid for placement in placements] == [1, 2, 3, 4, 5, 6]
    modseqs = [placement.modseq for placement in placements]
    assert modseqs == sorted(set(modseqs)), "each change of a group has a modification sequence of its own"
    assert inbox_size(account) == 6
    with pytest.raises(WriterClosed):
        writer.submit([account.pk], wait).result(1)
