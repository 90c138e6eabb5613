"""Whether all that is stored is there and whole: the database itself, content and its files, every account.

for finding in findings(hashes=True):
    print(finding)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from django.core.files.storage import storages
from django.db import connection

from accounts.models import Account, DKIMSelector, RemovedKey, Transport, WebhookEndpoint
from server.encryption import CannotDecrypt

from . import checks, cleanup, content
from .errors import ContentError
from .models import Blob

BATCH: Final = 500
MOVED: Final = "moved"  # directory, beside the one with content, for what nothing refers to
LEFT_AFTER: Final = timedelta(hours=3)  # the collector should have come by then


def findings(*, sizes: bool = True, hashes: bool = False, accounts: Iterable[Account] | None = None) -> Iterator[str]:
    """Everything that is wrong, a line each; with the command that mends it where there is one.

    ``sizes``: look at content files at all; ``hashes``: read all content; ``accounts``: only these.
    """
    yield from _database()
    yield from _blobs(sizes=sizes, hashes=hashes)
    yield from _secrets()
    for account in Account.objects.order_by("name") if accounts is None else accounts:
        yield from checks.check_account(account, files=sizes)
    for name in unreferenced_files():
        yield f"content file {name} belongs to nothing: mox verifydata --fix moves it away"


def move_unreferenced() -> list[str]:
    """Move content files that nothing refers to into a directory of their own; their names."""
    root = cleanup.files_directory()
    moved = []
    for name in unreferenced_files():
        assert root is not None  # there are files
        target = root.parent / MOVED / Path(name).name
        target.parent.mkdir(mode=0o750, exist_ok=True)
        (root / name).rename(target)
        moved.append(name)
    return moved


def unreferenced_files() -> list[str]:
    """Content files without a row that the hourly clean-up should have removed."""
    before = datetime.now(UTC) - LEFT_AFTER
    return [name for name, _ in cleanup.files_without_rows(before)]


def _database() -> Iterator[str]:
    """Integrity of pages, indexes and foreign keys, which PostgreSQL keeps by itself."""
    if connection.vendor != "sqlite":
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA integrity_check(20)")
        for (line,) in cursor.fetchall():
            if line != "ok":
                yield f"database: {line}"
        cursor.execute("PRAGMA foreign_key_check")
        for table, row_id, parent, _ in cursor.fetchmany(checks.LINES_PER_KIND):
            yield f"database: row {row_id} of {table} refers to a row of {parent} that does not exist"


def _blobs(*, sizes: bool, hashes: bool) -> Iterator[str]:
    """Content of the queue and of imports, too, whoever's it is."""
    last = 0
    columns = ("pk", "size", "sha256", "storage_name")
    while rows := list(Blob.objects.filter(pk__gt=last).order_by("pk").values_list(*columns)[:BATCH]):
        last = rows[-1][0]
        for pk, size, sha256, name in rows:
            if hashes:
                yield from _hash(pk, size, bytes(sha256))
            elif name and sizes:
                yield from _size(pk, size, name)


def _size(pk: int, size: int, name: str) -> Iterator[str]:
    try:
        stored = storages["messages"].size(name)
    except OSError as exc:
        yield f"blob {pk}: content {name} cannot be read: {exc}"
        return
    if stored != size:
        yield f"blob {pk}: content {name} has {stored} bytes, its row says {size}: mox store fixmsgsize"


def _hash(pk: int, size: int, sha256: bytes) -> Iterator[str]:
    row = Blob.objects.filter(pk=pk).values_list("data", "storage_name").first()
    if row is None:
        return  # collected meanwhile
    digest = hashlib.sha256()
    try:
        with content.blob_reader(pk, size, *row) as reader:
            for block in reader.chunks(chunk=1 << 20):
                digest.update(block)
            if row[1] and storages["messages"].size(row[1]) != size:
                yield f"blob {pk}: content {row[1]} is longer than its row says, {size} bytes: mox store fixmsgsize"
                return
    except ContentError as exc:
        yield f"{exc}"
        return
    if digest.digest() != sha256:
        yield f"blob {pk}: content has changed since it was stored: restore {row[1] or 'the database'} from a backup"


def _secrets() -> Iterator[str]:
    """Secrets that the keys of this installation do not open."""
    for model, name_column, what in (
        (DKIMSelector, "name", "DKIM key"),
        (RemovedKey, "name", "removed DKIM key"),
        (Transport, "name", "password"),
        (WebhookEndpoint, "account__name", "authorization of a webhook of account"),
    ):
        for pk, name in model._default_manager.values_list("pk", name_column):
            try:
                model._default_manager.get(pk=pk)
            except CannotDecrypt as exc:
                yield f"{what} {name}: {exc}"
