"""Messages are marked by the mailbox that they come to; the expressions for that are checked when they are saved."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError

from accounts.models import Account
from server.regexps import BadRegexp, compiled
from store import blobs, mailboxes, messages
from store.db import write_tx
from store.flags import parse_words
from store.messages import NewMessage
from store.models import Message

pytestmark = pytest.mark.database

CONTENT = b"Subject: x\r\n\r\nbody\r\n"


def put(account: Account, mailbox: str, *words: str) -> int:
    """Add a message to a mailbox, which is made where needed; gives its UID."""
    prepared = blobs.prepare(CONTENT)
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        mailboxes.ensure(mine, mailbox)
        return messages.add(mine, mailboxes.get(mine, mailbox), NewMessage(prepared, flags=parse_words(words))).uid


def marks(account: Account, mailbox: str) -> list[str]:
    rows = Message.objects.filter(account=account, mailbox__name=mailbox, expunged=False).order_by("uid")
    names = {(False, False): "neither", (True, False): "junk", (False, True): "notjunk", (True, True): "both"}
    return [names[row] for row in rows.values_list("junk", "notjunk")]


@pytest.mark.parametrize(
    ("mailbox", "mark"),
    [
        ("Inbox", "neither"),
        ("Inbox/new", "neither"),
        ("Rejects", "neither"),
        ("DMARC", "neither"),
        ("Junk", "junk"),
        ("Spam/old", "junk"),
        ("Archive", "notjunk"),
        ("Lists/spam", "notjunk"),
    ],
)
def test_the_defaults_mark(account: Account, mailbox: str, mark: str) -> None:
    put(account, mailbox)
    put(account, mailbox, "$Junk", "$NotJunk")
    assert marks(account, mailbox) == [mark, mark]


def test_copies_and_moves_are_marked_and_originals_are_not(account: Account) -> None:
    uids = [put(account, "Inbox"), put(account, "Inbox", "\\Seen")]
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        inbox = mailboxes.get(mine, "Inbox")
        messages.copy(mine, inbox, uids, mailboxes.get(mine, "Junk"))
        messages.move(mine, inbox, uids[:1], mailboxes.get(mine, "Archive"))
    assert marks(account, "Inbox") == ["neither"]
    assert marks(account, "Junk") == ["junk", "junk"]
    assert marks(account, "Archive") == ["notjunk"]


def test_the_junk_use_counts_even_where_automatic_flags_are_off(account: Account) -> None:
    Account.objects.filter(pk=account.pk).update(automatic_junk_flags=False)
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        mailboxes.set_special_use(mine, mailboxes.ensure(mine, "Rubbish")[-1], "junk")
    put(account, "Rubbish", "$NotJunk")
    put(account, "Junk")
    put(account, "Archive", "$Junk")
    assert (marks(account, "Rubbish"), marks(account, "Junk"), marks(account, "Archive")) == (
        ["junk"],
        ["neither"],
        ["junk"],
    )


@pytest.mark.parametrize(
    ("junk", "neutral", "not_junk", "mark"),
    [
        ("^a", "^b", "^c", "neither"),
        ("^a", "^b", "", "notjunk"),
        ("^a", "", "^c", "neither"),
        ("", "^b", "^c", "junk"),
        ("^a", "", "", "neither"),
        ("", "", "", "neither"),
        ("oo", "", "", "junk"),
        ("(", "", "", "neither"),
    ],
)
def test_a_kind_that_is_not_described_is_what_is_left(
    account: Account, junk: str, neutral: str, not_junk: str, mark: str
) -> None:
    Account.objects.filter(pk=account.pk).update(
        junk_mailbox_regexp=junk, neutral_mailbox_regexp=neutral, not_junk_mailbox_regexp=not_junk
    )
    put(account, "Zoo")
    assert marks(account, "Zoo") == [mark]


@pytest.mark.parametrize(
    ("expression", "position"),
    [("^(junk", 2), ("junk)", 5), ("a**", 2), ("x[z-a]", 3), ("junk(?=x)", 5), (r"(a)\1", 4), ("a" * 1025, 1024)],
)
def test_a_bad_expression_is_refused_with_its_position(account: Account, expression: str, position: int) -> None:
    with pytest.raises(BadRegexp) as refused:
        compiled(expression)
    assert refused.value.position == position
    account.junk_mailbox_regexp = expression
    with pytest.raises(ValidationError) as invalid:
        account.full_clean()
    assert f"at character {position}" in str(invalid.value.message_dict["junk_mailbox_regexp"])
