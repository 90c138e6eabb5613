"""The record of what became of incoming mail, and why: complete, bounded, and read by a command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from accounts.models import Account
from junk import decisions
from junk.decisions import Decided, Recorder
from junk.models import Decision
from tests.domain.queueing import address_of
from tests.domain.smtp_service import Service, running

pytestmark = pytest.mark.database

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MESSAGE = b"From: <ann@remote.example>\r\nSubject: hello\r\nMessage-Id: <1@remote.example>\r\n\r\nbody\r\n.\r\n"


@pytest.fixture(scope="module")
def service(database: None) -> Iterator[Service]:
    with running() as started:
        yield started


def decided(account: Account | None, **changed: Any) -> Decided:
    made = Decided(
        account_id=account.pk if account is not None else None,
        received=NOW,
        recipient="info@example.org",
        mail_from="ann@shop.example",
        msg_from="ann@shop.example",
        subject="hello",
        message_id="<1@shop.example>",
        remote_ip="192.0.2.1",
        size=1000,
        result="delivered",
        mailbox="Inbox",
        reason="no-bad-signals",
        reply="",
        explanation=("reputation by none says nothing, not conclusively",),
        received_id="AAAA",
    )
    return replace(made, **changed)


def listed(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    call_command("decisions", *options, "--json")
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_each_recipient_has_its_decision(
    service: Service, account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    with service.connect() as wire:
        wire.hello().begin(address_of(account), sender="ann@remote.example")
        assert wire.data(MESSAGE).startswith("250 ")
        wire.begin("nobody-at-all@localhost", sender="ann@remote.example")
        refused = wire.data(MESSAGE)
    decisions.recorder().flush()
    (mine,) = listed(capsys, account.name)
    assert {name: mine[name] for name in ("recipient", "mail_from", "msg_from", "subject", "result", "reason")} == {
        "recipient": address_of(account),
        "mail_from": "ann@remote.example",
        "msg_from": "ann@remote.example",
        "subject": "hello",
        "result": "delivered",
        "reason": "no-bad-signals",
    }
    assert mine["mailbox"] == "Inbox"
    assert mine["explanation"]
    number = refused.rpartition("(")[2].rstrip(")\r\n")
    found = listed(capsys, f"--id={number}", "--refused")
    assert [(row["account"], row["recipient"], row["result"]) for row in found] == [
        (None, "nobody-at-all@localhost", "unknownuser")
    ]
    assert found[0]["reply"] == "550 5.1.1 no such user"


def test_a_rejection_says_why(service: Service, account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    Account.objects.filter(pk=account.pk).update(quota_message_size=100)
    with service.connect() as wire:
        wire.hello().begin(address_of(account), sender="ann@remote.example")
        assert wire.data(MESSAGE).startswith("452 4.2.2 ")
    decisions.recorder().flush()
    call_command("decisions", account.name, "--refused")
    said = capsys.readouterr().out
    assert f"delivererror, no-bad-signals: ann@remote.example to {address_of(account)} in Inbox" in said
    assert "reply: 452 4.2.2 mailbox is full, try again later (" in said


def test_they_are_bounded_in_number_and_age(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "KEPT_MAX", 5)
    monkeypatch.setattr(decisions, "TRIM_EVERY", 10)
    recorder = Recorder(background=False)
    for number in range(12):
        recorder.record([decided(account, subject=str(number), received=NOW + timedelta(days=number))])
    recorder.flush()
    assert [row.subject for row in decisions.latest(account.pk, 10)] == ["11", "10", "9", "8", "7"]
    page = decisions.latest(account.pk, 2)[1].pk
    assert [row.subject for row in decisions.latest(account.pk, 2, before=page)] == ["9", "8"]
    decisions.remove_expired(NOW + timedelta(days=30 + 10))
    assert [row.subject for row in decisions.latest(account.pk, 10)] == ["11", "10"]


def test_a_database_that_is_stuck_costs_no_more_than_some_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "PENDING_MAX", 3)
    recorder = Recorder(background=False)
    before = Decision.objects.count()
    recorder.record(decided(None, subject=str(number)) for number in range(5))
    recorder.flush()
    assert Decision.objects.count() == before + 3
    Decision.objects.filter(received=NOW, account=None).delete()


def test_what_others_made_up_fits_and_an_account_that_is_gone_loses_only_its_own(account: Account) -> None:
    recorder = Recorder(background=False)
    long = "x\0\udc80" * 1000
    recorder.record([decided(account, subject=long, explanation=(long,) * 50), decided(None, account_id=1 << 40)])
    recorder.flush()
    (row,) = decisions.latest(account.pk, 10)
    assert len(row.subject) <= 400
    assert "\0" not in row.subject
    assert len(row.explanation) == 20


def test_the_command_names_what_it_does_not_know() -> None:
    with pytest.raises(CommandError, match="nobody-here"):
        call_command("decisions", "nobody-here")
    with pytest.raises(CommandError, match="--limit 0"):
        call_command("decisions", "--limit=0")
