"""Modification sequences are in commit order: a reader that polls the feed while processes write misses nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from accounts.models import Account
from store import changes, reading

pytestmark = pytest.mark.database

PROCESSES = 4
CHANGES = 60

WRITER = """
import sys, django
django.setup()
from store import blobs, delivery, messages
from store.db import write_tx
from store.flags import Flags
account, process, count = map(int, sys.argv[1:])
print("started", flush=True)
sys.stdin.readline()
for number in range(count):
    prepared = blobs.prepare(b"Subject: %d/%d\\r\\n\\r\\n" % (process, number))
    with write_tx(account) as tx:
        placement = delivery.deliver(tx, delivery.Delivery(account, "", messages.NewMessage(prepared)))
    with write_tx(account) as tx:
        mine = tx.account(account)
        inbox = mine.mailbox(placement.mailbox_id)
        if number % 3:
            messages.mark_seen(mine, inbox, [placement.uid])
        else:
            messages.remove(mine, inbox, [placement.uid])
"""


def test_a_polling_reader_collects_the_final_state(account: Account) -> None:
    opened = reading.open_mailbox(account.pk, "Inbox")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(account.pk), str(number), str(CHANGES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    seen: dict[int, int] = {}
    position, polls = opened.modseq, 0
    running = True
    while running:
        running = any(process.poll() is None for process in processes)
        changed = changes.mailbox_changes(opened.view.id, position)
        for row in (*changed.added, *changed.changed):
            assert position < row.modseq <= changed.modseq
            seen[row.uid] = row.bits
        for uid in changed.removed:
            seen.pop(uid, None)
        position = changed.modseq
        polls += 1
    assert [process.wait() for process in processes] == [0] * PROCESSES
    for process in processes:
        process.stdin.close()  # type: ignore[union-attr]  # it was made a pipe above
        process.stdout.close()  # type: ignore[union-attr]  # likewise
    final = reading.open_mailbox(account.pk, "Inbox")
    assert sorted(seen) == list(final.uids)
    assert seen == {row.uid: row.bits for row in reading.flag_rows(opened.view.id, final.uids)}
    assert len(seen) == PROCESSES * CHANGES * 2 // 3
    assert polls > 10
