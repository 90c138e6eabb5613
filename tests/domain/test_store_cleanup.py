"""What is removed for good is removed late, completely, and never while something refers to it."""

from __future__ import annotations

import io
import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.core.files.storage import storages

from accounts.models import Account
from server import db
from server.models import ServerSettings
from store import blobs, changes, cleanup, content, mailboxes, messages, reading
from store.db import write_tx
from store.errors import MessageGone
from store.messages import NewMessage
from store.models import Blob, Message

pytestmark = pytest.mark.database

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 5000


def put(account: Account, data: bytes) -> int:
    prepared = blobs.prepare(io.BytesIO(data))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        return messages.add(mine, mailboxes.get(mine, "Inbox"), NewMessage(prepared)).message_id


def remove_all(account: Account) -> None:
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        messages.expunge_all(mine, mailboxes.get(mine, "Inbox"))


def later(**kwargs: float) -> datetime:
    return datetime.now(UTC) + timedelta(**kwargs)


def test_an_expunged_message_is_readable_for_40_minutes(account: Account) -> None:
    message_id = put(account, LARGE)
    position = reading.open_mailbox(account.pk, "Inbox").modseq
    remove_all(account)
    cleanup.erase_tombstones(later(minutes=39))
    with content.message_reader(message_id) as reader:
        assert reader.read() == LARGE
    assert cleanup.erase_tombstones(later(minutes=41)) >= 1
    with pytest.raises(MessageGone):
        content.message_reader(message_id)
    inbox = reading.mailbox(account.pk, "Inbox")
    assert changes.mailbox_changes(inbox.id, position).removed == [1], "the tombstone stays"


def test_flags_of_what_was_just_expunged_can_be_told_to_who_knows_the_message(account: Account) -> None:
    put(account, LARGE)
    opened = reading.open_mailbox(account.pk, "Inbox")
    remove_all(account)
    assert reading.flag_rows(opened.view.id, opened.uids) == []
    (row,) = reading.flag_rows(opened.view.id, opened.uids, changed_since=1, live_only=False)
    assert row.uid == opened.uids[0]


def test_content_goes_an_hour_after_its_last_message(account: Account) -> None:
    path = storages["messages"].path(Blob.objects.get(messages=put(account, LARGE)).storage_name)
    cleanup.collect_blobs(later(hours=2))
    assert os.path.exists(path), "a message refers to it"
    remove_all(account)
    cleanup.erase_tombstones(later(minutes=41))
    cleanup.collect_blobs(later(minutes=59))
    assert os.path.exists(path)
    cleanup.collect_blobs(later(hours=2))
    assert not os.path.exists(path)


def test_a_file_that_a_crash_left_is_collected(account: Account) -> None:
    prepared = blobs.prepare(LARGE)  # and then the process died
    path = storages["messages"].path(prepared.storage_name)
    cleanup.collect_blobs()
    assert os.path.exists(path), "it may be about to be committed"
    two_hours_ago = time.time() - 7200
    os.utime(path, (two_hours_ago, two_hours_ago))
    cleanup.collect_blobs()
    assert not os.path.exists(path)


def test_old_tombstones_are_deleted_only_where_the_setting_says_so(account: Account) -> None:
    put(account, b"Subject: x\r\n\r\n")
    remove_all(account)
    cleanup.erase_tombstones(later(minutes=41))
    cleanup.tidy(later(days=100))
    assert Message.objects.filter(account=account).count() == 1
    row = ServerSettings.objects.get()
    row.tombstone_days = 30
    row.save()
    try:
        cleanup.tidy(later(days=29))
        assert Message.objects.filter(account=account).count() == 1
        cleanup.tidy(later(days=31))
    finally:
        row.tombstone_days = 0
        with db.write():
            row.save()
    assert Message.objects.filter(account=account).count() == 0
    opened = reading.open_mailbox(account.pk, "Inbox")
    assert opened.highest_deleted_modseq == opened.view.modseq


def test_a_listener_behind_the_oldest_event_starts_anew(account: Account) -> None:
    position = reading.mailboxes(account.pk).modseq
    with write_tx(account.pk) as tx:
        mailboxes.create(tx.account(account.pk), "first")
    cleanup.tidy(later(hours=25))
    with write_tx(account.pk) as tx:
        mailboxes.create(tx.account(account.pk), "second")
    assert not changes.events(account.pk, position).complete
