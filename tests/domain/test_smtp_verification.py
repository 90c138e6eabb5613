"""What is verified about incoming mail: told in the header, kept for reputation, and refused if its domain says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from accounts.models import Account, Address, Ruleset
from protocols import dkim
from protocols.dns import ErrorKind, MockResolver
from protocols.message.authresults import AuthResults, parse_auth_results
from protocols.names import Domain
from store.content import message_reader
from store.models import Message, Validation
from tests.domain.smtp_service import running
from tests.system.smtp_wire import Wire

pytestmark = pytest.mark.database

CLIENT = "127.3.3.3"
SENDER = Domain("sender.example")
KEY = dkim.generate_ed25519()
RECORDS: dict[str, list[str]] = {
    "mx sender.example.": ["10 mx.sender.example."],
    "a mx.sender.example.": [CLIENT],
    f"ptr {CLIENT}": ["mx.sender.example."],
    "txt sender.example.": ["v=spf1 mx -all"],
    "txt s1._domainkey.sender.example.": [dkim.DkimRecord.for_key(KEY).compose()],
    "txt _dmarc.sender.example.": ["v=DMARC1; p=reject"],
    "mx list.example.": ["10 mx.sender.example."],
    "mx refuses.example.": ["0 ."],
    "a addressonly.example.": ["192.0.2.4"],
    "txt _dmarc.refuses-policy.example.": ["v=DMARC1; p=quarantine"],
}


def resolver(**options: Any) -> MockResolver:
    return MockResolver(RECORDS, **options)


def content(author: str = "anna@sender.example", *, extra: str = "", signed: bool = False) -> bytes:
    header = f"{extra}From: <{author}>\r\nTo: <x@localhost>\r\nSubject: hello\r\nDate: 3 Mar 2026 09:12:44 +0000\r\n"
    message = f"{header}Message-Id: <1@sender.example>\r\n\r\nbody\r\n".encode()
    if signed:
        message = dkim.sign(message, "anna", SENDER, [dkim.Selector(Domain("s1"), KEY)]) + message
    return message + b".\r\n"


def deliver(account: Account, message: bytes, sender: str = "anna@sender.example", **options: Any) -> str:
    """The reply to the end of the message."""
    with running(resolver=resolver(**options)) as service, service.connect(CLIENT) as wire:
        return wire.hello().begin(f"{account.name}@localhost", sender=sender).data(message)


def received(account: Account) -> Message:
    return Message.objects.get(account=account, expunged=False)


def results(account: Account) -> AuthResults:
    """What the topmost Authentication-Results field of the message says."""
    with message_reader(received(account).pk) as reader:
        text = reader.read().decode()
    name, _, rest = text.partition("Authentication-Results:")
    assert "Delivered-To:" in name
    value = rest.partition("\r\nReceived-SPF:")[0]
    return parse_auth_results(value.replace("\r\n", ""))


def verdicts(account: Account) -> dict[str, str]:
    return {method.method: method.result for method in results(account).methods}


def test_it_tells_what_passes_and_keeps_it_for_reputation(account: Account) -> None:
    assert deliver(account, content(signed=True)).startswith("250 ")
    assert verdicts(account) == {"iprev": "pass", "dkim": "pass", "spf": "pass", "dmarc": "pass"}
    message = received(account)
    assert message.mail_from_validated
    assert message.mail_from_validation == Validation.PASS
    assert message.msg_from_validated
    assert message.msg_from_validation == Validation.STRICT
    assert message.msg_from_org_domain == "sender.example"
    assert list(message.dkim_domains.values_list("domain", flat=True)) == ["sender.example"]


def test_it_says_whether_dnssec_verified_the_answers(account: Account) -> None:
    deliver(account, content(signed=True), authentic=True)
    assert {method.comment.rpartition("with")[2] for method in results(account).methods} == {" dnssec"}
    assert all("without" not in method.comment for method in results(account).methods)


def test_the_fields_stand_in_their_order(account: Account) -> None:
    deliver(account, content(signed=True))
    with message_reader(received(account).pk) as reader:
        lines = reader.read().decode().split("\r\n")
    names = [line.partition(":")[0] for line in lines if line[:1] not in ("\t", " ")][:8]
    assert names == [
        "X-Mox-Reason",
        "X-Mox-Explanation",
        "Delivered-To",
        "Return-Path",
        "Authentication-Results",
        "Received-SPF",
        "Received",
        "DKIM-Signature",
    ]


def test_it_refuses_what_fails_the_policy_of_its_domain(account: Account) -> None:
    reply = deliver(account, content(), sender="bo@list.example")
    assert reply.startswith("550 5.7.26 ")
    assert "sender.example" in reply
    copy = received(account)
    assert copy.mailbox.name == "Rejects"
    assert copy.is_reject
    assert copy.seen


@pytest.mark.parametrize(
    ("columns", "override"),
    [
        ({"list_allow_domain": "remote.example", "msg_from_regexp": "anna"}, "mailing_list"),
        ({"is_forward": True, "smtp_mail_from_regexp": "bo@", "verified_domain": "remote.example"}, "forwarded"),
    ],
)
def test_it_says_why_a_policy_was_not_followed(account: Account, columns: dict[str, Any], override: str) -> None:
    Ruleset.objects.create(address=Address.objects.get(account=account), mailbox="Lists", **columns)
    of_list = {"mx remote.example.": ["10 mx.sender.example."], "txt remote.example.": ["v=spf1 +all"]}
    with running(resolver=MockResolver({**RECORDS, **of_list})) as service, service.connect(CLIENT) as wire:
        wire.hello().begin(f"{account.name}@localhost", sender="bo@remote.example")
        assert wire.data(content()).startswith("250 ")
    (policy,) = [method for method in results(account).methods if method.method == "dmarc"]
    assert (policy.result, policy.comment) == ("fail", f"without dnssec, override {override}")


def test_it_says_that_a_message_was_sampled_out(account: Account) -> None:
    records = {
        **RECORDS,
        "txt _dmarc.sender.example.": ["v=DMARC1; p=reject; pct=0"],
        "mx list.example.": ["10 mx.sender.example."],
    }
    with running(resolver=MockResolver(records)) as service, service.connect(CLIENT) as wire:
        wire.hello().begin(f"{account.name}@localhost", sender="bo@list.example")
        assert wire.data(content()).startswith("250 ")
    (policy,) = [method for method in results(account).methods if method.method == "dmarc"]
    assert policy.comment == "without dnssec, override sampled_out"


def test_a_signature_is_enough_for_mail_that_comes_another_way(account: Account) -> None:
    assert deliver(account, content(signed=True), sender="bo@list.example").startswith("250 ")
    assert verdicts(account) == {"iprev": "pass", "dkim": "pass", "spf": "none", "dmarc": "pass"}


def test_a_broken_signature_is_told_and_judged(account: Account) -> None:
    broken = content(signed=True).replace(b"body", b"BODY")
    assert deliver(account, broken, sender="bo@list.example").startswith("550 5.7.26 ")
    assert deliver(account, broken).startswith("250 ")  # SPF still passes, and is aligned
    assert verdicts(account) == {"iprev": "pass", "dkim": "fail", "spf": "pass", "dmarc": "pass"}


def test_trouble_with_dns_refuses_nothing(account: Account) -> None:
    fail = ["txt s1._domainkey.sender.example.", "txt sender.example.", "txt _dmarc.sender.example."]
    assert deliver(account, content(signed=True), fail=fail).startswith("250 ")
    assert verdicts(account) == {"iprev": "pass", "dkim": "temperror", "spf": "temperror", "dmarc": "temperror"}


def test_a_stranger_whose_address_has_no_name_is_put_off(account: Account) -> None:
    reply = deliver(account, content("bo@list.example"), sender="bo@list.example", fail=[f"ptr {CLIENT}"])
    assert reply.startswith("451 4.3.0 "), "a name server that is away is back when the sender tries again"
    assert verdicts(account)["iprev"] == "temperror"
    assert received(account).mailbox.name == "Rejects"


def test_a_stranger_who_is_who_it_says_is_told_how_to_get_through(account: Account) -> None:
    reply = deliver(account, content(), fail=[f"ptr {CLIENT}"])
    assert reply.startswith("550 5.7.1 message resembles spam")
    token = re.search(r"\(pass:[^)]+\)", reply)
    assert token is not None
    again = content().replace(b"Subject: hello", f"Subject: hello {token[0]}".encode())
    forged = content("bo@sender.example").replace(b"Subject: hello", f"Subject: hello {token[0]}".encode())
    assert not deliver(account, forged, fail=[f"ptr {CLIENT}"]).startswith("250 ")
    assert deliver(account, again, fail=[f"ptr {CLIENT}"]).startswith("250 ")
    assert received(account).mailbox.name == "Inbox", "the copy among the rejects is gone"


def test_mail_without_one_author_is_taken_without_a_policy(account: Account) -> None:
    two = content().replace(b"From: <anna@sender.example>", b"From: <anna@sender.example>, <bo@sender.example>")
    assert deliver(account, two, sender="bo@list.example").startswith("250 ")
    assert verdicts(account)["dmarc"] == "none"
    assert received(account).msg_from_validation == Validation.NONE


def test_results_in_our_name_are_taken_out_of_what_comes(account: Account) -> None:
    forged = "Authentication-Results: localhost; dkim=pass header.d=bank.example\r\n"
    others = "Authentication-Results: elsewhere.example; spf=fail\r\n"
    assert deliver(account, content(extra=forged + others + forged.lower())).startswith("250 ")
    with message_reader(received(account).pk) as reader:
        text = reader.read().decode()
    assert "bank.example" not in text
    assert "elsewhere.example" in text
    assert text.endswith("\r\n\r\nbody\r\n")


def test_they_are_taken_out_of_large_messages_too(account: Account) -> None:
    forged = "Authentication-Results: localhost;\r\n\tdkim=pass header.d=bank.example\r\n"
    large = content(extra=forged).removesuffix(b".\r\n") + b"a line that makes it large\r\n" * 90_000 + b".\r\n"
    assert deliver(account, large).startswith("250 ")
    with message_reader(received(account).pk) as reader:
        assert b"bank.example" not in reader.read_at(0, 5000)
        assert reader.read_at(reader.size - 28, 28) == b"a line that makes it large\r\n"


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        ("a@refuses.example", "550 5.7.27 "),
        ("a@nowhere.example", "550 5.7.27 "),
        ("a@broken.example", "451 4.4.0 "),
        ("a@addressonly.example", "250 "),
        ("", "250 "),
    ],
)
def test_a_sender_must_be_able_to_get_mail(database: None, sender: str, reply: str) -> None:
    dns = resolver(fail={"mx broken.example.": ErrorKind.BOGUS})
    with running(resolver=dns) as service, service.connect(CLIENT) as wire:
        assert wire.hello().command(f"MAIL FROM:<{sender}>").startswith(reply)


def test_a_helo_name_must_exist(database: None) -> None:
    dns = resolver(fail=["a broken.example.", "aaaa broken.example."])
    with running(resolver=dns) as service, service.connect(CLIENT) as wire:
        wire.line()
        assert wire.command("HELO nowhere.example").startswith("550 5.5.0 ")
        assert wire.command("MAIL FROM:<anna@sender.example>").startswith("503 5.5.1 ")
        assert wire.command("HELO broken.example").startswith("250 ")
        assert wire.command("HELO mx.sender.example").startswith("250 ")
        assert wire.command("EHLO nowhere.example").startswith("250")


def test_several_recipients_need_a_proven_sender(account: Account, new_account: Callable[[], Account]) -> None:
    other = new_account()

    def second(wire: Wire, sender: str) -> str:
        wire.hello().begin(f"{account.name}@localhost", sender=sender)
        return wire.command(f"RCPT TO:<{other.name}@localhost>")

    with running(resolver=resolver()) as service:
        with service.connect(CLIENT) as wire:
            assert second(wire, "anna@sender.example").startswith("250 ")
            assert wire.data(content()).startswith("250 ")
        with service.connect(CLIENT) as wire:
            assert second(wire, "bo@list.example").startswith("452 4.5.3 ")
    assert verdicts(other)["spf"] == "pass"
