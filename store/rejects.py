"""The Rejects mailbox: copies of rejected messages, so that their users can find what should have come (junk.md 10)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from django.db.models import QuerySet

from accounts.models import Account

from . import mailboxes, messages
from .db import AccountTx, write_tx
from .errors import OverQuota
from .flags import SEEN, Flags
from .messages import NewMessage, Placement
from .models import Mailbox, Message

KEPT: Final = timedelta(days=14)
KEPT_MAX: Final = 1000  # messages
BATCH: Final = 500  # messages removed in one transaction


def add_reject(
    tx: AccountTx, new: NewMessage, destined: Mailbox | None, blob_id: Callable[[], int] | None = None
) -> Placement | None:
    """Keep a copy of a message that was rejected on its way to ``destined``, seen; None where it is not wanted.

    It is not where the account keeps none, where it has it already (senders try again), where there are 1000, and where
    the quota is used up. Old ones are removed first. ``blob_id`` stores the content, or knows that it is stored.
    """
    name = tx.rejects_mailbox
    if not name:
        return None
    mailbox = _mailbox(tx)
    if mailbox is not None:
        if not tx.account.keep_rejects:
            tidy_rejects(tx, mailbox)
        if mailbox.total + mailbox.deleted >= KEPT_MAX and not tx.account.keep_rejects:
            return None
        if _alike(mailbox, new.thread_keys.message_id, new.blob.sha256).exists():
            return None
    try:
        messages.check_quota(tx, new.size)
    except OverQuota:
        return None
    if mailbox is None:
        mailbox = mailboxes.ensure(tx, name)[-1]
    bits = new.flags.bits | SEEN
    kept = replace(
        new,
        flags=Flags(bits, new.flags.keywords),
        is_reject=True,
        destined_id=None if destined is None else destined.pk,
    )
    return messages.add(tx, mailbox, kept, None if blob_id is None else blob_id())


def has_reject(tx: AccountTx, new: NewMessage) -> bool:
    """Whether a copy of this message is in Rejects."""
    mailbox = _mailbox(tx)
    return mailbox is not None and _alike(mailbox, new.thread_keys.message_id, new.blob.sha256).exists()


def tidy_rejects(tx: AccountTx, mailbox: Mailbox, now: datetime | None = None) -> int:
    """Remove up to 500 messages that came to the Rejects mailbox more than 14 days ago; gives how many."""
    before = (now or datetime.now(UTC)) - KEPT
    old = Message.objects.filter(mailbox_id=mailbox.pk, expunged=False, received__lt=before).order_by("received")
    uids = sorted(old.values_list("uid", flat=True)[:BATCH])
    return len(messages.remove(tx, mailbox, uids).uids)


def tidy_all(now: datetime | None = None) -> None:
    """Remove old rejects of all accounts that do not keep them, also where no new ones come."""
    accounts = Account.objects.filter(keep_rejects=False).exclude(rejects_mailbox="")
    for account_id, name in accounts.values_list("pk", "rejects_mailbox").iterator(chunk_size=1000):
        removed = BATCH
        while removed == BATCH:
            with write_tx(account_id) as transaction:
                tx = transaction.accounts.get(account_id)
                mailbox = None if tx is None else tx.mailbox_by_name(name)
                removed = 0 if tx is None or mailbox is None else tidy_rejects(tx, mailbox, now)


def remove_reject(tx: AccountTx, message_id: str, sha256: bytes = b"") -> int:
    """The message was accepted after all: its copy in Rejects is removed. Gives how many there were.

    ``message_id``: canonical, as in `ThreadKeys`; where it is "", ``sha256`` of the content is what tells.
    """
    mailbox = _mailbox(tx)
    if mailbox is None or not mailbox.total + mailbox.deleted:
        return 0
    alike = _alike(mailbox, message_id, sha256).filter(is_reject=True)
    return len(messages.remove(tx, mailbox, sorted(alike.values_list("uid", flat=True)[:BATCH])).uids)


def _mailbox(tx: AccountTx) -> Mailbox | None:
    name = tx.rejects_mailbox
    return tx.mailbox_by_name(mailboxes.canonical_name(name)) if name else None


def _alike(mailbox: Mailbox, message_id: str, sha256: bytes) -> QuerySet[Message]:
    live = Message.objects.filter(mailbox_id=mailbox.pk, account_id=mailbox.account_id, expunged=False)
    return live.filter(message_id=message_id) if message_id else live.filter(message_hash=sha256)
