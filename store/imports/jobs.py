"""Import jobs: making them, their leases, how they end. A job is worked on by whoever holds its lease."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, Final

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import storages
from django.db import IntegrityError, transaction
from django.db.models import F, Q, QuerySet

from protocols.archives import ArchiveError
from protocols.archives import members as archive_members
from server import db, faults
from store.errors import StoreError
from store.models import ImportItem, ImportJob, ImportMailbox, ImportRecipient
from store.rows import delete_where
from store.storage import UPLOADS

log = logging.getLogger(__name__)

LEASE: Final = timedelta(seconds=60)  # far above the time between two signs of life of a busy worker
RENEW_SECONDS: Final = 10.0  # between signs of life while nothing is staged, say in a large file that is skipped
GIVEN_UP_AFTER: Final = timedelta(hours=24)  # nobody could take it up: the node that has its source is gone
TRIES_MAX: Final = 5  # workers that a job may take down with it without getting on
KEPT: Final = timedelta(days=7)  # jobs that are over, for who looks at them later
PROBLEMS_MAX: Final = 1000  # texts kept of a job
PROBLEM_MAX: Final = 400  # characters of one
BATCH: Final = 500  # rows deleted in one transaction

State = ImportJob.State
_ACTIVE: Final = (State.UPLOADING, State.RUNNING)


class ImportRefused(StoreError):
    """There is no such import, or what was asked for is not possible now."""


class Stopped(Exception):
    """The worker no longer has the job: it was aborted, or another worker took it up."""


class Stopping(Exception):
    """The process ends, and another worker is to go on."""


_stopping = threading.Event()


def stop() -> None:
    """This process ends: whoever works on a job in it finds out at its next step."""
    _stopping.set()


@dataclass(slots=True)
class Lease:
    """One worker's hold on a job, until ``LEASE`` after its last sign of life."""

    job_id: int
    token: uuid.UUID
    _renewed: float = field(default_factory=time.monotonic)

    def keep(self, *, lasting: timedelta = LEASE, **changes: Any) -> None:
        """Change columns of the job, inside a transaction. Raises Stopped; then nothing of the transaction may stay."""
        held = ImportJob.objects.filter(pk=self.job_id, lease_token=self.token, state=State.RUNNING)
        if not held.update(lease_until=db.now() + lasting, **changes):
            raise Stopped
        self._renewed = time.monotonic()

    def renew_if_due(self) -> None:
        """A sign of life, where some time has passed since the last one. Raises Stopped, Stopping."""
        if _stopping.is_set():
            raise Stopping
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            with db.write():
                self.keep()

    def release(self, wait: timedelta = timedelta(0)) -> None:
        """Let another worker go on with it, after a while."""
        with db.write():
            held = ImportJob.objects.filter(pk=self.job_id, lease_token=self.token, state=State.RUNNING)
            held.update(lease_until=db.now() + wait, lease_token=None)


def import_archive(account_id: int, file: IO[bytes], skip_mailbox_prefix: str = "") -> ImportJob:
    """Keep an uploaded archive and have a worker import it; ``file`` is seekable.

    Raises ImportRefused: no archive, too large, or an import of the account is in progress.
    """
    size = file.seek(0, 2)
    if size > settings.MOX_IMPORT_MAX:
        raise ImportRefused(f"file has {size} bytes, at most {settings.MOX_IMPORT_MAX} can be imported")
    try:
        archive_members(file)
    except ArchiveError as exc:
        raise ImportRefused(str(exc)) from exc
    token = secrets.token_hex(16)
    job = _create(account_id, token, state=State.UPLOADING, source=f"{UPLOADS}/{token}", prefix=skip_mailbox_prefix)
    lease = job.lease_token
    try:
        storages["messages"].save(job.source, _Alive(file, job))
        with db.write():
            changed = ImportJob.objects.filter(pk=job.pk, lease_token=lease, state=State.UPLOADING).update(
                state=State.RUNNING, lease_token=None, lease_until=db.now()
            )
            if changed:
                wake()
        if not changed:
            raise ImportRefused("import was aborted while it was uploaded")
    except BaseException:
        _end(ImportJob.objects.filter(pk=job.pk, state__in=_ACTIVE), "upload failed")
        discard(job)
        raise
    job.refresh_from_db()
    return job


def import_path(
    account_id: int, format: ImportJob.Format, path: Path, *, mailbox: str = "", skip_mailbox_prefix: str = ""
) -> tuple[ImportJob, Lease]:
    """A job for what is in the file system here, held by the caller. One that was interrupted is taken up again.

    Raises ImportRefused.
    """
    source = str(path.resolve())
    wanted = {"format": format, "source": source, "mailbox": mailbox, "skip_mailbox_prefix": skip_mailbox_prefix}
    interrupted = ImportJob.objects.filter(account_id=account_id, node=settings.MOX.node, state=State.RUNNING, **wanted)
    for job in interrupted:
        lease = _claim(job)
        if lease is not None:
            return job, lease
    job = _create(account_id, secrets.token_hex(16), state=State.RUNNING, node=settings.MOX.node, prefix="", **wanted)
    assert job.lease_token is not None
    return job, Lease(job.pk, job.lease_token)


def _create(account_id: int, token: str, *, prefix: str, **columns: Any) -> ImportJob:
    now = db.now()
    give_up_stale(now, account_id)
    columns.setdefault("skip_mailbox_prefix", prefix)
    try:
        with db.write():
            return ImportJob.objects.create(
                account_id=account_id,
                token=token,
                created=now,
                lease_until=now + LEASE,
                lease_token=uuid.uuid4(),
                **columns,
            )
    except IntegrityError as exc:
        raise ImportRefused("import already in progress") from exc


class _Alive(File):  # type: ignore[type-arg] # generic in the stubs alone
    """A file that is read for a job: reading it is a sign of life of an upload."""

    def __init__(self, file: IO[bytes], job: ImportJob) -> None:
        super().__init__(file)
        self._read = file.read
        self._job = job
        self._renewed = time.monotonic()

    def read(self, length: int = -1) -> bytes:
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self._renewed = time.monotonic()
            with db.write():
                uploading = ImportJob.objects.filter(pk=self._job.pk, state=State.UPLOADING)
                if not uploading.update(lease_until=db.now() + LEASE):
                    raise ImportRefused("import was aborted while it was uploaded")
        return self._read(length)


def claim_next() -> tuple[ImportJob, Lease] | None:
    """A job that nobody works on, and that can be worked on here; None where there is none."""
    if _stopping.is_set():
        return None
    for job in ImportJob.objects.filter(state=State.RUNNING, lease_until__lte=db.now()).order_by("pk"):
        # What a command of another user left may be readable for that user alone: it can be given again.
        if job.node and not (job.node == settings.MOX.node and os.access(job.source, os.R_OK)):
            continue
        lease = _claim(job)
        if lease is not None:
            return job, lease
    return None


def _claim(job: ImportJob) -> Lease | None:
    token = uuid.uuid4()
    now = db.now()
    with db.write():
        free = ImportJob.objects.filter(pk=job.pk, state=State.RUNNING, lease_until__lte=now)
        if not free.update(lease_token=token, lease_until=now + LEASE, tries=F("tries") + 1):
            return None
    job.refresh_from_db()
    lease = Lease(job.pk, token)
    if job.tries > TRIES_MAX:
        fail(job, lease, f"import was given up after {TRIES_MAX} workers died of it: see their logs")
        return None
    return lease


def abort(token: str, account_id: int | None = None) -> ImportJob:
    """End an import, of which nothing stays; only one of this account, if it is given. Raises ImportRefused."""
    jobs = ImportJob.objects.filter(token=token)
    if account_id is not None:
        jobs = jobs.filter(account_id=account_id)
    job = jobs.first()
    if job is None:
        raise ImportRefused("import not found")
    if not _end(ImportJob.objects.filter(pk=job.pk, state__in=_ACTIVE, completing=False), ""):
        job.refresh_from_db()
        if job.state in _ACTIVE:
            raise ImportRefused("import is being completed")
        raise ImportRefused("import already finished")
    discard(job)
    job.refresh_from_db()
    return job


def fail(job: ImportJob, lease: Lease, error: str) -> None:
    """End a job that this worker holds, telling why; one that another worker took up is left to that."""
    if _end(ImportJob.objects.filter(pk=job.pk, lease_token=lease.token, state=State.RUNNING), error):
        log.info("import failed", extra={"import": job.token, "err": error})
        discard(job)


def _end(jobs: QuerySet[ImportJob], error: str) -> int:
    with db.write():
        return jobs.update(
            state=State.ABORTED, completing=False, error=error, step="", finished=db.now(), lease_token=None
        )


def discard(job: ImportJob) -> None:
    """Remove what a job that is over has staged, in batches, and its upload; content is left to the collector."""
    items = ImportItem.objects.filter(job_id=job.pk).order_by("seq")
    while ids := list(items.values_list("pk", flat=True)[:BATCH]):
        with db.write():
            delete_where(ImportRecipient, {"item_id": ids})
            delete_where(ImportItem, {"id": ids})
        faults.point("store.import_discarded_batch")
    if job.source and not job.node:
        storages["messages"].delete(job.source)
    with db.write():
        ImportJob.objects.filter(pk=job.pk).update(source="")


def give_up_stale(now: datetime | None = None, account_id: int | None = None) -> None:
    """End uploads that broke off, and jobs that nobody took up for a day; of one account, or of all."""
    now = now or db.now()
    stale = ImportJob.objects.filter(
        Q(state=State.UPLOADING, lease_until__lt=now) | Q(state=State.RUNNING, lease_until__lt=now - GIVEN_UP_AFTER)
    )
    for job in stale if account_id is None else stale.filter(account_id=account_id):
        text = "upload broke off" if job.state == State.UPLOADING else "nobody could go on with it for 24 hours"
        if _end(stale.filter(pk=job.pk), text):
            discard(job)


def tidy(now: datetime | None = None) -> None:
    """End what is stale, finish removals that were interrupted, and drop jobs that were over a week ago."""
    now = now or db.now()
    give_up_stale(now)
    over = ImportJob.objects.exclude(state__in=_ACTIVE)
    for job in over.exclude(source=""):
        discard(job)
    for job in over.filter(finished__lt=now - KEPT):
        _remove(job)


def remove_all(account_id: int) -> None:
    """The account is being removed: its imports end, and nothing of them stays."""
    for job in ImportJob.objects.filter(account_id=account_id):
        _end(ImportJob.objects.filter(pk=job.pk, state__in=_ACTIVE), "account was removed")
        _remove(job)


def _remove(job: ImportJob) -> None:
    discard(job)
    with db.write():
        ImportMailbox.objects.filter(job=job).delete()
        job.delete()


def wake() -> None:
    """Wake a worker once the transaction under way is committed; one that is not woken finds the job by the clock."""

    def publish() -> None:
        from store.tasks import work_on_imports

        try:
            work_on_imports.apply_async(retry=False)
        except Exception as exc:  # whatever the broker's client raises
            log.warning("workers are not woken: the broker is away", extra={"err": str(exc)})

    # In a thread: a broker that is away lets its clients wait for seconds.
    transaction.on_commit(lambda: threading.Thread(target=publish, name="import-wakeup", daemon=True).start())
