"""Rulesets suggested when a message is moved: for verified lists and for senders, and never where nobody wants them."""

from __future__ import annotations

from typing import Any

import pytest

from accounts.accounts import add_address
from accounts.models import Account, Address, Domain, Ruleset
from junk import rulesets, suggestions
from junk.editing import BadRuleset
from junk.rulesets import Facts
from junk.suggestions import Suggestion, suggest
from server import db
from store import blobs, mailboxes, messages
from store.db import write_tx
from store.messages import NewMessage, Origin
from store.models import Mailbox

pytestmark = pytest.mark.database

LISTED = b"From: <ann@shop.example>\r\nList-Id: Users <Users.lists.example>\r\n\r\nx\r\n"
PLAIN = b"From: <ann+x@shop.example>\r\n\r\nx\r\n"


def put(account: Account, content: bytes, rcpt: str = "", dkim: tuple[str, ...] = (), **origin: Any) -> int:
    """A message that came over SMTP."""
    columns = {
        "rcpt_to_localpart": rcpt or f"{account.name}+tag",
        "rcpt_to_domain": "localhost",
        "msg_from_localpart": "ann+x",
        "msg_from_domain": "shop.example",
        **origin,
    }
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        new = NewMessage(blobs.prepare(content), origin=Origin(**columns), dkim_domains=dkim)
        return messages.add(mine, mailboxes.get(mine, "Inbox"), new).message_id


def mailbox(account: Account, name: str) -> Mailbox:
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        return mine.mailbox_by_name(name) or mailboxes.ensure(mine, name)[-1]


def moved(account: Account, message_id: int, *, to: str = "Lists/users", back: bool = False) -> Suggestion | None:
    inbox, other = mailbox(account, "Inbox"), mailbox(account, to)
    return suggest(message_id, other, inbox) if back else suggest(message_id, inbox, other)


def test_a_verified_list_gets_a_ruleset_that_matches_it(account: Account) -> None:
    message = put(account, LISTED, dkim=("other.example", "sub.lists.example", "lists.example", "Users.lists.example"))
    found = moved(account, message)
    assert found is not None
    assert (found.list_id, found.msg_from, found.is_remove) == ("users.lists.example", "", False)
    assert found.effects.list_allow_domain == "lists.example"
    suggestions.accept(found)
    (made,) = Ruleset.objects.filter(address__account=account)
    assert (made.mailbox, made.list_allow_domain) == ("Lists/users", "lists.example")
    assert made.comment.startswith("by webmail on 20")
    facts = Facts(fields=rulesets.fields_of(LISTED), vouched=frozenset({"lists.example"}))
    assert rulesets.first_match([made], facts) == made
    forged = rulesets.fields_of(LISTED.replace(b"<Users.", b"<evilusers."))
    assert rulesets.first_match([made], Facts(fields=forged)) is None
    assert moved(account, message) is None, "there is one already"
    back = moved(account, message, back=True)
    assert back is not None
    assert back.is_remove
    suggestions.accept(back)
    assert not Ruleset.objects.filter(address__account=account).exists()
    with pytest.raises(BadRuleset, match="affected 0 configured rulesets, expected 1"):
        suggestions.accept(back)
    assert moved(account, message, back=True) is None


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (LISTED, {}, False),
        (LISTED, {"dkim": ("ists.example",)}, False),
        (LISTED, {"mail_from_domain": "lists.example"}, False),
        (LISTED, {"mail_from_domain": "lists.example", "mail_from_validated": True}, True),
        (LISTED.replace(b"\r\n\r\n", b"\r\nList-Id: <b.lists.example>\r\n\r\n"), {"dkim": ("lists.example",)}, False),
        (LISTED.replace(b"Users.lists", b"not a domain"), {"dkim": ("lists.example",)}, False),
    ],
)
def test_who_does_not_vouch_for_a_list_gets_none(
    account: Account, content: bytes, options: dict[str, Any], expected: bool
) -> None:
    assert (moved(account, put(account, content, **options)) is not None) is expected


def test_a_sender_gets_a_ruleset_for_its_address(account: Account) -> None:
    found = moved(account, put(account, PLAIN), to="Shops")
    assert found is not None
    suggestions.accept(found)
    (made,) = Ruleset.objects.filter(address__account=account)
    for author, matches in (
        ("ann+x@shop.example", True),
        ("xann+x@shop.example", False),
        ("annnx@shop.example", False),
    ):
        assert rulesets.matches(made, (), Facts(msg_from=author)) is matches


def test_nothing_is_suggested_for_moves_that_say_nothing(account: Account) -> None:
    message = put(account, PLAIN)
    assert moved(account, message, to="Archive") is None, "it has a special use"
    assert moved(account, message, to="Rejects") is None
    assert suggest(message, mailbox(account, "A"), mailbox(account, "B")) is None
    assert moved(account, put(account, PLAIN, rcpt_to_domain="")) is None, "it did not come over SMTP"
    Address.objects.filter(account=account).update(default_mailbox="A")
    assert moved(account, message, to="B") is None
    assert suggest(message, mailbox(account, "A"), mailbox(account, "B")) is not None


def test_who_wants_no_suggestions_gets_none(account: Account) -> None:
    message, listed = put(account, PLAIN), put(account, LISTED, dkim=("lists.example",))
    for each in (message, listed):
        found = moved(account, each)
        assert found is not None
        suggestions.never_again(found)
        suggestions.never_again(found)
        assert moved(account, each) is None
    other = put(account, PLAIN, msg_from_localpart="bob")
    assert moved(account, other) is not None
    suggestions.never_for(mailbox(account, "Lists/users"), to_mailbox=True)
    assert moved(account, other) is None
    assert moved(account, other, to="Elsewhere") is not None
    suggestions.never_for(mailbox(account, "Inbox"), to_mailbox=False)
    assert moved(account, other, to="Elsewhere") is None
    assert suggestions.ask_again(account.pk) == 4
    assert moved(account, message) is not None


def test_mail_to_a_catchall_says_what_is_to_be_done_first(account: Account) -> None:
    with db.write():
        domain = Domain.objects.create(name=f"{account.name}.example")
        add_address(account, "", domain)
    try:
        found = moved(account, put(account, PLAIN, rcpt="anything", rcpt_to_domain=domain.name))
        assert found is not None
        with pytest.raises(BadRuleset, match="only matches a catchall: have it configured"):
            suggestions.accept(found)
    finally:
        with db.write():
            Address.objects.filter(domain=domain).delete()
            domain.delete()
