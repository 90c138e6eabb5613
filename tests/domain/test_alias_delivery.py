"""Mail to aliases: who may send it, who gets a copy, and what the sender hears; addresses that refuse mail."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from accounts import domains
from accounts.accounts import add_address
from accounts.addresssettings import change_address
from accounts.aliases import add_alias, update_alias
from accounts.models import Account, Address, Alias
from server import db
from smtp import reception
from store import blobs, mailboxes, messages
from store.db import write_tx
from store.messages import NewMessage, Origin
from store.models import Message
from tests.domain.smtp_service import Service, known_world, running
from tests.system.smtp_wire import Wire

pytestmark = pytest.mark.database

STRANGER = "stranger@remote.example"
REFUSED = "550 5.7.2 you may not send to this address ("


@pytest.fixture(scope="module")
def service(database: None) -> Iterator[Service]:
    world = known_world(
        {"txt _dmarc.members.example.": ["v=DMARC1; p=reject"], "mx members.example.": ["10 mx.remote.example."]}
    )
    with running(resolver=world) as started:
        yield started


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    with service.connect() as connected:
        yield connected.hello()


def address(account: Account) -> str:
    return f"{account.name}@localhost"


@pytest.fixture
def ann(new_account: Callable[[], Account]) -> Account:
    return new_account()


@pytest.fixture
def bob(new_account: Callable[[], Account]) -> Account:
    return new_account()


@pytest.fixture
def team(ann: Account, bob: Account) -> Alias:
    return add_alias(f"team-{ann.name}@localhost", [address(ann), address(bob)])


@pytest.fixture
def public(team: Alias) -> Alias:
    return update_alias(team, post_public=True)


def send(wire: Wire, author: str, *recipients: object, sender: str = "sender@remote.example") -> str:
    """The reply to a message with this From field, or none; its last line."""
    fields = f"From: <{author}>\r\n" if author else ""
    wire.begin(*map(str, recipients), sender=sender)
    return wire.data(f"{fields}Subject: x\r\nMessage-Id: <{author}.{recipients}@x>\r\n\r\nbody\r\n.\r\n".encode())


def got(account: Account) -> list[tuple[str, str]]:
    """The messages of an account: mailbox, and where they were delivered to."""
    rows = Message.objects.filter(account=account, expunged=False).select_related("mailbox").order_by("pk")
    return [(row.mailbox.name, field(row, "Delivered-To")) for row in rows]


def field(row: Message, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r\n(?!\t)", bytes(row.prefix).decode(), re.MULTILINE | re.DOTALL)
    return found[1].replace("\r\n\t", " ") if found else ""


@contextlib.contextmanager
def distrusting(*accounts: Account) -> Iterator[None]:
    """Accounts that have had nothing but junk from the stranger."""
    for account in accounts:
        junk_of_stranger(account)
    yield
    with db.write():
        Message.objects.filter(account__in=accounts).update(junk=False)


def junk_of_stranger(account: Account) -> None:
    origin = Origin(
        msg_from_localpart="stranger",
        msg_from_domain="remote.example",
        msg_from_org_domain="remote.example",
        msg_from_validated=True,
    )
    prepared = blobs.prepare(b"Subject: junk\r\n\r\n")
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        new = NewMessage(prepared, received=datetime.now(UTC) - timedelta(days=1), origin=origin)
        made = messages.add(mine, mailboxes.get(mine, "Inbox"), new)
    with db.write():
        Message.objects.filter(pk=made.message_id).update(junk=True)


# Who may send.


def test_a_member_reaches_the_others(wire: Wire, team: Alias, ann: Account, bob: Account) -> None:
    assert send(wire, address(ann).replace("@", "+x@").upper(), f"{team.localpart.upper()}+y@localhost").startswith(
        "250 2.2.0 "
    )
    assert got(ann) == [], "who wrote it has it"
    assert got(bob) == [("Inbox", address(bob))]
    row = Message.objects.get(account=bob)
    assert (row.rcpt_to_localpart, row.rcpt_to_domain) == (f"{team.localpart.upper()}+y", "localhost")
    assert f"for <{team.localpart.upper()}+y@localhost>" in field(row, "Received")


@pytest.mark.parametrize("author", ["", STRANGER, "nobody@localhost", "mox@localhost"])
def test_others_do_not_and_leave_nothing_behind(
    wire: Wire, team: Alias, ann: Account, bob: Account, author: str
) -> None:
    assert send(wire, author, team).startswith(REFUSED)
    assert (got(ann), got(bob)) == ([], [])


def test_everybody_may_send_to_a_public_one(wire: Wire, public: Alias, ann: Account, bob: Account) -> None:
    assert send(wire, STRANGER, public).startswith("250 2.2.0 ")
    assert (got(ann), got(bob)) == ([("Inbox", address(ann))], [("Inbox", address(bob))])


def test_mail_from_the_alias_itself_needs_its_own_permission(
    wire: Wire, public: Alias, ann: Account, bob: Account
) -> None:
    assert send(wire, str(public), public).startswith(REFUSED), "public, but not for this"
    update_alias(public, post_public=False, allow_msg_from=True)
    assert send(wire, str(public), public).startswith("250 2.2.0 ")
    assert len(got(ann)) == len(got(bob)) == 1


def test_a_forged_member_hears_what_a_stranger_hears(wire: Wire, ann: Account, bob: Account) -> None:
    """Or whoever tries addresses would learn who is a member."""
    domain = domains.create_domain("members.example")
    add_address(ann, "ann", domain)
    team = add_alias(f"team@{domain}", [f"ann@{domain}", address(bob)])
    try:
        refusals = {send(wire, author, team).partition(" (")[0] for author in (f"ann@{domain}", f"eve@{domain}")}
        assert refusals == {REFUSED.rstrip(" (")}
        update_alias(team, post_public=True)
        assert send(wire, f"ann@{domain}", team).startswith("550 5.7.26 ")
        assert [name for name, _ in got(bob)] == ["Rejects"]
    finally:
        domains.remove_domain(domain, cascade=True)


# Who gets a copy.


def test_who_is_a_recipient_anyway_gets_one_copy(
    wire: Wire, public: Alias, ann: Account, bob: Account, new_account: Callable[[], Account]
) -> None:
    eve = new_account()
    second = add_alias(f"second-{ann.name}@localhost", [address(bob), address(eve)])
    update_alias(second, post_public=True)
    assert send(wire, STRANGER, public, second, address(ann).upper()).startswith("250 2.2.0 ")
    assert got(ann) == [("Inbox", f"{ann.name.upper()}@localhost")]
    assert got(bob) == [("Inbox", address(bob))]
    assert got(eve) == [("Inbox", address(eve))]
    assert send(wire, STRANGER, public, address(bob), address(ann)).startswith("250 2.2.0 ")
    assert (len(got(ann)), len(got(bob))) == (2, 2)


def test_an_alias_whose_members_are_all_recipients_fails_as_they_do(
    wire: Wire, public: Alias, ann: Account, bob: Account
) -> None:
    """That nobody is left to deliver to is no delivery."""
    with distrusting(ann, bob):
        assert send(wire, STRANGER, public, address(bob), address(ann)).startswith("451 4.3.0 ")
    assert [name for name, _ in got(ann)] == ["Inbox", "Rejects"]


def test_a_message_never_goes_nowhere(wire: Wire, ann: Account) -> None:
    alone = add_alias(f"alone-{ann.name}@localhost", [address(ann)])
    assert send(wire, address(ann), alone).startswith("250 2.2.0 ")
    assert got(ann) == [("Inbox", address(ann))]


def test_more_copies_than_a_transaction_can_have_need_another(
    wire: Wire, public: Alias, ann: Account, bob: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "COPIES_MAX", 2)
    wire.begin(str(public))
    assert wire.command(f"RCPT TO:<{STRANGER.replace('remote.example', 'localhost')}>").startswith("250 "), "nobody's"
    assert wire.command(f"RCPT TO:<{address(ann)}>").startswith("452 4.5.3 too many members of aliases")
    assert wire.command("RCPT TO:<nobody@localhost>").startswith("452 4.5.3 "), "and nothing more is looked up"
    assert wire.command("RSET").startswith("250 ")
    monkeypatch.setattr(reception, "COPIES_MAX", 1)
    assert send(wire, STRANGER, public).startswith("250 2.2.0 "), "the first always fits"
    assert len(got(ann)) == len(got(bob)) == 1


# What the members say.


def test_what_one_member_accepts_all_get(wire: Wire, public: Alias, ann: Account, bob: Account) -> None:
    with distrusting(ann):
        assert send(wire, STRANGER, public).startswith("250 2.2.0 ")
    assert got(ann)[1:] == [("Inbox", address(ann))]
    theirs, own = Message.objects.get(account=bob), Message.objects.filter(account=ann).latest("pk")
    assert field(theirs, "X-Mox-Reason") == field(own, "X-Mox-Reason") == "no-bad-signals"
    assert "another member of the alias accepts it" in field(own, "X-Mox-Explanation")
    assert "another member" not in field(theirs, "X-Mox-Explanation")
    assert "is bad" not in field(theirs, "X-Mox-Explanation"), "what others think of a sender is theirs"


def test_what_nobody_accepts_is_rejected_once_and_kept_for_each(
    wire: Wire, public: Alias, ann: Account, bob: Account
) -> None:
    with distrusting(ann, bob):
        wire.begin(str(public))
        assert wire.command("DATA").startswith("354 ")
        wire.send(f"From: <{STRANGER}>\r\nMessage-Id: <1@x>\r\n\r\nbody\r\n.\r\n")
        (line,) = wire.reply()
    assert line.startswith("451 4.3.0 error processing (")
    assert (got(ann)[1:], got(bob)[1:]) == ([("Rejects", address(ann))], [("Rejects", address(bob))])


def test_a_full_member_keeps_nothing_from_the_others(wire: Wire, public: Alias, ann: Account, bob: Account) -> None:
    with db.write():
        Account.objects.filter(pk=ann.pk).update(quota_message_size=10)
    assert send(wire, STRANGER, public).startswith("250 2.2.0 ")
    assert (got(ann), got(bob)) == ([], [("Inbox", address(bob))])
    with db.write():
        Account.objects.filter(pk=bob.pk).update(quota_message_size=10)
    refused = send(wire, STRANGER, public)
    assert refused.startswith("452 4.2.2 mailbox is full")
    assert not re.search(f"{ann.name}@|{bob.name}@", refused), "who the members are is no stranger's business"


# Addresses that refuse mail.


@pytest.mark.parametrize(
    ("smtp_error", "reply"),
    [
        ("421", "451 4.3.0 error processing ("),
        ("421 come back on Monday", "451 4.3.0 come back on Monday ("),
        ("550", "550 5.1.1 no such user(s) ("),
        ("550 this address was closed", "550 5.1.1 this address was closed ("),
    ],
)
def test_an_address_can_refuse_all_mail(wire: Wire, ann: Account, smtp_error: str, reply: str) -> None:
    change_address(Address.objects.get(account=ann), smtp_error=smtp_error)
    wire.begin()
    assert wire.command(f"RCPT TO:<{address(ann)}>").startswith(reply)
    assert wire.command(f"RCPT TO:<{address(ann).replace('@', '+x@')}>").startswith(reply)


def test_an_alias_accepts_if_one_member_does(wire: Wire, public: Alias, ann: Account, bob: Account) -> None:
    change_address(Address.objects.get(account=ann), smtp_error="550 closed")
    assert send(wire, STRANGER, public).startswith("250 2.2.0 ")
    assert (got(ann), len(got(bob))) == ([], 1)
    change_address(Address.objects.get(account=bob), smtp_error="421 later")
    wire.begin()
    assert wire.command(f"RCPT TO:<{public}>").startswith("550 5.1.1 closed (")


def test_an_address_can_want_to_know_who_writes(wire: Wire, public: Alias, ann: Account, bob: Account) -> None:
    """Such as one that answers by itself: it must not answer to whom a spammer names."""
    change_address(Address.objects.get(account=ann), message_auth_required_error="sign your messages")
    assert send(wire, "anna@forged.example", address(ann)).startswith("550 5.7.26 sign your messages (")
    assert send(wire, STRANGER, address(ann)).startswith("250 2.2.0 "), "SPF passes for its domain"
    assert [name for name, _ in got(ann)] == ["Rejects", "Inbox"]
    assert send(wire, "anna@forged.example", public).startswith("250 2.2.0 "), "the other member does not mind"
    assert [name for name, _ in got(ann)] == ["Rejects", "Inbox", "Rejects"]
    assert got(bob) == [("Inbox", address(bob))]


def test_tls_reports_come_without_tls(database: None) -> None:
    with running(listener={"smtp_require_starttls": True}) as service, service.connect() as wire:
        wire.hello().begin()
        assert wire.command("RCPT TO:<postmaster@localhost>").startswith("530 5.7.0 ")
        assert wire.command("RCPT TO:<tls-reports@localhost>").startswith("250 ")
