"""Snapshots: what is read in one agrees, also where functions that open one call each other."""

from __future__ import annotations

import pytest

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
