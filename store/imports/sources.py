"""What is in the source of an import: mailboxes, messages, names of keywords, and what cannot be used.

Each find has a position, so that a worker can go on where another one stopped: what comes up to a position that was
staged is not told again. Archives are read in their order, files of a Maildir by the part of their names that stays.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final, TypeAlias

from django.core.files.storage import storages

from protocols import maildir
from protocols.archives import Content, Kind, Member, Seekable, members
from protocols.maildir import MaildirName
from protocols.mbox import MboxError, read_mbox
from store.errors import MailboxError
from store.mailboxes import INBOX, canonical_name
from store.models import ImportJob

BLOCK: Final = 256 * 1024
IN_MEMORY: Final = 1 << 20  # bytes of a message; larger ones wait in a temporary file
KEYWORDS_FILE_MAX: Final = 64 * 1024  # bytes of a dovecot-keywords file
MBOX: Final = ".mbox"
NAME_SHOWN: Final = 200  # characters of a file name in a problem

Position: TypeAlias = "tuple[int | str, int]"
"""Which member (a number, or a name of a Maildir), and which message in it."""

_LAST: Final = 1 << 62  # after every message of a member


class SourceError(Exception):
    """The source as a whole cannot be imported; the text is for its owner."""


@dataclass(frozen=True, slots=True)
class FoundMailbox:
    position: Position
    name: str


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """A message as it stands in the source: ``words`` are flags by IMAP's names and others, as they are there."""

    position: Position
    mailbox: str
    content: bytes | IO[bytes]
    received: datetime | None
    words: tuple[str, ...]
    letters: str = ""


@dataclass(frozen=True, slots=True)
class FoundKeywords:
    """The words for the letters in a mailbox's file names."""

    position: Position
    mailbox: str
    words: dict[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    position: Position
    text: str


Find: TypeAlias = FoundMailbox | FoundMessage | FoundKeywords | Problem


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source is read: from where on, messages up to which size, and what is called at each block."""

    after: Position | None
    size_max: int
    alive: Callable[[], None]

    def is_known(self, position: Position) -> bool:
        """Whether this was read, and staged, before."""
        return self.after is not None and position <= self.after


def read(job: ImportJob, reading: Reading) -> Iterator[Find]:
    """What is in the source of a job, in order.

    Raises SourceError, protocols.archives.ArchiveError, OSError: then nothing of it can be imported.
    """
    if job.format == ImportJob.Format.MAILDIR:
        finds = _maildir(Path(job.source), job.mailbox, reading)
    elif job.format == ImportJob.Format.MBOX:
        finds = _mbox_file(Path(job.source), job.mailbox, reading)
    else:
        finds = _archive(job, reading)
    for find in finds:
        if not reading.is_known(find.position):
            yield find


def _archive(job: ImportJob, reading: Reading) -> Iterator[Find]:
    with open(job.source, "rb") if job.node else storages["messages"].open(job.source, "rb") as file:
        for member in members(_Watched(file, reading.alive)):
            if reading.is_known((member.number, _LAST)):
                continue
            for find in _member(member, job.skip_mailbox_prefix, reading):
                reading.alive()
                yield find


def _member(member: Member, prefix: str, reading: Reading) -> Iterator[Find]:
    """What a member is, by its name (store.md 12): an mbox, a message of a Maildir, or nothing of ours."""
    first: Position = (member.number, 0)
    shown = shown_name(member.name)
    elements = [element for element in member.name.split("/") if element not in ("", ".")]
    try:
        if member.kind is Kind.OTHER:
            yield Problem(first, f"{shown} {member.problem} (skipping)")
        elif member.name.startswith("/"):
            yield Problem(first, f"{shown} is an absolute name (skipping)")
        elif member.kind is Kind.DIRECTORY:
            if elements and elements[-1] in maildir.DIRECTORIES:
                yield FoundMailbox(first, _mailbox_name(elements[:-1], prefix))
        elif elements and elements[-1].endswith(MBOX):
            name = _mailbox_name([*elements[:-1], elements[-1][: -len(MBOX)]], prefix)
            yield from _mbox(member.content, name, shown, member.number, reading)
        elif elements and elements[-1] == maildir.KEYWORDS_FILE:
            name = _mailbox_name(elements[:-1], prefix)
            yield from _keywords_file(member.content, name, shown, first)
        elif len(elements) > 1 and elements[-2] in maildir.DIRECTORIES:
            name = _mailbox_name(elements[:-2], prefix)
            parsed = maildir.parse_name(elements[-1])
            yield FoundMailbox(first, name)
            yield _message(member.content, name, parsed, member.modified, shown, (member.number, 1), reading)
        else:
            yield Problem(first, f"unrecognized file {shown} (skipping)")
    except MailboxError as exc:
        yield Problem(first, f"{shown}: {exc} (skipping)")


def _mailbox_name(elements: list[str], prefix: str) -> str:
    """The mailbox of a path in an archive; what lies at the top is Inbox. Raises MailboxError."""
    skipped = [element for element in prefix.split("/") if element]
    if skipped and elements[: len(skipped)] == skipped:
        elements = elements[len(skipped) :]
    return canonical_name(unicodedata.normalize("NFC", "/".join(elements) or INBOX))


def shown_name(name: str) -> str:
    """A file name as a problem shows it."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return f'"{shown}"' if len(shown) <= NAME_SHOWN else f'"{shown[:NAME_SHOWN]}..."'


def _mbox(content: Content, mailbox: str, shown: str, member: int | str, reading: Reading) -> Iterator[Find]:
    yield FoundMailbox((member, 0), mailbox)
    try:
        for message in read_mbox(content, reading.size_max):
            position = (member, message.number)
            if message.content is None:
                yield Problem(
                    position,
                    f"{shown}: message {message.number} has {message.size} bytes, at most {reading.size_max} can be"
                    " stored (skipping)",
                )
            elif not reading.is_known(position):
                yield FoundMessage(position, mailbox, message.content, message.received, message.words)
    except MboxError as exc:
        yield Problem((member, 0), f"{shown}: {exc} (skipping)")


def _keywords_file(content: Content, mailbox: str, shown: str, position: Position) -> Iterator[Find]:
    data = _read_whole(content, KEYWORDS_FILE_MAX)
    if data is None:
        yield Problem(position, f"{shown} has more than {KEYWORDS_FILE_MAX} bytes (skipping)")
        return
    words, bad = maildir.parse_keywords(data.read().decode("utf-8", "replace"))
    yield FoundMailbox(position, mailbox)
    yield FoundKeywords(position, mailbox, words)
    for line in bad:
        yield Problem(position, f"{shown}: {shown_name(line)} is no number below 26 and a keyword (skipping)")


def _message(
    content: Content,
    mailbox: str,
    name: MaildirName,
    modified: datetime | None,
    shown: str,
    position: Position,
    reading: Reading,
) -> Find:
    data = _read_whole(content, reading.size_max)
    if data is None:
        return Problem(position, f"{shown} has more than {reading.size_max} bytes, the most that is stored (skipping)")
    received = name.received or modified
    return FoundMessage(position, mailbox, data, received, name.words, name.letters)


def _read_whole(content: Content, size_max: int) -> IO[bytes] | None:
    """The content in memory or in a temporary file; None if it is larger than that."""
    spool: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 # its reader lets go of it
    while block := content.read(BLOCK):
        spool.write(block)
        if spool.tell() > size_max:
            return None
    spool.seek(0)
    return spool


def _mbox_file(path: Path, mailbox: str, reading: Reading) -> Iterator[Find]:
    with open(path, "rb") as file:
        for find in _mbox(_Watched(file, reading.alive), mailbox, shown_name(path.name), 1, reading):
            if isinstance(find, Problem) and find.position == (1, 0):
                raise SourceError(f"{path}: {find.text.removesuffix(' (skipping)')}")
            yield find


def _maildir(path: Path, mailbox: str, reading: Reading) -> Iterator[Find]:
    """The messages of a Maildir in ``new`` and ``cur``; those in ``tmp`` are still being delivered."""
    files: list[tuple[str, str]] = []
    for directory in ("new", "cur"):
        try:
            files.extend((name, directory) for name in os.listdir(path / directory))
        except FileNotFoundError as exc:
            raise SourceError(f"{path} is no Maildir: it has no directory {directory}") from exc
    yield FoundMailbox(("", 0), mailbox)
    files = sorted((name for name in files if not name[0].startswith(".")), key=lambda file: _unique(file[0]))
    yield from _keywords_beside(path, mailbox)
    for name, directory in files:
        position: Position = (_unique(name), 1)
        if not reading.is_known(position):
            reading.alive()
            yield _file(path / directory / name, mailbox, position, reading)


def _unique(name: str) -> str:
    return name.partition(":")[0]


def _keywords_beside(path: Path, mailbox: str) -> Iterator[Find]:
    try:
        with open(path / maildir.KEYWORDS_FILE, "rb") as file:
            yield from _keywords_file(file, mailbox, shown_name(maildir.KEYWORDS_FILE), ("", 0))
    except FileNotFoundError:
        return


def _file(path: Path, mailbox: str, position: Position, reading: Reading) -> Find:
    shown = shown_name(f"{path.parent.name}/{path.name}")
    try:
        # Neither a link, which may lead anywhere, nor a pipe, which never ends.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as exc:
        return Problem(position, f"{shown} cannot be read: {exc.strerror} (skipping)")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        return Problem(position, f"{shown} is no plain file (skipping)")
    with open(descriptor, "rb") as file:
        modified = datetime.fromtimestamp(found.st_mtime, UTC)
        return _message(file, mailbox, maildir.parse_name(path.name), modified, shown, position, reading)


class _Watched:
    """A file whose reader shows signs of life."""

    def __init__(self, file: Seekable, alive: Callable[[], None]) -> None:
        self._file = file
        self._alive = alive

    def read(self, length: int, /) -> bytes:
        self._alive()
        return self._file.read(length)

    def seek(self, position: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(position, whence)
