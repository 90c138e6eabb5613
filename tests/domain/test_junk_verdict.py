"""The verdict: its steps in their order, and what each of them says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.models import Account, Address, JunkFilterConfig, Ruleset, RulesetHeader
from junk import counts
from junk.analysis import AskBlocklists, Incoming, Verdict, analyze, conclude
from junk.models import JunkFilter, JunkWord
from junk.reputation import Sender
from protocols.message import ensure_part
from protocols.message.source import BytesSource
from protocols.names import parse_address
from store import blobs, mailboxes, messages
from store.db import write_tx
from store.messages import NewMessage, Origin
from store.models import Message

pytestmark = pytest.mark.database

NOW = datetime(2026, 6, 1, tzinfo=UTC)
CONTENT = b"From: Ann <ann@shop.example>\r\nList-Id: <users.lists.example>\r\nSubject: %b\r\n\r\n%b\r\n"


def incoming(account: Account, text: bytes = b"hello", subject: bytes = b"x", **changed: Any) -> Incoming:
    """A message from a stranger of whom everything is fine."""
    content = CONTENT % (subject, text)
    part, _ = ensure_part(content)
    address = Address.objects.get(account=account)
    made = Incoming(
        account_id=account.pk,
        address_id=address.pk,
        canonical=address.canonical,
        mailbox="",
        sender=Sender(account.pk, "ann", "shop.example", "shop.example", "shop.example", "shop.example"),
        author=parse_address("ann@shop.example"),
        mail_from="ann@shop.example",
        spf_domain="",
        spf_is_hello=False,
        spf_failed=False,
        signed_by=(),
        iprev_passed=True,
        has_tls=True,
        policy_refusal="",
        dmarc_passed=False,
        is_addressed=True,
        header=content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
        source=BytesSource(content),
        structure=part.to_json(),
        subject=subject.decode(),
        size=len(content),
        received=NOW,
    )
    return replace(made, **changed)


def verdict(message: Incoming) -> Verdict:
    found = analyze(message)
    assert isinstance(found, Verdict)
    return found


def had(account: Account, *, junk: bool, times: int = 1, **columns: Any) -> None:
    prepared = blobs.prepare(b"Subject: x\r\n\r\n")
    for _ in range(times):
        with write_tx(account.pk) as tx:
            mine = tx.account(account.pk)
            new = NewMessage(prepared, received=NOW - timedelta(days=1), origin=Origin(**columns))
            made = messages.add(mine, mailboxes.get(mine, "Inbox"), new)
        Message.objects.filter(pk=made.message_id).update(junk=junk, notjunk=not junk)


def learn(account: Account, hams: int = 60) -> None:
    """A filter to which "casino" is junk and "meeting" is not."""
    JunkFilter.objects.update_or_create(pk=account.pk, defaults={"hams": hams, "spams": 60})
    for number in range(60):
        counts.add(account.pk, 0, ["casino", "prize"], junk=True)
        if number < hams:
            counts.add(account.pk, 0, ["meeting", "lunch"], junk=False)


@pytest.fixture(autouse=True)
def forget(account: Account) -> Any:
    """What tests make up about a filter contradicts the account's messages, and is not left to the checker."""
    yield
    JunkWord.objects.filter(account=account).delete()
    JunkFilter.objects.filter(pk=account.pk).delete()
    Message.objects.filter(account=account).update(junk=False, notjunk=False)


KNOWN: dict[str, Any] = {
    "msg_from_localpart": "ann",
    "msg_from_domain": "shop.example",
    "msg_from_org_domain": "shop.example",
}


def test_a_stranger_without_bad_signals_is_let_in(account: Account) -> None:
    found = verdict(incoming(account))
    assert (found.accept, found.reason) == (True, "no-bad-signals")
    assert found.is_first_time
    account.no_first_time_sender_delay = True
    account.save()
    assert not verdict(incoming(account)).is_first_time


def test_a_known_good_sender_is_let_in_whatever_it_says_and_no_blocklist_hears_of_it(account: Account) -> None:
    learn(account)
    had(account, junk=False, msg_from_validated=True, **KNOWN)
    sender = replace(incoming(account).sender, msg_from_validated=True)
    found = verdict(incoming(account, b"casino prize", sender=sender, blocklists=("bl.example",)))
    assert (found.accept, found.reason) == (True, "msgfromfull")
    assert not found.is_first_time


def test_the_policy_of_a_domain_comes_before_reputation(account: Account) -> None:
    had(account, junk=False, msg_from_validated=True, **KNOWN)
    sender = replace(incoming(account).sender, msg_from_validated=True)
    found = verdict(incoming(account, sender=sender, policy_refusal="message is refused by the policy"))
    assert (found.accept, found.reason, found.code, found.enhanced) == (False, "dmarc-policy", 550, "5.7.26")


def test_a_known_bad_sender_is_refused_without_a_hint(account: Account) -> None:
    had(account, junk=True, msg_from_validated=True, **KNOWN)
    sender = replace(incoming(account).sender, msg_from_validated=True)
    found = verdict(incoming(account, sender=sender))
    assert (found.accept, found.reason, found.code, found.text) == (False, "msgfromfull", 451, "error processing")


def test_strangers_whom_spf_does_not_know_are_refused(account: Account) -> None:
    assert verdict(incoming(account, spf_failed=True)).reason == "spf-policy"
    had(account, junk=False, times=2, msg_from_localpart="bob", msg_from_domain="shop.example")
    found = verdict(incoming(account, spf_failed=True))
    assert (found.accept, found.reason) == (True, "msgfromdomain")


def test_bad_signs_add_up(account: Account) -> None:
    sender = replace(incoming(account).sender, networks=("198.51.100.7", "198.51.100.0", "198.51.96.0"))
    had(account, junk=True, remote_ip_masked1="198.51.100.7")
    assert verdict(incoming(account, sender=sender)).accept
    assert verdict(incoming(account, sender=sender, iprev_passed=False)).reason == "iprev"


@pytest.mark.parametrize(
    ("text", "changed", "accepted", "reason"),
    [
        (b"casino prize", {}, False, "junk-content"),
        (b"meeting lunch", {}, True, "no-bad-signals"),
        (b"unknown words", {}, True, "no-bad-signals"),
        (b"unknown words", {"has_tls": False}, False, "junk-content-strict"),
        (b"unknown words", {"is_addressed": False}, False, "junk-content-strict"),
        (b"unknown words", {"iprev_passed": False}, False, "junk-content-strict"),
        (b"meeting lunch", {"has_tls": False, "is_addressed": False, "iprev_passed": False}, True, "no-bad-signals"),
    ],
)
def test_content_decides_about_strangers(
    account: Account, text: bytes, changed: dict[str, Any], accepted: bool, reason: str
) -> None:
    learn(account)
    found = verdict(incoming(account, text, **changed))
    assert (found.accept, found.reason) == (accepted, reason)
    assert any("content is junk with probability" in line for line in found.explanation)


@pytest.mark.parametrize(("hams", "accepted"), [(49, True), (50, False)])
def test_a_filter_that_knows_little_rejects_nothing(account: Account, hams: int, accepted: bool) -> None:
    learn(account, hams)
    assert verdict(incoming(account, b"casino prize")).accept is accepted


@pytest.mark.parametrize(
    ("kind", "accepted"),
    [
        (b"text/plain; charset=us-ascii", True),
        (b"TEXT/PLAIN charset=us-ascii", False),
        (b"application/octet-stream", True),
    ],
)
def test_what_has_a_type_that_is_none_is_junk(account: Account, kind: bytes, accepted: bool) -> None:
    learn(account)
    content = b"Content-Type: " + kind + b"\r\nSubject: meeting\r\n\r\nlunch\r\n"
    part, _ = ensure_part(content)
    message = incoming(account, source=BytesSource(content), structure=part.to_json())
    assert verdict(message).accept is accepted


def test_without_a_filter_content_is_not_judged(account: Account) -> None:
    learn(account)
    JunkFilterConfig.objects.filter(account=account).delete()
    assert verdict(incoming(account, b"casino prize")).accept


def test_blocklists_are_asked_last_and_about_strangers(account: Account) -> None:
    asked = analyze(incoming(account, blocklists=("bl.example",)))
    assert isinstance(asked, AskBlocklists)
    assert asked.zones == ("bl.example",)
    assert conclude(asked, "").reason == "no-bad-signals"
    assert conclude(asked, "bl.example").reason == "dns-blocklisted"


def test_who_is_who_it_says_is_told_how_to_get_through(account: Account) -> None:
    asked = analyze(incoming(account, blocklists=("bl.example",), dmarc_passed=True))
    assert isinstance(asked, AskBlocklists)
    offered = conclude(asked, "bl.example")
    assert (offered.reason, offered.code, offered.enhanced) == ("give-subjectpass", 550, "5.7.1")
    token = offered.text[offered.text.index("(pass:") : offered.text.index(")") + 1]
    again = incoming(account, subject=f"x {token}".encode(), blocklists=("bl.example",), dmarc_passed=True)
    assert verdict(again).reason == "subjectpass"
    late = replace(again, received=NOW + timedelta(hours=13))
    assert isinstance(analyze(late), AskBlocklists)
    learn(account)
    assert verdict(incoming(account, b"casino prize", dmarc_passed=True)).reason == "junk-content"


def ruleset(account: Account, headers: tuple[tuple[str, str], ...] = (), **columns: Any) -> Ruleset:
    made = Ruleset.objects.create(address=Address.objects.get(account=account), **{"mailbox": "Lists/users", **columns})
    for name, value in headers:
        RulesetHeader.objects.create(ruleset=made, name_regexp=name, value_regexp=value)
    return made


LIST_ID = (("^list-id$", r"<users\.lists\.example>$"),)


@pytest.mark.parametrize(
    ("columns", "headers", "matches"),
    [
        ({"smtp_mail_from_regexp": "^ann@"}, (), True),
        ({"smtp_mail_from_regexp": "^bob@"}, (), False),
        ({"msg_from_regexp": r"@shop\.example$"}, LIST_ID, True),
        ({"msg_from_regexp": r"@shop\.example$"}, (*LIST_ID, ("^x-other$", "")), False),
        ({"verified_domain": "lists.example"}, (), True),
        ({"verified_domain": "example"}, (), True),
        ({"verified_domain": "ists.example"}, (), False),
        ({}, (), False),
        ({"msg_from_regexp": "(["}, (), False),
    ],
)
def test_rulesets_choose_the_mailbox(
    account: Account, columns: dict[str, Any], headers: tuple[tuple[str, str], ...], matches: bool
) -> None:
    ruleset(account, headers, **columns)
    found = verdict(incoming(account, signed_by=("lists.example",)))
    assert found.mailbox == ("Lists/users" if matches else "")
    assert found.accept


def test_the_first_ruleset_that_matches_wins(account: Account) -> None:
    ruleset(account, smtp_mail_from_regexp="ann", mailbox="Second", position=2)
    ruleset(account, smtp_mail_from_regexp="ann", mailbox="First", position=1)
    assert verdict(incoming(account)).mailbox == "First"


def test_a_verified_list_is_taken_unseen_and_a_forged_one_is_not(account: Account) -> None:
    learn(account)
    ruleset(account, LIST_ID, list_allow_domain="lists.example")
    listed = verdict(incoming(account, b"casino prize", signed_by=("lists.example",), policy_refusal="policy"))
    assert (listed.accept, listed.reason, listed.dmarc_override) == (True, "list-allow", "mailing_list")
    forged = verdict(incoming(account, b"casino prize"))
    assert (forged.accept, forged.mailbox) == (False, "Lists/users")


def test_a_forwarder_gets_neither_blame_nor_credit(account: Account) -> None:
    ruleset(account, smtp_mail_from_regexp="^ann@", verified_domain="fwd.example", is_forward=True, mailbox="Inbox")
    sender = replace(
        incoming(account).sender,
        networks=("198.51.100.7", "198.51.100.0", "198.51.96.0"),
        dkim_domains=("fwd.example", "author.example"),
        mail_from_domain="fwd.example",
    )
    had(account, junk=True, times=3, remote_ip_masked1="198.51.100.7")
    found = verdict(incoming(account, sender=sender, signed_by=("fwd.example",), policy_refusal="p", has_tls=False))
    assert (found.accept, found.dmarc_override) == (True, "forwarded")
    assert found.forwarder is not None
    assert found.forwarder.networks == ("", "", "")
    assert found.forwarder.dkim_domains == ("author.example",)
    assert not found.is_first_time


def test_what_would_be_rejected_can_go_to_a_mailbox_instead(account: Account) -> None:
    learn(account)
    ruleset(account, smtp_mail_from_regexp="^ann@", accept_rejects_to_mailbox="Odd")
    found = verdict(incoming(account, b"casino prize"))
    assert (found.accept, found.into_instead) == (False, "Odd")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "ruleset must have at least one rule"),
        (["--from=(["], "invalid MsgFrom regular expression: .*, at character 2"),
        (["--header=^List-Id$:x"], "header field .* must only have lower case characters"),
        (["--header=list-id"], "has no colon"),
        (["--from=x", "--forward"], "ruleset with IsForward must have both SMTPMailFromRegexp and VerifiedDomain too"),
        (
            ["--mailfrom=x", "--verifieddomain=a.example", "--forward", "--listallowdomain=b.example"],
            "cannot have both",
        ),
        (["--from=x", "--acceptrejectsto=INBOX"], "AcceptRejectsToMailbox cannot be set to Inbox"),
        (["--from=x", "--verifieddomain=a..b"], "is not a domain name"),
    ],
)
def test_rulesets_that_make_no_sense_are_refused(account: Account, arguments: list[str], error: str) -> None:
    with pytest.raises(CommandError, match=error):
        call_command("ruleset", "add", f"{account.name}@localhost", "Lists/x", *arguments)
    assert not Ruleset.objects.filter(address__account=account).exists()


def test_the_command_adds_shows_and_removes_rulesets(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    address = f"{account.name}@localhost"
    call_command("ruleset", "add", address, "inbox/sub", "--from=ann", "--comment=friends")
    call_command(
        "ruleset", "add", address, "Lists/users", "--header=^list-id$:users", "--listallowdomain=bücher.example"
    )
    assert verdict(incoming(account)).mailbox == "Inbox/sub"
    capsys.readouterr()
    call_command("ruleset", "list", address, "--json")
    first, second = json.loads(capsys.readouterr().out)
    assert (first["mailbox"], first["msg_from_regexp"], first["comment"]) == ("Inbox/sub", "ann", "friends")
    assert second["headers_regexp"] == [["^list-id$", "users"]]
    assert second["list_allow_domain"] == "xn--bcher-kva.example"
    call_command("ruleset", "rm", address, "1")
    assert verdict(incoming(account)).mailbox == "Lists/users"
    with pytest.raises(CommandError, match="has no ruleset 2: it has 1"):
        call_command("ruleset", "rm", address, "2")


def test_an_expression_that_would_take_for_ever_elsewhere_costs_nothing(account: Account) -> None:
    ruleset(account, (("^subject$", "(a+)+$"),))
    assert verdict(incoming(account, subject=b"a" * 60_000 + b"!")).mailbox == ""
