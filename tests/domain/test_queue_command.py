"""The ``queue`` command: only what its conditions name is shown and changed, and bad ones change nothing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts import webhooks
from accounts.models import Account
from mailqueue.models import HoldRule, Hook, OutgoingCount, QueueMessage, RetiredHook, RetiredMessage, State
from server import db
from store.checks import check_account
from tests.domain.queueing import address_of, attempts, inbox, is_queued, row, send

pytestmark = pytest.mark.database


def run(*words: str) -> str:
    out = io.StringIO()
    call_command("queue", *words, stdout=out)
    return out.getvalue()


def run_json(*words: str) -> Any:
    return json.loads(run(*words, "--json"))


def test_it_lists_a_message_as_interfaces_show_it(account: Account) -> None:
    (queue_id,) = send(account, "jö@bücher.example", extra={"Order": "17"})
    (listed,) = run_json("list", "--ids", str(queue_id))
    assert listed == {
        "id": queue_id,
        "base_id": 0,
        "queued": listed["queued"],
        "hold": False,
        "account": account.name,
        "sender": address_of(account),
        "recipient": "jö@bücher.example",
        "attempts": 0,
        "max_attempts": 0,
        "next_attempt": listed["queued"],
        "last_attempt": None,
        "size": row(queue_id).size,
        "kind": "message",
        "message_id": row(queue_id).message_id,
        "subject": "hello",
        "transport": "",
        "require_tls": None,
        "from_id": "",
        "extra": {"Order": "17"},
        "state": "queued",
        "attempts_log": [],
    }
    assert f"{queue_id}: {address_of(account)} to jö@bücher.example" in run("list", "--account", account.name)


def test_it_finds_by_every_condition(account: Account, new_account: Callable[[], Account]) -> None:
    other = new_account()
    one, two = send(account, "one@far.example", "two@shop.far.example")
    (third,) = send(other, "one@far.example")

    def found(*words: str) -> set[int]:
        return {m["id"] for m in run_json("list", *words)} & {one, two, third}

    assert found("--account", account.name) == {one, two}
    assert found("--from", address_of(other)) == {third}
    assert found("--to", "@far.example") == {one, third}
    assert found("--to", "SHOP", "--from", account.name) == {two}
    assert found("--ids", f"{one},{third}") == {one, third}
    assert found("--submitted", ">-1h", "--account", account.name) == {one, two}
    assert found("--submitted", "<-1h", "--account", account.name) == set()
    assert found("--nextattempt", "<now", "--account", account.name) == {one, two}
    assert found("--transport", "", "--account", account.name) == {one, two}
    run("hold", "--ids", str(two))
    assert found("--hold", "true", "--account", account.name) == {two}
    assert found("--hold", "false", "--account", account.name) == {one}


def test_it_holds_lets_go_and_schedules(account: Account) -> None:
    one, two = send(account, "one@far.example", "two@far.example")
    assert run("hold", "--to", "one@far.example", "--account", account.name) == "1 messages changed\n"
    assert [row(queue_id).hold for queue_id in (one, two)] == [True, False]
    assert run_json("unhold", "--account", account.name) == {"affected": 1, "busy": []}
    planned = row(one).next_attempt
    run("schedule", "--ids", str(one), "1h30m")
    assert (row(one).next_attempt - planned).total_seconds() == 5400
    run("schedule", "--ids", str(one), "--now", "5m")
    assert 290 < (row(one).next_attempt - db.now()).total_seconds() <= 300
    run("kick", "--ids", str(one))
    assert row(one).next_attempt <= db.now()


def test_it_fails_with_a_dsn_and_drops_without(account: Account) -> None:
    failed, dropped, kept = send(account, "one@far.example", "two@far.example", "three@far.example")
    assert run_json("fail", "--ids", str(failed)) == {"affected": 1, "busy": []}
    assert run_json("drop", "--ids", str(dropped)) == {"affected": 1, "busy": []}
    assert [is_queued(queue_id) for queue_id in (failed, dropped, kept)] == [False, False, True]
    (bounce,) = inbox(account)
    assert b"one@far.example" in bounce
    assert b"delivery canceled by admin" in bounce
    for queue_id in (failed, dropped):
        assert [attempt.error for attempt in attempts(queue_id)] == ["delivery canceled by admin"]
        assert not RetiredMessage.objects.get(pk=queue_id).success
    assert {m["id"] for m in run_json("retired", "list", "--account", account.name, "--result", "failure")} == {
        failed,
        dropped,
    }
    assert not run_json("retired", "list", "--account", account.name, "--result", "success")
    assert json.loads(run("retired", "print", str(failed)))["recipient"] == "one@far.example"


def test_it_leaves_alone_what_is_being_delivered(account: Account) -> None:
    (queue_id,) = send(account, "them@far.example")
    QueueMessage.objects.filter(pk=queue_id).update(state=State.DELIVERING)
    assert run_json("fail", "--ids", str(queue_id)) == {"affected": 0, "busy": [queue_id]}
    assert "not changed: " in run("drop", "--ids", str(queue_id))
    assert is_queued(queue_id)
    assert not inbox(account)
    QueueMessage.objects.filter(pk=queue_id).delete()


def test_it_sets_transport_and_tls(account: Account) -> None:
    (queue_id,) = send(account, "them@far.example")
    with pytest.raises(CommandError, match=r"transport: 'nope' does not exist"):
        run("transport", "--ids", str(queue_id), "nope")
    for word, value in (("yes", True), ("no", False), ("default", None)):
        run("requiretls", "--ids", str(queue_id), word)
        assert row(queue_id).require_tls is value


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["list", "--submitted", "5m"], 'submitted: must start with "<" or ">"'),
        (["list", "--nextattempt", "<5x"], 'next_attempt: bad duration "5x", use numbers with s, m, h, d, w'),
        (["list", "--ids", "0"], "ids: bad id"),
        (["list", "-n", "many"], "max: "),
        (["schedule", "--all", "1y2"], 'duration: bad duration "1y2"'),
        (["schedule", "--all", "--now", "99999999w"], "duration: "),
        (["list", "--ids", "99999999999999999999"], "ids: bad id"),
        (["fail", "-n", "0"], "max: "),
        (["suppress", "add", "nobody", "a@far.example"], "account nobody does not exist"),
        (["suppress", "lookup", "a@far.example", "--account", "nobody"], "account nobody does not exist"),
        (["suppress", "lookup", "far.example"], "far.example"),
        (["webhook", "list", "--event", "opened"], 'event: unknown event "opened", use one of incoming, delivered'),
        (["webhook", "cancel"], "say which webhooks by a condition, or --all"),
        (["webhook", "schedule", "--all", "soon"], 'duration: bad duration "soon"'),
        (["webhook", "print", "0"], "no webhook 0"),
        (["webhook", "retired", "print", "0"], "no retired webhook 0"),
        (["webhook", "retired", "requeue", "0"], "no retired webhook 0"),
        (["drop"], "say which messages by a condition, or --all"),
        (["holdrules", "add", "--recipientdom", "bad domain"], "is not a domain"),
        (["holdrules", "add", "--account", "nobody"], "no account 'nobody'"),
        (["holdrules", "remove", "999999"], "no hold rule 999999"),
        (["dump", "999999"], "no message 999999"),
    ],
)
def test_it_says_what_is_wrong_and_changes_nothing(account: Account, words: list[str], says: str) -> None:
    (queue_id,) = send(account, "them@far.example")
    before = row(queue_id).next_attempt
    with pytest.raises(CommandError) as caught:
        run(*words)
    assert says in str(caught.value)
    assert row(queue_id).next_attempt == before


def test_it_pages_by_key_while_others_leave(account: Account) -> None:
    from mailqueue.conditions import Position, page
    from mailqueue.operations import Filter

    ids = [queue_id for n in range(25) for queue_id in send(account, f"a{n}@far.example", count_limits=False)]
    seen: list[int] = []
    after = None
    while found := page(Filter(account=account.name).queued(), "queued", ascending=True, after=after, size=10):
        seen += [message.pk for message in found]
        after = Position.parse(found[-1].queued.isoformat(), str(found[-1].pk))
        QueueMessage.objects.filter(pk__in=seen[:3]).delete()
    assert seen == ids


def test_it_manages_hold_rules(account: Account) -> None:
    (queue_id,) = send(account, "them@far.example")
    said = run("holdrules", "add", "--account", account.name)
    assert said.endswith("added, 1 queued messages put on hold\n")
    rule = HoldRule.objects.get(account=account)
    assert {"id": rule.pk, "account": account.name, "sender_domain": "", "recipient_domain": ""} in run_json(
        "holdrules", "list"
    )
    with pytest.raises(CommandError, match=f"identical rule exists: {rule.pk}"):
        run("holdrules", "add", "--account", account.name)
    run("holdrules", "remove", str(rule.pk))
    assert row(queue_id).hold


def test_it_manages_suppressed_addresses(account: Account, new_account: Callable[[], Account]) -> None:
    other = new_account()
    assert run_json("suppress", "add", account.name, "J.Doe+x@far.example") == {"affected": 1}
    run("suppress", "add", other.name, "jdoe@far.example", "--reason", "asked to")
    with pytest.raises(CommandError, match="already on suppression list"):
        run("suppress", "add", account.name, "jdoe@FAR.example")
    (entry,) = run_json("suppress", "list", "--account", account.name)
    assert entry == {
        "id": entry["id"],
        "created": entry["created"],
        "account": account.name,
        "base_address": "jdoe@far.example",
        "original_address": "J.Doe+x@far.example",
        "manual": True,
        "reason": "added on the command line",
    }
    found = run_json("suppress", "lookup", "j.d.o.e@far.example")
    assert {e["account"] for e in found} == {account.name, other.name}
    run("suppress", "remove", account.name, "JDOE@far.example")
    with pytest.raises(CommandError, match="not on suppression list"):
        run("suppress", "lookup", "--account", account.name, "jdoe@far.example")
    assert "asked to" in run("suppress", "list")


def test_it_manages_webhooks(account: Account) -> None:
    webhooks.set_endpoint(account, "outgoing", "https://hooks.example/", authorization="Bearer secret")
    ids = send(account, "one@far.example", "two@far.example")
    run("drop", "--ids", ",".join(map(str, ids)))
    one, two = run_json("webhook", "list", "--account", account.name, "--asc", "--event", "canceled")
    assert (one["queue_msg_id"], one["event"], one["authorization"], one["attempts_log"]) == (
        ids[0],
        "canceled",
        True,
        [],
    )
    assert "secret" not in run("webhook", "print", str(one["id"]))
    assert json.loads(run("webhook", "print", str(one["id"])))["payload"]["QueueMsgID"] == ids[0]
    assert run_json("webhook", "schedule", "--ids", str(one["id"]), "1h") == {"affected": 1, "busy": []}
    hook = Hook.objects.get(pk=one["id"])
    assert (hook.next_attempt - hook.submitted).total_seconds() == 3600
    Hook.objects.filter(pk=two["id"]).update(lease_until=db.now() + timedelta(seconds=90))
    assert run_json("webhook", "cancel", "--account", account.name) == {"affected": 1, "busy": [two["id"]]}
    (retired,) = run_json("webhook", "retired", "list", "--account", account.name)
    assert (retired["id"], retired["success"], retired["superseded_by_id"]) == (one["id"], False, 0)
    assert [attempt["error"] for attempt in retired["attempts_log"]] == ["canceled by admin"]
    again = run_json("webhook", "retired", "requeue", str(one["id"]))["id"]
    assert Hook.objects.get(pk=again).payload == RetiredHook.objects.get(pk=one["id"]).payload
    assert f"{again}: canceled of message {ids[0]}" in run("webhook", "list", "--account", account.name)


def test_it_counts_the_limits_anew(account: Account) -> None:
    send(account, "one@far.example", "two@far.example")
    OutgoingCount.objects.filter(account=account).update(messages=17)
    (problem,) = check_account(account)
    assert "counter of outgoing mail says 17 messages, 2 to new recipients" in problem
    assert "mox queue recount" in problem
    run("recount")
    assert not check_account(account)


def test_it_dumps_a_message_as_it_will_be_sent(account: Account, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    (queue_id,) = send(account, "them@far.example")
    run("dump", str(queue_id))
    queued = row(queue_id)
    assert capfdbinary.readouterr().out == bytes(queued.prefix) + bytes(queued.blob.data or b"")
