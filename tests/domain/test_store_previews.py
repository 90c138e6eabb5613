"""Previews show the first words that somebody wrote, are there on first read, and change nothing else."""

from __future__ import annotations

import base64
import io
import time

import pytest

from accounts.models import Account
from protocols import message
from protocols.message.source import BytesSource
from store import blobs, mailboxes, messages, previews, reading, text
from store.db import write_tx
from store.messages import NewMessage
from store.models import AccountState, Blob, Message

pytestmark = pytest.mark.database


def preview_of(content: bytes) -> str:
    part, _ = message.ensure_part(content)
    return previews.preview(BytesSource(content), part.to_json())


def plain(body: str) -> bytes:
    return b"Subject: x\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + body.replace("\n", "\r\n").encode()


def html(body: str) -> bytes:
    return b"Subject: x\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body.encode()


def parts(kind: bytes, *contents: bytes) -> bytes:
    body = b"".join(b"--b\r\n%s\r\n" % content for content in contents)
    return b"Subject: x\r\nContent-Type: multipart/%s; boundary=b\r\n\r\n%s--b--\r\n" % (kind, body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("Hello\n\nBob,  how\tare you?\n", "Hello Bob, how are you?"),
        ("", ""),
        ("   \n\n", ""),
        ("> old\n> text\n\nNew words\n", "[...] New words"),
        ("Agreed.\n\nOn 5 March 2024, Bob wrote:\n> old\n> text\n", "Agreed. [...]"),
        ("On Tuesday the 5th of March in the year 2024,\nBob <bob@example.org> wrote:\n\n> old\nYes.\n", "[...] Yes."),
        ("Three things:\n\n> is it 1?\nYes\n> or 2?\nNo\n", "[...] Yes [...] No"),
        ("Look at 3 of them:\nlists\n", "Look at 3 of them: lists"),
        ("See you\n-- \nBob\nExample Ltd\n", "See you"),
        ("One\n--\nTwo\n\nThree\n", "One -- Two Three"),
        ("> only\n> old\n", "[...]"),
        ("[...]\n\n> quoted\nok", "[...] ok"),
        ("-----BEGIN PGP MESSAGE-----\n\nhQEMA\n", ""),
        ("\u200b\u200c\ufeffSale\u00ad!", "Sale!"),
        ("é" * 400, "é" * 256),
        ("words " * 100, ("words " * 43)[:256].strip()),
    ],
)
def test_a_preview_of_plain_text(body: str, expected: str) -> None:
    assert preview_of(plain(body)) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("<html><head><title>No</title><style>p {}</style></head><body><p>Hello</p><p>World</body>", "Hello World"),
        ("a<b>b</b>c &amp; d<br>e", "abc & d e"),
        ("<script>if (a < b) document.write('<p>no</p>')</script>yes", "yes"),
        ("<!-- no <p>no</p> -->yes", "yes"),
        ("<p>New</p><blockquote>old<blockquote>older</blockquote></blockquote><p>end</p>", "New [...] end"),
        ("<div>Bob wrote on 5 May:</div><blockquote>old</blockquote>Yes", "[...] Yes"),
        ("<td>one</td><td>two</td>", "one two"),
        ("1 < 2 and <<>>", "1 < 2 and <<>>"),
        ("<svg><text>no</text></svg><template/>yes", "yes"),
        ("open <a href='x", "open"),
    ],
)
def test_a_preview_of_html(body: str, expected: str) -> None:
    assert preview_of(html(body)) == expected


def test_it_is_of_the_first_part_with_text() -> None:
    words, page = b"\r\nplain words", b"Content-Type: text/html\r\n\r\n<p>page</p>"
    empty = b"Content-Type: text/plain\r\n\r\n \r\n"
    attached = b"Content-Type: text/plain\r\nContent-Disposition: attachment\r\n\r\nattached"
    image = b"Content-Type: image/png\r\n\r\nPNG"
    forwarded = b"Content-Type: message/rfc822\r\n\r\nSubject: y\r\n\r\nof another"
    assert preview_of(parts(b"alternative", words, page)) == "plain words"
    assert preview_of(parts(b"alternative", empty, page)) == "page"
    assert preview_of(parts(b"mixed", attached, image, page)) == "page"
    assert preview_of(parts(b"mixed", image, forwarded)) == ""
    assert preview_of(b"Subject: x\r\n\r\n") == ""


def test_text_is_decoded() -> None:
    encoded = base64.b64encode("Grüße aus Köln".encode("latin-1")) + b"\r\n"
    header = b"Content-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    assert preview_of(header + encoded) == "Grüße aus Köln"


@pytest.mark.parametrize(
    "soup", ["<", "<!--", "<a", "<a ", "&", "<blockquote>", "<style>", "</style><style>", ">\n", "--\n", "1:\n"]
)
def test_hostile_text_costs_little(soup: str) -> None:
    body = soup * (1_000_000 // len(soup))
    contents = [plain(body), html(body)]
    sources = [(BytesSource(content), message.ensure_part(content)[0].to_json()) for content in contents]
    started = time.process_time()
    for source, structure in sources:
        assert len(previews.preview(source, structure)) <= previews.PREVIEW_MAX
    assert time.process_time() - started < 3


def put(account: Account, content: bytes, mailbox: str = "Inbox") -> int:
    prepared = blobs.prepare(io.BytesIO(content))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        return messages.add(mine, mailboxes.get(mine, mailbox), NewMessage(prepared)).message_id


def test_the_worker_makes_it_for_all_messages_of_a_content_without_a_modseq(account: Account) -> None:
    put(account, plain("Hello"))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        messages.copy(mine, mailboxes.get(mine, "Inbox"), [1], mailboxes.get(mine, "Archive"))
    before = AccountState.objects.get(account=account).last_modseq
    Blob.objects.exclude(messages__account=account).update(text_due=False)  # what other tests left
    text.make_due()
    assert list(Message.objects.filter(account=account).values_list("preview", flat=True)) == ["Hello", "Hello"]
    assert AccountState.objects.get(account=account).last_modseq == before


def test_who_reads_it_first_makes_and_stores_it(account: Account) -> None:
    for words in ("one", "two", "three"):
        put(account, plain(words))
    inbox = reading.mailbox(account.pk, "Inbox").id
    assert previews.ensure(inbox, [1, 3, 9]) == {1: "one", 3: "three"}
    assert previews.ensure(inbox, [1, 2, 3]) == {2: "two"}
    assert [row[0] for row in reading.rows(inbox, [1, 2, 3], ("preview",))] == ["one", "two", "three"]


def test_content_that_is_gone_has_an_empty_preview_that_is_not_stored(account: Account) -> None:
    put(account, plain("x" * 70_000))
    blob = Blob.objects.get(messages__account=account)
    Blob.objects.filter(pk=blob.pk).update(storage_name="no/such")
    inbox = reading.mailbox(account.pk, "Inbox").id
    assert previews.ensure(inbox, [1]) == {1: ""}
    Blob.objects.filter(pk=blob.pk).update(storage_name=blob.storage_name)
    assert previews.ensure(inbox, [1]) == {1: "x" * 256}
