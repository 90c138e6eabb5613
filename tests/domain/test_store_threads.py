"""Messages find the thread that they belong to, whatever their senders write, and threads can be muted."""

from __future__ import annotations

import io
import random
import time
from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import Account
from store import blobs, changes, checks, mailboxes, messages, reading, threads
from store.db import write_tx
from store.messages import NewMessage
from store.models import Message

pytestmark = pytest.mark.database

DSN = (
    b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
    b"--b\r\n\r\nfailed\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\n--b--\r\n"
)


def content(subject: str = "plan", message_id: str = "", references: str = "", in_reply_to: str = "") -> bytes:
    fields = {"Subject": subject, "Message-ID": message_id, "References": references, "In-Reply-To": in_reply_to}
    header = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"From: a@example.org\r\n{header}".encode()


def put(
    account: Account,
    header: bytes,
    *,
    mailbox: str = "Inbox",
    received: datetime | None = None,
    body: bytes = b"\r\nhello\r\n",
    prefix: bytes = b"",
) -> Message:
    prepared = blobs.prepare(io.BytesIO(header + body))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        where = mailboxes.get(mine, mailbox)
        placed = messages.add(mine, where, NewMessage(prepared, prefix=prefix, received=received))
    return Message.objects.get(pk=placed.message_id)


def assert_root(message: Message) -> None:
    assert message.thread_id == message.pk
    assert message.thread_parent_ids == []


def assert_child(message: Message, *parents: Message) -> None:
    assert message.thread_id == parents[-1].thread_id
    assert message.thread_parent_ids == [parent.pk for parent in parents]


def test_answers_stand_below_what_they_answer(account: Account) -> None:
    root = put(account, content(message_id="<1@x>"))
    answer = put(account, content("Re: plan", "<2@x>", "<1@x>"))
    third = put(account, content("AW: [list] Re: plan", "<3@x>", in_reply_to="<2@X>"))
    assert_root(root)
    assert_child(answer, root)
    assert third.subject_base != root.subject_base, "AW: is no mark of an answer that RFC 5256 knows"
    assert_root(third)
    fourth = put(account, content("[list] RE: Plan (fwd)", "<4@x>", "<1@x> <2@x>"))
    assert_child(fourth, answer, root)
    assert [m.thread_missing_link for m in (root, answer, third, fourth)] == [False, False, True, False]


def test_what_is_missing_in_between_is_remembered(account: Account) -> None:
    root = put(account, content(message_id="<1@x>"))
    answer = put(account, content("Re: plan", "<4@x>", "<1@x> <2@x> <3@x>"))
    assert_child(answer, root)
    assert answer.thread_missing_link
    alone = put(account, content("Re: plan", "<5@x>", "<8@x> <9@x>"))
    assert_root(alone)
    assert alone.thread_missing_link


def test_another_subject_begins_another_thread_unless_a_machine_answers(account: Account) -> None:
    root = put(account, content(message_id="<1@x>"))
    assert_root(put(account, content("something else", "<2@x>", "<1@x>")))
    assert_child(put(account, content("Undelivered mail", "<3@x>", "<1@x>"), body=DSN), root)


def test_the_same_message_again_stands_below_the_first(account: Account) -> None:
    own = put(account, content(message_id="<1@x>"), mailbox="Sent")
    listed = put(account, content("[list] other", '<"1"@X> (comment)'))
    assert_child(listed, own)
    assert listed.thread_missing_link
    assert_child(put(account, content("Re: plan", "<2@x>", "<1@x>")), own)


def test_a_subject_alone_joins_answers_of_a_mailbox_within_four_weeks(account: Account) -> None:
    day, now = timedelta(days=1), datetime(2024, 3, 5, tzinfo=UTC)
    root = put(account, content(), received=now)
    answer = put(account, content("Re: plan"), received=now + 27 * day)
    assert_child(answer, root)
    assert answer.thread_missing_link
    assert_root(put(account, content("Re: plan"), received=now + 60 * day))
    assert_root(put(account, content("Re: plan"), received=now + 2 * day, mailbox="Archive"))
    assert_root(put(account, content("plan"), received=now + 2 * day))
    assert_root(put(account, content("Re:"), received=now + 2 * day))
    assert_root(put(account, content("Re: plan", references="<none@x>"), received=now + 2 * day))


def test_fields_that_the_server_adds_count(account: Account) -> None:
    root = put(account, content(), prefix=b"Received: x\r\nMessage-Id: <1@x>\r\n")
    assert root.message_id == "1@x"
    assert_child(put(account, content("Re: plan", "<2@x>", "<1@x>")), root)


def test_a_message_keeps_its_place_when_others_go(account: Account) -> None:
    root = put(account, content(message_id="<1@x>"))
    answer = put(account, content("Re: plan", "<2@x>", "<1@x>"))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        inbox = mailboxes.get(mine, "Inbox")
        messages.move(mine, inbox, [answer.uid], mailboxes.get(mine, "Archive"))
        messages.remove(mine, inbox, [root.uid])
    answer.refresh_from_db()
    assert_child(answer, root)
    third = put(account, content("Re: plan", "<3@x>", "<1@x> <2@x>"))
    assert_child(third, answer, root)
    again = put(account, content("Re: plan", "<4@x>", "<1@x>"))
    assert_root(again)


def test_a_copy_stands_below_the_oldest_of_its_like(account: Account) -> None:
    root = put(account, content(message_id="<1@x>"))
    nameless = put(account, content("other"))
    for source, uids, destination in (("Inbox", [1, 2], "Archive"), ("Archive", [1, 2], "Sent")):
        with write_tx(account.pk) as tx:
            mine = tx.account(account.pk)
            messages.copy(mine, mailboxes.get(mine, source), uids, mailboxes.get(mine, destination))
    copies = Message.objects.filter(account=account, mailbox__name__in=("Archive", "Sent")).order_by("pk")
    for copy, original in zip(copies, (root, nameless, root, nameless), strict=True):
        assert_child(copy, original)
        assert copy.thread_missing_link


def test_muting_a_thread_sets_all_of_it_and_what_comes_later_is_seen(account: Account) -> None:
    root = put(account, content(message_id="<1@x>"))
    answer = put(account, content("Re: plan", "<2@x>", "<1@x>"), mailbox="Archive")
    other = put(account, content("other", "<3@x>"))
    position = reading.mailboxes(account.pk).modseq
    with write_tx(account.pk) as tx:
        assert threads.set_state(tx.account(account.pk), [answer.pk], muted=True) == [root.pk, answer.pk]
    with write_tx(account.pk) as tx:
        assert threads.set_state(tx.account(account.pk), [root.pk], muted=True) == [], "it is so already"
        threads.set_state(tx.account(account.pk), [root.pk, other.pk], collapsed=True)
    told = changes.events(account.pk, position).events
    assert [(event.kind, event.data) for event in told] == [
        ("thread", {"message_ids": [root.pk, answer.pk], "muted": True, "collapsed": None}),
        ("thread", {"message_ids": [root.pk, answer.pk, other.pk], "muted": None, "collapsed": True}),
    ]
    later = put(account, content("Re: plan", "<4@x>", "<1@x>"))
    assert (later.seen, later.thread_muted, later.thread_collapsed) == (True, True, True)
    other.refresh_from_db()
    assert (other.thread_muted, other.thread_collapsed) == (False, True)
    assert reading.mailbox(account.pk, "Inbox").unseen == 2


def test_a_thread_of_any_length_has_lists_of_bounded_length(account: Account) -> None:
    put(account, content(message_id="<0@x>"))
    for number in range(1, threads.DEPTH_MAX + 20):
        last = put(account, content("Re: plan", f"<{number}@x>", f"<{number - 1}@x>"))
    assert len(last.thread_parent_ids) == threads.DEPTH_MAX
    assert last.thread_missing_link
    assert checks.check_account(account) == []


def test_thousands_of_references_cost_little(account: Account) -> None:
    root = put(account, content(message_id="<root@x>"))
    hostile = content("Re: plan", references="\r\n ".join(f"<{n}@x>" for n in range(10_000)))
    started = time.process_time()
    put(account, hostile)
    assert time.process_time() - started < 1
    found = put(account, content("Re: plan", references="<root@x> " + " ".join(f"<{n}@x>" for n in range(900))))
    assert_child(found, root)


def test_threads_have_no_cycles_whatever_refers_to_what(account: Account) -> None:
    source = random.Random(11)
    names = [f"<{n}@x>" for n in range(12)]
    for _ in range(150):
        references = " ".join(source.sample(names, source.randint(0, 4)))
        subject = source.choice(("plan", "Re: plan", "Re: other", "other"))
        put(account, content(subject, source.choice(names), references), mailbox=source.choice(("Inbox", "Archive")))
        if source.random() < 0.2:
            with write_tx(account.pk) as tx:
                mine = tx.account(account.pk)
                inbox = mailboxes.get(mine, "Inbox")
                uids = list(reading.open_mailbox(account.pk, "Inbox").uids)
                messages.remove(mine, inbox, source.sample(uids, min(2, len(uids))))
    found = {m.pk: m for m in Message.objects.filter(account=account)}
    assert checks.check_account(account) == []
    for message in found.values():
        assert message.pk not in message.thread_parent_ids
        if not message.thread_parent_ids:
            assert message.thread_id == message.pk
            continue
        parents = [found[pk] for pk in message.thread_parent_ids]
        assert {parent.thread_id for parent in parents} == {message.thread_id}
        assert parents[-1].thread_parent_ids == [], "the last is the root"
        assert [parent.pk for parent in parents] == sorted((p.pk for p in parents), reverse=True), "parents came before"
