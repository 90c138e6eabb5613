"""The consistency checker: everything that must hold of an account, whatever happened to it.

for problem in check_account(account):
    print(problem)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final

from django.core.files.storage import storages
from django.db.models import Count, F, Q
from django.db.models.functions import Length

from accounts.models import Account
from server import db

from . import index, mailboxes
from .columns import BITS
from .db import Counts
from .errors import BadFlag, MailboxError
from .flags import DELETED, SEEN, check_keyword
from .models import (
    AccountState,
    Annotation,
    Blob,
    ChangeEvent,
    ImportJob,
    Mailbox,
    Message,
    MessageDKIMDomain,
    Recipient,
)

LINES_PER_KIND: Final = 20
BATCH: Final = 500
IMPORT_ITEMS_KEPT: Final = timedelta(hours=1)

Check = Callable[[Account], Iterator[str]]
_registered: list[Check] = []


def register(check: Check) -> Check:
    """Have a higher package's check run with the others."""
    _registered.append(check)
    return check


def check_account(account: Account, *, files: bool = True) -> list[str]:
    """What is wrong with an account, a line each, at most 20 of a kind; empty when all is well.

    ``files``: look at content that is in files, too.
    """
    problems: list[str] = []
    with db.read():
        if not AccountState.objects.filter(account=account).exists():
            if not Account.objects.filter(pk=account.pk, removal=None).exists():
                return []  # it is removed, or what is left of it goes soon
            return [f"{account.name}: there is no AccountState"]
        for check in (*_CHECKS, *((_files,) if files else ()), *_registered):
            for number, problem in enumerate(check(account)):
                if number == LINES_PER_KIND:
                    problems.append(f"{account.name}: more of the same")
                    break
                problems.append(f"{account.name}: {problem}")
    return problems


def _mend(command: str, account: Account) -> str:
    """The command that repairs what was found."""
    return f"mox store {command} {account.name}"


def _counts(account: Account) -> Iterator[str]:
    expected: dict[int, Counts] = defaultdict(Counts)
    rows = Message.objects.filter(account=account, expunged=False).values_list("mailbox_id", BITS, "size")
    for mailbox_id, bits, size in rows.iterator(chunk_size=2000):
        expected[mailbox_id].add(seen=bool(bits & SEEN), deleted=bool(bits & DELETED), size=size)
    for mailbox in Mailbox.objects.filter(account=account):
        counts = expected[mailbox.pk]
        for column in ("total", "deleted", "unread", "unseen", "size"):
            stored, right = getattr(mailbox, column), getattr(counts, column)
            if stored != right and not mailbox.expunged:
                yield (
                    f"mailbox {mailbox.name}: {column} is {stored}, its messages say {right}: "
                    f"{_mend('recalculatemailboxcounts', account)}"
                )
    total = sum(counts.size for counts in expected.values())
    state = AccountState.objects.get(account=account)
    if state.message_size != total:
        yield (
            f"message_size is {state.message_size}, the messages say {total}: "
            f"{_mend('recalculatemailboxcounts', account)}"
        )


def _uids(account: Account) -> Iterator[str]:
    state = AccountState.objects.get(account=account)
    for mailbox in Mailbox.objects.filter(account=account):
        if not mailbox.expunged and mailbox.uidvalidity >= state.next_uidvalidity:
            yield (
                f"mailbox {mailbox.name}: uidvalidity {mailbox.uidvalidity} is not below the account's next, "
                f"{state.next_uidvalidity}: {_mend('fixuidmeta', account)}"
            )
        beyond = Message.objects.filter(Q(uid__gte=mailbox.uidnext) | Q(uid__lt=1), mailbox=mailbox)
        for uid in beyond.values_list("uid", flat=True)[:LINES_PER_KIND]:
            mend = _mend("fixuidmeta", account)
            yield f"mailbox {mailbox.name}: uid {uid} is not in 1..{mailbox.uidnext - 1}: {mend}"
    twice = Message.objects.filter(account=account).values("mailbox", "uid").annotate(n=Count("id")).filter(n__gt=1)
    for row in twice[:LINES_PER_KIND]:
        yield f"mailbox {row['mailbox']}: uid {row['uid']} is there {row['n']} times"


def _modseqs(account: Account) -> Iterator[str]:
    state = AccountState.objects.get(account=account)
    wrong = Message.objects.filter(account=account).filter(
        Q(create_modseq__lt=1) | Q(create_modseq__gt=F("modseq")) | Q(modseq__gt=state.last_modseq)
    )
    for message in wrong.only("pk", "create_modseq", "modseq")[:LINES_PER_KIND]:
        yield (
            f"message {message.pk}: 0 < create_modseq {message.create_modseq} <= modseq {message.modseq} "
            f"<= last_modseq {state.last_modseq} does not hold"
        )
    for message in Message.objects.filter(account=account, modseq__gt=F("mailbox__modseq"))[:LINES_PER_KIND]:
        yield f"message {message.pk}: modseq {message.modseq} is above that of its mailbox"
    mailboxes_wrong = Mailbox.objects.filter(account=account).filter(
        Q(create_modseq__lt=1) | Q(modseq__lt=F("create_modseq")) | Q(modseq__gt=state.last_modseq)
    )
    for mailbox in mailboxes_wrong:
        yield (
            f"mailbox {mailbox.name}: 0 < create_modseq {mailbox.create_modseq} <= modseq {mailbox.modseq} "
            f"<= last_modseq {state.last_modseq} does not hold"
        )
    for event in ChangeEvent.objects.filter(account=account, modseq__gt=state.last_modseq)[:LINES_PER_KIND]:
        yield f"event {event.pk}: modseq {event.modseq} is above last_modseq {state.last_modseq}"
    if state.highest_deleted_modseq > state.last_modseq:
        yield f"highest_deleted_modseq {state.highest_deleted_modseq} is above last_modseq {state.last_modseq}"


def _mailbox_tree(account: Account) -> Iterator[str]:
    live = {m.pk: m for m in Mailbox.objects.filter(account=account, expunged=False)}
    for name, count in Counter(m.name for m in live.values()).items():
        if count > 1:
            yield f"mailbox {name}: {count} live mailboxes have this name"
    for mailbox in live.values():
        try:
            if mailboxes.canonical_name(mailbox.name) != mailbox.name:
                yield f"mailbox {mailbox.name!r}: the name is not canonical"
        except MailboxError as exc:
            yield f"mailbox {mailbox.name!r}: {exc}"
        above = mailbox.name.rpartition("/")[0]
        parent = live.get(mailbox.parent_id) if mailbox.parent_id else None
        if (parent.name if parent else "") != above:
            yield f"mailbox {mailbox.name}: its parent is {parent.name if parent else 'none'}, not {above or 'none'}"
    lost = Message.objects.filter(account=account, expunged=False, mailbox__expunged=True)
    for message in lost.only("pk")[:LINES_PER_KIND]:
        yield f"message {message.pk} lives in a removed mailbox"
    foreign = Message.objects.filter(account=account).exclude(mailbox__account=account)
    for message in foreign.only("pk")[:LINES_PER_KIND]:
        yield f"message {message.pk} is in a mailbox of another account"


def _content(account: Account) -> Iterator[str]:
    mend = _mend("fixmsgsize", account)
    live = Message.objects.filter(account=account, expunged=False)
    rows = live.annotate(prefix_size=Length("prefix"), data_size=Length("blob__data")).values_list(
        "pk", "size", "prefix_size", "blob__size", "data_size", "blob__storage_name"
    )
    for pk, size, prefix_size, blob_size, data_size, name in rows.iterator(chunk_size=2000):
        if size != prefix_size + blob_size:
            yield f"message {pk}: size is {size}, prefix and content have {prefix_size} + {blob_size}: {mend}"
        if not name and data_size != blob_size:
            yield f"message {pk}: content has {data_size} bytes, its row says {blob_size}: {mend}"
    for pk in Message.objects.filter(account=account, erased=True, blob__isnull=False).values_list("pk", flat=True):
        yield f"message {pk} is erased and still has content"


def _files(account: Account) -> Iterator[str]:
    rows = Message.objects.filter(account=account, expunged=False).exclude(blob__storage_name="")
    for pk, name, size in rows.values_list("pk", "blob__storage_name", "blob__size").iterator(chunk_size=2000):
        try:
            stored = storages["messages"].size(name)
        except OSError as exc:
            yield f"message {pk}: content {name} cannot be read: {exc}"
            continue
        if stored != size:
            mend = _mend("fixmsgsize", account)
            yield f"message {pk}: content {name} has {stored} bytes, its row says {size}: {mend}"


def _structure(account: Account) -> Iterator[str]:
    blobs = Blob.objects.filter(messages__account=account, messages__expunged=False).distinct()
    rows = blobs.values_list("pk", "size", "structure", "imap_envelope", "imap_bodystructure")
    for pk, size, structure, envelope, bodystructure in rows.iterator(chunk_size=BATCH):
        if not bytes(envelope).startswith(b"(") or not bytes(bodystructure).startswith(b"("):
            yield f"blob {pk}: what FETCH sends as ENVELOPE or BODYSTRUCTURE is missing: {_mend('reparse', account)}"
        for problem in _part(structure, 0, size):
            yield f"blob {pk}: {problem}: {_mend('reparse', account)}"


def _part(part: dict[str, Any], low: int, high: int) -> Iterator[str]:
    offsets = (low, part.get("head", 0), part.get("body", 0), part.get("end", 0), high)
    if any(a > b for a, b in pairwise(offsets)):
        yield f"offsets are not nested: {offsets}"
    before = part.get("body", 0)
    for child in part.get("parts", ()):
        yield from _part(child, before, part.get("end", 0))
        before = child.get("end", 0)


def _keywords(account: Account) -> Iterator[str]:
    known = {m.pk: m for m in Mailbox.objects.filter(account=account)}
    for mailbox in known.values():
        if mailbox.keywords != sorted(set(mailbox.keywords)):
            yield f"mailbox {mailbox.name}: keywords are not sorted"
    used = Message.objects.filter(account=account, expunged=False).exclude(keywords="")
    for mailbox_id, column in used.values_list("mailbox_id", "keywords").distinct():
        words = column.split()
        if column != f" {' '.join(sorted(set(words)))} ":
            yield f"mailbox {known[mailbox_id].name}: keywords {column!r} are not sorted or spaced"
        for word in words:
            if word not in known[mailbox_id].keywords:
                yield f"mailbox {known[mailbox_id].name}: keyword {word} of a message is not in its list"
            try:
                check_keyword(word)
            except BadFlag as exc:
                yield f"mailbox {known[mailbox_id].name}: {exc}"


def _threads(account: Account) -> Iterator[str]:
    live = Message.objects.filter(account=account, expunged=False)
    for pk in live.exclude(thread_id__gt=0).values_list("pk", flat=True)[:LINES_PER_KIND]:
        yield f"message {pk} has no thread: {_mend('reassignthreads', account)}"
    children = live.exclude(thread_parent_ids=[]).order_by("pk").values_list("pk", "thread_parent_ids")
    last = 0
    while batch := dict(children.filter(pk__gt=last)[:BATCH]):
        last = max(batch)
        lists: dict[int, list[int]] = {}
        # Mostly the nearest parent is there; where it is gone, the next one must agree.
        for wanted in ({parents[0] for parents in batch.values()}, {p for parents in batch.values() for p in parents}):
            if all(parents[0] in lists for parents in batch.values()):
                break
            for start in range(0, len(wanted), BATCH):
                chunk = sorted(wanted)[start : start + BATCH]
                lists.update(live.filter(pk__in=chunk).values_list("pk", "thread_parent_ids"))
        for pk, parents in batch.items():
            at = next((at for at, parent in enumerate(parents) if parent in lists), None)
            if pk in parents:
                yield f"message {pk} is its own parent: {_mend('reassignthreads', account)}"
            elif at is not None and lists[parents[at]] != parents[at + 1 :]:
                yield (
                    f"message {pk}: its parents are not those of its parent {parents[at]}: "
                    f"{_mend('reassignthreads', account)}"
                )


def _recipients(account: Account) -> Iterator[str]:
    dead = Recipient.objects.filter(account=account, message__expunged=True)
    for message_id in dead.values_list("message_id", flat=True)[:LINES_PER_KIND]:
        yield f"message {message_id} is expunged and still has recipients"


def _signatures(account: Account) -> Iterator[str]:
    kept = MessageDKIMDomain.objects.filter(message__account=account)
    rows = kept.values_list(
        "message_id", "junk", "mailbox_orig_id",
        "message__junk", "message__notjunk", "message__mailbox_orig_id", "message__expunged",
    )  # fmt: skip
    for pk, judged, orig, junk, notjunk, message_orig, expunged in rows.iterator(chunk_size=2000):
        if expunged:
            yield f"message {pk} is expunged, and what signed it is still kept"
        elif (judged, orig) != (None if junk == notjunk else junk, message_orig):
            yield f"message {pk}: what is kept for its signatures is not what it says: set its junk flags anew"


def _annotations(account: Account) -> Iterator[str]:
    state = AccountState.objects.get(account=account)
    rows = Annotation.objects.filter(account=account).select_related("mailbox")
    keys = Counter((row.mailbox_id, row.key) for row in rows if not row.expunged)
    for (mailbox_id, key), count in keys.items():
        if count > 1:
            owner = f"mailbox {mailbox_id}" if mailbox_id else "the account"
            yield f"annotation {key} of {owner} is there {count} times"
    for row in rows:
        upto = state.last_modseq if row.mailbox is None else row.mailbox.modseq
        if not 0 < row.create_modseq <= row.modseq <= upto <= state.last_modseq:
            yield (
                f"annotation {row.pk} ({row.key}): 0 < create_modseq {row.create_modseq} <= modseq {row.modseq} "
                f"<= {upto} does not hold"
            )
        if row.mailbox is not None and row.mailbox.account_id != account.pk:
            yield f"annotation {row.pk} ({row.key}) is of a mailbox of another account"
        if row.mailbox is not None and row.mailbox.expunged and not row.expunged:
            yield f"annotation {row.pk} ({row.key}) is of a mailbox that was removed"


def _search_index(account: Account) -> Iterator[str]:
    yield from index.problems(account.pk)


def _imports(account: Account) -> Iterator[str]:
    """What was staged goes when its import is over, soon after."""
    over = ImportJob.objects.filter(account=account, finished__lt=db.now() - IMPORT_ITEMS_KEPT)
    for token, count in over.annotate(n=Count("items")).filter(n__gt=0).values_list("token", "n"):
        yield f"import {token} is over and has {count} items still"


_CHECKS: Final[tuple[Check, ...]] = (
    _counts,
    _uids,
    _modseqs,
    _mailbox_tree,
    _content,
    _structure,
    _keywords,
    _threads,
    _recipients,
    _signatures,
    _annotations,
    _search_index,
    _imports,
)
