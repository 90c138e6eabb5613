"""TLS of direct delivery: what MTA-STS, DANE and senders ask for, what is done without, what reports will say."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from accounts.models import Account
from mailqueue.models import MessageKind, RecipientDomainTLS, TLSResult
from protocols.dns import ErrorKind
from protocols.names import parse_domain
from tests.domain.directing import NewWorld, World, tlsa_of
from tests.domain.queueing import attempts, inbox, is_queued, row, send, status_of
from tests.sinks import scripted, sink
from tests.unit.certificates import Certified, certify, root, server_context
from tests.unit.smtp_sink import Peer

pytestmark = pytest.mark.database

SELF_SIGNED = certify("anything.example")


def signed_for(*names: str) -> Certified:
    return certify(*names, issuer=root())


def send_with(account: Account, world: World, require_tls: bool | None = None, **values: Any) -> int:
    (queue_id,) = send(account, world.them)
    waiting = row(queue_id)
    waiting.require_tls = require_tls
    for name, value in values.items():
        setattr(waiting, name, value)
    waiting.save()
    return queue_id


@dataclass(frozen=True)
class Case:
    """Records of a host, and what comes of them."""

    records: tuple[str, ...]
    delivered: bool
    dane: bool = True
    result: tuple[int, int, list[tuple[str, str]]] = (1, 0, [])


# "{leaf}", "{root}", "{other}" are the hashes of certificates.
CASES = {
    "ee": Case(("3 0 1 {leaf}",), True),
    "ee-expired-and-for-another-name": Case(("3 0 1 {other}",), True),
    "ta": Case(("2 0 1 {root}",), True),
    "one-of-several": Case(("3 0 1 {root}", "2 0 1 {root}"), True),
    "ee-bad": Case(("3 0 1 {root}",), False, result=(0, 1, [("validation-failure", "dane-no-match")])),
    "ta-bad": Case(("2 0 1 {nothing}",), False, result=(0, 1, [("validation-failure", "dane-no-match")])),
    "unusable": Case(("1 0 1 {leaf}",), True, result=(0, 1, [("tlsa-invalid", "all-unusable-records+ignored")])),
}


@pytest.mark.parametrize("name", CASES)
def test_it_goes_by_tlsa_records(new_world: NewWorld, account: Account, name: str) -> None:
    case = CASES[name]
    world = new_world(authentic=True)
    leaf = signed_for(world.host())
    other = certify("another.example", days=(-9, -3))
    hashes = {"leaf": leaf, "root": root(), "other": other}
    texts = {key: hashlib.sha256(certified.der).hexdigest() for key, certified in hashes.items()}
    context = server_context(other) if "{other}" in case.records[0] else server_context(leaf, root())
    with sink(tls=context) as host:
        world.add_hosts(host.host)
        world.add_tlsa(*(record.format(nothing="ab" * 32, **texts) for record in case.records))
        queue_id = send_with(account, world)
        world.deliver()
    (attempt,) = attempts(queue_id)
    assert (is_queued(queue_id), len(host.received)) == ((False, 1) if case.delivered else (True, 0))
    assert (attempt.tls_mode, attempt.dane) == ("required", True)
    assert all(received.is_encrypted for received in host.received)
    if not case.delivered:
        assert attempt.secode == "7.5"
    results = world.results()
    assert results[world.host(), "tlsa"] == case.result
    assert results[world.domain, "no-policy-found"] == (1, 0, [])


@pytest.mark.parametrize("unauthentic", ["mx {domain}.", "a {host}.", "tlsa _25._tcp.{host}."])
def test_it_passes_over_tlsa_records_that_dnssec_does_not_vouch_for(
    new_world: NewWorld,
    account: Account,
    unauthentic: str,
) -> None:
    world = new_world(authentic=True)
    with sink(tls=server_context(SELF_SIGNED)) as host:
        world.add_hosts(host.host)
        world.add_tlsa(tlsa_of(root()))
        key = unauthentic.format(domain=world.domain, host=world.host())
        world.resolver.doubt(key)
        queue_id = send_with(account, world)
        world.deliver()
    assert not is_queued(queue_id)
    assert [received.is_encrypted for received in host.received] == [True]
    assert world.results()[world.host(), "no-policy-found"] == (1, 0, [])


def test_it_waits_where_tlsa_records_cannot_be_had_unless_the_sender_does_not_care(
    new_world: NewWorld,
    account: Account,
) -> None:
    world = new_world(authentic=True)
    with sink(tls=server_context(SELF_SIGNED)) as host:
        world.add_hosts(host.host)
        world.resolver.fail(f"tlsa _25._tcp.{world.host()}.", ErrorKind.BOGUS)
        queue_id = send_with(account, world)
        world.deliver()
        (attempt,) = attempts(queue_id)
        assert (is_queued(queue_id), attempt.secode, len(host.received)) == (True, "7.5", 0)
        ((_, _, details),) = [found for key, found in world.results().items() if key[0] == world.host()]
        assert details == [("dnssec-invalid", "extended-dns-error-6-dnssec-bogus")]
        careless = send_with(account, world, False)
        world.deliver()
    assert not is_queued(careless)
    assert len(host.received) == 1


def test_it_takes_the_name_of_the_recipients_domain_under_a_trust_anchor(
    new_world: NewWorld,
    account: Account,
) -> None:
    world = new_world(authentic=True)
    with sink(tls=server_context(signed_for(world.domain), root())) as host:
        world.add_hosts(host.host)
        world.add_tlsa(tlsa_of(root(), 2))
        queue_id = send_with(account, world)
        world.deliver()
    assert not is_queued(queue_id)
    assert len(host.received) == 1


@pytest.mark.parametrize(
    ("mode", "names", "certificate", "delivered", "failure"),
    [
        ("enforce", "*.{domain}", "good", True, None),
        ("enforce", "{host}", "bad", False, ("certificate-not-trusted", "self-signed")),
        ("enforce", "{host}", "other", False, ("certificate-host-mismatch", "")),
        ("enforce", "{host}", "", False, ("starttls-not-supported", "")),
        ("enforce", "other.{domain}", "good", False, ("validation-failure", "mtasts-policy-mx-mismatch")),
        ("testing", "{host}", "bad", True, ("certificate-not-trusted", "self-signed")),
        ("testing", "{host}", "", True, ("starttls-not-supported", "")),
        ("testing", "other.{domain}", "good", True, ("validation-failure", "mtasts-policy-mx-mismatch")),
        ("none", "{host}", "bad", True, None),
    ],
)
def test_it_goes_by_mta_sts_policies(
    new_world: NewWorld,
    account: Account,
    mode: str,
    names: str,
    certificate: str,
    delivered: bool,
    failure: tuple[str, str] | None,
) -> None:
    world = new_world()
    contexts: dict[str, ssl.SSLContext | None] = {
        "good": server_context(signed_for(world.host())),
        "other": server_context(signed_for("other.example")),
        "bad": server_context(certify(world.host())),
        "": None,
    }
    with sink(tls=contexts[certificate]) as host:
        world.add_hosts(host.host)
        world.add_policy(mode, names.format(domain=world.domain, host=world.host()))
        queue_id = send_with(account, world)
        world.deliver()
    assert (is_queued(queue_id), len(host.received)) == ((False, 1) if delivered else (True, 0))
    (attempt,) = attempts(queue_id)
    if not delivered:
        assert (attempt.secode, attempt.success) == ("7.5", False)
    kind = "no-policy-found" if mode == "none" else "sts"
    successes, failures, details = world.results()[world.domain, kind]
    assert details == ([failure] if failure else [])
    assert (successes, failures) == (int(delivered and (failure is None or "mx" in failure[1])), len(details))


def test_it_needs_both_where_both_are_asked_for(new_world: NewWorld, account: Account) -> None:
    world = new_world(authentic=True)
    certificate = certify(world.host())
    with sink(tls=server_context(certificate)) as host:
        world.add_hosts(host.host)
        world.add_tlsa(tlsa_of(certificate))
        world.add_policy("enforce", world.host())
        queue_id = send_with(account, world)
        world.deliver()
    assert is_queued(queue_id)
    assert not host.received
    assert world.results() == {
        (world.domain, "sts"): (0, 1, [("certificate-not-trusted", "self-signed")]),
        (world.host(), "tlsa"): (1, 0, []),
    }
    (attempt,) = attempts(queue_id)
    assert (attempt.dane, attempt.mtasts_mode, attempt.tls_mode) == (True, "enforce", "required")


async def garbage(peer: Peer) -> None:
    """A server whose STARTTLS is no TLS."""
    await peer.say("220 far.example ESMTP")
    await peer.line()
    await peer.say("250-far.example", "250 STARTTLS")
    await peer.line()
    await peer.say("220 go")
    await peer.say_bytes(b"this is no handshake" * 10)
    await peer.rest()


async def refuses(peer: Peer) -> None:
    await peer.say("220 far.example ESMTP")
    await peer.line()
    await peer.say("250-far.example", "250 STARTTLS")
    await peer.line()
    await peer.say("454 4.7.0 not now")
    await peer.line()
    await peer.say("221 bye")


async def takes(peer: Peer) -> None:
    """A server that takes a message in the clear."""
    await peer.say("220 far.example ESMTP")
    for answer in ("250-far.example\r\n250 STARTTLS", "250 ok", "250 ok", "354 go"):
        line = await peer.line()
        assert line.upper() != b"STARTTLS"
        await peer.say(answer)
    await peer.skip_content()
    await peer.say("250 2.0.0 taken")
    await peer.line()
    await peer.say("221 bye")


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        (garbage, ("validation-failure", "data-before-tls-handshake")),
        (refuses, ("starttls-not-supported", "smtp-starttls-reply-code-454")),
    ],
)
def test_it_tries_once_more_in_the_clear_where_tls_fails(
    new_world: NewWorld,
    account: Account,
    script: Callable[[Peer], Any],
    failure: tuple[str, str],
) -> None:
    world = new_world()
    with scripted(script, takes) as host:
        world.add_hosts(host)
        queue_id = send_with(account, world)
        world.deliver()
    assert not is_queued(queue_id)
    (attempt,) = attempts(queue_id)
    assert (attempt.tls_mode, attempt.success) == ("skip", True)
    successes, failures, details = world.results()[world.domain, "no-policy-found"]
    assert (successes, failures) == (0, 1)
    assert details == [failure] or details[0][0] == failure[0]


def test_it_does_not_send_dmarc_reports_in_the_clear_where_tls_fails(
    new_world: NewWorld,
    account: Account,
) -> None:
    world = new_world()
    with scripted(refuses) as host:
        world.add_hosts(host)
        queue_id = send_with(account, world, kind=MessageKind.DMARC_REPORT)
        world.deliver()
    assert is_queued(queue_id)


@pytest.mark.parametrize("has_policy", [True, False])
@pytest.mark.parametrize("announces", [True, False])
def test_it_hands_a_message_that_requires_tls_only_to_those_who_keep_to_it(
    new_world: NewWorld,
    account: Account,
    has_policy: bool,
    announces: bool,
) -> None:
    world = new_world()
    with sink(tls=server_context(signed_for(world.host()))) as host:
        host.extensions = ("REQUIRETLS",) if announces else ()
        world.add_hosts(host.host)
        if has_policy:
            world.add_policy("enforce", world.host())
        queue_id = send_with(account, world, True)
        world.deliver()
    assert not is_queued(queue_id)
    (attempt,) = attempts(queue_id)
    if has_policy and announces:
        assert attempt.success
        assert "REQUIRETLS" in host.received[0].options
        assert RecipientDomainTLS.objects.get(domain=world.domain).requiretls
    else:
        assert not host.received
        assert (attempt.code, attempt.secode) == (554, "7.30")
        assert [status_of(bounce) for bounce in inbox(account)] == ["5.7.30"]


def test_it_delivers_whatever_policies_say_where_the_sender_does_not_care(
    new_world: NewWorld,
    account: Account,
) -> None:
    world = new_world(authentic=True)
    with sink(tls=server_context(SELF_SIGNED)) as host:
        world.add_hosts(host.host)
        world.add_policy("enforce", world.host())
        world.add_tlsa(tlsa_of(root()))
        queue_id = send_with(account, world, False)
        world.deliver()
    assert not is_queued(queue_id)
    assert [received.is_encrypted for received in host.received] == [True]
    results = world.results()
    assert results[world.host(), "tlsa"] == (0, 1, [("validation-failure", "dane-no-match")])
    assert results[world.domain, "sts"] == (0, 1, [("certificate-not-trusted", "self-signed")])


def test_it_counts_a_session_once_for_all_messages_over_it(new_world: NewWorld, account: Account) -> None:
    world = new_world()
    with sink(tls=server_context(SELF_SIGNED)) as host:
        world.add_hosts(host.host)
        for number in range(3):
            send(account, f"them{number}@{world.domain}")
        world.deliver()
    assert len(host.received) == 3
    assert world.results()[world.domain, "no-policy-found"] == (1, 0, [])
    assert RecipientDomainTLS.objects.get(domain=parse_domain(world.domain).name()).starttls


def test_it_stores_what_came_of_a_message_though_what_tls_has_shown_cannot_be(
    new_world: NewWorld, account: Account
) -> None:
    world = new_world()
    with sink(tls=server_context(SELF_SIGNED)) as host:
        world.add_hosts(host.host)
        send(account, world.them)
        world.deliver()
        TLSResult.objects.filter(recipient_domain=world.domain).update(results=["what no version has written"])
        (queue_id,) = send(account, world.them)
        world.deliver()
    assert len(host.received) == 2
    assert not is_queued(queue_id)
    assert attempts(queue_id)[-1].code == 250
