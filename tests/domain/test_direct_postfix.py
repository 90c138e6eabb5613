"""Direct delivery to a real Postfix, found in signed zones that nsd serves and unbound verifies, with DANE."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from accounts.models import Account
from mailqueue.direct import Network
from mailqueue.worker import Worker
from protocols.dns.stub import StubResolver
from tests import installation
from tests.domain.directing import TIMEOUTS, NewWorld, World, tlsa_of
from tests.domain.queueing import attempts, is_queued, send
from tests.nameservers import Signing, Zone, name_servers, needs_name_servers
from tests.postfix import Postfix, needs_postfix, postfix
from tests.sinks import PORT, free_host
from tests.unit.certificates import certify, root

pytestmark = [needs_postfix, needs_name_servers]

LEAF = certify("mx.receiver.test", issuer=root())
RECORDS = {
    "ee": tlsa_of(LEAF),
    "ta": tlsa_of(root(), 2),
    "bad": tlsa_of(root()),
    "unusable": tlsa_of(LEAF, 1),
}


def mail_zone(name: str, ip: str, signing: Signing) -> Zone:
    """A domain for each kind of TLSA record, and one without, all with the same host under different names."""
    lines = [f"none MX 10 mx-none\nmx-none A {ip}", "alias CNAME ee", "null MX 0 ."]
    for kind, record in RECORDS.items():
        # A name of the certificate is needed under a trust anchor: an alias of it is asked for by its own.
        lines.append(f"{kind} MX 10 mx-{kind}\nmx-{kind} A {ip}\n_25._tcp.mx-{kind} TLSA {record}")
    return Zone(name, "\n".join(lines), signing)


@pytest.fixture(scope="module")
def host() -> str:
    return free_host()


@pytest.fixture(scope="module")
def server(host: str) -> Iterator[Postfix]:
    names = [f"{kind}.{zone}.test" for zone in ("mail", "unsigned", "broken") for kind in (*RECORDS, "none", "alias")]
    with postfix(host, PORT, [*names, "receiver.test"], LEAF, root()) as running:
        yield running


@pytest.fixture(scope="module")
def resolver(host: str, directory: Path) -> Iterator[StubResolver]:
    zones = [
        mail_zone("mail.test.", host, Signing.GOOD),
        mail_zone("unsigned.test.", host, Signing.NONE),
        mail_zone("broken.test.", host, Signing.WRONG_KEY),
        Zone("receiver.test.", f"@ MX 10 mx\nmx A {host}\n_25._tcp.mx TLSA {RECORDS['ta']}"),
    ]
    with name_servers(directory / "names-of-postfix", f"127.0.{installation.worker_number()}.54", zones) as names:
        yield StubResolver([names.resolver])


@pytest.fixture
def world(new_world: NewWorld, resolver: StubResolver, data_dir: Path) -> Iterator[World]:
    worker = Worker(f"test {uuid.uuid4()}", data_dir, 2, Network(resolver, PORT, TIMEOUTS))
    yield World(worker, new_world().resolver)
    worker.close()


CASES = {
    "ee.mail.test": (True, "required", True),
    "alias.mail.test": (True, "required", True),
    "receiver.test": (True, "required", True),  # a trust anchor, and the name that the certificate has
    "ta.mail.test": (False, "required", True),  # a trust anchor, and another name
    "bad.mail.test": (False, "required", True),
    "unusable.mail.test": (True, "required", True),
    "none.mail.test": (True, "opportunistic", False),
    "bad.unsigned.test": (True, "opportunistic", False),
    "ee.broken.test": (False, "", False),
    "null.mail.test": (None, "", False),
}


def test_it_delivers_as_dnssec_and_dane_say(account: Account, world: World, server: Postfix) -> None:
    ids = {domain: send(account, f"them@{domain}")[0] for domain in CASES}
    world.deliver()
    came = {}
    for domain, queue_id in ids.items():
        (attempt,) = attempts(queue_id)
        delivered = attempt.success if attempt.success or is_queued(queue_id) else None
        came[domain] = (delivered, attempt.tls_mode, attempt.dane)
        if attempt.success:
            assert attempt.tls_version == "TLSv1.3"
            assert attempt.smtp_lines[0].startswith("250 2.0.0 Ok: queued as")
    assert came == CASES
    taken = server.messages(sum(delivered is True for delivered, _, _ in CASES.values()))
    assert all(b"The text." in content for content in taken)
    world.domain = "ee.broken.test"
    ((_, failures, details),) = world.results().values()
    assert failures == 1
    assert details[0][0] == "validation-failure"
    assert details[0][1].startswith("dns-extended-error-")
    world.domain = "bad.mail.test"
    assert world.results()["mx-bad.mail.test", "tlsa"] == (0, 1, [("validation-failure", "dane-no-match")])


def test_it_hands_over_a_message_to_several_recipients_at_once(account: Account, world: World, server: Postfix) -> None:
    ids = send(account, *(f"them{number}@ee.mail.test" for number in range(3)))
    world.deliver()
    assert not any(map(is_queued, ids))
    assert server.log().count("nrcpt=3") == 1
