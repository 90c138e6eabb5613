"""Text search gives what a plain substring search gives, whatever the index and the worker have got to."""

from __future__ import annotations

import io
import random
import unicodedata
from dataclasses import dataclass

import pytest

from accounts.models import Account
from store import blobs, cleanup, grams, index, mailboxes, messages, reading, search, text
from store.db import write_tx
from store.messages import NewMessage
from store.models import Blob, BlobText, Message, SearchPage, SearchSegment
from store.queries import And, Body, Flag, Header, Not, Or, Query, Text
from tests.domain.test_store_cleanup import later

pytestmark = pytest.mark.database

WORDS = [
    *("straße", "STRASSE", "Ärger", "ärger", "İstanbul", "ﬁnal", "final", "漢字漢字", "naïve", "naive"),
    *("😀😀", "ǅungla", "a_b", "100%", "c:\\d", "x"),
]
PREFIX = b"Received: from mx.example.org (mx.example.org [192.0.2.1])\r\n\tby here with ESMTPS id %d\r\n"


@dataclass
class Sent:
    """A message as a plain search sees it, folded."""

    uid: int
    subject: str
    sender: str
    body: str
    everything: str


def folded(value: str) -> str:
    """Written out anew, to compare with what the store does."""
    value = unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).casefold())
    return value.replace("\r\n", "\n")


def put(account: Account, content: bytes, prefix: bytes = b"", mailbox: str = "Inbox") -> int:
    prepared = blobs.prepare(io.BytesIO(content))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        return messages.add(mine, mailboxes.get(mine, mailbox), NewMessage(prepared, prefix)).uid


def put_random(account: Account, source: random.Random, number: int) -> Sent:
    subject = " ".join(source.choices(WORDS, k=3)) + f" {number}"
    sender = f"{source.choice('abc')}{number % 7}@example.org"
    body = "\r\n".join(" ".join(source.choices(WORDS, k=source.randint(1, 6))) for _ in range(source.randint(0, 4)))
    body += "\r\n"
    if number % 13 == 0:  # more than is kept, and something at the very end
        body += "lorem ipsum\r\n" * 200 + f"the end of {number}\r\n"
    header = (
        f"From: {sender}\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
    )
    prefix = PREFIX % number if source.random() < 0.7 else b""
    uid = put(account, f"{header}\r\n{body}".encode(), prefix)
    lines = (prefix.decode().replace("\r\n\t", "\t").replace("\t", " ") + header).replace("\r\n", "\n")
    return Sent(uid, folded(subject), folded(sender), folded(body), folded(f"\n{lines}\n\n{body}"))


def found(account: Account, query: Query, mailbox: str = "Inbox") -> list[int]:
    opened = reading.open_mailbox(account.pk, mailbox)
    pages = search.search(opened.view.id, query, opened.uids)
    return [match.uid for page in pages for match in page.matches]


def build(account: Account) -> int:
    """Index all that has a text, in a segment however small."""
    while text.make_due():
        pass
    return index.build_segment(account.pk, least=1)


def needles(source: random.Random, sent: list[Sent]) -> list[str]:
    """Texts that are there, in all sizes and spellings, and texts that are not."""
    found: list[str] = [
        "ss",
        "SS",
        "ä",
        "漢字",
        "字漢",
        "zzzz",
        "esmtps id 3",
        "fro",
        "the end of",
        "x" * 50,
        "ipsum\nlorem",
    ]
    for _ in range(12):
        whole = source.choice(sent)
        part = source.choice((whole.subject, whole.sender, whole.body, whole.everything))
        start = source.randrange(max(1, len(part)))
        needle = part[start : start + source.randint(1, 12)]
        found.append(source.choice((needle, needle.upper(), unicodedata.normalize("NFD", needle))))
    return [needle for needle in found if needle and not needle[0].isspace() and not unicodedata.combining(needle[0])]


def test_it_finds_what_a_plain_search_finds(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCANNED_MAX", 0)  # this mailbox is small
    monkeypatch.setattr(text, "BODY_MAX", 1000)
    source = random.Random(5)
    sent: list[Sent] = []
    for stage in range(5):  # two segments, texts that are not indexed, messages without text
        sent += [put_random(account, source, len(sent)) for _ in range(14)]
        if stage in (0, 2):
            build(account)
        elif stage == 3:
            text.make_due()
    assert Message.objects.filter(account=account, indexed=True).count() == 42
    assert BlobText.objects.filter(blob__messages__account=account, truncated=True).exists()
    for number, needle in enumerate(needles(source, sent)):
        wanted = folded(needle)
        cases: list[tuple[Query, list[int]]] = [
            (Body(needle), [one.uid for one in sent if wanted in one.body]),
            (Text(needle), [one.uid for one in sent if wanted in one.everything]),
            (Header("Subject", needle), [one.uid for one in sent if wanted in one.subject]),
        ]
        if number % 4 == 0:
            either = Or((Body(needle), And((Header("subject", needle), Not(Flag(1))))))
            cases += [
                (Header("from", needle), [one.uid for one in sent if wanted in one.sender]),
                (Not(Body(needle)), [one.uid for one in sent if wanted not in one.body]),
                (either, [one.uid for one in sent if wanted in one.body or wanted in one.subject]),
            ]
        for query, expected in cases:
            assert found(account, query) == expected, (query, needle)
    assert found(account, Header("received", "")) == [one.uid for one in sent if "esmtps" in one.everything]


def test_the_index_leaves_few_to_be_read(account: Account) -> None:
    for number in range(270):
        put(account, b"Subject: message %d\r\n\r\nword%03d common text\r\n" % (number, number))
    while text.make_due():
        pass
    assert index.build_due() >= grams.SEGMENT
    assert Message.objects.filter(account=account, indexed=True).count() == grams.SEGMENT
    inbox = reading.mailbox(account.pk, "Inbox").id
    left = index.may_match(account.pk, inbox, index.Sought(grams.Field.BODY, "word123"), most=100)
    assert left is not None
    assert {124} < set(left) <= {124, *range(257, 271)}, "those that are not indexed, and the one that has it"
    assert index.may_match(account.pk, inbox, index.Sought(grams.Field.BODY, "common"), most=100) is None
    assert found(account, Body("word123")) == [124]
    assert found(account, Header("subject", "message 26")) == [27, *range(261, 271)]
    assert len(found(account, Text("common"))) == 270


def test_it_follows_messages_and_forgets_those_that_are_gone(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCANNED_MAX", 0)
    for number in range(6):
        put(account, b"Subject: s\r\n\r\nneedle%d\r\n" % number)
    assert build(account) == 6
    opened = reading.open_mailbox(account.pk, "Inbox")
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        inbox, archive = mailboxes.get(mine, "Inbox"), mailboxes.get(mine, "Archive")
        messages.move(mine, inbox, [1, 2], archive)
        messages.copy(mine, inbox, [3], archive)
        messages.remove(mine, inbox, [4])
    assert found(account, Body("needle0"), "Archive") == [1]
    assert found(account, Body("needle2"), "Archive") == [3]
    assert found(account, Body("needle2")) == [3]
    pages = list(search.search(opened.view.id, Or((Body("needle0"), Body("needle3"))), opened.uids))
    assert [match.uid for page in pages for match in page.matches] == [1, 4], "a session that was not told reads them"
    assert build(account) == 1, "the copy"
    cleanup.erase_tombstones(later(minutes=41))
    cleanup.collect_blobs(later(hours=2))
    assert list(index.problems(account.pk)) == []
    assert found(account, Or((Body("needle3"), Body("needle5")))) == [6]
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        for name in ("Inbox", "Archive"):
            messages.expunge_all(mine, mailboxes.get(mine, name))
    cleanup.erase_tombstones(later(minutes=41))
    assert not SearchSegment.objects.filter(account=account).exists()


def test_a_text_that_is_made_anew_is_found(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCANNED_MAX", 0)
    put(account, b"Subject: s\r\n\r\nbefore\r\n")
    put(account, b"Subject: s\r\n\r\nother words\r\n")
    build(account)
    blob = Blob.objects.get(messages__account=account, messages__uid=1)
    Blob.objects.filter(pk=blob.pk).update(data=b"Subject: s\r\n\r\nafter!\r\n", text_due=True)
    text.make_due()
    assert found(account, Body("after!")) == [1]
    assert found(account, Body("before")) == []
    assert build(account) == 1
    assert found(account, Body("after!")) == [1]
    assert found(account, Body("before")) == []
    put(account, b"Subject: s\r\n\r\nmore words\r\n")
    build(account)
    assert index.compact(account.pk) == 3, "one that has messages of two of them, and one more"
    assert found(account, Body("words")) == [2, 3]
    assert found(account, Body("after!")) == [1]
    assert list(index.problems(account.pk)) == []


def test_segments_of_which_little_is_left_become_one(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "SCANNED_MAX", 0)
    for number in range(24):
        put(account, b"Subject: subject %02d\r\n\r\nbody %02d\r\n" % (number, number))
        if number % 6 == 5:
            build(account)
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        messages.remove(mine, mailboxes.get(mine, "Inbox"), [*range(1, 12), 14, 20])
    cleanup.erase_tombstones(later(minutes=41))
    assert SearchSegment.objects.filter(account=account).count() == 3
    page = SearchPage.objects.filter(segment__account=account).latest("pk")
    page.delete()
    assert index.compact(account.pk) == 0, "nobody knows what the page said"
    page.save()
    cleanup.tidy()
    assert SearchSegment.objects.filter(account=account).count() == 1
    assert SearchPage.objects.filter(segment__account=account).count() == grams.PAGES
    assert found(account, Body("body 1")) == [12, 13, 15, 16, 17, 18, 19]
    assert found(account, Header("subject", "subject 23")) == [24]
    assert found(account, Body("body 00")) == []


def test_the_checker_sees_an_index_that_is_not_true(account: Account) -> None:
    put(account, b"Subject: s\r\n\r\nneedle\r\n")
    put(account, b"Subject: s\r\n\r\nneedle\r\n")
    build(account)
    Message.objects.filter(account=account, uid=1).update(indexed=None)
    assert list(index.problems(account.pk)) == [], "it is only read although it need not be"
    segment = SearchSegment.objects.get(account=account)
    SearchPage.objects.filter(segment=segment, number=7).delete()
    SearchSegment.objects.filter(pk=segment.pk).update(live=grams.to_set([0]))
    assert len(list(index.problems(account.pk))) == 2
    segment.delete()
    Message.objects.filter(account=account).update(indexed=None)


def test_grams_depend_on_their_characters_alone() -> None:
    source = random.Random(3)
    for _ in range(200):
        whole = "".join(source.choices("abcäß漢😀\n .z\udcff", k=source.randint(0, 40)))
        start, stop = sorted((source.randint(0, len(whole)), source.randint(0, len(whole))))
        has = set(grams.grams(grams.Field.BODY, whole))
        assert has.issuperset(grams.grams(grams.Field.BODY, whole[start:stop]))
        assert set(grams.ordered_grams(grams.Field.BODY, whole)) == has
        assert all(0 <= number < grams.BUCKETS for number in has)
