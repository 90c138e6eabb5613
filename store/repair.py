"""Repairs of what is stored, beside a live server: the account is locked meanwhile, in batches where there is much.

    bump_uidvalidity(account_id, "Inbox")       # clients read everything anew
    recount(account_id)                         # what differed, a line each

They mend what `checks` finds after a database was restored, changed by hand, or met a mistake of ours.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from django.core.files.storage import storages
from django.db import transaction
from django.db.models import F, Max, Q, QuerySet, Sum
from django.db.models.functions import Length

from protocols import imapformat, message
from protocols.message.source import Source
from server import db

from . import content, mailboxes, notify
from .blobs import STRUCTURE_VERSION
from .columns import BITS
from .db import AccountTx, Counts, write_tx
from .errors import ContentError
from .flags import DELETED, SEEN
from .models import (
    SPECIAL_USES,
    UINT32_MAX,
    AccountState,
    Annotation,
    Blob,
    ChangeEvent,
    Mailbox,
    Message,
    MessageDKIMDomain,
)
from .rows import update
from .threads import ThreadKeys

log = logging.getLogger(__name__)

BATCH: Final = 500  # rows of a transaction, on SQLite every other account waits for it
PARSED_AT_ONCE: Final = 20  # contents parsed before they are written
PARSE_SECONDS: Final = 0.2  # or for so long

Progress = Callable[[int], None]


def bump_uidvalidity(account_id: int, name: str = "") -> list[str]:
    """Give a mailbox, or each of the account's, a new UIDVALIDITY, so that clients read it anew; the names.

    Raises MailboxNotFound.
    """
    with write_tx(account_id) as transaction_:
        tx = transaction_.account(account_id)
        chosen = _chosen(tx, name)
        uidvalidity = tx.uidvalidity()
        for mailbox in chosen:
            Mailbox.objects.filter(pk=mailbox.pk).update(uidvalidity=uidvalidity)
            tx.touch(mailbox)
        _tell(account_id)
    return [mailbox.name for mailbox in chosen]


def reassign_uids(account_id: int, name: str = "") -> list[tuple[str, int]]:
    """Number the messages of a mailbox, or of each, from 1 on in their order; names and how many messages they have.

    A new mailbox takes the place and name of each: to sessions that have it open it was removed, so that no UID that a
    client still knows means another message. Raises MailboxNotFound.
    """
    with write_tx(account_id) as transaction_:
        names = [mailbox.name for mailbox in _chosen(transaction_.account(account_id), name)]
    done = []
    for each in names:
        with write_tx(account_id) as transaction_:
            tx = transaction_.account(account_id)
            mailbox = tx.mailbox_by_name(each)
            if mailbox is not None:
                done.append((each, _renumber(tx, mailbox)))
            _tell(account_id)
    return done


def fix_uid_meta(account_id: int) -> list[str]:
    """Have every UIDNEXT above the UIDs, and the next UIDVALIDITY above those there are; what changed, a line each."""
    lines = []
    with write_tx(account_id) as transaction_:
        tx = transaction_.account(account_id)
        rows = Mailbox.objects.filter(account_id=account_id)
        for pk, name, uidnext, highest in rows.annotate(highest=Max("messages__uid")).values_list(
            "pk", "name", "uidnext", "highest"
        ):
            if highest is not None and highest >= uidnext:
                Mailbox.objects.filter(pk=pk).update(uidnext=highest + 1)
                lines.append(f"mailbox {name}: uidnext is {highest + 1}, it was {uidnext}")
        used = rows.aggregate(highest=Max("uidvalidity"))["highest"] or 0
        if tx.state.next_uidvalidity <= used:
            lines.append(f"next_uidvalidity is {used + 1}, it was {tx.state.next_uidvalidity}")
            AccountState.objects.filter(pk=account_id).update(next_uidvalidity=min(used + 1, UINT32_MAX))
    return lines


def recount(account_id: int) -> list[str]:
    """Count the messages of each mailbox anew; each difference in a line."""
    lines: list[str] = []
    for mailbox_id in Mailbox.objects.filter(account_id=account_id).order_by("name").values_list("pk", flat=True):
        with write_tx(account_id) as transaction_:
            lines += _recount_mailbox(transaction_.account(account_id), mailbox_id)
    with write_tx(account_id) as transaction_:
        tx = transaction_.account(account_id)
        live = Message.objects.filter(account_id=account_id, expunged=False)
        size = live.aggregate(size=Sum("size"))["size"] or 0
        if size != tx.state.message_size:
            lines.append(f"account: size of messages is {size}, it was {tx.state.message_size}")
            tx.add_size(size - tx.state.message_size)
    return lines


def fix_message_sizes(account_id: int | None = None) -> Iterator[str]:
    """Have sizes say what is stored, and what was of a wrong size be parsed anew; each change in a line."""
    last = 0
    blobs = _blobs_of(account_id).annotate(stored=Length("data")).order_by("pk")
    while rows := list(
        blobs.filter(pk__gt=last).values_list("pk", "size", "stored", "storage_name").distinct()[:BATCH]
    ):
        last = rows[-1][0]
        for pk, size, stored, name in rows:
            if name:
                try:
                    stored = storages["messages"].size(name)
                except OSError as exc:
                    yield f"blob {pk}: content {name} cannot be read: {exc}"
                    continue
            if stored != size:
                with db.write():
                    Blob.objects.filter(pk=pk).update(size=stored)
                _reparse(Blob.objects.filter(pk=pk))
                yield f"blob {pk}: size is {stored}, it was {size}"
    messages = Message.objects.filter(expunged=False).annotate(right=Length("prefix") + F("blob__size"))
    if account_id is not None:
        messages = messages.filter(account_id=account_id)
    wrong = messages.exclude(size=F("right")).order_by("account_id", "pk")
    for owner in list(wrong.values_list("account_id", flat=True).distinct()):
        while lines := _fix_sizes(owner):
            yield from lines
        yield from recount(owner)


def reparse(account_id: int | None = None, *, outdated: bool = False, progress: Progress | None = None) -> int:
    """Parse content anew: structure, what FETCH sends, the keys of threads; search text and previews follow.

    ``outdated``: only what an earlier version of the parser made. Gives how many contents were parsed.
    """
    blobs = _blobs_of(account_id)
    if outdated:
        blobs = blobs.filter(Q(structure_version__lt=STRUCTURE_VERSION) | Q(imap_envelope=b""))
    return _reparse(blobs, progress)


def _chosen(tx: AccountTx, name: str) -> list[Mailbox]:
    if name:
        return [mailboxes.get(tx, name)]
    live = Mailbox.objects.filter(account_id=tx.account_id, expunged=False).order_by("name")
    return [tx.mailbox(pk) for pk in live.values_list("pk", flat=True)]


def _tell(account_id: int) -> None:
    transaction.on_commit(lambda: notify.publish({account_id: notify.Ending.RENUMBERED}))


def _renumber(tx: AccountTx, old: Mailbox) -> int:
    """Move live messages to a new mailbox in the place of this one; the tombstones keep the old."""
    modseq = tx.modseq()
    columns = {f.attname: getattr(old, f.attname) for f in Mailbox._meta.local_concrete_fields if not f.primary_key}
    tx.flush()
    Mailbox.objects.filter(pk=old.pk).update(
        expunged=True, modseq=modseq, parent=None, **{f"special_{use}": False for use in SPECIAL_USES}
    )
    tx.forget(old)
    tx.emit(ChangeEvent.Kind.MAILBOX_REMOVE, old.pk, name=old.name)
    columns |= {"uidvalidity": tx.uidvalidity(), "uidnext": 1, "create_modseq": modseq, "modseq": modseq}
    new = Mailbox.objects.create(**columns)
    Mailbox.objects.filter(parent_id=old.pk).update(parent=new)
    Annotation.objects.filter(mailbox_id=old.pk).update(mailbox=new, modseq=modseq)
    for column in ("mailbox_orig_id", "mailbox_destined_id"):
        Message.objects.filter(account_id=tx.account_id, **{column: old.pk}).update(**{column: new.pk})
    MessageDKIMDomain.objects.filter(mailbox_orig_id=old.pk).update(mailbox_orig_id=new.pk)
    ids = list(Message.objects.filter(mailbox_id=old.pk, expunged=False).order_by("uid").values_list("pk", flat=True))
    for uid, pk in enumerate(ids, 1):
        update(Message, pk, {"mailbox_id": new.pk, "uid": uid, "create_modseq": modseq, "modseq": modseq})
    Mailbox.objects.filter(pk=new.pk).update(uidnext=len(ids) + 1)
    tx.emit(ChangeEvent.Kind.MAILBOX_ADD, new.pk, name=new.name, flags=mailboxes.subscribed_flag(tx, new.name))
    return len(ids)


def _recount_mailbox(tx: AccountTx, mailbox_id: int) -> Iterator[str]:
    right = Counts()
    rows = Message.objects.filter(mailbox_id=mailbox_id, expunged=False).values_list(BITS, "size")
    for bits, size in rows.iterator(chunk_size=2000):
        right.add(seen=bool(bits & SEEN), deleted=bool(bits & DELETED), size=size)
    mailbox = Mailbox.objects.get(pk=mailbox_id)
    wrong = {}
    for column in ("total", "deleted", "unread", "unseen", "size"):
        stored, counted = getattr(mailbox, column), getattr(right, column)
        # Nobody sees the counts of a mailbox that was removed.
        if stored != counted and not mailbox.expunged:
            wrong[column] = counted
            yield f"mailbox {mailbox.name}: {column} is {counted}, it was {stored}"
    if wrong:
        Mailbox.objects.filter(pk=mailbox_id).update(modseq=tx.modseq(), **wrong)


def _fix_sizes(account_id: int) -> list[str]:
    """Have up to 500 messages say their size; counts follow."""
    lines = []
    with write_tx(account_id) as transaction_:
        modseq = transaction_.account(account_id).modseq
        wrong = Message.objects.filter(account_id=account_id, expunged=False).annotate(
            right=Length("prefix") + F("blob__size")
        )
        for pk, mailbox_id, size, right in wrong.exclude(size=F("right")).values_list(
            "pk", "mailbox_id", "size", "right"
        )[:BATCH]:
            update(Message, pk, {"size": right, "modseq": modseq()})
            Mailbox.objects.filter(pk=mailbox_id).update(modseq=modseq())
            lines.append(f"message {pk}: size is {right}, it was {size}")
    return lines


def _blobs_of(account_id: int | None) -> QuerySet[Blob]:
    if account_id is None:
        return Blob.objects.all()
    return Blob.objects.filter(messages__account_id=account_id).distinct()


def _reparse(blobs: QuerySet[Blob], progress: Progress | None = None) -> int:
    done = last = 0
    columns = ("pk", "size", "data", "storage_name")
    while rows := list(blobs.filter(pk__gt=last).order_by("pk").values_list(*columns)[:PARSED_AT_ONCE]):
        parsed: dict[int, tuple[dict[str, Any], message.Part]] = {}
        deadline = time.monotonic() + PARSE_SECONDS
        for pk, size, data, name in rows:
            last = pk
            try:
                with content.blob_reader(pk, size, data, name) as reader:
                    parsed[pk] = _parsed(reader)
            except ContentError as exc:
                log.error("content cannot be parsed", extra={"blob": pk, "err": str(exc)})
            if time.monotonic() > deadline:
                break
        db.retrying(functools.partial(_store_parsed, parsed))
        done += len(parsed)
        if progress is not None:
            progress(done)
    return done


def _parsed(source: Source) -> tuple[dict[str, Any], message.Part]:
    part, _ = message.ensure_part(source)
    structure = part.to_json()
    return {
        "structure": structure,
        "structure_version": STRUCTURE_VERSION,
        "envelope": structure.get("envelope") or {},
        "imap_envelope": imapformat.envelope(part.envelope),
        "imap_bodystructure": imapformat.bodystructure(part),
        "text_due": True,
    }, part


def _store_parsed(parsed: dict[int, tuple[dict[str, Any], message.Part]]) -> None:
    with db.write():
        # The fields of a prefix count first: what the server added for itself stays as it is.
        rows = Message.objects.filter(blob_id__in=parsed, expunged=False)
        for pk, blob_id, prefix, *current in rows.values_list(
            "pk", "blob_id", "prefix", "is_dsn", "message_id", "subject_base"
        ):
            assert blob_id is not None  # it was asked for
            part = parsed[blob_id][1]
            keys = ThreadKeys.of(part.envelope)
            right = [message.is_dsn(part), keys.message_id, keys.subject_base]
            if right != current and not imapformat.prefix_changes_envelope(prefix):
                update(Message, pk, dict(zip(("is_dsn", "message_id", "subject_base"), right, strict=True)))
        for blob_id, (columns, _) in parsed.items():
            update(Blob, blob_id, columns)
