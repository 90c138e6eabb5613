"""Phase 1: what a source holds becomes blobs and ImportItem rows, in small transactions, visible to nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django.db.models import Max

from protocols.message import clean_text
from server import db, faults
from server.models import Listener, ServerSettings
from store import blobs, flags, junkflags, mailboxes, reading, recipients
from store.columns import BITS
from store.errors import BadFlag
from store.flags import JUNK, KEYWORDS_PER_MAILBOX, KEYWORDS_PER_MESSAGE, NOTJUNK, Flags
from store.junkflags import JunkMark, JunkSettings
from store.models import ImportItem, ImportJob, ImportMailbox, ImportRecipient, Mailbox, Message
from store.rows import insert, reserve_ids, update

from . import sources
from .jobs import PROBLEM_MAX, PROBLEMS_MAX, Lease

BATCH_MESSAGES: Final = 100  # a page shows a count at each hundred
BATCH_BYTES: Final = 4 << 20  # of content in rows: memory, and the time for which others wait for the writer
BATCH_FINDS: Final = 500  # mailboxes and problems, which hostile archives have many of
BATCH_SECONDS: Final = 1.0  # between two signs of progress
ROWS: Final = 500  # items looked at together once all are staged
SIZE_MAX: Final = 100 << 20  # bytes of a message, where no listener says it
WORD_PROBLEMS_MAX: Final = 1000  # different keywords whose problem is told once

_JUNK_NAMES: Final = ("junk", "spam")  # of mailboxes whose messages are junk, unless they say something else
_FLAG_WORDS: Final = {
    "forwarded": "$Forwarded",
    "junk": "$Junk",
    "notjunk": "$NotJunk",
    "nonjunk": "$NotJunk",
    "phishing": "$Phishing",
    "mdnsent": "$MDNSent",
}


@dataclass(slots=True)
class _Box:
    """A mailbox of the import: its row, and what messages get by being put there."""

    name: str
    pk: int = 0  # 0: not stored yet
    messages: int = 0
    letters: dict[str, str] = field(default_factory=dict)
    keywords: set[str] = field(default_factory=set)
    known_keywords: frozenset[str] = frozenset()  # those of the mailbox that exists already
    mark: JunkMark | None = None
    is_junk_by_name: bool = False
    is_sent: bool = False
    changed: bool = False

    def marked(self, bits: int) -> int:
        """Flags by the rules of store.md 6.5 and junk.md 9."""
        if self.is_junk_by_name and not bits & (JUNK | NOTJUNK):
            bits |= JUNK
        return junkflags.apply(self.mark, bits)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A message that is ready to be staged."""

    box: _Box
    blob: blobs.PreparedBlob
    flags: Flags
    letters: str
    received: datetime

    @property
    def prefix(self) -> bytes:
        return b"\r\n" if self.blob.headerless else b""

    @property
    def size(self) -> int:
        return len(self.prefix) + self.blob.size


def size_max() -> int:
    """Bytes of the largest message that can be imported: the most that comes by SMTP or by APPEND."""
    largest = Listener.objects.aggregate(largest=Max("max_message_size"))["largest"]
    return max(SIZE_MAX if largest is None else int(largest), ServerSettings.current().imap_append_limit)


class Stager:
    """Stages a job for whoever holds its lease, from where it was left."""

    def __init__(self, job: ImportJob, lease: Lease, progress: Callable[[ImportJob], None] | None = None) -> None:
        self._job = job
        self._lease = lease
        self._progress = progress or (lambda job: None)
        account = job.account
        self._settings = JunkSettings(
            account.automatic_junk_flags,
            account.junk_mailbox_regexp,
            account.neutral_mailbox_regexp,
            account.not_junk_mailbox_regexp,
        )
        self._live = {m.name: m for m in Mailbox.objects.filter(account_id=job.account_id, expunged=False)}
        self._paths = set(self._live)  # every mailbox that there will be, with parents
        self._boxes: dict[str, _Box] = {}
        for row in ImportMailbox.objects.filter(job=job):
            box = self._new_box(row.name)
            box.pk, box.messages, box.letters, box.keywords = row.pk, row.messages, row.letters, set(row.keywords)
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._problems: list[str] = []
        self._finds = 0
        self._position: sources.Position | None = None
        self._flushed = time.monotonic()
        self._told_words: set[str] = set()

    def run(self) -> None:
        """Read the source to its end. Raises Stopped, SourceError, ArchiveError, OSError, OverQuota, StorageFull."""
        if not self._job.read_whole:
            try:
                self._read()
            except BaseException:
                for waiting in self._waiting:
                    waiting.blob.discard()
                raise
        self._resolve_letters()

    def _read(self) -> None:
        position = self._job.position
        after = (position[0], position[1]) if position else None
        for find in sources.read(self._job, sources.Reading(after, size_max(), self._lease.renew_if_due)):
            self._take(find)
            self._position = find.position
            self._finds += 1
            if (
                len(self._waiting) >= BATCH_MESSAGES
                or self._waiting_bytes >= BATCH_BYTES
                or self._finds >= BATCH_FINDS
                or time.monotonic() - self._flushed > BATCH_SECONDS
            ):
                self._flush()
        self._flush(read_whole=True)

    def _take(self, find: sources.Find) -> None:
        match find:
            case sources.Problem():
                self._problem(find.text)
            case sources.FoundMailbox():
                self._box(find.name)
            case sources.FoundKeywords():
                box = self._box(find.mailbox)
                if box is not None:
                    box.letters.update(find.words)
                    box.changed = True
            case sources.FoundMessage():
                box = self._box(find.mailbox)
                if box is not None:
                    self._message(box, find)

    def _message(self, box: _Box, found: sources.FoundMessage) -> None:
        blob = blobs.prepare(found.content, normalize_newlines=True)
        received = found.received
        if received is None:
            envelope = blob.part.envelope
            received = (envelope and envelope.parsed_date) or datetime.now(UTC)
        flags = self._flags(box, found.words)
        self._waiting.append(
            _Waiting(box, blob, Flags(box.marked(flags.bits), flags.keywords), found.letters, received)
        )
        self._waiting_bytes += len(blob.data or b"")

    def _box(self, name: str) -> _Box | None:
        """The mailbox of this (canonical) name; None when the account cannot have it, too."""
        box = self._boxes.get(name)
        if box is not None:
            return box
        elements = name.split("/")
        new = {"/".join(elements[:depth]) for depth in range(1, len(elements) + 1)} - self._paths
        if len(self._paths) + len(new) > mailboxes.MAILBOXES_MAX:
            self._problem_once(f"too many mailboxes, at most {mailboxes.MAILBOXES_MAX}: messages are skipped")
            return None
        return self._new_box(name)

    def _new_box(self, name: str) -> _Box:
        live = self._live.get(name)
        elements = name.split("/")
        self._paths.update("/".join(elements[:depth]) for depth in range(1, len(elements) + 1))
        self._boxes[name] = _Box(
            name,
            known_keywords=frozenset(live.keywords if live else ()),
            mark=junkflags.for_mailbox(self._settings, live or Mailbox(name=name)),
            is_junk_by_name=name.lower().startswith(_JUNK_NAMES),
            is_sent=live is not None and live.special_sent,
            changed=True,
        )
        return self._boxes[name]

    def _flags(self, box: _Box, words: tuple[str, ...]) -> Flags:
        """Flags from IMAP's words and from those that other programs use; what cannot be a keyword is told once."""
        bits = 0
        keywords: set[str] = set()
        for word in words:
            plain = _FLAG_WORDS.get(word.lower().removeprefix("$"))
            try:
                parsed = flags.parse_words([plain or word])
            except BadFlag as exc:
                self._problem_once(f"{exc} (dropped)")
                continue
            bits |= parsed.bits
            keywords.update(parsed.keywords)
        kept = sorted(keywords)[:KEYWORDS_PER_MESSAGE]
        if len(keywords) > len(kept):
            self._problem_once(f"mailbox {box.name}: a message has more than {KEYWORDS_PER_MESSAGE} keywords (dropped)")
        new = set(kept) - box.keywords
        if new:
            if len(box.known_keywords | box.keywords | new) > KEYWORDS_PER_MAILBOX:
                self._problem_once(f"mailbox {box.name} would have more than {KEYWORDS_PER_MAILBOX} keywords (dropped)")
                kept = [word for word in kept if word in box.keywords or word in box.known_keywords]
            box.keywords.update(kept)
            box.changed = True
        return Flags(bits, tuple(kept))

    def _problem(self, text: str) -> None:
        self._problems.append(clean_text(text)[:PROBLEM_MAX])

    def _problem_once(self, text: str) -> None:
        if text not in self._told_words and len(self._told_words) < WORD_PROBLEMS_MAX:
            self._told_words.add(text)
            self._problem(text)

    def _flush(self, **more: Any) -> None:
        """Store what waits, with how far the job is, or nothing of it."""
        changed = [box for box in self._boxes.values() if box.changed or not box.pk]
        numbers = {box.name: box.messages for box in self._boxes.values()}
        job = self._job
        size = job.size + sum(waiting.size for waiting in self._waiting)
        reading.check_quota(job.account_id, size)
        progress: dict[str, Any] = {"messages": job.messages + len(self._waiting), "size": size, "tries": 0, **more}
        if self._position is not None:
            progress["position"] = list(self._position)
        if self._problems:
            progress["problems"] = [*job.problems, *self._problems][:PROBLEMS_MAX]
            progress["problem_count"] = job.problem_count + len(self._problems)

        def transact() -> tuple[dict[str, int], dict[str, int]]:
            counts = dict(numbers)
            with db.write():
                self._lease.keep(step="reading messages", **progress)
                pks = {box.name: box.pk or _insert_box(job, box) for box in changed}
                ids = reserve_ids(Message, len(self._waiting))
                for seq, (message_pk, waiting) in enumerate(zip(ids, self._waiting, strict=True), job.messages):
                    name = waiting.box.name
                    _insert_item(job, seq, message_pk, pks.get(name) or waiting.box.pk, counts[name], waiting)
                    counts[name] += 1
                for name in {waiting.box.name for waiting in self._waiting} | pks.keys():
                    box = self._boxes[name]
                    columns = {"messages": counts[name], "letters": box.letters, "keywords": sorted(box.keywords)}
                    update(ImportMailbox, pks.get(name) or box.pk, columns)
                faults.point("store.import_before_staged")
            return counts, pks

        counts, pks = db.retrying(transact)
        faults.point("store.import_staged")
        for name, pk in pks.items():
            self._boxes[name].pk = pk
            self._boxes[name].changed = False
        for name, count in counts.items():
            self._boxes[name].messages = count
        for column, value in progress.items():
            setattr(job, column, value)
        self._waiting, self._waiting_bytes, self._problems, self._finds = [], 0, [], 0
        self._flushed = time.monotonic()
        self._progress(job)

    def _resolve_letters(self) -> None:
        """Give the messages of Maildirs the keywords that letters of their names stand for: now all files were seen."""
        by_pk = {box.pk: box for box in self._boxes.values()}
        with_letters = ImportItem.objects.filter(job=self._job).exclude(letters="").order_by("seq")
        while rows := list(with_letters.values_list("pk", "mailbox_id", "letters", BITS, "keywords")[:ROWS]):
            changes: list[tuple[int, dict[str, Any]]] = []
            for pk, box_pk, letters, bits, keywords in rows:
                box = by_pk[box_pk]
                words = tuple(box.letters[letter] for letter in letters if letter in box.letters)
                for letter in letters:
                    if letter not in box.letters:
                        self._problem_once(f"mailbox {box.name}: no keyword is known for letter {letter} (dropped)")
                found = self._flags(box, (*flags.keyword_tuple(keywords), *words))
                # Names of files have no letters of their own for junk: what the mailbox said is said again.
                combined = Flags(box.marked(bits & ~(JUNK | NOTJUNK) | found.bits), found.keywords)
                column = flags.keyword_column(combined.keywords)
                changes.append((pk, {"letters": "", "keywords": column, **combined.columns()}))
            self._store_changes(changes)

    def _store_changes(self, changes: list[tuple[int, dict[str, Any]]]) -> None:
        progress: dict[str, Any] = {}
        if self._problems:
            progress["problems"] = [*self._job.problems, *self._problems][:PROBLEMS_MAX]
            progress["problem_count"] = self._job.problem_count + len(self._problems)

        def transact() -> None:
            with db.write():
                self._lease.keep(step="setting keywords", **progress)
                for pk, columns in changes:
                    update(ImportItem, pk, columns)
                for box in self._boxes.values():
                    if box.changed:
                        update(ImportMailbox, box.pk, {"keywords": sorted(box.keywords)})

        db.retrying(transact)
        faults.point("store.import_keywords")
        for column, value in progress.items():
            setattr(self._job, column, value)
        self._problems = []
        for box in self._boxes.values():
            box.changed = False


def _insert_box(job: ImportJob, box: _Box) -> int:
    return insert(ImportMailbox, {"job_id": job.pk, "name": box.name})


def _insert_item(job: ImportJob, seq: int, message_pk: int, box_pk: int, number: int, waiting: _Waiting) -> None:
    keys = waiting.blob.thread_keys
    offset = waiting.received.utcoffset()
    item_pk = insert(
        ImportItem,
        {
            "job_id": job.pk,
            "seq": seq,
            "mailbox_id": box_pk,
            "number": number,
            "message_pk": message_pk,
            "letters": waiting.letters,
            "referenced_ids": list(keys.references),
            "is_response": keys.is_response,
            "blob_id": blobs.insert(waiting.blob),
            "prefix": waiting.prefix,
            "size": waiting.size,
            "received": waiting.received,
            "received_offset": int(offset.total_seconds()) // 60 if offset is not None else 0,
            "keywords": flags.keyword_column(waiting.flags.keywords),
            "is_dsn": waiting.blob.is_dsn,
            "message_id": keys.message_id,
            "subject_base": keys.subject_base,
            "thread_id": message_pk,
            **waiting.flags.columns(),
        },
    )
    if waiting.box.is_sent:
        found = recipients.addresses(waiting.blob.part.envelope, waiting.received)
        ImportRecipient.objects.bulk_create(ImportRecipient(item_id=item_pk, **columns) for columns in found)
