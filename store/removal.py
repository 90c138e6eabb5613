"""What the store does when an account is removed; content that nobody else has is the collector's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.db import transaction

from accounts.models import AccountRemoval
from accounts.removal import BATCH, Remover, Step, remove_rows
from server import db

from . import notify
from .imports import jobs
from .models import AccountState, Mailbox, Message, SearchSegment

SEGMENTS: Final = 2  # removed in one transaction


def _begin(removal: AccountRemoval) -> None:
    """No change of the account is possible any more, since each one begins with the row that goes here."""
    account_id = removal.account_id
    assert account_id is not None  # it was just ordered
    state = AccountState.objects.select_for_update().filter(pk=account_id).first()
    if state is None:
        return
    removal.next_uidvalidity = state.next_uidvalidity
    removal.save(update_fields=["next_uidvalidity"])
    state.delete()
    transaction.on_commit(lambda: notify.publish({account_id: notify.Ending.REMOVED}))


def _step(removal: AccountRemoval, account_id: int) -> Step:
    jobs.remove_all(account_id)  # in batches of its own
    # A segment of the search index has some 300 large pages, which go with it.
    segments = list(SearchSegment.objects.filter(account_id=account_id).values_list("pk", flat=True)[:SEGMENTS])
    if segments:
        with db.write():
            SearchSegment.objects.filter(pk__in=segments).delete()
        return Step.MORE
    # Children keep their parents from being deleted.
    ids = list(Mailbox.objects.filter(account_id=account_id, parent__isnull=False).values_list("pk", flat=True)[:BATCH])
    if ids:
        with db.write():
            Mailbox.objects.filter(pk__in=ids).update(parent=None)
        return Step.MORE
    return Step.MORE if remove_rows("store", account_id) else Step.DONE


def _counts(account_id: int) -> Mapping[str, int]:
    return {
        "mailboxes": Mailbox.objects.filter(account_id=account_id, expunged=False).count(),
        "messages": Message.objects.filter(account_id=account_id, expunged=False).count(),
    }


REMOVER: Final = Remover(_begin, _step, _counts)
