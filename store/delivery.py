"""Delivering a message to an account: what smtp/ hands to the group commit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from . import blobs, mailboxes, messages
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
        key = id(delivery.new.blob)
        if key not in self._blobs:
            self._blobs[key] = blobs.insert(delivery.new.blob)
        if self.alone:
            return _deliver(self.tx, delivery, self._blobs[key])
        with self.tx.savepoint():
            return _deliver(self.tx, delivery, self._blobs[key])


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
    for join in delivery.joins:
        join(account, placement)
    return placement
