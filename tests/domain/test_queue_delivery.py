"""What becomes of submitted messages: delivered over one connection, tried again, bounced, by recipient."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable, Iterator

import pytest

from accounts.models import Account, Transport
from mailqueue.models import RetiredMessage, State
from tests.domain.queueing import (
    address_of,
    attempts,
    deliver_due,
    inbox,
    is_queued,
    make_due,
    message,
    route_to,
    row,
    send,
)
from tests.sinks import Sink, sink

pytestmark = pytest.mark.database


@pytest.fixture
def server() -> Iterator[Sink]:
    with sink() as started:
        yield started


def test_it_delivers_a_message_as_submitted_with_header_and_signature(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    deliver_due()
    (received,) = server.received
    assert received.mail_from == address_of(account)
    assert received.recipients == ("them@far.example",)
    header, _, body = received.text.partition("\r\n\r\n")
    assert body == "The text.\r\n"
    names = [line.partition(":")[0] for line in header.split("\r\n") if line[:1] not in "\t "]
    assert names == ["Received", "Message-Id", "Date", "DKIM-Signature", "From", "To", "Subject"]
    assert not is_queued(queue_id)
    retired = RetiredMessage.objects.get(pk=queue_id)
    assert retired.success
    assert retired.recipient_address == "them@far.example"
    (attempt,) = attempts(queue_id)
    assert (attempt.success, attempt.code, attempt.secode, attempt.smtp_lines) == (
        True,
        250,
        "0.0",
        ["250 2.0.0 taken"],
    )
    assert attempt.remote_host == server.host


def test_it_sends_to_several_recipients_of_a_domain_in_one_transaction(account: Account, server: Sink) -> None:
    route_to(server, account)
    send(account, "one@far.example", "two@far.example", "three@other.example")
    deliver_due()
    assert sorted(received.recipients for received in server.received) == [
        ("one@far.example", "two@far.example"),
        ("three@other.example",),
    ]
    assert len({received.peer for received in server.received}) == 1  # one connection
    assert len({received.content for received in server.received}) == 1


def test_it_tells_each_recipients_own_result(account: Account, server: Sink) -> None:
    replies = {"two@far.example": "550 5.1.1 no such user", "three@far.example": "450 4.2.0 try later"}
    server.rcpt = lambda address: replies.get(address, "")
    route_to(server, account)
    one, two, three = send(account, "one@far.example", "two@far.example", "three@far.example")
    deliver_due()
    assert [received.recipients for received in server.received] == [("one@far.example",)]
    assert not is_queued(one)
    assert not is_queued(two)
    waiting = row(three)
    assert (waiting.state, waiting.attempts, waiting.lease_token) == (State.QUEUED, 1, None)
    assert 445 <= (waiting.next_attempt - attempts(three)[0].start).total_seconds() <= 454
    assert [(a.code, a.secode, a.error) for a in attempts(three)] == [(450, "2.0", attempts(three)[0].error)]
    (bounce,) = inbox(account)
    parsed = email.message_from_bytes(bounce, policy=email.policy.default)
    assert parsed["Subject"] == "mail delivery failed"
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_param("report-type") == "delivery-status"
    text, status, header = list(parsed.iter_parts())
    assert "two@far.example" in text.get_content()
    assert "550 5.1.1 no such user" in text.get_content()
    assert status.get_content_type() == "message/delivery-status"
    fields = list(status.iter_parts())[1]
    assert fields["Final-Recipient"] == "rfc822;two@far.example"
    assert fields["Action"] == "failed"
    assert fields["Status"].startswith("5.1.1")
    assert "Subject: hello" in header.as_string()
    assert "The text." not in bounce.decode()


def test_it_tries_eight_times_then_bounces_with_one_notice_of_the_delay(account: Account, server: Sink) -> None:
    server.data = lambda address: "451 4.7.1 greylisted"
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    waits = []
    for attempt in range(1, 9):
        make_due(queue_id)
        deliver_due()
        if attempt < 8:
            waiting = row(queue_id)
            assert waiting.attempts == attempt
            waits.append((waiting.next_attempt - attempts(queue_id)[-1].start).total_seconds())
        assert len(inbox(account)) == (0 if attempt < 5 else 1 if attempt < 8 else 2)
    for number, wait in enumerate(waits):
        assert 445 * 2**number <= wait <= 454 * 2**number
    delayed, failed = (email.message_from_bytes(raw, policy=email.policy.default) for raw in inbox(account))
    assert (delayed["Subject"], failed["Subject"]) == ("mail delivery delayed", "mail delivery failed")
    fields = list(list(delayed.iter_parts())[1].iter_parts())[1]
    assert fields["Action"] == "delayed"
    until = email.utils.parsedate_to_datetime(fields["Will-Retry-Until"])
    fifth = attempts(queue_id)[4].start
    assert abs((until - fifth).total_seconds() - 14 * 3600) < 120
    assert not is_queued(queue_id)
    assert not RetiredMessage.objects.get(pk=queue_id).success


def test_it_bounces_for_good_at_a_permanent_refusal_of_the_content(account: Account, server: Sink) -> None:
    server.data = lambda address: "554 5.7.1 looks like spam"
    route_to(server, account)
    one, two = send(account, "one@far.example", "two@far.example")
    deliver_due()
    assert not is_queued(one)
    assert not is_queued(two)
    assert len(inbox(account)) == 2


def test_it_bounces_with_the_text_of_a_fail_transport(account: Account) -> None:
    transport = Transport.objects.create(
        name=f"fail-{account.name}", kind=Transport.Kind.FAIL, fail_code=550, fail_message="not from here"
    )
    account.routes.create(transport=transport)
    (queue_id,) = send(account, f"them@{account.name}.example")  # a destination that nobody else delivers to
    deliver_due()
    assert not is_queued(queue_id)
    (bounce,) = inbox(account)
    assert b"not from here" in bounce


def test_it_waits_where_the_relay_cannot_be_reached(account: Account, server: Sink) -> None:
    transport = route_to(server, account)
    Transport.objects.filter(pk=transport.pk).update(port=1)
    (queue_id,) = send(account, "them@far.example")
    deliver_due()
    assert row(queue_id).attempts == 1
    (attempt,) = attempts(queue_id)
    assert "could not connect" in attempt.error
    assert server.host in attempt.error


def test_it_uses_the_transport_set_on_a_message_rather_than_routes(account: Account, server: Sink) -> None:
    with sink() as other:
        route_to(server, account)
        named = Transport.objects.create(
            name=f"own-{account.name}", kind=Transport.Kind.SMTP, host=other.host, port=other.port, no_starttls=True
        )
        (queue_id,) = send(account, "them@far.example")
        waiting = row(queue_id)
        waiting.transport = named.name
        waiting.save()
        deliver_due()
        assert len(other.received) == 1
        assert not server.received


def test_it_waits_for_a_transport_that_does_not_exist(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    waiting = row(queue_id)
    waiting.transport = "nope"
    waiting.save()
    deliver_due()
    (attempt,) = attempts(queue_id)
    assert "'nope'" in attempt.error
    assert attempt.secode == "3.5"
    assert row(queue_id).attempts == 1


def test_it_follows_routes_by_attempts_and_scope(account: Account, server: Sink) -> None:
    with sink() as later:
        server.mail = lambda address: "451 4.0.0 not now"
        route_to(later, account, minimum_attempts=2, position=0)
        route_to(server, account, position=1)
        (queue_id,) = send(account, "them@far.example")
        for _ in range(3):
            make_due(queue_id)
            deliver_due()
        assert not is_queued(queue_id)
        assert len(later.received) == 1
        assert [attempt.remote_host for attempt in attempts(queue_id)] == [server.host, server.host, later.host]


def test_it_reuses_a_connection_for_a_hundred_messages(account: Account, server: Sink) -> None:
    route_to(server, account)
    for number in range(101):
        send(account, f"them{number}@far.example", count_limits=False)
    deliver_due()
    assert len(server.received) == 101
    peers = [received.peer for received in server.received]
    assert len(set(peers[:100])) == 1
    assert peers[100] != peers[0]


def test_it_connects_anew_where_the_server_ends_the_connection(account: Account, server: Sink) -> None:
    count = iter(range(1000))
    server.mail = lambda address: "421 4.3.2 enough" if next(count) in (3, 4 + 3) else ""
    route_to(server, account)
    ids = [queue_id for n in range(8) for queue_id in send(account, f"them{n}@far.example")]
    deliver_due()
    left = [queue_id for queue_id in ids if is_queued(queue_id)]
    assert not left
    recipients = [received.recipients for received in server.received]
    assert len(recipients) == len(set(recipients)) == 8


def test_it_keeps_messages_on_hold(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    waiting = row(queue_id)
    waiting.hold = True
    waiting.save()
    deliver_due()
    assert not server.received
    assert row(queue_id).attempts == 0


def test_it_drops_the_history_where_the_account_keeps_none(
    new_account: Callable[[], Account], server: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = new_account()
    route_to(server, account)
    from mailqueue import retiring

    monkeypatch.setattr(retiring, "KEEP_IN_LOCALSERVE", account.keep_retired_message_period)
    (queue_id,) = send(account, "them@far.example")
    deliver_due()
    assert len(server.received) == 1
    assert not RetiredMessage.objects.filter(pk=queue_id).exists()
    assert not attempts(queue_id)


def test_it_bounces_a_message_larger_than_the_server_takes(account: Account, server: Sink) -> None:
    route_to(server, account)
    content = message(address_of(account)) + b"0123456789abcdef\r\n" * (34 << 16)
    (queue_id,) = send(account, "them@far.example", content=content)
    deliver_due()
    assert not is_queued(queue_id)
    assert "larger than" in attempts(queue_id)[0].error
    assert not server.received
