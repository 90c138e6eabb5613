"""Who was welcome stays so: the steps of reputation, each with what just tips it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import Account
from junk import rates
from junk.reputation import Method, Reputation, Sender, judge
from store import blobs, mailboxes, messages, signatures
from store.db import write_tx
from store.messages import NewMessage, Origin
from store.models import Mailbox, Message, Recipient

pytestmark = pytest.mark.database

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ANN: dict[str, Any] = {
    "msg_from_localpart": "ann",
    "msg_from_domain": "shop.example",
    "msg_from_org_domain": "shop.example",
}


def sender(account: Account, **changed: Any) -> Sender:
    return Sender(account.pk, ascii_domain="shop.example", ascii_org_domain="shop.example", **{**ANN, **changed})


def inbox(account: Account) -> Mailbox:
    return Mailbox.objects.get(account=account, name="Inbox")


def had(
    account: Account,
    *,
    junk: bool,
    ago: timedelta = timedelta(days=1),
    times: int = 1,
    dkim: tuple[str, ...] = (),
    mailbox: str = "Inbox",
    **columns: Any,
) -> None:
    """Messages that the account got and judged."""
    prepared = blobs.prepare(b"Subject: x\r\n\r\n")
    fields = {key: value for key, value in columns.items() if key in Origin.__slots__}
    for _ in range(times):
        with write_tx(account.pk) as tx:
            mine = tx.account(account.pk)
            new = NewMessage(prepared, received=NOW - ago, origin=Origin(**fields), dkim_domains=dkim)
            made = messages.add(mine, mailboxes.get(mine, mailbox), new)
        Message.objects.filter(pk=made.message_id).update(junk=junk, notjunk=not junk)
        signatures.follow([made.message_id])


def reputation(account: Account, of: Sender | None = None) -> Reputation:
    return judge(of or sender(account), inbox(account).pk, NOW)


def wrote_to(account: Account, localpart: str, domain: str, org_domain: str, ago: timedelta) -> None:
    had(account, junk=False, mailbox="Sent")
    message = Message.objects.filter(account=account).latest("pk")
    Recipient.objects.create(
        account=account, message=message, localpart=localpart, domain=domain, org_domain=org_domain, sent=NOW - ago
    )


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """What the database is asked."""
    if connection.vendor != "sqlite":
        with CaptureQueriesContext(connection) as queries:
            asked: list[str] = []
            yield asked
        asked += [query["sql"] for query in queries]
        return
    asked = []
    connection.ensure_connection()
    connection.connection.set_trace_callback(asked.append)  # some go past Django
    try:
        yield asked
    finally:
        connection.connection.set_trace_callback(None)


JUNK, HAM, UNKNOWN = True, False, None


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ((HAM,), HAM),
        ((JUNK,), JUNK),
        ((HAM, JUNK), HAM),
        ((HAM, JUNK, JUNK), JUNK),
        ((JUNK, HAM), HAM),
    ],
)
def test_a_known_sender_is_judged_by_the_last_two(account: Account, marks: tuple[bool, ...], expected: bool) -> None:
    for number, mark in enumerate(marks):
        had(account, junk=mark, ago=timedelta(days=10 - number), msg_from_validated=True, **ANN)
    known = sender(account, msg_from_validated=True)
    assert reputation(account, known) == Reputation(expected, conclusive=True, method=Method.ADDRESS)


def test_history_ends_after_three_years(account: Account) -> None:
    had(account, junk=False, ago=timedelta(days=3 * 365, seconds=1), msg_from_validated=True, **ANN)
    assert reputation(account, sender(account, msg_from_validated=True)).method is Method.NONE


def test_who_claims_to_be_a_verified_sender_and_is_not_verified_is_suspicious(account: Account) -> None:
    had(account, junk=False, msg_from_validated=True, **ANN)
    assert reputation(account) == Reputation(JUNK, conclusive=False, method=Method.ADDRESS)
    had(account, junk=True, ago=timedelta(hours=2), msg_from_validated=True, **ANN)
    had(account, junk=True, ago=timedelta(hours=1), msg_from_validated=True, **ANN)
    assert reputation(account) == Reputation(JUNK, conclusive=True, method=Method.ADDRESS)


def test_forged_mail_cannot_hurt_a_verified_sender(account: Account) -> None:
    had(account, junk=True, times=5, **ANN)
    assert reputation(account, sender(account, msg_from_validated=True)).method is Method.NONE


@pytest.mark.parametrize(
    ("columns", "validated"),
    [
        ({"mail_from_domain": "bank.example", "mail_from_localpart": "news"}, "mail_from_validated"),
        ({"ehlo_domain": "bank.example"}, "ehlo_validated"),
    ],
)
def test_names_that_did_not_verify_neither_give_nor_take_reputation(
    account: Account, columns: dict[str, Any], validated: str
) -> None:
    verified: dict[str, Any] = {**columns, validated: True}
    forged = Sender(account.pk, **columns)
    genuine = Sender(account.pk, **verified)
    had(account, junk=True, times=5, **columns)
    assert reputation(account, genuine).method is Method.NONE, "others used its name"
    had(account, junk=False, times=60, **verified)
    assert reputation(account, genuine) == Reputation(HAM, conclusive=True, method=Method.IDENTITY)
    assert reputation(account, forged).method is Method.NONE


def test_a_flood_of_forged_mail_moves_nobody_who_verifies(account: Account) -> None:
    """Neither the address nor its domain, from however many localparts, once its own mail has a history or none."""
    known = sender(account, msg_from_validated=True)
    for localpart in ("ann", "bob", "eve", "joe"):
        had(account, junk=True, times=6, **{**ANN, "msg_from_localpart": localpart})
    assert reputation(account, known).method is Method.NONE
    had(account, junk=False, ago=timedelta(days=300), msg_from_validated=True, **ANN)
    assert reputation(account, known) == Reputation(HAM, conclusive=True, method=Method.ADDRESS)
    other = sender(account, msg_from_localpart="zoe", msg_from_validated=True)
    assert reputation(account, other) == Reputation(HAM, conclusive=True, method=Method.DOMAIN)


def test_mail_to_the_address_the_domain_or_above_it_makes_welcome(account: Account) -> None:
    wrote_to(account, "bob", "mail.shop.example", "shop.example", timedelta(days=700))
    assert reputation(account) == Reputation(HAM, conclusive=True, method=Method.WROTE_TO_ORG_DOMAIN)
    wrote_to(account, "bob", "shop.example", "shop.example", timedelta(days=700))
    assert reputation(account) == Reputation(HAM, conclusive=True, method=Method.WROTE_TO_DOMAIN)
    wrote_to(account, "ann", "shop.example", "shop.example", timedelta(days=1000))
    assert reputation(account) == Reputation(HAM, conclusive=True, method=Method.WROTE_TO_ADDRESS)


@pytest.mark.parametrize(
    ("hams", "junks", "localparts", "expected"),
    [
        (5, 1, 2, (HAM, True)),  # 83 %
        (4, 1, 2, (UNKNOWN, False)),  # 80 %
        (0, 3, 3, (JUNK, True)),
        (0, 3, 2, (JUNK, False)),
        (1, 5, 3, (UNKNOWN, False)),
    ],
)
@pytest.mark.parametrize("organization", [False, True])
def test_a_domain_is_judged_by_its_other_senders(
    account: Account, hams: int, junks: int, localparts: int, expected: tuple[bool | None, bool], organization: bool
) -> None:
    of_domain: dict[str, Any] = {"msg_from_domain": "news.shop.example" if organization else "shop.example"}
    for number in range(hams + junks):
        columns: dict[str, Any] = {**ANN, **of_domain, "msg_from_localpart": f"other{number % localparts}"}
        had(account, junk=number >= hams, ago=timedelta(days=1, seconds=number), **columns)
    method = Method.ORG_DOMAIN if organization else Method.DOMAIN
    assert reputation(account) == Reputation(expected[0], conclusive=expected[1], method=method)


def test_verified_identities_are_signals(account: Account) -> None:
    signed = sender(account, dkim_domains=("esp.example",), mail_from_localpart="b", mail_from_domain="esp.example")
    other: dict[str, Any] = {
        "msg_from_localpart": "x",
        "msg_from_domain": "other.example",
        "msg_from_org_domain": "other.example",
    }
    had(account, junk=True, dkim=("esp.example",), **other)
    assert reputation(account, signed) == Reputation(JUNK, conclusive=False, method=Method.IDENTITY)
    had(account, junk=True, dkim=("esp.example",), **other)
    assert reputation(account, signed) == Reputation(JUNK, conclusive=True, method=Method.IDENTITY)
    passed = replace(signed, mail_from_validated=True)
    had(account, junk=False, mail_from_localpart="b", mail_from_domain="esp.example", mail_from_validated=True)
    assert reputation(account, passed) == Reputation(UNKNOWN, conclusive=False, method=Method.IDENTITY)
    # What failed to be verified says nothing.
    assert reputation(account, signed).conclusive


@pytest.mark.parametrize(("width", "enough"), [(1, 2), (2, 5), (3, 10)])
def test_networks_tell_something_about_strangers(account: Account, width: int, enough: int) -> None:
    networks = ("198.51.100.77", "198.51.100.64", "198.51.96.0")
    stranger = sender(account, networks=networks)
    method = (Method.NETWORK1, Method.NETWORK2, Method.NETWORK3)[width - 1]
    column: dict[str, Any] = {f"remote_ip_masked{width}": networks[width - 1]}
    had(account, junk=True, times=enough - 1, **column)
    assert reputation(account, stranger) == Reputation(JUNK, conclusive=False, method=method)
    had(account, junk=True, **column)
    assert reputation(account, stranger) == Reputation(JUNK, conclusive=True, method=method)
    had(account, junk=False, times=enough, **column)
    assert reputation(account, stranger) == Reputation(UNKNOWN, conclusive=False, method=method)


def test_only_the_mailbox_it_goes_to_counts(account: Account) -> None:
    had(account, junk=True, times=3, mailbox="Archive", msg_from_validated=True, **ANN)
    known = sender(account, msg_from_validated=True)
    assert reputation(account, known).method is Method.NONE
    assert judge(known, None, NOW).method is Method.NONE


def test_a_verdict_asks_few_questions(account: Account) -> None:
    nobody = sender(
        account,
        dkim_domains=("a.example",),
        mail_from_localpart="b",
        mail_from_domain="b.example",
        mail_from_validated=True,
        networks=("198.51.100.77", "198.51.100.64", "198.51.96.0"),
    )
    reputation(account, nobody)  # what is asked for the first time is made ready
    with statements() as asked:
        reputation(account, nobody)
    assert len(asked) == 5  # one is for the mailbox


def test_everything_is_found_by_an_index(account: Account) -> None:
    """Else a verdict would cost more the more mail an account has."""
    if connection.vendor != "sqlite":
        return  # PostgreSQL reads tables of a few rows without any index
    known = sender(
        account,
        dkim_domains=("a.example",),
        mail_from_localpart="b",
        mail_from_domain="b.example",
        mail_from_validated=True,
        networks=("198.51.100.77", "198.51.100.64", "198.51.96.0"),
    )
    with statements() as asked:
        reputation(account, known)
        rates.exceeded(account.pk, known.networks, 100, NOW)
    used: set[str] = set()
    for sql in asked:
        if "store_message" in sql:
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
                used.update(re.findall(r"INDEX (\w+)", " ".join(row[-1] for row in cursor.fetchall())))
    assert used >= {
        "message_rep_address",
        "message_rep_msgfrom",
        "message_rep_orgdomain",
        "message_rep_mailfrom",
        "message_rep_mailaddress",
        "message_rep_ip1",
        "message_rep_ip2",
        "message_rep_ip3",
        "message_rates",
        "dkim_domain_reputation",
    }
    assert "message_all_mail" not in used


def test_a_network_that_sends_too_much_is_told_to_wait(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "MESSAGES", {rates.MINUTE: (2, 9, 9), rates.DAY: (9, 9, 9)})
    networks = ("198.51.100.77", "198.51.100.64", "198.51.96.0")
    columns: dict[str, Any] = {f"remote_ip_masked{number + 1}": network for number, network in enumerate(networks)}
    columns["remote_ip"] = "198.51.100.77"
    had(account, junk=False, ago=timedelta(seconds=61), times=2, **columns)
    assert rates.exceeded(account.pk, networks, 100, NOW) is None
    had(account, junk=False, ago=timedelta(seconds=59), times=2, **columns)
    over = rates.exceeded(account.pk, networks, 100, NOW)
    assert over is not None
    assert str(over) == "too much mail from your network, at most 2 messages in a minute, try again later"
    assert rates.exceeded(account.pk, ("", "", ""), 100, NOW) is None, "forwards have no network"
    monkeypatch.undo()
    too_big = rates.BYTES[rates.MINUTE][0] + 1
    assert "bytes in a minute" in str(rates.exceeded(account.pk, networks, too_big, NOW))
