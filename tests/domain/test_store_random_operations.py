"""Thousands of random changes by several sessions: each was told what is there, and nothing is inconsistent."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from accounts.models import Account
from store import blobs, changes, checks, flags, mailboxes, messages, reading, rejects, repair, rethreading, threads
from store.db import AccountTx, Tx, write_tx
from store.errors import MailboxError, MailboxGone, MessageGone, StoreError
from store.flags import Flags
from store.messages import FlagMode, NewMessage
from store.models import SPECIAL_USES, Message
from store.writer import GroupWriter

pytestmark = pytest.mark.database

NAMES = ("Inbox", "Work", "Work/Old", "Lists/python", "Junk", "Rejects")
KINDS = {  # how often
    "add": 30,
    "flag": 30,
    "copy": 8,
    "move": 10,
    "expunge": 10,
    "create": 3,
    "rename": 3,
    "delete": 2,
    "subscribe": 2,
    "unsubscribe": 2,
    "reject": 3,
    "mute": 3,
    "use": 2,
}
WORDS = ("todo", "$label1", "later", "work")


@dataclass
class Session:
    """A listener that has one mailbox open and lives from the change feed alone."""

    account: Account
    mailbox_id: int = 0
    position: int = 0
    rows: dict[int, tuple[int, str]] = field(default_factory=dict)  # uid -> bits, keywords

    def open(self, name: str) -> None:
        opened = reading.open_mailbox(self.account.pk, name)
        self.mailbox_id, self.position = opened.view.id, opened.modseq
        rows = reading.flag_rows(self.mailbox_id, opened.uids)
        assert [row.uid for row in rows] == list(opened.uids)
        self.rows = {row.uid: (row.bits, row.keywords) for row in rows}

    def catch_up(self) -> bool:
        """Take in what happened; False when the mailbox was removed."""
        changed = changes.mailbox_changes(self.mailbox_id, self.position)
        for uid in changed.removed:
            self.rows.pop(uid, None)
        for row in (*changed.added, *changed.changed):
            assert row.uid in self.rows or row in changed.added, "a change of a message that was never announced"
            self.rows[row.uid] = (row.bits, row.keywords)
        assert changed.modseq >= self.position
        self.position = changed.modseq
        return not changed.gone

    def uids(self, source: random.Random) -> list[int]:
        known = sorted(self.rows)
        return source.sample(known, min(len(known), source.randint(1, 5)))


def content(number: int, source: random.Random) -> bytes:
    large = source.random() < 0.02
    body = b"line %d\r\n" % number * (12_000 if large else source.randint(0, 20))
    answered = source.choice((number, number - 1, number - 40))
    return b"From: a@example.org\r\nSubject: %d\r\nMessage-ID: <%d@x>\r\nReferences: <%d@x> <%d@x>\r\n\r\n%s" % (
        source.choice((answered % 3, number)),
        source.choice((number, number, number, number // 2)),
        answered - 7,
        answered,
        body,
    )


def random_flags(source: random.Random) -> Flags:
    return Flags(source.randint(0, flags.ALL_BITS), tuple(sorted(source.sample(WORDS, source.randint(0, 2)))))


def operation(source: random.Random, session: Session, number: int) -> Callable[[AccountTx], None]:
    """One random change, as a session would make it with what it knows."""
    uids = session.uids(source)
    name = source.choice(NAMES)
    kind = source.choices(list(KINDS), list(KINDS.values()))[0]
    prepared = blobs.prepare(content(number, source)) if kind in ("add", "reject") else None
    new_flags, mode = random_flags(source), source.choice(list(FlagMode))
    unchanged_since = source.choice((None, None, session.position))
    other = f"{source.choice(NAMES)}{source.choice(('', '2', '/x', '/x/y'))}"

    def job(tx: AccountTx) -> None:
        mailbox = tx.mailbox(session.mailbox_id)
        if prepared is not None:
            new = NewMessage(prepared, prefix=b"Received: x\r\n", flags=new_flags)
            if kind == "add":
                messages.add(tx, mailbox, new)
            else:
                rejects.add_reject(tx, new, mailbox)
        elif kind == "mute":
            ids = Message.objects.filter(mailbox=mailbox, uid__in=uids).values_list("pk", flat=True)
            threads.set_state(tx, ids, muted=source.choice((None, True, False)), collapsed=mode is FlagMode.ADD)
        elif kind == "use":
            change = source.choice((mailboxes.set_special_use, mailboxes.clear_special_use))
            change(tx, mailboxes.get(tx, name), source.choice(SPECIAL_USES))
        elif kind == "flag":
            messages.set_flags(tx, mailbox, uids, mode, new_flags, unchanged_since)
        elif kind == "copy":
            messages.copy(tx, mailbox, uids, mailboxes.get(tx, name))
        elif kind == "move":
            messages.move(tx, mailbox, uids, mailboxes.get(tx, name))
        elif kind == "expunge":
            messages.expunge(tx, mailbox, source.choice((None, uids)))
        elif kind == "create":
            mailboxes.create(tx, other)
        elif kind == "rename":
            mailboxes.rename(tx, name, other)
        elif kind == "delete":
            mailboxes.delete(tx, other)
        elif kind == "subscribe":
            mailboxes.subscribe(tx, other)
        else:
            mailboxes.unsubscribe(tx, other)

    return job


def assert_true_to(session: Session) -> None:
    """The session, which only ever heard of changes, knows exactly what a new session would read."""
    rows = reading.flag_rows(session.mailbox_id, list(range(1, 1 + max(session.rows, default=0) + 100)))
    assert session.rows == {row.uid: (row.bits, row.keywords) for row in rows}


@pytest.mark.timeout(300)
def test_sessions_agree_after_random_operations(account: Account) -> None:
    source = random.Random(7)
    sessions = [Session(account) for _ in range(4)]
    for session in sessions:
        session.open("Inbox")
    done = 0
    for number in range(2000):
        session = source.choice(sessions)
        if source.random() < 0.05:
            session.open(source.choice([view.name for view in reading.mailboxes(account.pk).views]))
        if source.random() < 0.5 and not session.catch_up():
            session.open("Inbox")
        try:
            with write_tx(account.pk) as tx:
                operation(source, session, number)(tx.account(account.pk))
            done += 1
        except (MailboxError, MessageGone):
            pass  # another session was first, or the random name does not fit: refused, and nothing changed
        except MailboxGone:
            session.open("Inbox")
        if number % 500 == 499:
            rethreading.reassign(account.pk)
            repair.reassign_uids(account.pk, source.choice(("Inbox", "Archive", "Junk", "")))
        if number % 200 == 199:
            assert checks.check_account(account) == []
            for each in sessions:
                if each.catch_up():
                    assert_true_to(each)
                else:
                    each.open("Inbox")
    assert done > 1200


@pytest.mark.timeout(300)
def test_sessions_of_one_group_writer_agree(account: Account) -> None:
    """Threads whose changes share commits, each reading in its own change what the others did before."""
    writer = GroupWriter()
    failures: list[str] = []
    opened = reading.open_mailbox(account.pk, "Inbox")

    def run(seed: int) -> None:
        source = random.Random(seed)
        session = Session(account, opened.view.id, opened.modseq)
        try:
            for number in range(150):
                job = operation_in_inbox(source, session, number)
                try:
                    writer.submit([account.pk], job).result(60)
                except StoreError:
                    continue
            session.catch_up()
            finished.append(session)
        except Exception as exc:
            failures.append(repr(exc))

    def operation_in_inbox(source: random.Random, session: Session, number: int) -> Callable[[Tx], None]:
        prepared = blobs.prepare(content(number, source))
        uids, new = session.uids(source), random_flags(source)
        kind = source.choice(("add", "add", "flag", "flag", "expunge", "move"))

        def job(tx: Tx) -> None:
            account_tx = tx.account(account.pk)
            mailbox = account_tx.mailbox(session.mailbox_id)
            session.catch_up()
            if kind == "add":
                messages.add(account_tx, mailbox, NewMessage(prepared, flags=new))
            elif kind == "flag":
                messages.set_flags(account_tx, mailbox, uids, FlagMode.REPLACE, new)
            elif kind == "expunge":
                messages.expunge(account_tx, mailbox, uids)
            else:
                messages.move(account_tx, mailbox, [uid for uid in uids if uid in session.rows], mailbox)

        return job

    finished: list[Session] = []
    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert failures == []
    assert checks.check_account(account) == []
    for session in finished:
        session.catch_up()
        assert_true_to(session)
    assert len(finished) == 6
