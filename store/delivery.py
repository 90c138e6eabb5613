"""Delivering a message to an account: what smtp/ hands to the group commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from . import blobs, mailboxes, messages, rejects
from .db import AccountTx, Tx
from .messages import NewMessage, Placement

Join = Callable[[AccountTx, Placement], None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one mailbox, which is made (and subscribed) when absent; "" is Inbox.

    ``joins`` run in the same savepoint: higher packages store what belongs to the delivery without being imported here.
    """

    account_id: int
    mailbox_name: str
    new: NewMessage
    joins: tuple[Join, ...] = ()


@dataclass(slots=True)
class Delivering:
    """The deliveries of one content in one transaction: its blob is stored once."""

    tx: Tx
    alone: bool = False
    """There is only one: what undoes it undoes the whole change."""
    _blobs: dict[int, int] = field(default_factory=dict)

    def deliver(self, delivery: Delivery) -> Placement:
        """Put the message into its mailbox. Raises OverQuota, MailboxError; then nothing of this delivery stays."""
        blob_id = self._blob_id(delivery.new.blob)
        if self.alone:
            return _deliver(self.tx, delivery, blob_id)
        with self.tx.savepoint():
            return _deliver(self.tx, delivery, blob_id)

    def keep_reject(self, delivery: Delivery) -> bool:
        """Keep a copy of a message that is rejected, in Rejects; whether there is one now, or already was."""
        account = self.tx.account(delivery.account_id)
        name = mailboxes.canonical_name(delivery.mailbox_name or mailboxes.INBOX)
        new = delivery.new
        kept = rejects.add_reject(account, new, account.mailbox_by_name(name), lambda: self._blob_id(new.blob))
        return kept is not None or rejects.has_reject(account, new)

    def _blob_id(self, blob: blobs.PreparedBlob) -> int:
        key = id(blob)
        if key not in self._blobs:
            self._blobs[key] = blobs.insert(blob)
        return self._blobs[key]


def deliver(tx: Tx, delivery: Delivery) -> Placement:
    """Deliver one message. Raises OverQuota, MailboxError."""
    return _deliver(tx, delivery, None)


def _deliver(tx: Tx, delivery: Delivery, blob_id: int | None) -> Placement:
    account = tx.account(delivery.account_id)
    name = mailboxes.canonical_name(delivery.mailbox_name or mailboxes.INBOX)
    mailbox = account.mailbox_by_name(name)
    if mailbox is None:
        mailbox = mailboxes.ensure(account, name)[-1]
    placement = messages.add(account, mailbox, delivery.new, blob_id)
    if not delivery.new.is_reject:
        rejects.remove_reject(account, delivery.new.thread_keys.message_id, delivery.new.blob.sha256)
    for join in delivery.joins:
        join(account, placement)
    return placement
