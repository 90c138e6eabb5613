"""What comes in for a unique sender: matched to the one message it can be about, and believed about nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connection

from accounts import webhooks
from accounts.fromidlogins import set_logins
from accounts.models import Account
from mailqueue import feedback, incoming
from mailqueue.models import DeliveryAttempt, Hook, QueueMessage, RetiredMessage, Suppression
from mailqueue.retiring import retire_message
from protocols.message import parse
from server import db
from tests.domain.queueing import address_of, attempts, deliver_due, path, route_to, row, send
from tests.sinks import sink

pytestmark = pytest.mark.database


def report(
    action: str = "failed", status: str = "5.1.1", diagnostic: str = "smtp; 550 5.1.1 no such user", count: int = 1
) -> bytes:
    """A DSN as some other server makes it."""
    recipient = (
        f"Final-Recipient: rfc822; somebody@else.example\r\nAction: {action}\r\nStatus: {status}\r\n"
        + (f"Diagnostic-Code: {diagnostic}\r\n" if diagnostic else "")
        + "\r\n"
    )
    return (
        "From: <MAILER-DAEMON@far.example>\r\nSubject: Undelivered\r\nMIME-Version: 1.0\r\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\r\n\r\n'
        "--b\r\n\r\nIt failed.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n"
        f"Reporting-MTA: dns; mx.far.example\r\n\r\n{recipient * count}"
        "--b--\r\n"
    ).encode()


def read(content: bytes) -> feedback.Report:
    return feedback.read(content, parse(content))


@pytest.fixture
def sender(account: Account) -> Iterator[Account]:
    """An account whose messages have senders of their own, and that wants to know what becomes of them."""
    set_logins(account, [address_of(account)])
    webhooks.set_endpoint(account, "outgoing", "https://hooks.example/")
    yield account
    QueueMessage.objects.filter(account=account).delete()


def sent(sender: Account, from_id: str = "", *, to: str = "them@far.example", retired: bool = True) -> QueueMessage:
    """A message that was sent, and delivered to the next server unless told otherwise."""
    own = address_of(sender)
    mail_from = own.replace("@", f"+{from_id}@") if from_id else own
    (queue_id,) = send(sender, to, login_address=own, mail_from=mail_from)
    message = row(queue_id)
    if retired:
        retire_message(message, success=True, now=db.now())
        QueueMessage.objects.filter(pk=queue_id).delete()
    return message


def come_in(account: Account, address: str, content: bytes, msg_id: int = 7) -> bool:
    """A message arrives for the account; whether it was taken for an answer."""
    if not feedback.concerns(account.pk, path(address)):
        return False
    feedback.store(account.pk, path(address), read(content), msg_id, db.now())
    return True


def told(account: Account) -> list[dict[str, Any]]:
    return [json.loads(hook.payload) for hook in Hook.objects.filter(account=account).order_by("pk")]


def test_a_bounce_is_an_event_of_its_message_and_stops_further_mail(sender: Account) -> None:
    message = sent(sender)
    assert come_in(sender, message.sender, report())
    (event,) = told(sender)
    assert event["Event"] == "failed"
    assert (event["DSN"], event["Suppressing"], event["MsgID"]) == (True, True, 7)
    assert (event["QueueMsgID"], event["FromID"]) == (message.pk, message.from_id)
    assert (event["SMTPCode"], event["SMTPEnhancedCode"]) == (550, "5.1.1")
    assert event["Error"] == "550 5.1.1 no such user"
    retired = RetiredMessage.objects.get(pk=message.pk)
    assert not retired.success
    assert retired.last_activity > message.queued
    (attempt,) = attempts(message.pk)
    assert (attempt.success, attempt.code, attempt.secode, attempt.error) == (
        False,
        550,
        "1.1",
        "550 5.1.1 no such user",
    )
    # The address that the message was sent to, whoever the DSN speaks of.
    (entry,) = Suppression.objects.filter(account=sender)
    assert entry.original_address == "them@far.example"
    assert entry.reason == 'delivery failure from DSN with smtp code 550, enhanced code "1.1"'


@pytest.mark.parametrize(
    ("content", "event", "is_dsn", "code", "enhanced", "says"),
    [
        (report("delayed", "4.4.1", ""), "delayed", True, 400, "4.4.1", "4.4.1"),
        (report("Delivered", "2.0.0", ""), "delivered", True, 0, "", ""),
        (report("relayed", "2.0.0", "smtp; 250 2.0.0 ok"), "relayed", True, 250, "2.0.0", ""),
        (report("expanded", "2.0.0", ""), "expanded", True, 0, "", ""),
        (report(diagnostic="smtp; 550-5.7.1 first line"), "failed", True, 550, "5.7.1", "550-5.7.1 first line"),
        (report(diagnostic="x-postfix; 550 5.7.1 no"), "failed", True, 500, "5.1.1", "550 5.7.1 no"),
        (report(diagnostic="smtp; unknown user"), "failed", True, 500, "5.1.1", "unknown user"),
        (report(diagnostic="smtp; 550 gone"), "failed", True, 550, "5.1.1", "550 gone"),
        (report(diagnostic="smtp; 999 5.1.1 x"), "failed", True, 500, "5.1.1", "999 5.1.1 x"),
        (report(diagnostic="smtp; 5501 5.1.1 x"), "failed", True, 500, "5.1.1", "5501"),
        (report("exploded"), "unrecognized", True, 0, "", "unknown action"),
        (report(count=2), "unrecognized", True, 0, "", "about 2 recipients"),
        (b"From: <them@far.example>\r\nSubject: away\r\n\r\nI am away.\r\n", "unrecognized", False, 0, "", "no DSN"),
        (report().replace(b"Final-Recipient", b"Somebody"), "unrecognized", True, 0, "", "cannot be understood"),
    ],
)
def test_what_comes_in_is_read_as_far_as_it_goes(
    content: bytes, event: str, is_dsn: bool, code: int, enhanced: str, says: str
) -> None:
    found = read(content)
    assert (found.event, found.is_dsn, found.code, found.enhanced) == (event, is_dsn, code, enhanced)
    assert says in found.error
    assert bool(found.error) is (not found.is_success)


def test_an_error_of_any_length_and_with_anything_in_it_is_one_short_line() -> None:
    found = read(report(diagnostic="smtp; 550 5.1.1 " + "x\r\n\t\0\x1b[31m" * 3000))
    assert found.code == 550
    assert len(found.error) <= feedback.ERROR_MAX
    assert found.error.isprintable()


def test_a_fast_bounce_is_matched_while_the_message_is_still_queued(sender: Account) -> None:
    message = sent(sender, retired=False)
    assert come_in(sender, message.sender, report())
    assert row(message.pk).state == "queued"
    assert [event["Event"] for event in told(sender)] == ["failed"]
    assert Suppression.objects.filter(account=sender).exists()


def test_a_bounce_that_overtakes_the_result_has_the_last_word(sender: Account) -> None:
    with sink() as server:
        route_to(server, sender)
        message = sent(sender, retired=False)

        def receive() -> None:
            come_in(sender, message.sender, report())
            connection.close()

        def bounce(address: str) -> str:
            thread = threading.Thread(target=receive)
            thread.start()
            thread.join()
            return ""

        server.data = bounce
        deliver_due()
    assert not RetiredMessage.objects.get(pk=message.pk).success
    assert [event["Event"] for event in told(sender)] == ["failed"]
    assert sorted(attempt.code for attempt in attempts(message.pk)) == [250, 550]


def test_an_id_in_other_case_is_matched_if_that_is_clear(sender: Account) -> None:
    message = sent(sender, f"Order-{sender.pk}")
    assert come_in(sender, message.sender.lower(), report())
    assert come_in(sender, message.sender.upper(), report())
    other = sent(sender, f"oRDER-{sender.pk}", to="other@far.example")
    assert not come_in(sender, f"{sender.name}+ORDER-{sender.pk}@localhost", report())
    assert come_in(sender, other.sender, report("delayed"))
    assert [event["QueueMsgID"] for event in told(sender)] == [message.pk, other.pk]


def test_ids_that_somebody_guesses_match_nothing(sender: Account, new_account: Callable[[], Account]) -> None:
    message = sent(sender)
    for guess in ("", "%", "_" * 22, "' OR 1=1 --", message.from_id[:-1], message.from_id + "x", "*"):
        quoted = f'"{sender.name}+{guess}"@localhost'
        assert not come_in(sender, quoted, report())
    # The id of one account's message does nothing in mail to another account.
    stranger = new_account()
    assert not come_in(stranger, f"{stranger.name}+{message.from_id}@localhost", report())
    assert not come_in(stranger, message.sender, report())
    assert not told(sender)
    assert not Suppression.objects.filter(account=sender).exists()


def test_somebody_who_goes_on_and_on_is_not_listened_to(sender: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "REPORTS_MAX", 3)
    message = sent(sender)
    for _ in range(5):
        assert come_in(sender, message.sender, report("delayed", "4.0.0", ""))
    assert DeliveryAttempt.objects.filter(message_id=message.pk).count() == 3
    assert len(told(sender)) == 1  # the latest; those before were overtaken


def test_a_bounce_counts_as_one_of_three_failures(sender: Account) -> None:
    for number in range(3):
        message = sent(sender)
        assert not Suppression.objects.filter(account=sender).exists(), number
        assert come_in(sender, message.sender, report(status="5.6.0", diagnostic="smtp; 554 5.6.0 no"))
    assert Suppression.objects.get(account=sender).reason == "delivery failure from DSN and three consecutive failures"


def test_hostile_messages_make_a_payload() -> None:
    nested = b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(60))
    for content in (
        b"From: undisclosed:;\r\nReferences: <a@b> <broken <c\r\n d@e>\r\n\r\nhi\r\n",
        b'From: =?utf-8?q?=ff=fe?= <x@\xff>\r\nContent-Type: text/plain; charset="no\0ne"\r\n\r\n\xff\r\n',
        b"Content-Type: text/html; charset=utf-16\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!!\r\n",
        b"From: <a@b.example>\r\n" + nested,
        b"",
        b"\r\n",
    ):
        part = parse(content)
        payload = incoming.payload_of(part, content, content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
        json.dumps(payload).encode()


def test_a_payload_says_what_programs_need() -> None:
    content = (
        b"From: J\xc3\xb6 <jo@xn--bcher-kva.example>\r\nTo: a@x.example, Group: b@x.example;\r\n"
        b"Subject: =?utf-8?q?hi_=C3=B6?=\r\n"
        b"Message-Id: <9@x.example>\r\nReferences: <1@X.example>\r\n <2@x.example>\r\nAuto-Submitted: auto-replied\r\n"
        b"Date: Mon, 05 Jan 2026 10:00:00 +0100\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="m"\r\n\r\n'
        b'--m\r\nContent-Type: multipart/alternative; boundary="a"\r\n\r\n'
        b"--a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nhello \xe2\x98\xba\r\n"
        b"--a\r\nContent-Type: text/html\r\n\r\n<p>hello</p>\r\n--a--\r\n"
        b"--m\r\nContent-Type: text/plain\r\nContent-Disposition: attachment; filename=x.txt\r\n\r\nfile\r\n--m--\r\n"
    )
    payload = incoming.payload_of(parse(content), content, content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert payload["From"] == [{"Name": "Jö", "Address": "jo@bücher.example"}]
    assert [entry["Address"] for entry in payload["To"]] == ["a@x.example", "b@x.example"]
    assert payload["Subject"] == "hi ö"
    assert (payload["MessageID"], payload["Date"]) == ("<9@x.example>", "2026-01-05T09:00:00Z")
    assert payload["References"] == ["<1@x.example>", "<2@x.example>"]
    assert (payload["Text"], payload["HTML"]) == ("hello ☺", "<p>hello</p>")
    assert payload["Automated"] is True
    tree = payload["Structure"]
    assert (tree["ContentType"], len(tree["Parts"])) == ("multipart/mixed", 2)
    assert tree["Parts"][1]["Filename"] == "x.txt"
    assert tree["Parts"][1]["ContentDisposition"] == "attachment"
