"""Placements of content in mailboxes: adding, flags, copying, moving, removing. Always inside a write transaction."""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from django.db import connection
from django.db.models import Q

from protocols.message import clean_text, index_text, message_id_canonical, thread_subject
from protocols.names import BadDomain, parse_domain
from server.models import ServerSettings

from . import blobs, flags
from .byuid import UIDS_PER_QUERY, ByUID, spans
from .columns import BITS
from .db import AccountTx, Counts
from .errors import MessageGone, OverQuota, TooManyKeywords
from .flags import DELETED, KEYWORDS_PER_MAILBOX, KEYWORDS_PER_MESSAGE, NO_FLAGS, SEEN, Flags
from .models import ChangeEvent, Mailbox, Message, MessageDKIMDomain, Recipient, Validation
from .rows import insert, update


class FlagRow(NamedTuple):
    """The flags of one message: bits of store.flags, keywords in the stored form ("" or " one two ")."""

    uid: int
    modseq: int
    bits: int
    keywords: str


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
    if blob_id is None:
        blob_id = blobs.insert(new.blob)
    now = datetime.now(UTC)
    received = new.received or now
    offset = received.utcoffset()
    uid = tx.take_uids(mailbox, 1)
    modseq = tx.modseq()
    envelope = new.blob.part.envelope
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
            "is_dsn": new.blob.is_dsn,
            "message_id": index_text(message_id_canonical(envelope.message_id).value) if envelope else "",
            "subject_base": index_text(thread_subject(envelope.subject).base) if envelope else "",
            **new.flags.columns(),
            **_origin_columns(new.origin),
        },
    )
    if new.dkim_domains:
        MessageDKIMDomain.objects.bulk_create(
            MessageDKIMDomain(message_id=message_id, domain=domain, received=received) for domain in new.dkim_domains
        )
    if mailbox.special_sent:
        Recipient.objects.bulk_create(_recipients(tx, message_id, received, new))
    _merge_keywords(tx, mailbox, new.flags.keywords)
    counts = Counts()
    counts.add(seen=bool(new.flags.bits & SEEN), deleted=bool(new.flags.bits & DELETED), size=new.size)
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
    counts = Counts()
    found = set()
    for target in _targets(mailbox, uids):
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
            for chunk in _chunks(ids):
                Message.objects.filter(pk__in=chunk).update(**values)
        if mode is not FlagMode.REMOVE:
            _merge_keywords(tx, mailbox, new.keywords)
        tx.count(mailbox, counts)
    return FlagResult(rows, modified, [uid for uid in uids if uid not in found])


def mark_seen(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int]) -> list[FlagRow]:
    """Set ``\\Seen``; returns all targets that live, as they are now."""
    return set_flags(tx, mailbox, uids, FlagMode.ADD, Flags(SEEN)).rows


def copy(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int], destination: Mailbox) -> Copied:
    """Copy messages, all or none; the same mailbox is allowed. Raises MessageGone, OverQuota, OutOfUIDs."""
    targets = _existing(mailbox, uids)
    check_quota(tx, sum(target.size for target in targets))
    modseq = tx.modseq()
    first = tx.take_uids(destination, len(targets))
    _duplicate(
        [({"uid": uid}, target.id) for uid, target in enumerate(targets, first)],
        {
            "mailbox_id": destination.pk,
            "create_modseq": modseq,
            "modseq": modseq,
            "save_date": datetime.now(UTC),
            "trained_junk": None,
        },
    )
    _copy_recipients(targets, destination, first)
    _arrived(tx, destination, targets)
    return _copied(destination, targets, first, modseq)


def move(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int], destination: Mailbox) -> Copied:
    """Move messages: the row keeps its id, a tombstone stays behind. Raises MessageGone, OutOfUIDs."""
    return _move(tx, mailbox, _existing(mailbox, uids), destination)


def move_all(tx: AccountTx, mailbox: Mailbox, destination: Mailbox) -> Copied:
    """Move every message of a mailbox."""
    return _move(tx, mailbox, list(_live_targets(mailbox, Q())), destination)


def _move(tx: AccountTx, mailbox: Mailbox, targets: list[_Target], destination: Mailbox) -> Copied:
    modseq = tx.modseq()
    first = tx.take_uids(destination, len(targets))
    now = datetime.now(UTC)
    saved = connection.ops.adapt_datetimefield_value(now)
    with connection.cursor() as cursor:
        cursor.executemany(
            f"UPDATE {_TABLE} SET mailbox_id = %s, uid = %s, create_modseq = %s, modseq = %s, save_date = %s"  # noqa: S608 # a constant
            " WHERE id = %s",
            [(destination.pk, uid, modseq, modseq, saved, target.id) for uid, target in enumerate(targets, first)],
        )
    # The update came first: each tombstone takes the UID that its message has just left.
    _duplicate(
        [({"uid": target.uid, "create_modseq": target.create_modseq}, target.id) for target in targets],
        {"mailbox_id": mailbox.pk, "modseq": modseq, "expunged": True, "expunged_at": now, "trained_junk": None},
    )
    _left(tx, mailbox, targets)
    _arrived(tx, destination, targets)
    return _copied(destination, targets, first, modseq)


def expunge(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int] | None = None) -> Expunged:
    """Remove the messages marked ``\\Deleted``, of these UIDs or of the whole mailbox."""
    marked = Q(deleted=True)
    if uids is None:
        targets = list(_live_targets(mailbox, marked))
    else:
        targets = [target for target in _targets(mailbox, uids) if target.bits & DELETED]
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
    return _expunge(tx, mailbox, list(_live_targets(mailbox, Q())))


def remove(tx: AccountTx, mailbox: Mailbox, uids: Sequence[int]) -> Expunged:
    """Remove messages whatever their flags."""
    return _expunge(tx, mailbox, list(_targets(mailbox, uids)))


def _expunge(tx: AccountTx, mailbox: Mailbox, targets: list[_Target]) -> Expunged:
    if not targets:
        return Expunged([], 0)
    modseq = tx.modseq()
    now = datetime.now(UTC)
    for chunk in _chunks([target.id for target in targets]):
        Message.objects.filter(pk__in=chunk).update(expunged=True, expunged_at=now, modseq=modseq)
        Recipient.objects.filter(message_id__in=chunk).delete()
    _left(tx, mailbox, targets)
    return Expunged([target.uid for target in targets], modseq)


class _Target(NamedTuple):
    """A live message that an operation is about: the columns that all of them need."""

    uid: int
    id: int
    create_modseq: int
    modseq: int
    size: int
    bits: int
    keywords: str

    def flag_row(self) -> FlagRow:
        return FlagRow(self.uid, self.modseq, self.bits, self.keywords)


_TABLE: Final = Message._meta.db_table


_by_uid: Final = ByUID(
    lambda messages: messages.filter(expunged=False).values_list(
        "uid", "id", "create_modseq", "modseq", "size", BITS, "keywords"
    )
)


def _live_targets(mailbox: Mailbox, condition: Q) -> Iterator[_Target]:
    rows = Message.objects.filter(condition, mailbox_id=mailbox.pk, expunged=False).order_by("uid")
    return map(_Target._make, rows.values_list(*_Target._fields[:5], BITS, "keywords"))


def _targets(mailbox: Mailbox, uids: Sequence[int]) -> Iterator[_Target]:
    """The live ones of these UIDs, ascending."""
    return map(_Target._make, _by_uid.rows(mailbox.pk, uids))


def uid_conditions(uids: Sequence[int]) -> Iterator[tuple[Q, frozenset[int] | None]]:
    """Conditions that find these UIDs, ascending and without an overlong IN list.

    With each comes the set to filter its rows by, or None where the condition is exact. See `ByUID` for queries that
    are made often.
    """
    for low, high, part in spans(uids):
        if high - low + 1 <= 2 * len(part):
            dense = high - low + 1 == len(part)
            yield Q(uid__gte=low, uid__lte=high), None if dense else frozenset(part)
        else:
            for chunk in _chunks(part):
                yield Q(uid__in=chunk), None


def _existing(mailbox: Mailbox, uids: Sequence[int]) -> list[_Target]:
    targets = list(_targets(mailbox, uids))
    if len(targets) != len(set(uids)):
        found = {target.uid for target in targets}
        gone = next(uid for uid in uids if uid not in found)
        raise MessageGone(f"message with UID {gone} was removed")
    return targets


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


def _copied(destination: Mailbox, targets: list[_Target], first: int, modseq: int) -> Copied:
    uids = list(range(first, first + len(targets)))
    return Copied(destination.uidvalidity, [target.uid for target in targets], uids, modseq)


def _arrived(tx: AccountTx, mailbox: Mailbox, targets: list[_Target]) -> None:
    _merge_keywords(tx, mailbox, {word for column in {t.keywords for t in targets} for word in column.split()})
    tx.count(mailbox, _sum(targets, 1))


def _left(tx: AccountTx, mailbox: Mailbox, targets: list[_Target]) -> None:
    tx.count(mailbox, _sum(targets, -1))


def _sum(targets: list[_Target], sign: int) -> Counts:
    counts = Counts()
    for target in targets:
        counts.add(seen=bool(target.bits & SEEN), deleted=bool(target.bits & DELETED), size=target.size, sign=sign)
    return counts


def _combined(row: FlagRow, mode: FlagMode, new: Flags) -> tuple[int, str]:
    if mode is FlagMode.REPLACE:
        return new.bits, flags.keyword_column(new.keywords)
    if mode is FlagMode.ADD:
        bits = row.bits | new.bits
        if not new.keywords:
            return bits, row.keywords
        keywords = {*row.keywords.split(), *new.keywords}
        if len(keywords) > KEYWORDS_PER_MESSAGE:
            raise TooManyKeywords(f"too many keywords: {len(keywords)} on one message, at most {KEYWORDS_PER_MESSAGE}")
        return bits, flags.keyword_column(keywords)
    bits = row.bits & ~new.bits
    if not new.keywords:
        return bits, row.keywords
    return bits, flags.keyword_column(set(row.keywords.split()) - set(new.keywords))


def _changed_columns(mode: FlagMode, new: Flags) -> dict[str, bool]:
    if mode is FlagMode.REPLACE:
        return new.columns()
    return {column: mode is FlagMode.ADD for column, bit, _ in flags.FLAGS if new.bits & bit}


def _merge_keywords(tx: AccountTx, mailbox: Mailbox, keywords: Iterable[str]) -> None:
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


def _recipients(tx: AccountTx, message_id: int, received: datetime, new: NewMessage) -> Iterator[Recipient]:
    envelope = new.blob.part.envelope
    if envelope is None:
        return
    sent = envelope.parsed_date or received
    seen: set[tuple[str, str]] = set()
    for address in (*envelope.to, *envelope.cc, *envelope.bcc):
        try:
            domain = parse_domain(address.host or "")
        except BadDomain:
            continue
        localpart = index_text(clean_text(address.user or ""))
        if not localpart or (localpart, domain.ascii) in seen:
            continue
        seen.add((localpart, domain.ascii))
        yield Recipient(
            account_id=tx.account_id,
            message_id=message_id,
            localpart=localpart,
            domain=domain.ascii,
            org_domain=domain.ascii,
            sent=sent,
        )


def _copy_recipients(targets: list[_Target], destination: Mailbox, first: int) -> None:
    """Copies remember whom they were sent to, as their originals do."""
    uid_of = {target.id: uid for uid, target in enumerate(targets, first)}
    for chunk in _chunks(list(uid_of)):
        originals = list(Recipient.objects.filter(message_id__in=chunk))
        if not originals:
            continue
        uids = {uid_of[original.message_id] for original in originals}
        copies = dict(Message.objects.filter(mailbox_id=destination.pk, uid__in=uids).values_list("uid", "id"))
        for original in originals:
            original.message_id = copies[uid_of[original.message_id]]
            original.pk = None
            original._state.adding = True
        Recipient.objects.bulk_create(originals)


def _chunks(items: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(items), UIDS_PER_QUERY):
        yield items[start : start + UIDS_PER_QUERY]
