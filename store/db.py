"""Write transactions on accounts: the account's state row locked first, one modification sequence, events, counts.

    with write_tx(account_id) as tx:
        account = tx.account(account_id)
        mailboxes.create(account, "Lists/python")

Every change of an account goes through here. The order of modification sequences is the order of commits, since whoever
changes an account holds its AccountState row from before the first read until the commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import QuerySet

from accounts.models import Account
from server import db
from server.statements import ModelStatement, Statement

from . import notify
from .errors import MailboxGone, OutOfUIDs
from .junkflags import JunkSettings
from .models import UINT32_MAX, AccountState, ChangeEvent, Mailbox
from .rows import insert, update

_MAILBOX_COLUMNS: Final = ("uidnext", "modseq", "total", "deleted", "unread", "unseen", "size", "keywords")
_STATE_COLUMNS: Final = ("last_modseq", "highest_deleted_modseq", "next_uidvalidity", "message_size")

_mailbox_by_id: Final = ModelStatement(
    Mailbox, lambda pk, account_id: Mailbox.objects.filter(pk=pk, account_id=account_id, expunged=False)
)
mailbox_by_name: Final = ModelStatement(
    Mailbox, lambda account_id, name: Mailbox.objects.filter(account_id=account_id, name=name, expunged=False)
)
"""The live mailbox of an account with a canonical name."""
_account: Final = ModelStatement(Account, lambda pk: Account.objects.filter(pk=pk))
_settings: Final = Statement(
    lambda account_id: Account.objects.filter(pk=account_id).values_list(
        "quota_message_size",
        "rejects_mailbox",
        "automatic_junk_flags",
        "junk_mailbox_regexp",
        "neutral_mailbox_regexp",
        "not_junk_mailbox_regexp",
    )
)


def _states_for_update(*account_ids: int) -> QuerySet[AccountState]:
    rows = AccountState.objects.filter(pk__in=account_ids).order_by("pk")
    return rows.select_for_update() if connection.features.has_select_for_update else rows


_locked_states: Final = ModelStatement(AccountState, _states_for_update)


@dataclass(slots=True)
class Counts:
    """What messages add to their mailbox; also a difference of two such sums."""

    total: int = 0
    deleted: int = 0
    unread: int = 0
    unseen: int = 0
    size: int = 0

    def add(self, *, seen: bool, deleted: bool, size: int, sign: int = 1) -> None:
        """Count one live message, or with ``sign=-1`` take it off."""
        if deleted:
            self.deleted += sign
        else:
            self.total += sign
            if not seen:
                self.unread += sign
        if not seen:
            self.unseen += sign
        self.size += sign * size


class AccountTx:
    """One account inside a write transaction."""

    def __init__(self, state: AccountState) -> None:
        self.state = state
        self.account_id: int = state.account_id
        self._modseq: int | None = None
        self._seq = 0
        self._state_dirty = False
        self._account: Account | None = None
        self._settings: tuple[int, str, JunkSettings] | None = None
        self._mailboxes: dict[int, Mailbox] = {}
        self._absent: set[str] = set()  # names that no live mailbox has
        self._dirty: set[int] = set()

    @property
    def account(self) -> Account:
        """The account with its settings."""
        if self._account is None:
            self._account = _account.row(self.account_id)
            if self._account is None:
                raise MailboxGone(f"account {self.account_id} was removed")
        return self._account

    @property
    def own_quota(self) -> int:
        """The account's setting ``quota_message_size``."""
        return self._narrow_settings()[0]

    @property
    def junk_settings(self) -> JunkSettings:
        """The account's settings for automatic flags."""
        return self._narrow_settings()[2]

    @property
    def rejects_mailbox(self) -> str:
        """The account's setting of that name."""
        return self._narrow_settings()[1]

    def _narrow_settings(self) -> tuple[int, str, JunkSettings]:
        # What each message needs, for which the other 30 columns of the account need not be read.
        if self._settings is None:
            row = _settings.row(self.account_id)
            if row is None:
                self._settings = 0, "", JunkSettings(False, "", "", "")
            else:
                self._settings = row[0], row[1], JunkSettings(*row[2:])
        return self._settings

    def modseq(self) -> int:
        """The modification sequence of this change: taken at the first call, then the same for all rows it touches."""
        if self._modseq is None:
            self.state.last_modseq += 1
            self._modseq = self.state.last_modseq
            self._state_dirty = True
        return self._modseq

    def uidvalidity(self) -> int:
        """A UIDVALIDITY that this account never used."""
        value = self.state.next_uidvalidity
        if value > UINT32_MAX:
            raise OutOfUIDs
        self.state.next_uidvalidity += 1
        self._state_dirty = True
        return value

    def add_size(self, size: int) -> None:
        """Change the sum of message sizes by so many bytes."""
        if size:
            self.state.message_size += size
            self._state_dirty = True

    def raise_highest_deleted(self, modseq: int) -> None:
        """Tombstones up to this modseq were truly removed: clients from before cannot be told every removal."""
        self.state.highest_deleted_modseq = max(self.state.highest_deleted_modseq, modseq)
        self._state_dirty = True

    def emit(self, kind: ChangeEvent.Kind, mailbox_id: int | None, **data: Any) -> None:
        """Record a change that is not a message row."""
        insert(
            ChangeEvent,
            {
                "account_id": self.account_id,
                "modseq": self.modseq(),
                "seq": self._seq,
                "kind": kind,
                "mailbox_id": mailbox_id,
                "data": data,
                "created": datetime.now(UTC),
            },
        )
        self._seq += 1

    def mailbox(self, mailbox_id: int) -> Mailbox:
        """A live mailbox of the account. Raises MailboxGone. The same object each time in a transaction."""
        mailbox = self._mailboxes.get(mailbox_id)
        if mailbox is None:
            mailbox = _mailbox_by_id.row(mailbox_id, self.account_id)
            if mailbox is None:
                raise MailboxGone("the mailbox was removed")
            self._mailboxes[mailbox_id] = mailbox
        return mailbox

    def mailbox_by_name(self, name: str) -> Mailbox | None:
        """The live mailbox with this (canonical) name."""
        for known in self._mailboxes.values():
            if known.name == name:
                return known
        if name in self._absent:
            return None
        mailbox = mailbox_by_name.row(self.account_id, name)
        if mailbox is None:
            self._absent.add(name)
        else:
            self._mailboxes[mailbox.pk] = mailbox
        return mailbox

    def touch(self, mailbox: Mailbox) -> None:
        """Note that the mailbox, or something in it, changes with this modification sequence."""
        mailbox.modseq = self.modseq()
        self._dirty.add(mailbox.pk)
        if mailbox.pk not in self._mailboxes:  # it may be new
            self._absent.clear()
        self._mailboxes[mailbox.pk] = mailbox

    def take_uids(self, mailbox: Mailbox, count: int) -> int:
        """The first of ``count`` new UIDs. Raises OutOfUIDs."""
        first = mailbox.uidnext
        if first + count - 1 > UINT32_MAX:
            raise OutOfUIDs
        mailbox.uidnext += count
        self.touch(mailbox)
        return first

    def count(self, mailbox: Mailbox, counts: Counts) -> None:
        """Add to the mailbox's counts and the account's size; nothing else writes these columns."""
        mailbox.total += counts.total
        mailbox.deleted += counts.deleted
        mailbox.unread += counts.unread
        mailbox.unseen += counts.unseen
        mailbox.size += counts.size
        self.add_size(counts.size)
        self.touch(mailbox)

    def forget(self, mailbox: Mailbox) -> None:
        """The mailbox was removed or renamed by other means: read it again at the next use."""
        self._mailboxes.pop(mailbox.pk, None)
        self._absent.clear()
        self._dirty.discard(mailbox.pk)

    def flush(self) -> None:
        """Write the state and the mailboxes that changed."""
        for mailbox_id in self._dirty:
            mailbox = self._mailboxes[mailbox_id]
            update(Mailbox, mailbox_id, {column: getattr(mailbox, column) for column in _MAILBOX_COLUMNS})
        self._dirty.clear()
        if self._state_dirty:
            update(AccountState, self.account_id, {column: getattr(self.state, column) for column in _STATE_COLUMNS})
            self._state_dirty = False

    def begin_change(self) -> None:
        """What follows is a change of its own, with a modification sequence of its own."""
        self._modseq = None
        self._seq = 0

    def reload(self) -> None:
        """After a rollback to a savepoint: memory follows the database."""
        self.state.refresh_from_db()
        if self._modseq is not None and self._modseq > self.state.last_modseq:
            self._modseq = None
        self._state_dirty = False
        self._mailboxes.clear()
        self._absent.clear()
        self._dirty.clear()


@dataclass(slots=True)
class Tx:
    """A write transaction over some accounts, whose state rows are locked."""

    accounts: dict[int, AccountTx] = field(default_factory=dict)
    _started: dict[int, int] = field(default_factory=dict)

    def account(self, account_id: int) -> AccountTx:
        """Raises MailboxGone when the account was removed."""
        try:
            return self.accounts[account_id]
        except KeyError:
            raise MailboxGone(f"account {account_id} was removed, or is not part of this transaction") from None

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Whatever the body did is undone if it raises; what came before stays."""
        self.flush()
        try:
            with transaction.atomic():
                yield
                self.flush()
        except BaseException:
            for account in self.accounts.values():
                account.reload()
            raise

    @contextlib.contextmanager
    def change(self, *, alone: bool = False) -> Iterator[None]:
        """A savepoint whose changes have modification sequences of their own: one of several in a group commit.

        One that is ``alone`` needs no savepoint: with it the transaction is undone.
        """
        self.begin_change()
        for account in self.accounts.values():
            account._absent.clear()  # the change before may have given mailboxes other names
        if alone:
            yield
            self.flush()
            return
        with self.savepoint():
            yield

    def begin_change(self) -> None:
        """What follows has modification sequences of its own. What came before need not be written yet."""
        for account in self.accounts.values():
            account.begin_change()

    def flush(self) -> None:
        for account in self.accounts.values():
            account.flush()

    def changed(self) -> dict[int, int]:
        """The accounts that this transaction changed, with their last modification sequence."""
        return {
            account_id: account.state.last_modseq
            for account_id, account in self.accounts.items()
            if account.state.last_modseq > self._started[account_id]
        }


@contextlib.contextmanager
def write_tx(*account_ids: int, durable: bool = True) -> Iterator[Tx]:
    """A transaction over these accounts; on leaving, listeners are told. Raises server.db.DatabaseBusy.

    ``durable``: see server.db.write.
    """
    with db.write(durable=durable):
        tx = locked(account_ids)
        yield tx
        tx.flush()
    changed = tx.changed()
    if changed:
        transaction.on_commit(lambda: notify.publish(changed))


def locked(account_ids: Collection[int]) -> Tx:
    """Lock the state rows of the accounts in ascending order, so that two transactions never wait for each other."""
    tx = Tx()
    for state in _locked_states.rows(*sorted(set(account_ids))) if account_ids else ():
        tx.accounts[state.account_id] = AccountTx(state)
        tx._started[state.account_id] = state.last_modseq
    return tx
