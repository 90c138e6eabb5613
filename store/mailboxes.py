"""Mailboxes: their names, making, removing, renaming, special uses and subscriptions."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from django.db.models import Max, Q

from accounts.models import Account, AccountRemoval
from protocols import mailboxnames
from protocols.mailboxnames import BadMailboxName
from server.models import ServerSettings

from . import messages, metadata
from .db import AccountTx, write_tx
from .errors import InboxForbidden, MailboxError, MailboxExists, MailboxHasChildren, MailboxNotFound
from .models import SPECIAL_USES, AccountState, ChangeEvent, Mailbox, Subscription

INBOX: Final = mailboxnames.INBOX
MAILBOXES_MAX: Final = 10_000  # per account

Kind = ChangeEvent.Kind


def set_up_account(account: Account) -> None:
    """The state and the first mailboxes of a new account."""
    # Seconds halved last far beyond 2038. One that was removed may have used more: clients know accounts by address.
    used = AccountRemoval.objects.aggregate(highest=Max("next_uidvalidity"))["highest"] or 0
    AccountState.objects.create(account=account, next_uidvalidity=max(int(time.time()) // 2, used + 1))
    initial = ServerSettings.current().initial_mailboxes
    with write_tx(account.pk) as transaction:
        tx = transaction.account(account.pk)
        uidvalidity = tx.uidvalidity()
        _make(tx, INBOX, uidvalidity=uidvalidity)
        for use in SPECIAL_USES:
            if initial.get(use):
                create(tx, initial[use], (use,), uidvalidity=uidvalidity)
        for name in initial.get("regular", ()):
            create(tx, name, uidvalidity=uidvalidity)


def canonical_name(name: str) -> str:
    """The name as it is stored, Inbox in its one spelling. Raises MailboxError, which says what is wrong."""
    try:
        return mailboxnames.canonical_name(name)
    except BadMailboxName as exc:
        raise MailboxError(str(exc)) from exc


def get(tx: AccountTx, name: str) -> Mailbox:
    """The mailbox of this name. Raises MailboxNotFound."""
    mailbox = tx.mailbox_by_name(canonical_name(name))
    if mailbox is None:
        raise MailboxNotFound(f"mailbox {name!r} does not exist")
    return mailbox


def create(
    tx: AccountTx, name: str, special_uses: Iterable[str] = (), *, uidvalidity: int | None = None
) -> list[Mailbox]:
    """Make a mailbox and the parents that are missing, and subscribe them. Returns what was made, parents first.

    Raises MailboxExists, MailboxError.
    """
    name = canonical_name(name)
    if name == INBOX:
        raise InboxForbidden
    if tx.mailbox_by_name(name) is not None:
        raise MailboxExists("mailbox already exists")
    made = ensure(tx, name, uidvalidity=uidvalidity)
    for use in special_uses:
        set_special_use(tx, made[-1], use)
    return made


def ensure(tx: AccountTx, name: str, *, subscribe_new: bool = True, uidvalidity: int | None = None) -> list[Mailbox]:
    """Make a mailbox and its parents where they are missing. Returns what was made, parents first; maybe nothing."""
    elements = canonical_name(name).split("/")
    made: list[Mailbox] = []
    parent: Mailbox | None = None
    for depth in range(1, len(elements) + 1):
        path = "/".join(elements[:depth])
        mailbox = tx.mailbox_by_name(path)
        if mailbox is None:
            mailbox = _make(tx, path, parent, uidvalidity=uidvalidity, subscribe_new=subscribe_new)
            made.append(mailbox)
        parent = mailbox
    return made


def ensure_all(tx: AccountTx, names: Iterable[str]) -> dict[str, Mailbox]:
    """The mailboxes of these canonical names, made with their parents where they are missing: many at once."""
    live = {mailbox.name: mailbox for mailbox in Mailbox.objects.filter(account_id=tx.account_id, expunged=False)}
    wanted = set(names)
    levels: dict[int, set[str]] = defaultdict(set)
    for name in wanted:
        elements = name.split("/")
        for depth in range(1, len(elements) + 1):
            path = "/".join(elements[:depth])
            if path not in live:
                levels[depth].add(path)
    if len(live) + sum(map(len, levels.values())) > MAILBOXES_MAX:
        raise MailboxError(f"too many mailboxes: {MAILBOXES_MAX} is the most an account can have")
    for depth in sorted(levels):
        made = Mailbox.objects.bulk_create(
            Mailbox(
                account_id=tx.account_id,
                parent=live.get(path.rpartition("/")[0]),
                name=path,
                uidvalidity=tx.uidvalidity(),
                create_modseq=tx.modseq(),
                modseq=tx.modseq(),
            )
            for path in sorted(levels[depth])
        )
        live.update((mailbox.name, mailbox) for mailbox in made)
    new = [live[path] for depth in sorted(levels) for path in sorted(levels[depth])]
    subscribed = set(Subscription.objects.filter(account_id=tx.account_id).values_list("name", flat=True))
    if tx.account.subscribe_on_create:
        missing = [mailbox.name for mailbox in new if mailbox.name not in subscribed]
        Subscription.objects.bulk_create(
            Subscription(account_id=tx.account_id, name=name, modseq=tx.modseq()) for name in missing
        )
        subscribed.update(missing)
    for mailbox in new:
        flags = ["\\Subscribed"] if mailbox.name in subscribed else []
        tx.emit(Kind.MAILBOX_ADD, mailbox.pk, name=mailbox.name, flags=flags)
    return {name: live[name] for name in wanted}


def _make(
    tx: AccountTx,
    name: str,
    parent: Mailbox | None = None,
    *,
    uidvalidity: int | None = None,
    subscribe_new: bool = True,
) -> Mailbox:
    count = Mailbox.objects.filter(account_id=tx.account_id, expunged=False).count()
    if count >= MAILBOXES_MAX:
        raise MailboxError(f"too many mailboxes: {MAILBOXES_MAX} is the most an account can have")
    modseq = tx.modseq()
    mailbox = Mailbox.objects.create(
        account_id=tx.account_id,
        parent=parent,
        name=name,
        uidvalidity=uidvalidity or tx.uidvalidity(),
        create_modseq=modseq,
        modseq=modseq,
    )
    tx.touch(mailbox)
    subscribed = Subscription.objects.filter(account_id=tx.account_id, name=name).exists()
    if subscribe_new and tx.account.subscribe_on_create and not subscribed:
        Subscription.objects.create(account_id=tx.account_id, name=name, modseq=modseq)
        subscribed = True
    tx.emit(Kind.MAILBOX_ADD, mailbox.pk, name=name, flags=["\\Subscribed"] if subscribed else [])
    return mailbox


def delete(tx: AccountTx, name: str) -> None:
    """Remove a mailbox with its messages; the subscription stays.

    Raises InboxForbidden, MailboxNotFound, MailboxHasChildren.
    """
    mailbox = get(tx, name)
    if mailbox.name == INBOX:
        raise InboxForbidden
    if Mailbox.objects.filter(parent=mailbox, expunged=False).exists():
        raise MailboxHasChildren
    messages.expunge_all(tx, mailbox)
    metadata.remove_all(tx, mailbox)
    modseq = tx.modseq()
    tx.flush()
    Mailbox.objects.filter(pk=mailbox.pk).update(
        expunged=True, modseq=modseq, **{f"special_{use}": False for use in SPECIAL_USES}
    )
    tx.forget(mailbox)
    tx.emit(Kind.MAILBOX_REMOVE, mailbox.pk, name=mailbox.name)


def rename(tx: AccountTx, source: str, destination: str) -> None:
    """Give a mailbox, and with it its children, another name; messages keep UIDs.

    Renaming Inbox moves its messages to a new mailbox (RFC 9051 6.3.6).
    Raises MailboxNotFound, MailboxExists, InboxForbidden, MailboxError.
    """
    mailbox = get(tx, source)
    name = canonical_name(destination)
    if name == INBOX:
        raise MailboxExists("mailbox already exists")
    if tx.mailbox_by_name(name) is not None:
        raise MailboxExists("mailbox already exists")
    if mailbox.name == INBOX:
        _rename_inbox(tx, mailbox, name)
        return
    old = mailbox.name
    tx.flush()
    family = list(
        Mailbox.objects.filter(
            Q(pk=mailbox.pk) | Q(name__startswith=f"{old}/"), account_id=tx.account_id, expunged=False
        )
    )
    # LIKE folds ASCII on SQLite.
    family = sorted((m for m in family if m.pk == mailbox.pk or m.name.startswith(f"{old}/")), key=lambda m: m.name)
    names = {m.pk: name + m.name[len(old) :] for m in family}
    for new in names.values():
        canonical_name(new)
    ours = set(names)
    taken = Mailbox.objects.filter(account_id=tx.account_id, expunged=False, name__in=names.values()).exclude(
        pk__in=ours
    )
    if taken.exists():
        raise MailboxExists("mailbox already exists")
    uidvalidity, modseq = tx.uidvalidity(), tx.modseq()
    # Old names first make way, so that a/b can become a/b/c/d, whose parents are made anew.
    for m in family:
        Mailbox.objects.filter(pk=m.pk).update(name=f"#renamed/{m.pk}", parent=None)
        tx.forget(m)
    parent_name, _, _ = name.rpartition("/")
    under_itself = f"{parent_name}/".startswith(f"{old}/")
    if under_itself:
        _emit_renames(tx, family, names)  # before what is made anew under the old names
    if parent_name:
        ensure(tx, parent_name, subscribe_new=not under_itself)
    by_name = {names[m.pk]: m.pk for m in family}
    for m in family:
        new = names[m.pk]
        above = new.rpartition("/")[0]
        parent_id = by_name.get(above)
        if parent_id is None and above:
            parent_id = get(tx, above).pk
        Mailbox.objects.filter(pk=m.pk).update(name=new, parent_id=parent_id, uidvalidity=uidvalidity, modseq=modseq)
    if not under_itself:
        _emit_renames(tx, family, names)


def _emit_renames(tx: AccountTx, family: Iterable[Mailbox], names: Mapping[int, str]) -> None:
    for m in family:
        new = names[m.pk]
        tx.emit(Kind.MAILBOX_RENAME, m.pk, old=m.name, new=new, flags=subscribed_flag(tx, new))


def _rename_inbox(tx: AccountTx, inbox: Mailbox, name: str) -> None:
    destination = ensure(tx, name)[-1]
    destination.keywords = list(inbox.keywords)
    tx.touch(destination)
    messages.move_all(tx, inbox, destination)
    metadata.copy(tx, inbox, destination)


def subscribed_flag(tx: AccountTx, name: str) -> list[str]:
    """What events about a mailbox say of it being subscribed."""
    subscribed = Subscription.objects.filter(account_id=tx.account_id, name=name).exists()
    return ["\\Subscribed"] if subscribed else []


def set_special_use(tx: AccountTx, mailbox: Mailbox, use: str) -> None:
    """Give a mailbox a special use (one of SPECIAL_USES), taking it from the mailboxes that had it."""
    column = f"special_{use}"
    for other in Mailbox.objects.filter(account_id=tx.account_id, expunged=False, **{column: True}):
        if other.pk != mailbox.pk:
            clear_special_use(tx, tx.mailbox(other.pk), use)
    _change_special_use(tx, mailbox, column, True)


def clear_special_use(tx: AccountTx, mailbox: Mailbox, use: str) -> None:
    """Take a special use from a mailbox."""
    _change_special_use(tx, mailbox, f"special_{use}", False)


def _change_special_use(tx: AccountTx, mailbox: Mailbox, column: str, value: bool) -> None:
    if getattr(mailbox, column) == value:
        return
    setattr(mailbox, column, value)
    Mailbox.objects.filter(pk=mailbox.pk).update(**{column: value})
    tx.touch(mailbox)
    tx.emit(Kind.MAILBOX_SPECIAL_USE, mailbox.pk, name=mailbox.name, special_uses=mailbox.special_uses())


def subscribe(tx: AccountTx, name: str) -> None:
    """Subscribe a name, which need not exist as mailbox. Raises MailboxError for what is no name."""
    name = canonical_name(name)
    if Subscription.objects.filter(account_id=tx.account_id, name=name).exists():
        return
    Subscription.objects.create(account_id=tx.account_id, name=name, modseq=tx.modseq())
    mailbox = tx.mailbox_by_name(name)
    tx.emit(Kind.SUBSCRIPTION_ADD, mailbox.pk if mailbox else None, name=name, nonexistent=mailbox is None)


def unsubscribe(tx: AccountTx, name: str) -> None:
    """Raises MailboxNotFound for a name that is neither subscribed nor a mailbox."""
    name = canonical_name(name)
    removed, _ = Subscription.objects.filter(account_id=tx.account_id, name=name).delete()
    mailbox = tx.mailbox_by_name(name)
    if removed:
        tx.emit(Kind.SUBSCRIPTION_REMOVE, mailbox.pk if mailbox else None, name=name)
    elif mailbox is None:
        raise MailboxNotFound("mailbox does not exist")
