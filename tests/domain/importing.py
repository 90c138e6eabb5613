"""What tests of imports share: archives made of a few lines, and what an account holds afterwards."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from accounts.models import Account
from server import db
from store import content, flags, mailboxes
from store.columns import BITS
from store.db import write_tx
from store.imports import jobs, work
from store.models import ImportItem, ImportJob, Mailbox, Message

RECEIVED = datetime(2024, 3, 5, 10, 11, 12, tzinfo=UTC)


def mail(subject: str, *fields: str, body: str = "hello\n") -> bytes:
    """A message whose lines end in LF."""
    return "".join(f"{line}\n" for line in (f"Subject: {subject}", *fields, "")).encode() + body.encode()


def mbox(*messages: bytes) -> bytes:
    return b"".join(b"From ada@example.org Tue Mar  5 10:11:12 2024\n" + message + b"\n" for message in messages)


def tgz(files: Mapping[str, bytes | None]) -> bytes:
    """A gzipped tar; None is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
            info.size = len(data or b"")
            info.mtime = RECEIVED.timestamp()
            made.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes | None]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in files.items():
            made.writestr(f"{name}/" if data is None else name, data or b"")
    return buffer.getvalue()


def upload(account: Account, archive: bytes, prefix: str = "") -> ImportJob:
    return jobs.import_archive(account.pk, io.BytesIO(archive), prefix)


def run(job: ImportJob) -> ImportJob:
    """Have a worker bring the job to its end, whatever other tests left."""
    free_lease(job)
    for _ in range(20):
        job.refresh_from_db()
        if job.state != ImportJob.State.RUNNING:
            return job
        claimed = jobs._claim(job)
        assert claimed is not None
        work.work(job, claimed)
    raise AssertionError(f"the import does not end: {job.step}")


def free_lease(job: ImportJob) -> None:
    """Whoever held the job is dead for long enough."""
    with db.write():
        ImportJob.objects.filter(pk=job.pk).update(lease_until=db.now() - timedelta(seconds=1))


def imported(account: Account, archive: bytes, prefix: str = "") -> ImportJob:
    job = run(upload(account, archive, prefix))
    assert not ImportItem.objects.filter(job=job).exists()
    return job


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as it is in the account."""

    uid: int
    flags: frozenset[str]
    received: datetime
    content: bytes


def messages(account: Account, mailbox: str) -> list[Stored]:
    """The messages of a mailbox by UID."""
    rows = Message.objects.filter(account=account, mailbox__name=mailbox, expunged=False).order_by("uid")
    found = []
    for pk, uid, bits, keywords, received in rows.values_list("pk", "uid", BITS, "keywords", "received"):
        with content.message_reader(pk) as reader:
            words = frozenset(flags.words(bits, keywords).decode().split())
            found.append(Stored(uid, words, received, reader.read()))
    return found


def subjects(account: Account, mailbox: str) -> list[str]:
    return [
        stored.content.split(b"\r\n")[0].removeprefix(b"Subject: ").decode() for stored in messages(account, mailbox)
    ]


def names(account: Account) -> set[str]:
    """The mailboxes that the account did not have from the start."""
    found = set(Mailbox.objects.filter(account=account, expunged=False).values_list("name", flat=True))
    return found - {"Inbox", "Sent", "Archive", "Trash", "Drafts", "Junk"}


def make_mailbox(account: Account, name: str) -> None:
    with write_tx(account.pk) as tx:
        mailboxes.ensure(tx.account(account.pk), name)
