"""What is told and learnt of each result: calls of webhooks, exactly one for each event, and suppressed addresses."""

from __future__ import annotations

import email
import email.policy
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from accounts import webhooks
from accounts.accounts import ConfigurationError
from accounts.models import Account, Transport, WebhookEndpoint
from mailqueue import operations, suppressions
from mailqueue.models import DeliveryAttempt, Hook, RetiredHook, RetiredMessage, Suppression
from mailqueue.operations import Filter
from server import db
from tests.domain.queueing import attempts, deliver_due, inbox, is_queued, make_due, route_to, row, send
from tests.sinks import Sink, sink

pytestmark = pytest.mark.database

URL = "https://hooks.example/mail"


@pytest.fixture
def server() -> Iterator[Sink]:
    with sink() as started:
        yield started


@pytest.fixture
def told(account: Account) -> Account:
    """An account with a webhook for all outgoing mail."""
    webhooks.set_endpoint(account, "outgoing", URL, authorization="Bearer secret")
    return account


def waiting(account: Account) -> list[Hook]:
    return list(Hook.objects.filter(account=account).order_by("pk"))


def payload(hook: Hook | RetiredHook) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(hook.payload)
    return told


def test_it_tells_of_a_delivery_with_all_that_the_call_needs(told: Account, server: Sink) -> None:
    route_to(server, told)
    (queue_id,) = send(told, "them@far.example", extra={"Order": "17"})
    message_id = row(queue_id).message_id
    deliver_due()
    (hook,) = waiting(told)
    assert payload(hook) == {
        "Version": 0,
        "Event": "delivered",
        "DSN": False,
        "Suppressing": False,
        "QueueMsgID": queue_id,
        "FromID": "",
        "MessageID": message_id,
        "Subject": "hello",
        "WebhookQueued": hook.submitted.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "SMTPCode": 250,
        "SMTPEnhancedCode": "2.0.0",
        "Error": "",
        "Extra": {"Order": "17"},
        "Recipient": "them@far.example",
        "MsgID": 0,
    }
    assert (hook.url, hook.authorization, hook.has_authorization) == (URL, b"Bearer secret", True)
    assert (hook.queue_msg_id, hook.outgoing_event, hook.is_incoming) == (queue_id, "delivered", False)
    assert hook.next_attempt == hook.submitted <= db.now()
    assert not Suppression.objects.filter(account=told).exists()


def test_it_keeps_the_secret_from_the_database(told: Account) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM accounts_webhookendpoint")
        assert "secret" not in str([bytes(v) if isinstance(v, memoryview) else v for r in cursor for v in r])


def test_it_tells_of_each_delay_and_then_of_the_failure(told: Account, server: Sink) -> None:
    replies = ["451 4.7.1 come back", "451 4.7.1 come back", "550 5.1.1 no such user"]
    server.rcpt = lambda address: replies[0]
    route_to(server, told)
    (queue_id,) = send(told, "them@far.example")
    deliver_due()
    (first,) = waiting(told)
    assert [payload(first)[key] for key in ("Event", "SMTPCode", "SMTPEnhancedCode")] == ["delayed", 451, "4.7.1"]
    assert "come back" in payload(first)["Error"]
    while len(replies) > 1:
        replies.pop(0)
        make_due(queue_id)
        deliver_due()
    (last,) = waiting(told)
    told_last = payload(last)
    assert [told_last[key] for key in ("Event", "SMTPCode", "SMTPEnhancedCode")] == ["failed", 550, "5.1.1"]
    assert told_last["Suppressing"] is True
    # localserve keeps history: the events that were overtaken are in it, each with the one that took its place.
    retired = list(RetiredHook.objects.filter(account=told).order_by("pk"))
    assert [hook.superseded_by_id for hook in retired] == [retired[1].pk, last.pk]
    assert [hook.outgoing_event for hook in retired] == ["delayed", "delayed"]
    assert not any(hook.success for hook in retired)


def test_it_tells_only_of_events_that_were_asked_for(account: Account, server: Sink) -> None:
    webhooks.set_endpoint(account, "outgoing", URL, events=["failed"])
    server.rcpt = lambda address: "550 5.1.1 no" if address.startswith("bad") else ""
    route_to(server, account)
    send(account, "good@far.example", "bad@far.example")
    deliver_due()
    (hook,) = waiting(account)
    assert payload(hook)["Recipient"] == "bad@far.example"
    assert (hook.authorization, hook.has_authorization) == (b"", False)


def test_it_says_nothing_to_accounts_that_asked_for_nothing(account: Account, server: Sink) -> None:
    route_to(server, account)
    send(account, "them@far.example")
    deliver_due()
    assert not waiting(account)


def test_it_tells_what_an_admin_did(told: Account) -> None:
    failed, dropped = send(told, "one@far.example", "two@far.example")
    operations.fail(Filter(ids=(failed,)))
    operations.drop(Filter(ids=(dropped,)))
    events = {hook.queue_msg_id: payload(hook) for hook in waiting(told)}
    assert (events[failed]["Event"], events[dropped]["Event"]) == ("failed", "canceled")
    assert {e["Error"] for e in events.values()} == {"delivery canceled by admin"}
    assert {e["SMTPCode"] for e in events.values()} == {0}
    assert not any(e["Suppressing"] for e in events.values())


def test_it_stops_sending_to_an_address_that_was_refused(told: Account, server: Sink) -> None:
    server.rcpt = lambda address: "550 5.1.1 no such user"
    route_to(server, told)
    send(told, "ab@far.example")
    deliver_due()
    (entry,) = Suppression.objects.filter(account=told)
    assert (entry.base_address, entry.original_address, entry.manual) == ("ab@far.example", "ab@far.example", False)
    assert entry.reason == 'delivery failure from queue with smtp code 550, enhanced code "1.1"'
    Hook.objects.filter(account=told).delete()
    asked: list[str] = []
    server.mail = lambda address: asked.append(address) or ""  # type: ignore[func-returns-value] # only noted
    (queue_id,) = send(told, "A.b+c@far.example")
    deliver_due()
    assert not asked
    assert not is_queued(queue_id)
    (attempt,) = attempts(queue_id)
    assert (attempt.code, attempt.error) == (0, "address is on suppression list: A.b+c@far.example")
    (hook,) = waiting(told)
    told_of = payload(hook)
    assert (told_of["Event"], told_of["SMTPCode"], told_of["Suppressing"]) == ("suppressed", 0, False)
    assert "suppression list" in told_of["Error"]
    notice = email.message_from_bytes(inbox(told)[-1], policy=email.policy.default)
    status = list(notice.iter_parts())[1].as_string()
    assert "Status: 5.7.1" in status
    assert "Remote-MTA" not in status


def test_it_takes_suppressed_recipients_out_and_sends_to_the_rest(account: Account, server: Sink) -> None:
    route_to(server, account)
    suppressions.add(account, "two@far.example")
    one, two, three = send(account, "one@far.example", "two@far.example", "three@far.example")
    deliver_due()
    assert [received.recipients for received in server.received] == [("one@far.example", "three@far.example")]
    results = {m.pk: m.success for m in RetiredMessage.objects.filter(account=account)}
    assert results == {one: True, two: False, three: True}


@pytest.mark.parametrize(
    ("reply", "listed"),
    [
        ("550 5.7.26 policy", True),
        ("552 5.2.2 full", False),
        ("554 5.1.6 moved", True),
        ("554 5.2.1 disabled", True),
        ("554 5.6.0 bad content", False),
        ("554 no", False),
        ("521 no mail here", True),
        ("451 4.1.1 try later", False),
    ],
)
def test_it_goes_by_the_code_of_the_reply(account: Account, server: Sink, reply: str, listed: bool) -> None:
    server.mail = lambda address: reply
    route_to(server, account)
    send(account, "them@far.example")
    deliver_due()
    assert Suppression.objects.filter(account=account).exists() is listed


def test_it_gives_up_after_three_failures_in_a_row(account: Account, server: Sink) -> None:
    answers = iter(["554 5.6.0 no", "554 5.6.0 no", "", "554 5.6.0 no", "554 5.6.0 no", "554 5.6.0 no"])
    listed = []
    route_to(server, account)
    for answer in answers:
        server.mail = lambda address, answer=answer: answer  # type: ignore[misc] # bound now
        send(account, "them@far.example")
        deliver_due()
        listed.append(Suppression.objects.filter(account=account).exists())
    assert listed == [False, False, False, False, False, True]
    assert Suppression.objects.get(account=account).reason == (
        "delivery failure from queue and three consecutive failures"
    )


def test_it_blames_no_address_for_what_this_server_decided(account: Account) -> None:
    transport = Transport.objects.create(name=f"fail-{account.name}", kind=Transport.Kind.FAIL, fail_code=550)
    (queue_id,) = send(account, f"them@{account.name}.example")  # a destination that nobody else delivers to
    operations.set_transport(Filter(ids=(queue_id,)), transport.name)
    deliver_due()
    assert not is_queued(queue_id)
    assert not Suppression.objects.filter(account=account).exists()


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("J.Doe+x@far.example", "jdoe@far.example"),
        ("remote.Last-list@xn--bcher-kva.example", "remotelast@bücher.example"),
        ("+x@far.example", "+x@far.example"),
        ("-X@far.example", "-x@far.example"),
        ('"..a"@far.example', "a@far.example"),
        ("a-b+c@far.example", "a@far.example"),
    ],
)
def test_it_lists_variants_of_an_address_once(account: Account, address: str, base: str) -> None:
    added = suppressions.add(account, address, reason="asked to")
    assert added.base_address == base
    with pytest.raises(suppressions.AlreadyListed, match="already on suppression list"):
        suppressions.add(account, base)
    assert [entry.pk for entry in suppressions.lookup(base, account)] == [added.pk]
    suppressions.remove(account, base)
    with pytest.raises(suppressions.NotListed, match="not on suppression list"):
        suppressions.remove(account, address)


def test_it_drops_history_with_its_time(told: Account, server: Sink) -> None:
    from mailqueue import cleanup

    route_to(server, told)
    server.rcpt = lambda address: "450 4.2.0 later"
    (queue_id,) = send(told, "them@far.example")
    deliver_due()
    make_due(queue_id)
    deliver_due()
    assert RetiredHook.objects.filter(account=told).exists()
    cleanup.clean_up()
    assert RetiredHook.objects.filter(account=told).exists()
    RetiredHook.objects.filter(account=told).update(keep_until=db.now() - timedelta(seconds=1))
    cleanup.clean_up()
    assert not RetiredHook.objects.filter(account=told).exists()
    assert DeliveryAttempt.objects.filter(message_id=queue_id).exists()


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        ("ftp://hooks.example/", {}, "scheme must be http or https"),
        ("https://user:pass@hooks.example/", {}, "user or password"),
        ("https://hooks.example/#x", {}, "fragment"),
        ("https:///path", {}, "no URL with a host"),
        ("https://hooks.example:70000/", {}, "is no URL"),
        ("https://hooks.example/" + "x" * 2048, {}, "longer than 2048"),
        (URL, {"authorization": "a\r\nX-Evil: b"}, "one line"),
        (URL, {"events": ["delivered", "opened"]}, 'unknown outgoing hook event "opened"'),
    ],
)
def test_it_refuses_bad_settings(account: Account, url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        webhooks.set_endpoint(account, "outgoing", url, **options)
    assert not WebhookEndpoint.objects.filter(account=account).exists()
