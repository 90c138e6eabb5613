"""Content on its way in: parsed, rendered for IMAP, hashed, and if large on disk, before any transaction is opened."""

from __future__ import annotations

import errno
import hashlib
import io
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, BinaryIO, Final

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import storages

from protocols import imapformat, message
from protocols.smtpsyntax import Path
from server import faults

from . import rows
from .errors import StorageFull
from .models import Blob
from .storage import new_name
from .threads import ThreadKeys

STRUCTURE_VERSION: Final = 2  # raise when the parser changes what it says about the same message
CHUNK: Final = 256 * 1024
SPOOL_MAX: Final = 1 << 20  # bytes of a converted message in memory before it goes to a temporary file


@dataclass(slots=True)
class PreparedBlob:
    """Content that is ready to be stored: what ``insert`` writes in one row."""

    size: int
    sha256: bytes
    data: bytes | None
    storage_name: str
    headerless: bool
    part: message.Part
    structure: dict[str, Any]
    envelope: dict[str, Any]
    imap_envelope: bytes
    imap_bodystructure: bytes
    is_dsn: bool
    thread_keys: ThreadKeys
    problem: str = ""
    """Why the message could not be parsed and is one opaque part; "" when it could."""

    def needs_smtputf8(self, content: message.Readable, paths: Iterable[Path], *, has_8bit: bool, said: bool) -> bool:
        """Whether the message needs SMTPUTF8 on its way between these paths (RFC 6531 section 3.4).

        ``said``: the client's word, which counts where the message could not be parsed.
        """
        if not all(path.localpart.isascii() for path in paths):
            return True
        if self.problem:
            return said
        return has_8bit and message.needs_smtputf8(self.part, content)

    def discard(self) -> None:
        """Nothing refers to it: a file that was written for it is removed."""
        if self.storage_name:
            storages["messages"].delete(self.storage_name)


def prepare(content: BinaryIO | IO[bytes] | bytes, *, normalize_newlines: bool = False) -> PreparedBlob:
    """Everything about new content that can be done before the transaction; large content is on disk afterwards.

    ``content`` is bytes or a seekable file. ``normalize_newlines`` turns bare LF into CRLF. Raises StorageFull.
    """
    try:
        return _prepare(content, normalize_newlines)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"the disk of the message store is full: {exc}") from exc
        raise


def _prepare(content: BinaryIO | IO[bytes] | bytes, normalize_newlines: bool) -> PreparedBlob:
    limit: int = settings.MOX_BLOB_INLINE_MAX
    file: IO[bytes] = io.BytesIO(content) if isinstance(content, bytes) else content
    if normalize_newlines and _may_have_bare_lf(file):
        file = _with_crlf(file)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    data = file.read() if size <= limit else None
    storage_name = ""
    if data is not None:
        source: bytes | IO[bytes] = data
        digest = hashlib.sha256(data).digest()
    else:
        source = file
        digest = _digest(file)
        storage_name = storages["messages"].save(new_name(), File(file))
        faults.point("store.after_blob_fsync")
    try:
        part, error = message.ensure_part(source)
        structure = part.to_json()
        return PreparedBlob(
            size=size,
            sha256=digest,
            data=data,
            storage_name=storage_name,
            headerless=part.headerless,
            part=part,
            structure=structure,
            envelope=structure.get("envelope") or {},
            imap_envelope=imapformat.envelope(part.envelope),
            imap_bodystructure=imapformat.bodystructure(part),
            is_dsn=message.is_dsn(part),
            thread_keys=ThreadKeys.of(part.envelope),
            problem="" if error is None else str(error),
        )
    except BaseException:
        if storage_name:
            storages["messages"].delete(storage_name)
        raise


def insert(prepared: PreparedBlob, *, is_searched: bool = True) -> int:
    """Store the row for prepared content, in a transaction. Returns its id.

    ``is_searched``: it is of a message in a mailbox, and so gets a search text; mail that only passes through does not.
    """
    return rows.insert(
        Blob,
        {
            "size": prepared.size,
            "sha256": prepared.sha256,
            "data": prepared.data,
            "storage_name": prepared.storage_name,
            "headerless": prepared.headerless,
            "structure": prepared.structure,
            "structure_version": STRUCTURE_VERSION,
            "envelope": prepared.envelope,
            "imap_envelope": prepared.imap_envelope,
            "imap_bodystructure": prepared.imap_bodystructure,
            "text_due": is_searched,
            "created": datetime.now(UTC),
        },
    )


def _digest(file: IO[bytes]) -> bytes:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(CHUNK):
        digest.update(block)
    return digest.digest()


def _may_have_bare_lf(file: IO[bytes]) -> bool:
    """Whether a line may end in LF alone; false for nearly all messages, which need no copy then."""
    file.seek(0)
    # A CRLF that two chunks have a half of each is taken for a bare LF: what is converted for nothing stays as it is.
    return any(chunk.count(b"\n") != chunk.count(b"\r\n") for chunk in iter(lambda: file.read(CHUNK), b""))


def _with_crlf(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    converted: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=SPOOL_MAX)  # noqa: SIM115 # read by the caller
    for block in message.crlf_blocks(iter(lambda: file.read(CHUNK), b"")):
        converted.write(block)
    return converted
