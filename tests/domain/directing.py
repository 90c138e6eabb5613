"""What tests of direct delivery share: a world of DNS records and policies, and a worker that goes by it."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from mailqueue import leases
from mailqueue.direct import Network
from mailqueue.models import MTASTSPolicy, QueueMessage, TLSResult
from mailqueue.worker import Worker
from protocols.dns import MockResolver
from protocols.smtpclient import Timeouts
from server import db
from tests.sinks import PORT
from tests.unit.certificates import Certified

_domains = itertools.count(1)

NewWorld = Callable[..., "World"]

TIMEOUTS = Timeouts(connect=2, reply=2, write=2, tls_handshake=2, end_of_data=2, quit=1)


@dataclass(slots=True)
class World:
    """A domain of this test's own, and all that DNS says."""

    worker: Worker
    resolver: MockResolver
    domain: str = field(default_factory=lambda: f"far{next(_domains)}.example")

    @property
    def them(self) -> str:
        return f"them@{self.domain}"

    def host(self, number: int = 1) -> str:
        """The name of the domain's MX host of this number."""
        return f"mx{number}.{self.domain}"

    def add_hosts(self, *addresses: str) -> None:
        """MX records for hosts with these addresses, the first one the best; commas within those of one host."""
        for number, texts in enumerate(addresses, 1):
            self.resolver.add(f"mx {self.domain}.", f"{number * 10} {self.host(number)}.")
            for text in texts.split(","):
                self.resolver.add(f"{'aaaa' if ':' in text else 'a'} {self.host(number)}.", text)

    def add_tlsa(self, *records: str, number: int = 1) -> None:
        self.resolver.add(f"tlsa _25._tcp.{self.host(number)}.", *records)

    def add_policy(self, mode: str, *mx: str) -> None:
        """An MTA-STS policy that was fetched before."""
        now = db.now()
        self.resolver.add(f"txt _mta-sts.{self.domain}.", "v=STSv1; id=1;")
        text = f"version: STSv1\r\nmode: {mode}\r\nmax_age: 86400\r\n" + "".join(f"mx: {name}\r\n" for name in mx)
        MTASTSPolicy.objects.create(
            domain=self.domain,
            inserted=now,
            valid_end=now + timedelta(days=1),
            last_update=now,
            last_use=now,
            record_id="1",
            mode=mode,
            mx=list(mx),
            max_age=86400,
            policy_text=text,
        )

    def deliver(self) -> None:
        """What the workers do at a wake-up, until nothing is due."""
        while claimed := leases.claim_due():
            for lease in claimed:
                self.worker.deliver(lease)

    def results(self) -> dict[tuple[str, str], tuple[int, int, list[tuple[str, str]]]]:
        """What is stored for TLS reports, by policy domain and type: successes, failures, and why these failed."""
        found = {}
        for row in TLSResult.objects.filter(recipient_domain=self.domain):
            for result in row.results:
                details = [(d["result-type"], d["failure-reason-code"]) for d in result["failure-details"]]
                summary = result["summary"]
                found[row.policy_domain, result["policy"]["policy-type"]] = (
                    summary["total-successful-session-count"],
                    summary["total-failure-session-count"],
                    details,
                )
        return found


def make_world(resolver: MockResolver, data_dir: Path) -> World:
    network = Network(resolver, PORT, TIMEOUTS)
    return World(Worker(f"test {uuid.uuid4()}", data_dir, 2, network), resolver)


def tlsa_of(certified: Certified, usage: int = 3) -> str:
    """The record with the SHA-256 of a certificate."""
    return f"{usage} 0 1 {hashlib.sha256(certified.der).hexdigest()}"


def memory(queue_id: int) -> dict[str, list[str]]:
    """The addresses that were dialed for a message."""
    dialed: dict[str, list[str]] = QueueMessage.objects.get(pk=queue_id).dialed_ips
    return dialed
