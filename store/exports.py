"""Exporting mail as Maildirs or mbox files: in an archive, as one mbox, or into a directory.

    export = Export(Request(account_id, Format.MAILDIR, Archive.TGZ))
    for block in export.blocks(): ...        # all in one thread: it reads from one snapshot
    export.problems                          # what could not be read, also in errors.txt of the archive

Memory stays bounded: ids of messages, a few rows, and one message up to 1 MiB; what is larger is in a temporary file.
"""

from __future__ import annotations

import re
import tempfile
from array import array
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, NamedTuple

from django.conf import settings
from django.db.models import QuerySet, TextChoices

from protocols import maildir, mbox
from protocols.archives import ArchiveWriter, TarWriter, ZipWriter, compressed
from server import db

from . import content, flags
from .columns import BITS
from .errors import ContentError, MailboxError, StoreError
from .flags import FLAGS
from .mailboxes import canonical_name
from .models import Mailbox, Message

ROWS: Final = 50  # messages read at once: each may have 64 KiB in its row
SPOOL_MAX: Final = 1 << 20  # bytes of a message in memory
BLOCK: Final = 64 * 1024
MESSAGE_IDS_MAX: Final = 100_000  # in one request
ERRORS: Final = "errors.txt"
_MESSAGE_ID: Final = re.compile(r"[0-9]{1,18}")
CHOSEN: Final = "messages"  # the mailbox in which messages are that were chosen one by one


class Format(TextChoices):
    MAILDIR = "maildir"
    MBOX = "mbox"


class Archive(TextChoices):
    NONE = "none"
    TAR = "tar"
    TGZ = "tgz"
    ZIP = "zip"


_TYPES: Final = {
    Archive.NONE: "application/mbox",
    Archive.TAR: "application/x-tar",
    Archive.TGZ: "application/octet-stream",  # browsers would unpack it
    Archive.ZIP: "application/zip",
}


class ExportRefused(StoreError):
    """What is asked for does not exist or does not fit together."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be exported: a mailbox (with ``recursive`` also those below), all ("", or messages by their ids)."""

    account_id: int
    format: Format
    archive: Archive
    mailbox: str = ""
    recursive: bool = True
    message_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.mailbox and self.message_ids:
            raise ExportRefused("cannot specify both mailbox and message ids")
        one_file = self.format == Format.MBOX and bool(self.message_ids or (self.mailbox and not self.recursive))
        if self.archive == Archive.NONE and not one_file:
            raise ExportRefused("archive none can only be used with non-recursive mbox")

    @classmethod
    def parse(cls, account_id: int, given: Mapping[str, str]) -> Request:
        """From the fields of a form. Raises ExportRefused."""
        if given.get("format", "") not in Format.values:
            raise ExportRefused("unknown format")
        if given.get("archive", "") not in Archive.values:
            raise ExportRefused("unknown archive")
        words = [word.strip() for word in given.get("messageids", "").split(",")] if given.get("messageids") else []
        if len(words) > MESSAGE_IDS_MAX or not all(
            word.isascii() and word.isdigit() and len(word) < 19 for word in words
        ):
            raise ExportRefused("bad message id")
        return cls(
            account_id,
            Format(given["format"]),
            Archive(given["archive"]),
            given.get("mailbox", ""),
            bool(given.get("recursive")),
            tuple(map(int, words)),
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """A mailbox to export, under the name that it has in the archive."""

    name: str
    messages: QuerySet[Message]


class _Row(NamedTuple):
    pk: int
    prefix: bytes
    received: datetime
    bits: int
    keywords: str
    mail_from: str
    blob_id: int
    blob_size: int
    data: bytes | None
    storage_name: str

    def words(self) -> list[str]:
        """Flags and keywords, as IMAP names them."""
        return [word for _, bit, word in FLAGS if self.bits & bit] + self.keywords.split()


_FIELDS: Final = (
    "pk",
    "prefix",
    "received",
    BITS,
    "keywords",
    "mail_from",
    "blob_id",
    "blob__size",
    "blob__data",
    "blob__storage_name",
)


class Export:
    """One export. Raises ExportRefused when it is made, or by ``blocks`` if the mailbox was removed in between."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._now = datetime.now(UTC)
        self.count = 0
        """Messages exported so far."""
        self.problems: list[str] = []
        """Messages that could not be read, and keywords for which there was no room."""
        self._sources()

    @property
    def content_type(self) -> str:
        return _TYPES[self._request.archive]

    @property
    def name(self) -> str:
        """A file name for it."""
        request = self._request
        what = request.mailbox.replace("/", "-") or ("messages" if request.message_ids else "all")
        archive = "" if request.archive == Archive.NONE else f".{request.archive}"
        return f"mailexport-{what}-{self._now:%Y%m%d-%H%M%S}.{request.format}{archive}"

    def blocks(self) -> Generator[bytes, None, None]:
        """The bytes of the archive or mbox. Whoever stops early must close the generator, in the same thread."""
        directory = _temporary_directory()
        if self._request.archive == Archive.NONE:
            with db.read():
                yield from self._mbox(self._sources()[0])
        elif self._request.archive == Archive.ZIP:
            yield from self.write(ZipWriter(directory))
        elif self._request.archive == Archive.TGZ:
            with closing(self.write(TarWriter(directory))) as tar:
                yield from compressed(tar)
        else:
            yield from self.write(TarWriter(directory))

    def write(self, writer: ArchiveWriter) -> Generator[bytes, None, None]:
        """The same with a writer of one's own, which may give no bytes at all."""
        with db.read():
            for source in self._sources():
                if self._request.format == Format.MBOX:
                    yield from writer.file(f"{source.name}.mbox", self._now, self._mbox(source))
                else:
                    yield from self._maildir(writer, source)
            if self.problems:
                text = "".join(f"{problem}\n" for problem in self.problems).encode()
                yield from writer.file(ERRORS, self._now, [text], len(text))
            yield from writer.finish()

    def _sources(self) -> list[_Source]:
        request = self._request
        messages = Message.objects.filter(account_id=request.account_id, expunged=False)
        if request.message_ids:
            return [_Source(CHOSEN, messages)]
        mailboxes = dict(
            Mailbox.objects.filter(account_id=request.account_id, expunged=False).values_list("name", "pk")
        )
        if not request.mailbox:
            return [_Source(name, messages.filter(mailbox_id=mailboxes[name])) for name in sorted(mailboxes)]
        try:
            top = canonical_name(request.mailbox)
        except MailboxError as exc:
            raise ExportRefused(str(exc)) from exc
        if top not in mailboxes:
            raise ExportRefused(f"mailbox {request.mailbox!r} does not exist")
        names = [
            name for name in sorted(mailboxes) if name == top or (request.recursive and name.startswith(f"{top}/"))
        ]
        above = len(top) - len(top.rpartition("/")[2])
        return [_Source(name[above:], messages.filter(mailbox_id=mailboxes[name])) for name in names]

    def _maildir(self, writer: ArchiveWriter, source: _Source) -> Iterator[bytes]:
        for directory in maildir.DIRECTORIES:
            yield from writer.directory(f"{source.name}/{directory}", self._now)
        letters: dict[str, str] = {}  # by word
        without_letter: dict[str, int] = {}
        for row, file in self._messages(source):
            words = row.words()
            for word in words:
                if maildir.has_letter(word) or word in letters:
                    continue
                if len(letters) < len(maildir.LETTERS):
                    letters[word] = maildir.LETTERS[len(letters)]
                else:
                    without_letter[word] = without_letter.get(word, 0) + 1
            own = "".join(letters[word] for word in words if word in letters)
            name = maildir.format_name(row.received, f"{row.pk}.mox", words, own)
            directory = "cur" if row.bits & flags.SEEN else "new"
            path = f"{source.name}/{directory}/{name}"
            yield from writer.file(path, row.received, _read(file), file.seek(0, 2))
            self.count += 1
        for word, count in sorted(without_letter.items()):
            self.problems.append(
                f"mailbox {source.name}: keyword {word} of {count} messages is left out, a Maildir has at most"
                f" {len(maildir.LETTERS)}"
            )
        if letters:
            text = maildir.format_keywords({letter: word for word, letter in letters.items()}).encode()
            yield from writer.file(f"{source.name}/{maildir.KEYWORDS_FILE}", self._now, [text], len(text))

    def _mbox(self, source: _Source) -> Iterator[bytes]:
        for row, file in self._messages(source):
            words = row.words()
            others = [word for word in words if not maildir.has_letter(word)]
            yield from mbox.write_message(_read(file), row.mail_from, row.received, words, others)
            self.count += 1

    def _messages(self, source: _Source) -> Iterator[tuple[_Row, IO[bytes]]]:
        """The messages of a mailbox by the time of their coming, each with its content, lines ended by LF."""
        ids = self._ids(source)
        for start in range(0, len(ids), ROWS):
            chunk = ids[start : start + ROWS]
            rows = {row[0]: _Row(*row) for row in source.messages.filter(pk__in=chunk).values_list(*_FIELDS)}
            for pk in chunk:
                # Read as a whole before anything of it is written: what cannot be read leaves no half a message.
                with tempfile.SpooledTemporaryFile(max_size=SPOOL_MAX, dir=_temporary_directory()) as file:
                    try:
                        _copy(rows[pk], file)
                    except ContentError as exc:
                        self.problems.append(f"message {pk} in mailbox {source.name} is left out: {exc}")
                        continue
                    yield rows[pk], file

    def _ids(self, source: _Source) -> array[int]:
        ids = array("q")
        ordered = source.messages.order_by("received", "pk").values_list("pk", flat=True)
        chosen = self._request.message_ids
        if not chosen:
            ids.extend(ordered.iterator(chunk_size=2000))
            return ids
        found: list[tuple[datetime, int]] = []
        for start in range(0, len(chosen), 500):
            chunk = source.messages.filter(pk__in=chosen[start : start + 500])
            found.extend(chunk.values_list("received", "pk"))
        known = {pk for _, pk in found}
        missing = next((pk for pk in chosen if pk not in known), None)
        if missing is not None:
            raise ExportRefused(f"message {missing} does not exist")
        ids.extend(pk for _, pk in sorted(found))
        return ids


def _copy(row: _Row, file: IO[bytes]) -> None:
    """The content of a message, CRLF as LF."""
    held = b""  # a CR at the end of a block
    with content.reader(row.prefix, row.blob_id, row.blob_size, row.data, row.storage_name) as reader:
        for block in reader.chunks():
            block = held + block
            held = b"\r" if block.endswith(b"\r") else b""
            file.write((block[:-1] if held else block).replace(b"\r\n", b"\n"))
    file.write(held)


def _read(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(BLOCK):
        yield block


def _temporary_directory() -> str | None:
    """That of the server, which is on its disk; the system's may be in memory."""
    directory: Path = settings.MOX.temporary_dir
    return str(directory) if directory.is_dir() else None
