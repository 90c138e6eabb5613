"""Imports whose workers die at the worst moments, are aborted or taken over: all of it appears once, or nothing."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.core.files.storage import storages
from django.db import connection

from accounts.models import Account
from server import db
from store import checks, cleanup
from store.columns import BITS
from store.imports import jobs, work
from store.imports.jobs import ImportRefused, Lease
from store.models import Blob, ImportItem, ImportJob, ImportMailbox, ImportRecipient, Mailbox, Message

from .importing import free_lease, imported, mail, mbox, names, run, subjects, tgz, upload

pytestmark = pytest.mark.database

POINTS = [
    "store.import_before_staged:2",
    "store.import_staged:1",
    "store.import_staged:3",
    "store.import_keywords",
    "store.import_linked",
    "store.import_before_commit",
]
MESSAGES = 35
AFTER_COMMIT = ["store.import_completed", "store.import_discarded_batch"]


def archive() -> bytes:
    """Messages with threads, keywords and recipients: four batches."""
    files: dict[str, bytes | None] = {
        "Lists.mbox": mbox(
            *(mail(f"Re: {n}", f"Message-ID: <a{n}@x>", f"References: <a{n + 1}@x>") for n in range(12)),
            mail("Re: 11", "Message-ID: <a12@x>"),
        ),
    }
    for number in range(14):
        files[f"Dir/cur/{number}.1:2,{'Sa' if number % 2 else 'b'}"] = mail(f"{number}")
    files["Dir/dovecot-keywords"] = b"0 todo\n1 $Forwarded\n"
    files["Sent.mbox"] = mbox(*(mail(f"sent {n}", "To: bo@example.org") for n in range(8)))
    return tgz(files)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.imports.staging.BATCH_MESSAGES", 10)
    monkeypatch.setattr("store.imports.jobs.BATCH", 10)


@pytest.fixture(scope="module")
def the_archive() -> bytes:
    return archive()


def state(account: Account) -> list[tuple[Any, ...]]:
    """Everything that an import decides about messages, without ids."""
    columns = ("mailbox__name", "uid", "subject_base", BITS, "keywords", "received", "thread_missing_link")
    rows = list(
        Message.objects.filter(account=account)
        .order_by("pk")
        .values_list("pk", "thread_id", "thread_parent_ids", *columns)
    )
    order = {row[0]: number for number, row in enumerate(rows)}
    return [(order[thread], [order[parent] for parent in parents], *rest) for _, thread, parents, *rest in rows]


@pytest.fixture
def expected(new_account: Callable[[], Account], the_archive: bytes) -> list[tuple[Any, ...]]:
    """What an import has made that nothing interrupted."""
    account = new_account()
    imported(account, the_archive)
    found = state(account)
    assert len(found) == MESSAGES
    return found


def die_at(point: str, job: ImportJob) -> None:
    """Have a worker process work on the job and be killed there."""
    free_lease(job)
    connection.close()
    pid = os.fork()
    if not pid:
        try:
            settings.MOX_FAULT = point
            lease = jobs._claim(job)
            assert lease is not None
            work.work(job, lease)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"the worker ended without passing {point}"
    assert os.WTERMSIG(status) == signal.SIGKILL


def nothing_of(account: Account, job: ImportJob) -> bool:
    return (
        not Message.objects.filter(account=account).exists()
        and names(account) == set()
        and not ImportItem.objects.filter(job=job).exists()
        and not ImportRecipient.objects.filter(item__job=job).exists()
        and not storages["messages"].exists(f"imports/{job.token}")
    )


@pytest.mark.parametrize("point", [*POINTS, *AFTER_COMMIT])
def test_another_worker_goes_on(
    account: Account, the_archive: bytes, expected: list[tuple[Any, ...]], point: str
) -> None:
    job = upload(account, the_archive)
    die_at(point, job)
    if point in AFTER_COMMIT:
        job.refresh_from_db()
        assert job.state == "done"
        jobs.tidy()
    else:
        assert not Message.objects.filter(account=account).exists()
        assert names(account) == set()
        assert run(job).state == "done"
    assert state(account) == expected
    assert not ImportItem.objects.filter(job=job).exists()
    assert not storages["messages"].exists(f"imports/{job.token}")
    assert ImportMailbox.objects.filter(job=job).count() == 3


def test_workers_that_die_again_and_again_lose_nothing(
    account: Account, the_archive: bytes, expected: list[tuple[Any, ...]]
) -> None:
    job = upload(account, the_archive)
    for point in (
        "store.import_staged:1",
        "store.import_staged:1",
        "store.import_linked",
        "store.import_before_commit",
    ):
        die_at(point, job)
    assert run(job).state == "done"
    assert state(account) == expected


@pytest.mark.parametrize("point", POINTS)
def test_an_abort_leaves_nothing(account: Account, the_archive: bytes, point: str) -> None:
    job = upload(account, the_archive)
    die_at(point, job)
    if point == "store.import_before_commit":
        with pytest.raises(ImportRefused, match="import is being completed"):
            jobs.abort(job.token)
        assert run(job).state == "done"
        with pytest.raises(ImportRefused, match="import already finished"):
            jobs.abort(job.token)
        return
    jobs.abort(job.token)
    assert nothing_of(account, job)
    with pytest.raises(ImportRefused, match="import already finished"):
        jobs.abort(job.token)
    blobs = set(Blob.objects.values_list("pk", flat=True))
    cleanup.collect_blobs(db.now() + timedelta(hours=2))
    assert blobs - set(Blob.objects.values_list("pk", flat=True))
    assert imported(account, tgz({"A.mbox": mbox(mail("x"))})).state == "done"


def test_an_abort_stops_the_worker(account: Account, the_archive: bytes) -> None:
    job = upload(account, the_archive)
    lease = claim(job)

    def abort(job: ImportJob) -> None:
        jobs.abort(job.token)

    work.work(job, lease, progress=abort)
    assert ImportJob.objects.get(pk=job.pk).state == "aborted"
    assert nothing_of(account, job)


def claim(job: ImportJob) -> Lease:
    free_lease(job)
    lease = jobs._claim(job)
    assert lease is not None
    return lease


def test_a_worker_whose_lease_ran_out_leaves_the_job_to_the_other(
    account: Account, the_archive: bytes, expected: list[tuple[Any, ...]]
) -> None:
    job = upload(account, the_archive)
    lease = claim(job)
    taken: list[int] = []

    def take_over(job: ImportJob) -> None:
        if not taken:
            other = ImportJob.objects.get(pk=job.pk)
            taken.append(other.messages)
            work.work(other, claim(other))

    work.work(job, lease, progress=take_over)
    assert taken[0] > 0
    assert state(account) == expected


def test_a_worker_that_fails_after_its_lease_ran_out_ends_nothing(
    account: Account, the_archive: bytes, expected: list[tuple[Any, ...]]
) -> None:
    job = upload(account, the_archive)

    def lose_it(job: ImportJob) -> None:
        claim(job)
        raise OSError("the disk is broken")

    work.work(job, claim(job), progress=lose_it)
    job.refresh_from_db()
    assert (job.state, job.messages) == ("running", 10)
    assert run(job).state == "done"
    assert state(account) == expected


def test_a_worker_whose_source_breaks_leaves_nothing(account: Account, the_archive: bytes) -> None:
    job = upload(account, the_archive)

    def break_it(job: ImportJob) -> None:
        raise OSError("the disk is broken")

    work.work(job, claim(job), progress=break_it)
    job.refresh_from_db()
    assert (job.state, job.error) == ("aborted", "source cannot be read: the disk is broken")
    assert nothing_of(account, job)


def test_nobody_sees_an_import_that_is_under_way(account: Account, the_archive: bytes) -> None:
    job = upload(account, the_archive)
    before = Mailbox.objects.filter(account=account).values_list("name", "modseq", "uidnext", "total")
    seen = list(before)
    die_at("store.import_linked", job)
    assert list(before.all()) == seen
    assert checks.check_account(account) == []
    jobs.abort(job.token)


def test_the_worker_finds_jobs_by_itself(account: Account) -> None:
    job = upload(account, tgz({"A.mbox": mbox(mail("x"))}))
    assert work.work_on_due() >= 1
    job.refresh_from_db()
    assert job.state == "done"
    assert subjects(account, "A") == ["x"]


def test_a_process_that_ends_leaves_the_job_at_once(
    account: Account, the_archive: bytes, expected: list[tuple[Any, ...]]
) -> None:
    job = upload(account, the_archive)
    lease = claim(job)
    try:
        work.work(job, lease, progress=lambda job: jobs.stop())
        assert jobs.claim_next() is None
    finally:
        jobs._stopping.clear()
    job.refresh_from_db()
    assert 0 < job.messages < MESSAGES
    assert job.lease_until <= db.now()
    assert run(job).state == "done"
    assert state(account) == expected


def test_a_job_that_takes_workers_down_is_given_up(account: Account) -> None:
    job = upload(account, tgz({"A.mbox": mbox(mail("x"))}))
    for _ in range(jobs.TRIES_MAX):
        claim(job)
    free_lease(job)
    assert jobs._claim(job) is None
    job.refresh_from_db()
    assert (job.state, job.error) == ("aborted", "import was given up after 5 workers died of it: see their logs")


def test_jobs_that_nobody_goes_on_with_end_after_a_day(account: Account, new_account: Callable[[], Account]) -> None:
    job = upload(account, tgz({"A.mbox": mbox(mail("x"))}))
    uploading = upload(new_account(), tgz({"A.mbox": mbox(mail("x"))}))
    with db.write():
        ImportJob.objects.filter(pk=uploading.pk).update(state="uploading", lease_until=db.now())
    jobs.give_up_stale(db.now() + timedelta(hours=1))
    job.refresh_from_db()
    uploading.refresh_from_db()
    assert job.state == "running"
    assert (uploading.state, uploading.error) == ("aborted", "upload broke off")
    jobs.give_up_stale(db.now() + timedelta(hours=25))
    job.refresh_from_db()
    assert (job.state, job.error) == ("aborted", "nobody could go on with it for 24 hours")
    assert nothing_of(account, job)


def test_jobs_are_forgotten_after_a_week(account: Account) -> None:
    job = imported(account, tgz({"A.mbox": mbox(mail("x"))}))
    jobs.tidy()
    assert ImportJob.objects.filter(pk=job.pk).exists()
    jobs.tidy(db.now() + timedelta(days=8))
    assert not ImportJob.objects.filter(pk=job.pk).exists()
    assert subjects(account, "A") == ["x"]


def test_the_collector_leaves_uploads_alone(account: Account) -> None:
    job = upload(account, tgz({"A.mbox": mbox(mail("x"))}))
    cleanup.collect_blobs(db.now() + timedelta(hours=2))
    assert run(job).state == "done"


def test_what_is_unknown_cannot_be_aborted(account: Account, new_account: Callable[[], Account]) -> None:
    job = upload(account, tgz({"A.mbox": mbox(mail("x"))}))
    with pytest.raises(ImportRefused, match="import not found"):
        jobs.abort("0" * 32)
    with pytest.raises(ImportRefused, match="import not found"):
        jobs.abort(job.token, new_account().pk)
    jobs.abort(job.token, account.pk)


def test_an_upload_that_fails_leaves_nothing(account: Account) -> None:
    class Broken(io.BytesIO):
        broken = False

        def read(self, size: int | None = -1) -> bytes:
            if self.broken and self.tell() > 100:
                raise OSError("the disk is broken")
            return super().read(size)

    file = Broken(tgz({"A.mbox": mbox(mail("x"))}) + bytes(600_000))
    original = jobs._create

    def break_it(*args: Any, **kwargs: Any) -> ImportJob:
        file.broken = True
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "_create", break_it)
        with pytest.raises(OSError, match="the disk is broken"):
            jobs.import_archive(account.pk, file)
    job = ImportJob.objects.get(account=account)
    assert (job.state, job.error) == ("aborted", "upload failed")
    assert nothing_of(account, job)
