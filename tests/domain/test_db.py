"""Snapshots: what is read in one agrees, also where functions that open one call each other."""

from __future__ import annotations

import pytest
from django.db import connection

from accounts.models import Account
from server import db
from store import changes, reading

pytestmark = pytest.mark.database


def test_a_snapshot_in_a_snapshot_is_part_of_it(account: Account) -> None:
    with db.read():
        inbox = reading.mailbox(account.pk, "Inbox")
        assert changes.mailbox_changes(inbox.id, 0).modseq == changes.events(account.pk, 0).modseq
        with db.read():
            assert reading.open_mailbox(account.pk, "Inbox").view == inbox
    with db.write():
        Account.objects.filter(pk=account.pk).update(description="a write after it")


def test_what_nobody_is_told_of_does_not_wait_for_the_disk_and_the_next_does(account: Account) -> None:
    def level() -> object:
        setting = "PRAGMA synchronous" if connection.vendor == "sqlite" else "SHOW synchronous_commit"
        with connection.cursor() as cursor:
            return cursor.execute(setting).fetchone()[0]

    usual = level()
    with db.write(durable=False):
        Account.objects.filter(pk=account.pk).update(description="x")
        assert level() in (1, "off")
    assert level() == usual != "off"
    with pytest.raises(ValueError, match="undone"), db.write(durable=False):
        raise ValueError("undone")
    assert level() == usual
