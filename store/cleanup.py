"""What removes data for good: the eraser of tombstones, the collector of content, and the daily tidying."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from django.core.files.storage import FileSystemStorage, storages
from django.db.models import Exists, Max, OuterRef, QuerySet
from django.db.models.fields.reverse_related import ForeignObjectRel

from server import db
from server.models import ServerSettings

from . import index, rejects
from .db import write_tx
from .models import AccountState, Blob, ChangeEvent, Message
from .storage import TEMPORARY, UPLOADS

log = logging.getLogger(__name__)

BATCH: Final = 500  # rows per transaction: others wait for the writer
ERASE_AFTER: Final = timedelta(minutes=40)  # longer than the longest idle IMAP session, which may still fetch
COLLECT_AFTER: Final = timedelta(hours=1)  # content may be stored well before the row that refers to it
EVENTS_KEPT: Final = timedelta(hours=24)
TEMPORARY_KEPT: Final = timedelta(hours=24)


def erase_tombstones(now: datetime | None = None) -> int:
    """Take the data from messages that were expunged long enough ago. Returns how many."""
    before = (now or datetime.now(UTC)) - ERASE_AFTER
    due = Message.objects.filter(expunged=True, erased=False, expunged_at__lt=before, trained_junk=None)
    erased = 0
    while rows := list(due.values_list("id", "account_id")[:BATCH]):
        by_account: dict[int, list[int]] = defaultdict(list)
        for message_id, account_id in rows:
            by_account[account_id].append(message_id)
        with write_tx(*by_account):
            for account_id, ids in by_account.items():
                index.forget(account_id, ids)
                erased += Message.objects.filter(pk__in=ids).update(**_erased_columns())
    return erased


def _erased_columns() -> dict[str, object]:
    kept = {"id", "account", "mailbox", "uid", "create_modseq", "modseq", "thread_id", "expunged", "expunged_at"}
    values: dict[str, object] = {
        f.name: f.get_default() for f in Message._meta.local_concrete_fields if f.name not in kept | {"received"}
    }
    values["erased"] = True
    return values


def collect_blobs(now: datetime | None = None) -> int:
    """Delete content that no row points to, and content files that no row names. Returns how many."""
    before = (now or datetime.now(UTC)) - COLLECT_AFTER
    collected = 0
    last = 0
    while rows := list(_unused(before).filter(pk__gt=last).order_by("pk").values_list("pk", "storage_name")[:BATCH]):
        last = rows[-1][0]
        with db.write():
            # Asked again under the lock: a row may point to it by now.
            doomed = list(_unused(before).filter(pk__in=[pk for pk, _ in rows]).values_list("pk", "storage_name"))
            Blob.objects.filter(pk__in=[pk for pk, _ in doomed]).delete()
        for _, name in doomed:
            if name:
                storages["messages"].delete(name)
        collected += len(doomed)
    return collected + _collect_files(before)


def _unused(before: datetime) -> QuerySet[Blob]:
    query = Blob.objects.filter(created__lt=before)
    for relation in _references():
        condition = {relation.field.attname: OuterRef("pk")}
        query = query.exclude(Exists(relation.related_model._default_manager.filter(**condition)))
    return query


def _references() -> Iterator[ForeignObjectRel]:
    """The reverse relations of Blob, of higher packages too; its own text goes with it."""
    for field in Blob._meta.get_fields(include_hidden=True):
        if isinstance(field, ForeignObjectRel) and field.get_accessor_name() != "text":
            yield field


def files_directory() -> Path | None:
    """Where content is kept in files; None where it is kept elsewhere."""
    storage = storages["messages"]
    return Path(storage.location) if isinstance(storage, FileSystemStorage) else None


def _collect_files(before: datetime) -> int:
    """Files left by a crash between the file and its row, and temporary ones."""
    root = files_directory()
    if root is None or not root.is_dir():
        return 0
    removed = 0
    if (root / TEMPORARY).is_dir():
        removed += _remove_old(root / TEMPORARY, time.time() - TEMPORARY_KEPT.total_seconds())
    for name, path in files_without_rows(before):
        log.warning("content without a row is removed", extra={"content": name})
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            removed += 1
    return removed


def files_without_rows(before: datetime) -> Iterator[tuple[str, str]]:
    """Content files from before this time that no row names, as (name, path)."""
    root = files_directory()
    if root is None or not root.is_dir():
        return
    for directory in sorted(root.iterdir()):
        if not directory.is_dir() or directory.name in (UPLOADS, TEMPORARY):
            continue
        old = {f"{directory.name}/{e.name}": e.path for e in _old_files(directory, before.timestamp())}
        if not old:
            continue
        named = set(
            Blob.objects.filter(storage_name__startswith=f"{directory.name}/").values_list("storage_name", flat=True)
        )
        for name in sorted(old.keys() - named):
            yield name, old[name]


def _old_files(directory: Path, before: float) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return [entry for entry in entries if entry.is_file() and entry.stat().st_mtime < before]


def _remove_old(directory: Path, before: float) -> int:
    files = _old_files(directory, before)
    for entry in files:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry.path)
    return len(files)


def tidy(now: datetime | None = None) -> None:
    """Drop old events, rejects and tombstones (setting ``tombstone_days``); bring search indexes into shape."""
    now = now or datetime.now(UTC)
    rejects.tidy_all(now)
    while ids := list(ChangeEvent.objects.filter(created__lt=now - EVENTS_KEPT).values_list("pk", flat=True)[:BATCH]):
        with db.write():
            ChangeEvent.objects.filter(pk__in=ids).delete()
    for account_id in AccountState.objects.values_list("pk", flat=True):
        index.compact(account_id)
    days = ServerSettings.current().tombstone_days
    if days:
        for account_id in AccountState.objects.values_list("pk", flat=True):
            _delete_tombstones(account_id, now - timedelta(days=days))


def _delete_tombstones(account_id: int, before: datetime) -> None:
    old = Message.objects.filter(account_id=account_id, erased=True, expunged_at__lt=before)
    while ids := list(old.order_by("modseq").values_list("pk", flat=True)[:BATCH]):
        with write_tx(account_id) as tx:
            account = tx.accounts.get(account_id)
            if account is None:
                return  # it is being removed
            batch = Message.objects.filter(pk__in=ids)
            highest = batch.aggregate(highest=Max("modseq"))["highest"]
            account.raise_highest_deleted(highest)
            batch.delete()
