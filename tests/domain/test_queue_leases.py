"""Workers that die, tasks that run twice or never, two of them at once: each message goes out once, none is lost."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection

from accounts.models import Account, Transport
from mailqueue import leases, recovery, results
from mailqueue.journal import Entry, Journal
from mailqueue.leases import Group, Lease, LostLease
from mailqueue.models import DeliveryAttempt, Phase, QueueDestination, QueueMessage, RetiredMessage, State
from mailqueue.outcomes import Outcome, Status
from mailqueue.schedule import Schedule
from mailqueue.steps import Step
from mailqueue.worker import Worker
from server import db
from store.db import write_tx
from tests.domain.queueing import attempts, deliver_due, inbox, is_queued, route_to, row, send
from tests.sinks import Sink, sink

pytestmark = pytest.mark.database

DELIVERED = Outcome(Status.DELIVERED, code=250, secode="0.0", lines=("250 2.0.0 taken",))


@pytest.fixture(autouse=True)
def _nothing_else_waits(account: Account) -> None:
    """What other tests left in the queue takes no slots."""
    QueueMessage.objects.all().delete()
    QueueDestination.objects.all().delete()


@pytest.fixture
def server() -> Iterator[Sink]:
    with sink() as started:
        yield started


def claim(server: Sink, owner: str = "a worker") -> tuple[Lease, Group]:
    """As a worker does before it delivers to this server."""
    (lease,) = [lease for lease in leases.claim_due() if lease.destination == server.host]
    with db.write():
        group = leases.start(lease, owner, Schedule.of_server())
    assert group is not None
    return lease, group


def expire(lease: Lease) -> None:
    """As if the worker had been dead for a while."""
    past = db.now() - timedelta(seconds=1)
    QueueDestination.objects.filter(token=lease.token).update(lease_until=past)
    QueueMessage.objects.filter(lease_token=lease.token).update(lease_until=past)


def write(step: Step) -> Group | None:
    with write_tx(*step.accounts) as tx:
        return step.write(tx)


def test_it_claims_a_destination_once(account: Account, server: Sink) -> None:
    route_to(server, account)
    send(account, "them@far.example")
    first = [lease for lease in leases.claim_due() if lease.destination == server.host]
    assert len(first) == 1
    assert not [lease for lease in leases.claim_due() if lease.destination == server.host]
    expire(first[0])
    (second,) = [lease for lease in leases.claim_due() if lease.destination == server.host]
    with pytest.raises(LostLease):
        leases.start(first[0], "a worker", Schedule.of_server())
    Worker.current().deliver(first[0])  # its task, late
    assert not server.received
    Worker.current().deliver(second)
    Worker.current().deliver(second)  # its task, run again
    assert len(server.received) == 1


def test_it_claims_no_more_destinations_than_there_are_slots(account: Account) -> None:
    slots = settings.MOX.queue_max_concurrent
    for number in range(slots + 3):
        send(account, f"them@slot{number}.example", count_limits=False)
    claimed = leases.claim_due()
    assert len(claimed) == slots
    for lease in claimed:
        leases.release(lease)
    QueueMessage.objects.filter(account=account).delete()


def test_it_gives_a_destination_as_many_leases_as_its_transport_allows(account: Account, server: Sink) -> None:
    transport = route_to(server, account)
    transport.destination_connections = 3
    transport.save()
    send(account, "one@far.example", count_limits=False)
    send(account, "two@far.example", count_limits=False)
    send(account, "other@near.example", mail_from="", count_limits=False)
    assert [lease.destination for lease in leases.claim_due()] == [server.host] * 3
    send(account, "three@far.example", count_limits=False)
    assert not leases.claim_due()


def test_it_opens_no_second_connection_to_one_while_others_wait_for_their_first(account: Account) -> None:
    transport = Transport.objects.create(name="several", kind=Transport.Kind.DIRECT, destination_connections=9)
    account.routes.create(transport=transport)
    for number in range(9):
        send(account, f"them{number}@busy.example", count_limits=False)
    for number in range(3):
        send(account, f"them@calm{number}.example", count_limits=False)
    claimed = [lease.destination for lease in leases.claim_due()]
    assert claimed[:4] == ["busy.example", "calm0.example", "calm1.example", "calm2.example"]
    assert claimed[4:] == ["busy.example"] * (settings.MOX.queue_max_concurrent - 4)


def test_it_takes_turns_between_the_senders_to_a_destination(
    account: Account, new_account: Callable[[], Account], server: Sink
) -> None:
    others = [new_account(), new_account()]
    for sender in (account, *others):
        route_to(server, sender)
    for number in range(6):
        send(account, f"newsletter{number}@far.example", count_limits=False)
    for number, sender in enumerate(others):
        send(sender, f"letter{number}@far.example")
    deliver_due()
    order = [received.recipients[0].partition("@")[0] for received in server.received]
    assert sorted(order[:3]) == ["letter0", "letter1", "newsletter0"]
    assert order[3:] == [f"newsletter{number}" for number in range(1, 6)]


def test_it_gives_messages_back_whose_worker_died_before_the_end_of_the_data(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    for interruption in range(1, 4):
        lease, _ = claim(server)
        assert row(queue_id).state == State.DELIVERING
        assert not recovery.recover_expired()
        expire(lease)
        assert recovery.recover_expired() == 1
        waiting = row(queue_id)
        assert (waiting.state, waiting.attempts, waiting.interruptions) == (State.QUEUED, 0, interruption)
        assert 50 < (waiting.next_attempt - db.now()).total_seconds() <= 60
        assert attempts(queue_id)[-1].error == "delivery interrupted"
        QueueMessage.objects.filter(pk=queue_id).update(next_attempt=db.now())
    lease, _ = claim(server)
    expire(lease)
    recovery.recover_expired()
    assert row(queue_id).attempts == 1  # something about this message ends workers: from now on attempts count
    QueueMessage.objects.filter(pk=queue_id).update(next_attempt=db.now())
    deliver_due()
    assert len(server.received) == 1
    assert not is_queued(queue_id)


def test_it_says_so_where_the_other_server_may_have_the_message(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    lease, group = claim(server)
    write(Step(lease, Schedule.of_server(), dot=[queue_id]))
    expire(lease)
    assert recovery.recover_expired() == 1
    waiting = row(queue_id)
    assert (waiting.state, waiting.phase, waiting.attempts) == (State.QUEUED, Phase.NONE, 1)
    assert waiting.next_attempt == group.first.next_attempt
    assert attempts(queue_id)[-1].error == "outcome unknown: interrupted after end of data"
    assert not inbox(account)


def test_it_stores_no_result_of_a_worker_whose_lease_passed_to_another(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    old, group = claim(server)
    expire(old)
    recovery.recover_expired()
    QueueMessage.objects.filter(pk=queue_id).update(next_attempt=db.now())
    new, _ = claim(server)
    with pytest.raises(LostLease):
        write(Step(old, Schedule.of_server(), dot=[queue_id]))
    decided = [results.decide(member, DELIVERED, Schedule.of_server()) for member in group.members]
    with pytest.raises(LostLease):
        write(Step(old, Schedule.of_server(), decided))
    assert row(queue_id).lease_token == new.token
    assert not RetiredMessage.objects.filter(pk=queue_id).exists()


def test_it_renews_leases_and_tells_which_are_lost(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    lease, _ = claim(server)
    soon = db.now() + timedelta(seconds=5)
    QueueDestination.objects.filter(token=lease.token).update(lease_until=soon)
    lost = uuid.uuid4()
    assert leases.renew([lease.token, lost]) == {lease.token}
    assert QueueDestination.objects.filter(token=lease.token, lease_until__gt=soon).exists()
    assert QueueMessage.objects.filter(pk=queue_id, lease_until__gt=soon).exists()


def test_it_stores_at_start_what_a_killed_worker_was_answered(account: Account, server: Sink) -> None:
    route_to(server, account)
    delivered, waiting = send(account, "one@far.example", "two@far.example")
    lease, _ = claim(server, owner=account.name)
    write(Step(lease, Schedule.of_server(), dot=[delivered]))
    journal = Journal(settings.MOX.data_dir / "journal-test")
    journal.append(Entry(lease.token, ((delivered, DELIVERED),)))
    with (settings.MOX.data_dir / "journal-test" / "queue" / "journal").open("ab") as file:
        file.write(b'{"token": "half a li')
    recovery.begin(account.name, Journal(settings.MOX.data_dir / "journal-test"))
    assert not is_queued(delivered)
    assert RetiredMessage.objects.get(pk=delivered).success
    assert recovery.recover_expired() == 1  # its leases ended with it, without waiting for them
    assert row(waiting).state == State.QUEUED
    recovery.begin(account.name, Journal(settings.MOX.data_dir / "journal-test"))
    assert DeliveryAttempt.objects.filter(message_id=delivered).count() == 1


def test_it_gives_back_at_once_what_a_stopping_worker_had_not_sent(account: Account, server: Sink) -> None:
    route_to(server, account)
    (queue_id,) = send(account, "them@far.example")
    lease, group = claim(server)
    leases.give_back(lease, group)
    assert leases.release(lease)
    assert (row(queue_id).attempts, row(queue_id).state) == (0, State.QUEUED)
    assert not attempts(queue_id)
    deliver_due()
    assert len(server.received) == 1


def test_it_delivers_each_message_once_with_several_dispatchers_and_workers(account: Account, server: Sink) -> None:
    route_to(server, account)
    ids = [queue_id for n in range(40) for queue_id in send(account, f"them{n}@far.example", count_limits=False)]

    def work() -> None:
        try:
            while any(is_queued(queue_id) for queue_id in ids):
                deliver_due()
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(received.recipients[0] for received in server.received) == sorted(
        f"them{n}@far.example" for n in range(40)
    )


def test_it_sends_a_message_over_the_way_that_routes_have_now(account: Account, server: Sink) -> None:
    with sink() as other:
        transport = route_to(server, account)
        (queue_id,) = send(account, "them@far.example")
        transport.host = other.host
        transport.save()
        deliver_due()
        assert not is_queued(queue_id)
        assert len(other.received) == 1
        assert not server.received
