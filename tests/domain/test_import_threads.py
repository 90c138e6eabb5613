"""Threads of imported messages: parents may come later, be in the account already, or answer their own answers."""

from __future__ import annotations

import random

import pytest

from accounts.models import Account
from store import blobs, checks, threads
from store.db import write_tx
from store.messages import NewMessage, add
from store.models import ImportJob, Message

from .importing import imported, mail, mbox, tgz

pytestmark = pytest.mark.database


def message(number: int, *references: int, subject: str = "Re: talk") -> bytes:
    listed = " ".join(f"<{reference}@x>" for reference in references)
    return mail(subject, f"Message-ID: <{number}@x>", *([f"References: {listed}"] if references else []))


def bring(account: Account, *texts: bytes, mailbox: str = "A") -> ImportJob:
    return imported(account, tgz({f"{mailbox}.mbox": mbox(*texts)}))


def parents(account: Account) -> dict[str, list[str]]:
    """The parents of each message, nearest first, by the start of their Message-IDs."""
    rows = list(
        Message.objects.filter(account=account).values_list("pk", "message_id", "thread_parent_ids", "thread_id")
    )
    name = {pk: message_id.removesuffix("@x") for pk, message_id, _, _ in rows}
    for pk, _, ids, thread_id in rows:
        assert thread_id == (ids[-1] if ids else pk)
    return {name[pk]: [name[parent] for parent in ids] for pk, _, ids, _ in rows}


def test_children_wait_for_parents_that_come_later(account: Account) -> None:
    bring(account, message(3, 1, 2), message(2, 1), message(1, subject="talk"))
    assert parents(account) == {"1": [], "2": ["1"], "3": ["2", "1"]}
    assert not Message.objects.filter(account=account, thread_missing_link=True).exists()


def test_links_that_are_missing_are_noted(account: Account) -> None:
    bring(account, message(4, 1, 3), message(1, subject="talk"), message(5, 99))
    assert parents(account) == {"1": [], "4": ["1"], "5": []}
    missing = Message.objects.filter(account=account, thread_missing_link=True).values_list("message_id", flat=True)
    assert set(missing) == {"4@x", "5@x"}


def test_another_subject_is_another_thread(account: Account) -> None:
    bring(account, message(1, subject="talk"), message(2, 1, subject="other"))
    assert parents(account) == {"1": [], "2": []}


def test_circles_are_cut(account: Account) -> None:
    bring(account, message(1, 2), message(2, 3), message(3, 1), message(4, 4), message(5, 3))
    found = parents(account)
    assert found["4"] == []
    assert sum(not ids for ids in (found["1"], found["2"], found["3"])) == 1
    assert found["5"] == ["3", *found["3"]]


def test_messages_of_the_account_are_parents(account: Account) -> None:
    bring(account, message(1, subject="talk"), message(2, 1))
    with write_tx(account.pk) as tx:
        ids = list(Message.objects.filter(account=account).values_list("pk", flat=True))
        threads.set_state(tx.account(account.pk), ids, muted=True)
    bring(account, message(4, 3), message(3, 2), mailbox="B")
    assert parents(account) == {"1": [], "2": ["1"], "3": ["2", "1"], "4": ["3", "2", "1"]}
    assert Message.objects.filter(account=account, mailbox__name="B", thread_muted=True, seen=True).count() == 2


def test_a_message_that_is_there_twice_is_below_the_first(account: Account) -> None:
    bring(account, message(1, subject="talk"), message(1, subject="talk"))
    bring(account, message(1, subject="talk"))
    rows = Message.objects.filter(account=account).order_by("pk").values_list("pk", "thread_parent_ids")
    (first, _), (_, of_second), (_, of_third) = rows
    assert (of_second, of_third) == ([first], [first])


def test_answers_without_references_follow_their_subject(account: Account) -> None:
    def at(day: int, text: bytes) -> bytes:
        return f"From a Tue Mar {day:2} 10:11:12 2024\n".encode() + text + b"\n"

    data = at(7, mail("Re: talk", "Message-ID: <2@x>")) + at(5, mail("talk", "Message-ID: <1@x>"))
    data += at(8, mail("Fwd: talk", "Message-ID: <3@x>")) + at(9, mail("talk", "Message-ID: <4@x>"))
    imported(account, tgz({"A.mbox": data, "B.mbox": at(9, mail("Re: talk", "Message-ID: <5@x>"))}))
    assert parents(account) == {"1": [], "2": ["1"], "3": ["2", "1"], "4": [], "5": []}
    imported(account, tgz({"A.mbox": at(10, mail("Re: talk", "Message-ID: <6@x>"))}))
    assert parents(account)["6"] == ["4"]


def test_a_deep_thread_takes_no_time_by_its_depth_squared(account: Account) -> None:
    texts = [message(number, number - 1) for number in range(1, 401)]
    bring(account, *reversed(texts))
    found = Message.objects.filter(account=account).values_list("thread_parent_ids", flat=True)
    assert max(map(len, found)) == threads.DEPTH_MAX
    assert len(found) == 400
    assert Message.objects.filter(account=account).values("thread_id").distinct().count() == 1


def test_the_order_in_an_archive_makes_no_difference(account: Account) -> None:
    """Messages delivered one by one, parents first, and the same imported in any order are in the same threads."""
    source = random.Random(5)
    texts = {}
    for number in range(60):
        references = source.sample(range(number), min(number, 2)) if number % 4 else []
        texts[number] = message(number, *sorted(references), subject="Re: talk" if references else "talk")
    with write_tx(account.pk) as tx:
        account_tx = tx.account(account.pk)
        for text in texts.values():
            blob = blobs.prepare(text, normalize_newlines=True)
            add(account_tx, account_tx.mailbox_by_name("Inbox"), NewMessage(blob))  # type: ignore[arg-type] # it exists
    delivered = parents(account)
    Message.objects.filter(account=account).update(message_id="gone", subject_base="gone")
    shuffled = list(texts.values())
    source.shuffle(shuffled)
    bring(account, *shuffled)
    found = parents(account)
    del found["gone"]
    assert found == delivered
    assert checks.check_account(account) == []
