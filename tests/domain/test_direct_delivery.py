"""Delivery to the hosts of the recipient's domain: which hosts and addresses, and what becomes of their answers."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from accounts.models import Account
from mailqueue.models import RecipientDomainTLS
from protocols.dns import ErrorKind
from tests.domain.directing import NewWorld, memory
from tests.domain.queueing import address_of, attempts, inbox, is_queued, make_due, message, row, send, status_of
from tests.sinks import Sink, free_host, scripted, sink
from tests.unit.smtp_sink import Peer

pytestmark = pytest.mark.database


@pytest.fixture
def server() -> Iterator[Sink]:
    with sink() as started:
        yield started


def test_it_delivers_to_the_best_host_and_goes_on_where_that_cannot_be_reached(
    new_world: NewWorld, account: Account, server: Sink
) -> None:
    world = new_world()
    world.add_hosts(free_host(), server.host)
    (queue_id,) = send(account, world.them)
    world.deliver()
    assert not is_queued(queue_id)
    assert [received.recipients for received in server.received] == [(world.them,)]
    (attempt,) = attempts(queue_id)
    assert (attempt.remote_host, attempt.remote_ip, attempt.code) == (world.host(2), server.host, 250)
    assert (attempt.tls_mode, attempt.tls_version, attempt.transport) == ("opportunistic", "", "")


def test_it_goes_on_to_the_next_host_with_those_that_one_does_not_take_now(
    new_world: NewWorld, account: Account, server: Sink
) -> None:
    world = new_world()
    with sink() as second:
        world.add_hosts(server.host, second.host)
        one, two, three = (f"{name}@{world.domain}" for name in ("one", "two", "three"))
        server.rcpt = lambda address: {two: "451 4.2.1 later", three: "550 5.1.1 nobody"}.get(address, "")
        second.rcpt = lambda address: "450 4.7.1 not me"
        ids = send(account, one, two, three)
        world.deliver()
    assert [is_queued(queue_id) for queue_id in ids] == [False, True, False]
    assert [received.recipients for received in server.received] == [(one,)]
    (attempt,) = attempts(ids[1])
    assert (attempt.remote_host, attempt.code, attempt.smtp_lines) == (world.host(2), 450, ["450 4.7.1 not me"])
    assert [status_of(bounce) for bounce in inbox(account)] == ["5.1.1"]


def test_it_ends_the_attempt_where_a_host_refuses_for_good(new_world: NewWorld, account: Account, server: Sink) -> None:
    world = new_world()
    with scripted("S: 554 5.3.2 no mail here\nC: QUIT\nS: 221 bye") as host:
        world.add_hosts(host, server.host)
        (queue_id,) = send(account, world.them)
        world.deliver()
    assert not is_queued(queue_id)
    assert not server.received
    assert [status_of(bounce) for bounce in inbox(account)] == ["5.3.2"]


@pytest.mark.parametrize(
    ("records", "secode", "final"),
    [
        ({"mx {0}.": ["0 ."]}, "1.10", True),
        ({"mx {0}.": ["10 bad\\032name."]}, "4.4", True),
        ({"cname {0}.": ["{0}."]}, "4.3", False),
        ({"mx {0}.": ["10 nowhere.{0}."]}, "4.3", False),
        ({}, "4.3", False),
    ],
)
def test_it_says_why_a_domain_takes_no_mail(
    new_world: NewWorld, account: Account, records: dict[str, list[str]], secode: str, final: bool
) -> None:
    world = new_world()
    for key, values in records.items():
        world.resolver.add(key.format(world.domain), *(value.format(world.domain) for value in values))
    (queue_id,) = send(account, world.them)
    world.deliver()
    (attempt,) = attempts(queue_id)
    assert (attempt.secode, is_queued(queue_id)) == (secode, not final)
    assert [status_of(bounce) for bounce in inbox(account)] == ([f"5.{secode}"] if final else [])


def test_it_delivers_to_a_domain_without_mx_and_to_addresses(
    new_world: NewWorld, account: Account, server: Sink
) -> None:
    world = new_world()
    world.resolver.add(f"a {world.domain}.", server.host)
    literal = f"them@[{server.host}]"
    send(account, world.them)
    send(account, literal)
    world.deliver()
    assert sorted(r.recipients for r in server.received) == sorted([(world.them,), (literal,)])


def test_it_keeps_to_the_address_that_was_dialed_once(new_world: NewWorld, account: Account, server: Sink) -> None:
    world = new_world()
    with sink() as other:
        world.add_hosts(f"{server.host},{other.host}")
        server.rcpt = lambda address: "451 4.7.1 greylisted"
        other.rcpt = lambda address: "451 4.7.1 greylisted"
        (queue_id,) = send(account, world.them)
        world.deliver()
        assert memory(queue_id) == {f"{world.host()}.": [server.host]}
        make_due(queue_id)
        server.rcpt = lambda address: ""
        world.deliver()
    assert not is_queued(queue_id)
    assert [attempt.remote_ip for attempt in attempts(queue_id)] == [server.host, server.host]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 on this machine")
def test_it_comes_from_its_other_address_where_a_dual_stack_host_does_not_like_one(
    new_world: NewWorld, account: Account, server: Sink
) -> None:
    world = new_world()
    with sink("::1") as v6:
        world.add_hosts(f"{server.host},::1")
        v6.rcpt = lambda address: "554 5.7.1 your address is not liked"
        (queue_id,) = send(account, world.them)
        world.deliver()
        assert is_queued(queue_id)
        assert attempts(queue_id)[0].remote_ip == "::1"
        make_due(queue_id)
        world.deliver()
    assert not is_queued(queue_id)
    assert attempts(queue_id)[1].remote_ip == server.host
    assert len(server.received) == 1


def test_it_does_not_repeat_elsewhere_what_a_host_may_have_taken(
    new_world: NewWorld, account: Account, server: Sink
) -> None:
    async def dies(peer: Peer) -> None:
        await peer.say("220 far.example ESMTP")
        for answer in ("250 far.example", "250 ok", "250 ok", "354 go"):
            await peer.line()
            await peer.say(answer)
        await peer.skip_content()
        peer.reset()

    world = new_world()
    with scripted(dies) as host:
        world.add_hosts(host, server.host)
        (queue_id,) = send(account, world.them)
        world.deliver()
    assert is_queued(queue_id)
    assert not server.received
    assert attempts(queue_id)[0].error.startswith("outcome unknown")


def test_it_gives_up_on_a_host_that_never_answers(new_world: NewWorld, account: Account, server: Sink) -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    world = new_world()
    with scripted(silent) as host:
        world.add_hosts(host)
        (queue_id,) = send(account, world.them)
        world.deliver()
    (attempt,) = attempts(queue_id)
    assert is_queued(queue_id)
    assert "timeout during greeting" in attempt.error


def test_it_waits_where_dns_gives_no_answer_and_tells_of_dnssec(new_world: NewWorld, account: Account) -> None:
    world = new_world()
    world.add_hosts(free_host())
    world.resolver.fail(f"mx {world.domain}.", ErrorKind.BOGUS)
    (queue_id,) = send(account, world.them)
    world.deliver()
    assert is_queued(queue_id)
    assert world.results() == {
        (world.domain, "no-policy-found"): (0, 1, [("validation-failure", "dns-extended-error-6-dnssec-bogus")])
    }


def test_it_looks_for_a_host_with_smtputf8_and_bounces_where_none_has_it(
    new_world: NewWorld, account: Account, server: Sink
) -> None:
    world = new_world()
    server.without = ("SMTPUTF8",)
    with sink() as second:
        world.add_hosts(server.host, second.host)
        content = message(address_of(account), subject="grüße")
        (queue_id,) = send(account, f"jö@{world.domain}", content=content, smtputf8=True, has_8bit=True)
        world.deliver()
        assert not is_queued(queue_id)
        assert [r.recipients for r in second.received] == [(f"jö@{world.domain}",)]
        second.without = ("SMTPUTF8",)
        (queue_id,) = send(account, f"jö@{world.domain}", content=content, smtputf8=True, has_8bit=True)
        world.deliver()
    assert not is_queued(queue_id)
    assert attempts(queue_id)[0].secode == "6.7"
    assert len(inbox(account)) == 1


def test_it_remembers_what_the_domain_offers(new_world: NewWorld, account: Account, server: Sink) -> None:
    world = new_world()
    world.add_hosts(server.host)
    send(account, world.them)
    world.deliver()
    known = RecipientDomainTLS.objects.get(domain=world.domain)
    assert (known.starttls, known.requiretls) == (False, False)


def test_it_sends_many_messages_over_one_connection(new_world: NewWorld, account: Account, server: Sink) -> None:
    world = new_world()
    world.add_hosts(server.host)
    for number in range(4):
        send(account, f"them{number}@{world.domain}")
    held = row(send(account, f"last@{world.domain}")[0])
    held.require_tls = False  # other demands: a connection of its own
    held.save()
    world.deliver()
    peers = [received.peer for received in server.received]
    assert len(peers) == 5
    assert len(set(peers)) == 2
