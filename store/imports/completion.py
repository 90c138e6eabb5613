"""Phase 2: one transaction in which everything that was staged appears, with one modification sequence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db import connection
from django.db.models import Count, Q, Sum
from prometheus_client import Counter

from server import db, faults
from server.statements import run
from store import mailboxes, messages
from store.db import AccountTx, Counts, write_tx
from store.models import ImportItem, ImportJob, ImportMailbox, ImportRecipient, Message, Recipient
from store.rows import update

from .jobs import Lease, State

ROWS_A_SECOND: Final = 5_000  # that even a slow machine inserts: for so long the lease lasts

imported_total = Counter("mox_store_import_messages", "Messages that imports have brought.")

_STAGED: Final = {f.attname for f in ImportItem._meta.local_concrete_fields} - {"id", "mailbox_id"}


def complete(job: ImportJob, lease: Lease) -> None:
    """Make a staged import visible, all of it or nothing. Raises Stopped, OverQuota and other StoreErrors."""
    with db.write():
        lasting = timedelta(seconds=60 + job.messages // ROWS_A_SECOND)
        lease.keep(lasting=lasting, completing=True, step="adding messages to mailboxes")
    db.retrying(lambda: _transact(job, lease))
    imported_total.inc(job.messages)
    faults.point("store.import_completed")


def _transact(job: ImportJob, lease: Lease) -> None:
    with write_tx(job.account_id) as tx:
        lease.keep(state=State.DONE, completing=False, step="", finished=db.now())
        _add(tx.account(job.account_id), job)
        faults.point("store.import_before_commit")


def _add(tx: AccountTx, job: ImportJob) -> None:
    messages.check_quota(tx, job.size)
    counts_of = _counts(job)
    staged_mailboxes = list(ImportMailbox.objects.filter(job=job).order_by("name"))
    mailbox_of = mailboxes.ensure_all(tx, (staged.name for staged in staged_mailboxes))
    for staged in staged_mailboxes:
        mailbox = mailbox_of[staged.name]
        counts = counts_of.get(staged.pk)
        first_uid = None
        if counts is not None:
            first_uid = tx.take_uids(mailbox, staged.messages)
            messages.merge_keywords(tx, mailbox, staged.keywords)
            tx.count(mailbox, counts)
        update(ImportMailbox, staged.pk, {"target_id": mailbox.pk, "first_uid": first_uid})
    if job.messages:
        _insert_messages(tx, job)
        _insert_recipients(tx, job)


def _counts(job: ImportJob) -> dict[int, Counts]:
    """What the messages of each staged mailbox add to its counts."""
    rows = (
        ImportItem.objects.filter(job=job)
        .values("mailbox_id")
        .annotate(
            total=Count("pk", filter=Q(deleted=False)),
            marked=Count("pk", filter=Q(deleted=True)),
            unread=Count("pk", filter=Q(seen=False, deleted=False)),
            unseen=Count("pk", filter=Q(seen=False)),
            bytes=Sum("size"),
        )
    )
    return {
        row["mailbox_id"]: Counts(row["total"], row["marked"], row["unread"], row["unseen"], row["bytes"])
        for row in rows.order_by()
    }


def _insert_messages(tx: AccountTx, job: ImportJob) -> None:
    given: dict[str, Any] = {
        "account_id": tx.account_id,
        "create_modseq": tx.modseq(),
        "modseq": tx.modseq(),
        "save_date": datetime.now(UTC),
    }
    expressions = {
        "id": "i.message_pk",
        "uid": "m.first_uid + i.number",
        "mailbox_id": "m.target_id",
        "mailbox_orig_id": "m.target_id",
    }
    quote = connection.ops.quote_name
    columns: list[str] = []
    values: list[str] = []
    params: list[Any] = []
    for field in Message._meta.local_concrete_fields:
        columns.append(quote(field.column or field.attname))
        if field.attname in expressions:
            values.append(expressions[field.attname])
        elif field.attname in _STAGED:
            values.append(f"i.{quote(field.column or field.attname)}")
        else:
            values.append("%s")
            value = given[field.attname] if field.attname in given else field.get_default()
            params.append(field.get_db_prep_save(value, connection))
    run(
        f"INSERT INTO {_table(Message)} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608 # our own columns
        f" FROM {_table(ImportItem)} i JOIN {_table(ImportMailbox)} m ON m.id = i.mailbox_id"
        " WHERE i.job_id = %s ORDER BY i.seq",
        [*params, job.pk],
    )


def _insert_recipients(tx: AccountTx, job: ImportJob) -> None:
    run(
        f"INSERT INTO {_table(Recipient)} (account_id, message_id, localpart, domain, org_domain, sent)"  # noqa: S608 # as above
        " SELECT %s, i.message_pk, r.localpart, r.domain, r.org_domain, r.sent"
        f" FROM {_table(ImportItem)} i JOIN {_table(ImportRecipient)} r ON r.item_id = i.id WHERE i.job_id = %s",
        [tx.account_id, job.pk],
    )


def _table(
    model: type[Message] | type[ImportItem] | type[ImportMailbox] | type[Recipient] | type[ImportRecipient],
) -> str:
    return connection.ops.quote_name(model._meta.db_table)
