"""Placements of content in mailboxes: adding, flags, copying, moving, removing. Always inside a write transaction."""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final

from django.db import connection
from django.db.models import F, Q

from protocols import imapformat
from protocols.message import Envelope, index_text
from server.models import ServerSettings

from . import blobs, flags, junkflags, recipients, signatures, threads
from .db import AccountTx, Counts
from .errors import OverQuota, TooManyKeywords
from .flags import DELETED, KEYWORDS_PER_MAILBOX, KEYWORDS_PER_MESSAGE, NO_FLAGS, SEEN, FlagRow, Flags
from .models import ChangeEvent, Mailbox, Message, Recipient, Validation
from .rows import insert, update
from .targets import Target, chunks, existing_targets, live_targets, targets_by_uid


@dataclass(frozen=True, slots=True)
class Origin:
    """How a message came: columns of Message that reputation and the junk filter live from."""

    is_forward: bool = False
    is_mailing_list: bool = False
    remote_ip: str = ""
    remote_ip_masked1: str = ""
    remote_ip_masked2: str = ""
    remote_ip_masked3: str = ""
    ehlo_domain: str = ""
    mail_from: str = ""
    mail_from_localpart: str = ""
    mail_from_domain: str = ""
    rcpt_to_localpart: str = ""
    rcpt_to_domain: str = ""
    msg_from_localpart: str = ""
    msg_from_domain: str = ""
    msg_from_org_domain: str = ""
    ehlo_validated: bool = False
    mail_from_validated: bool = False
    msg_from_validated: bool = False
    ehlo_validation: Validation = Validation.UNKNOWN
    mail_from_validation: Validation = Validation.UNKNOWN
    msg_from_validation: Validation = Validation.UNKNOWN
    orig_ehlo_domain: str = ""
    received_tls_version: int = 0
    received_tls_ciphersuite: str = ""
    received_require_tls: bool = False


_ORIGIN_COLUMNS: Final = tuple(f.name for f in fields(Origin))
_ORIGIN_TEXTS: Final = frozenset(f.name for f in fields(Origin) if f.default == "")


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to add: content, the header lines put before it for this recipient, and what is known about it."""

    blob: blobs.PreparedBlob
    prefix: bytes = b""
    flags: Flags = NO_FLAGS
    received: datetime | None = None
    origin: Origin = field(default_factory=Origin)
    dkim_domains: tuple[str, ...] = ()
    is_reject: bool = False
    destined_id: int | None = None
    """The mailbox that it would have gone to, for what was put into Rejects."""

    @property
    def envelope(self) -> Envelope | None:
        """The envelope of prefix and content together."""
        own = self.blob.part.envelope
        if not imapformat.prefix_changes_envelope(self.prefix):
            return own
        return imapformat.with_prefix(own or Envelope(), self.prefix)

    @property
    def thread_keys(self) -> threads.ThreadKeys:
        """What prefix and content together say about the thread that the message belongs to."""
        envelope = self.envelope
        return self.blob.thread_keys if envelope is self.blob.part.envelope else threads.ThreadKeys.of(envelope)

    @property
    def size(self) -> int:
        """Bytes of the message as it will be stored."""
        return len(self.stored_prefix()) + self.blob.size

    def stored_prefix(self) -> bytes:
        """The prefix; for content without a header section it also ends the header."""
        return self.prefix + b"\r\n" if self.blob.headerless else self.prefix


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a message was put."""

    message_id: int
    mailbox_id: int
    uid: int
    modseq: int
    uidvalidity: int


class FlagMode(enum.Enum):
    ADD = "+"
    REMOVE = "-"
    REPLACE = ""


@dataclass(frozen=True, slots=True)
class FlagResult:
    """What set_flags did. ``rows``: every target that lives, as it is now, ascending; UIDs in the other lists."""

    rows: list[FlagRow]
    modified: list[int]
    missing: list[int]


@dataclass(frozen=True, slots=True)
class Copied:
    """Messages copied or moved: old and new UIDs in matching order, both ascending."""

    uidvalidity: int
    source_uids: list[int]
    uids: list[int]
    modseq: int


@dataclass(frozen=True, slots=True)
class Expunged:
    """What was removed, ascending, and with which modification sequence (0: nothing was)."""

    uids: list[int]
    modseq: int


def add(tx: AccountTx, mailbox: Mailbox, new: NewMessage, blob_id: int | None = None) -> Placement:
    """Put a message into a mailbox; ``blob_id`` when its content is stored already, for another recipient.

    Raises OverQuota, OutOfUIDs, TooManyKeywords.
    """
    check_quota(tx, new.size)
    _check_keyword_count(len(new.flags.keywords))
    if blob_id is None:
        blob_id = blobs.insert(new.blob)
    now = datetime.now(UTC)
    received = new.received or now
    offset = received.utcoffset()
    uid = tx.take_uids(mailbox, 1)
    modseq = tx.modseq()
    keys = new.thread_keys
    place = threads.find_place(
        tx.account_id, keys, is_dsn=new.blob.is_dsn, mailbox_orig_id=mailbox.pk, received=received
    )
    bits = junkflags.apply(junkflags.for_mailbox(tx.junk_settings, mailbox), new.flags.bits)
    if place.muted:
        bits |= SEEN
    message_id = insert(
        Message,
        {
            "account_id": tx.account_id,
            "mailbox_id": mailbox.pk,
            "uid": uid,
            "create_modseq": modseq,
            "modseq": modseq,
            "blob_id": blob_id,
            "prefix": new.stored_prefix(),
            "size": new.size,
            "received": received,
            "received_offset": int(offset.total_seconds()) // 60 if offset is not None else 0,
            "save_date": now,
            "keywords": flags.keyword_column(new.flags.keywords),
            "mailbox_orig_id": mailbox.pk,
            "mailbox_destined_id": None if new.destined_id == mailbox.pk else new.destined_id,
            "is_reject": new.is_reject,
            "message_hash": new.blob.sha256 if new.is_reject and not keys.message_id else None,
            "is_dsn": new.blob.is_dsn,
            "message_id": keys.message_id,
            "subject_base": keys.subject_base,
            "thread_id": place.thread_id,
            "thread_parent_ids": place.parent_ids,
            "thread_missing_link": place.missing_link,
            "thread_muted": place.muted,
            "thread_collapsed": place.collapsed,
            **Flags(bits).columns(),
            **_origin_columns(new.origin),
        },
    )
    if place.thread_id is None:
        update(Message, message_id, {"thread_id": message_id})
    signatures.add(message_id, new.dkim_domains, mailbox.pk, received, bits)
    if mailbox.special_sent:
        recipients.add(tx, message_id, new.envelope, received)
    merge_keywords(tx, mailbox, new.flags.keywords)
    counts = Counts()
    counts.add(seen=bool(bits & SEEN), deleted=bool(bits & DELETED), size=new.size)
    tx.count(mailbox, counts)
    return Placement(message_id, mailbox.pk, uid, modseq, mailbox.uidvalidity)


def check_quota(tx: AccountTx, size: int) -> None:
    """Raises OverQuota if the account has no room for so many bytes more."""
    limit = quota_limit(tx.own_quota)
    if limit and tx.state.message_size + size > limit:
        raise OverQuota(limit)


def quota_limit(own: int) -> int:
    """Bytes of messages that an account with this setting of its own may have; 0 is no limit."""
    if own < 0:
        return 0
    return own or ServerSettings.current().quota_message_size


def set_flags(
    tx: AccountTx,
    mailbox: Mailbox,
    uids: Sequence[int],
    mode: FlagMode,
    new: Flags,
    unchanged_since: int | None = None,
) -> FlagResult:
    """Add, remove or replace flags. What a message has already changes nothing, not even its modseq.

    ``unchanged_since``: leave messages alone whose modseq is higher (RFC 7162 3.1.3). Raises TooManyKeywords.
    """
    rows: list[FlagRow] = []
    modified: list[int] = []
    changes: dict[str, list[int]] = {}  # new keyword column -> ids of the messages that get it
    judged: list[int] = []  # ids of messages that are called junk, or no junk, or neither any more
    counts = Counts()
    found = set()
    for target in targets_by_uid(mailbox, uids):
        row = target.flag_row()
        found.add(row.uid)
        if unchanged_since is not None and row.modseq > unchanged_since:
            modified.append(row.uid)
            rows.append(row)
            continue
        bits, keywords = _combined(row, mode, new)
        if bits == row.bits and keywords == row.keywords:
            rows.append(row)
            continue
        changes.setdefault(keywords, []).append(target.id)
        if (bits ^ row.bits) & signatures.JUDGING:
            judged.append(target.id)
        counts.add(seen=bool(row.bits & SEEN), deleted=bool(row.bits & DELETED), size=target.size, sign=-1)
        counts.add(seen=bool(bits & SEEN), deleted=bool(bits & DELETED), size=target.size)
        rows.append(FlagRow(row.uid, tx.modseq(), bits, keywords))
    if changes:
        columns = _changed_columns(mode, new)
        for keywords, ids in changes.items():
            values = {"modseq": tx.modseq(), "keywords": keywords, **columns}
            if len(ids) == 1:
                update(Message, ids[0], values)
                continue
            for chunk in chunks(ids):
                Message.objects.filter(pk__in=chunk).update(**values)
        for chunk in chunks(judged):
            signatures.follow(chunk)
        if mode is not FlagMode.REMOVE:
            merge_keywords(tx, mailbox, new.keywords)
        tx.count(mailbox, counts)
    return FlagResult(rows, modified, [uid for uid in uids if uid not in found])


def mark_seen(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int]) -> list[FlagRow]:
    """Set ``\\Seen``; returns all targets that live, as they are now."""
    return set_flags(tx, mailbox, uids, FlagMode.ADD, Flags(SEEN)).rows


def copy(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int], destination: Mailbox) -> Copied:
    """Copy messages, all or none; the same mailbox is allowed. Raises MessageGone, OverQuota, OutOfUIDs."""
    targets = existing_targets(mailbox, uids)
    check_quota(tx, sum(target.size for target in targets))
    modseq = tx.modseq()
    first = tx.take_uids(destination, len(targets))
    places = threads.places_of_copies(tx.account_id, [target.id for target in targets])
    _duplicate(
        [({"uid": uid, **threads.columns(places[t.id])}, t.id) for uid, t in enumerate(targets, first)],
        {
            "mailbox_id": destination.pk,
            "create_modseq": modseq,
            "modseq": modseq,
            "save_date": datetime.now(UTC),
            "trained_junk": None,
            **junkflags.columns(junkflags.for_mailbox(tx.junk_settings, destination)),
            "indexed": None,
        },
    )
    if destination.pk != mailbox.pk:
        _no_rejects(destination, [uid for uid, target in enumerate(targets, first) if _is_rescued(target)])
    recipients.copy(destination, {target.id: uid for uid, target in enumerate(targets, first)})
    _arrived(tx, destination, targets)
    return _copied(destination, targets, first, modseq)


def move(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int], destination: Mailbox) -> Copied:
    """Move messages: the row keeps its id, a tombstone stays behind. Raises MessageGone, OutOfUIDs."""
    return _move(tx, mailbox, existing_targets(mailbox, uids), destination)


def move_all(tx: AccountTx, mailbox: Mailbox, destination: Mailbox) -> Copied:
    """Move every message of a mailbox."""
    return _move(tx, mailbox, list(live_targets(mailbox, Q())), destination)


def _move(tx: AccountTx, mailbox: Mailbox, targets: list[Target], destination: Mailbox) -> Copied:
    modseq = tx.modseq()
    first = tx.take_uids(destination, len(targets))
    now = datetime.now(UTC)
    mark = junkflags.columns(junkflags.for_mailbox(tx.junk_settings, destination))
    changed = {
        "mailbox_id": destination.pk,
        "create_modseq": modseq,
        "modseq": modseq,
        "save_date": connection.ops.adapt_datetimefield_value(now),
        **mark,
    }
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {_TABLE} SET {', '.join(f'{column} = %s' for column in changed)}, uid = %s"  # noqa: S608 # our own
            " WHERE id = %s",
            [(*changed.values(), uid, target.id) for uid, target in enumerate(targets, first)],
        )
    # The update came first: each tombstone takes the UID that its message has just left.
    _duplicate(
        [({"uid": target.uid, "create_modseq": target.create_modseq}, target.id) for target in targets],
        {
            "mailbox_id": mailbox.pk,
            "modseq": modseq,
            "expunged": True,
            "expunged_at": now,
            "trained_junk": None,
            "indexed": None,
        },
    )
    _left(tx, mailbox, targets)
    unseen: set[int] = set()
    if destination.pk != mailbox.pk:
        rescued = {uid: target.id for uid, target in enumerate(targets, first) if _is_rescued(target)}
        _no_rejects(destination, list(rescued), seen=False)
        unseen = set(rescued.values())
        targets = [t._replace(bits=t.bits & ~SEEN) if t.id in unseen else t for t in targets]
    for chunk in chunks([target.id for target in targets] if mark else list(unseen)):
        signatures.follow(chunk)
    _arrived(tx, destination, targets)
    return _copied(destination, targets, first, modseq)


def _is_rescued(target: Target) -> bool:
    """Whether somebody takes a rejected message to where it should have gone, or elsewhere."""
    return target.is_reject and target.mailbox_destined_id is not None


def _no_rejects(destination: Mailbox, uids: list[int], **columns: bool) -> None:
    """From now on these messages count as what their senders sent to the mailbox that they were meant for."""
    for chunk in chunks(uids):
        Message.objects.filter(mailbox_id=destination.pk, uid__in=chunk).update(
            is_reject=False, mailbox_orig_id=F("mailbox_destined_id"), mailbox_destined_id=None, **columns
        )


def expunge(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int] | None = None) -> Expunged:
    """Remove the messages marked ``\\Deleted``, of these UIDs or of the whole mailbox."""
    marked = Q(deleted=True)
    if uids is None:
        targets = list(live_targets(mailbox, marked))
    else:
        targets = [target for target in targets_by_uid(mailbox, uids) if target.bits & DELETED]
    return _expunge(tx, mailbox, targets)


def marked_deleted(mailbox: Mailbox, uids: Sequence[int]) -> list[int]:
    """Those of these UIDs (ascending) whose messages are marked ``\\Deleted``."""
    marked = Message.objects.filter(mailbox_id=mailbox.pk, expunged=False, deleted=True).order_by("uid")
    found = []
    for uid in marked.values_list("uid", flat=True):
        at = bisect_left(uids, uid)
        if at < len(uids) and uids[at] == uid:
            found.append(uid)
    return found


def expunge_all(tx: AccountTx, mailbox: Mailbox) -> Expunged:
    """Remove every message of a mailbox."""
    return _expunge(tx, mailbox, list(live_targets(mailbox, Q())))


def remove(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int]) -> Expunged:
    """Remove messages whatever their flags."""
    return _expunge(tx, mailbox, list(targets_by_uid(mailbox, uids)))


def _expunge(tx: AccountTx, mailbox: Mailbox, targets: list[Target]) -> Expunged:
    if not targets:
        return Expunged([], 0)
    modseq = tx.modseq()
    now = datetime.now(UTC)
    for chunk in chunks([target.id for target in targets]):
        Message.objects.filter(pk__in=chunk).update(expunged=True, expunged_at=now, modseq=modseq)
        Recipient.objects.filter(message_id__in=chunk).delete()
        signatures.drop(chunk)
    _left(tx, mailbox, targets)
    return Expunged([target.uid for target in targets], modseq)


_TABLE: Final = Message._meta.db_table


def _duplicate(overrides: list[tuple[dict[str, Any], int]], common: dict[str, Any]) -> None:
    """Insert copies of rows, given as (columns that differ, id of the original); ``common`` differs alike in all."""
    if not overrides:
        return
    differing = [*overrides[0][0], *common]
    columns = [f.column or f.attname for f in Message._meta.local_concrete_fields if not f.primary_key]
    kept = [column for column in columns if column not in differing]
    shared = [connection.ops.adapt_datetimefield_value(v) if isinstance(v, datetime) else v for v in common.values()]
    statement = (
        f"INSERT INTO {_TABLE} ({', '.join(differing + kept)})"  # noqa: S608 # names of our own columns
        f" SELECT {', '.join(['%s'] * len(differing) + kept)} FROM {_TABLE} WHERE id = %s"
    )
    with connection.cursor() as cursor:
        cursor.executemany(statement, [(*changed.values(), *shared, original) for changed, original in overrides])


def _copied(destination: Mailbox, targets: list[Target], first: int, modseq: int) -> Copied:
    uids = list(range(first, first + len(targets)))
    return Copied(destination.uidvalidity, [target.uid for target in targets], uids, modseq)


def _arrived(tx: AccountTx, mailbox: Mailbox, targets: list[Target]) -> None:
    merge_keywords(tx, mailbox, {word for column in {t.keywords for t in targets} for word in column.split()})
    tx.count(mailbox, _sum(targets, 1))


def _left(tx: AccountTx, mailbox: Mailbox, targets: list[Target]) -> None:
    tx.count(mailbox, _sum(targets, -1))


def _sum(targets: list[Target], sign: int) -> Counts:
    counts = Counts()
    for target in targets:
        counts.add(seen=bool(target.bits & SEEN), deleted=bool(target.bits & DELETED), size=target.size, sign=sign)
    return counts


def _combined(row: FlagRow, mode: FlagMode, new: Flags) -> tuple[int, str]:
    if mode is FlagMode.REPLACE:
        _check_keyword_count(len(new.keywords))
        return new.bits, flags.keyword_column(new.keywords)
    if mode is FlagMode.ADD:
        bits = row.bits | new.bits
        if not new.keywords:
            return bits, row.keywords
        keywords = {*row.keywords.split(), *new.keywords}
        _check_keyword_count(len(keywords))
        return bits, flags.keyword_column(keywords)
    bits = row.bits & ~new.bits
    if not new.keywords:
        return bits, row.keywords
    return bits, flags.keyword_column(set(row.keywords.split()) - set(new.keywords))


def _check_keyword_count(count: int) -> None:
    if count > KEYWORDS_PER_MESSAGE:
        raise TooManyKeywords(f"too many keywords: {count} on one message, at most {KEYWORDS_PER_MESSAGE}")


def _changed_columns(mode: FlagMode, new: Flags) -> dict[str, bool]:
    if mode is FlagMode.REPLACE:
        return new.columns()
    return {column: mode is FlagMode.ADD for column, bit, _ in flags.FLAGS if new.bits & bit}


def merge_keywords(tx: AccountTx, mailbox: Mailbox, keywords: Iterable[str]) -> None:
    """Note keywords of messages that come to a mailbox. Raises TooManyKeywords."""
    added = set(keywords).difference(mailbox.keywords)
    if not added:
        return
    merged = sorted({*mailbox.keywords, *added})
    if len(merged) > KEYWORDS_PER_MAILBOX:
        raise TooManyKeywords(
            f"too many keywords: {len(merged)} in mailbox {mailbox.name}, at most {KEYWORDS_PER_MAILBOX}"
        )
    mailbox.keywords = merged
    tx.touch(mailbox)
    tx.emit(ChangeEvent.Kind.MAILBOX_KEYWORDS, mailbox.pk, keywords=merged)


def _origin_columns(origin: Origin) -> dict[str, Any]:
    values = {column: getattr(origin, column) for column in _ORIGIN_COLUMNS}
    for column in _ORIGIN_TEXTS:
        if values[column]:
            values[column] = index_text(values[column])
    return values
