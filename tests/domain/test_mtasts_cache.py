"""MTA-STS policies as deliveries get them: fetched, kept, kept fresh, and what reports say where that fails."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings

from mailqueue import mtastscache, mtastsrefresh, network
from mailqueue.models import MTASTSPolicy
from mailqueue.mtastscache import Found, find
from protocols.dns import ErrorKind as DNSErrorKind
from protocols.dns import MockResolver, Resolver
from protocols.dns.stub import StubResolver
from protocols.mtasts import Mode
from protocols.names import parse_domain
from protocols.pkix import Roots
from server import db
from tests.nameservers import Signing, Zone, name_servers, needs_name_servers
from tests.policyhost import Handler, Host
from tests.unit.certificates import Certified, certify, root

pytestmark = pytest.mark.database

DAY = 86_400
_numbers = itertools.count(1)


def policy_text(mode: str = "enforce", mx: str = "mail.example.com", max_age: str = str(DAY)) -> bytes:
    lines = ["version: STSv1", f"mode: {mode}", f"max_age: {max_age}", *([f"mx: {mx}"] if mx else [])]
    return "".join(f"{line}\r\n" for line in lines).encode()


def response(body: bytes, status: str = "200 OK", header: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{header}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Recipient:
    """A domain that gets mail: its record, and its policy host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.domain = parse_domain(name)
        self.host = Host()
        self.answer: bytes | Handler = response(policy_text())
        self.certified: Certified = certify(f"mta-sts.{self.domain.ascii}", issuer=root())
        self.record: str | None = "v=STSv1; id=1;"
        self.dns_error: DNSErrorKind | None = None
        self.roots = Roots(root().pem, system=False)
        self._monkeypatch = monkeypatch

    @property
    def resolver(self) -> MockResolver:
        txt = f"txt _mta-sts.{self.domain.ascii}."
        records = {f"a mta-sts.{self.domain.ascii}.": ["127.0.0.1"]}
        if self.record is not None:
            records[txt] = self.record.split("|")
        return MockResolver(records, fail={txt: self.dns_error} if self.dns_error else ())

    @property
    def row(self) -> MTASTSPolicy:
        return MTASTSPolicy.objects.get(domain=self.domain.name())

    def find(self, resolver: Resolver | None = None) -> Found:
        return self.find_at_once(1, resolver)[0]

    def find_at_once(self, count: int, resolver: Resolver | None = None) -> list[Found]:
        """What so many deliveries find that look at the same time."""

        async def run() -> list[Found]:
            async with AsyncExitStack() as stack:
                port = await stack.enter_async_context(self.host.serving(self.answer, self.certified))
                self._connect_to(port)
                looks = [
                    find(self.domain, resolver or self.resolver, self.roots, network.database()) for _ in range(count)
                ]
                return list(await asyncio.gather(*looks))

        return asyncio.run(run())

    def refresh(self) -> None:
        async def run() -> None:
            async with self.host.serving(self.answer, self.certified) as port:
                self._connect_to(port)
                name = self.domain.name()
                await mtastsrefresh.refresh(name, self.resolver, self.roots, network.database())

        asyncio.run(run())

    def change(self, **values: datetime) -> None:
        """As if some time had passed."""
        MTASTSPolicy.objects.filter(domain=self.domain.name()).update(**values)

    def _connect_to(self, port: int) -> None:
        self._monkeypatch.setattr(settings, "MOX", replace(settings.MOX, mtasts_port=port, mtasts_private=True))


@pytest.fixture
def recipient(database: None, monkeypatch: pytest.MonkeyPatch) -> Recipient:
    return Recipient(monkeypatch, f"domain{next(_numbers)}.example")


def test_it_fetches_a_policy_once_and_asks_dns_at_each_delivery(recipient: Recipient) -> None:
    found = recipient.find()
    assert found.policy is not None
    assert (found.policy.mode, [str(mx) for mx in found.policy.mx]) == (Mode.ENFORCE, ["mail.example.com"])
    assert (found.text, found.failure, found.error) == (policy_text().decode(), ("", ""), "")
    resolver = recipient.resolver
    assert recipient.find(resolver) == found
    assert resolver.queries == [f"txt _mta-sts.{recipient.domain.ascii}."]
    assert len(recipient.host.requests) == 1
    row = recipient.row
    assert (row.record_id, row.mode, row.mx, row.max_age, row.backoff) == ("1", "enforce", ["mail.example.com"], DAY, 0)
    assert row.policy_text == policy_text().decode()
    assert abs((row.valid_end - row.last_update).total_seconds() - DAY) < 1


def test_it_keeps_an_internationalized_domain_in_unicode(monkeypatch: pytest.MonkeyPatch, database: None) -> None:
    recipient = Recipient(monkeypatch, f"bücher{next(_numbers)}.example")
    assert recipient.find().policy is not None
    assert recipient.row.domain.startswith("bücher")


def test_it_fetches_a_new_policy_when_the_id_changes(recipient: Recipient) -> None:
    recipient.find()
    recipient.record, recipient.answer = "v=STSv1; id=2;", response(policy_text("testing", "*.example.net"))
    found = recipient.find()
    assert found.policy is not None
    assert (found.policy.mode, [str(mx) for mx in found.policy.mx]) == (Mode.TESTING, ["*.example.net"])
    assert (recipient.row.record_id, recipient.row.mode) == ("2", "testing")


def test_a_cached_policy_stays_when_the_new_one_cannot_be_had(recipient: Recipient) -> None:
    old = recipient.find()
    recipient.record, recipient.answer = "v=STSv1; id=2;", response(b"", "500 Oops")
    found = recipient.find()
    assert found.policy == old.policy
    assert found.failure == ("sts-policy-fetch-error", "cannot-fetch-policy+fallback-to-cached-policy")
    # For some minutes it is not tried again, whatever comes to the queue.
    recipient.answer = response(policy_text("none", ""))
    found = recipient.find()
    assert found.policy == old.policy
    assert found.failure == ("sts-policy-fetch-error", "back-off-after-recent-fetch-error+fallback-to-cached-policy")
    assert len(recipient.host.requests) == 2
    recipient.change(retry_after=db.now())
    assert recipient.find().policy != old.policy


@pytest.mark.parametrize(
    ("record", "error", "failure"),
    [
        (None, None, "no-mta-sts-record"),
        ("v=STSv1; id=1;|v=STSv1; id=2;", None, "multiple-mta-sts-records"),
        ("v=STSv1; id=1;", DNSErrorKind.TIMEOUT, "dns-lookup"),
        ("v=STSv1; id=1;", DNSErrorKind.BOGUS, "dns-lookup"),
    ],
    ids=["gone", "several", "timeout", "bogus"],
)
def test_a_cached_policy_counts_without_its_record(
    recipient: Recipient, record: str | None, error: DNSErrorKind | None, failure: str
) -> None:
    old = recipient.find()
    recipient.record, recipient.dns_error = record, error
    found = recipient.find()
    assert (found.policy, found.error) == (old.policy, "")
    assert found.failure == ("sts-policy-fetch-error", f"{failure}+fallback-to-cached-policy")


def test_a_policy_counts_until_its_end(recipient: Recipient) -> None:
    recipient.find()
    recipient.record = None
    recipient.change(valid_end=db.now())
    assert recipient.find() == Found()


def test_a_domain_that_ends_its_policy_in_good_form_is_no_failure(recipient: Recipient) -> None:
    recipient.answer = response(policy_text("none", ""))
    assert recipient.find().policy is not None
    recipient.record = None
    assert recipient.find().failure == ("", "")


@pytest.mark.parametrize(
    ("record", "failure"),
    [
        (None, ("", "")),
        ("v=STSv1; id=1;|v=STSv1; id=1;", ("sts-policy-fetch-error", "multiple-mta-sts-records")),
        ("v=STSv1; id=_;", ("sts-policy-fetch-error", "record-syntax-error")),
    ],
)
def test_a_domain_without_a_good_record_has_no_policy(
    recipient: Recipient, record: str | None, failure: tuple[str, str]
) -> None:
    recipient.record = record
    assert recipient.find() == Found(failure=failure)
    assert not recipient.host.connections
    assert not MTASTSPolicy.objects.filter(domain=recipient.domain.name()).exists()


def test_nothing_can_be_delivered_while_dns_does_not_say_whether_there_is_a_policy(recipient: Recipient) -> None:
    recipient.dns_error = DNSErrorKind.TEMPORARY
    found = recipient.find()
    assert found.policy is None
    assert f"txt _mta-sts.{recipient.domain.ascii}." in found.error
    assert found.failure == ("sts-policy-fetch-error", "dns-lookup")


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (response(b"", "404 Not Found"), ("sts-policy-fetch-error", "no-policy-served")),
        (
            response(b"", "301 Moved", "Location: https://example.com/\r\n"),
            ("sts-policy-fetch-error", "cannot-fetch-policy"),
        ),
        (response(b"x: y\r\n" * 11_000), ("sts-policy-fetch-error", "cannot-fetch-policy")),
        (response(policy_text(max_age="x")), ("sts-policy-invalid", "policy-syntax-error")),
        (response(policy_text(mx="")), ("sts-policy-invalid", "policy-syntax-error")),
    ],
    ids=["not found", "redirect", "65 KiB", "max_age", "no mx"],
)
def test_it_backs_off_where_the_policy_cannot_be_had(
    recipient: Recipient, answer: bytes, failure: tuple[str, str]
) -> None:
    recipient.answer = answer
    assert recipient.find() == Found(failure=failure)
    row = recipient.row
    assert row.backoff
    assert abs((row.valid_end - row.last_update).total_seconds() - 300) < 1
    recipient.answer = response(policy_text())
    assert recipient.find() == Found(failure=("sts-policy-fetch-error", "back-off-after-recent-fetch-error"))
    assert len(recipient.host.requests) == 1
    recipient.change(valid_end=db.now())
    assert recipient.find().policy is not None
    assert not recipient.row.backoff


@pytest.mark.parametrize(
    ("days", "names", "issuer", "reason"),
    [
        ((-2, -1), ("mta-sts.{}",), True, "certificate-expired"),
        ((-1, 1), ("other.example",), True, "certificate-host-mismatch"),
        ((-1, 1), ("mta-sts.{}",), False, "certificate-not-trusted+self-signed"),
    ],
)
def test_the_certificate_of_the_policy_host_must_be_good(
    recipient: Recipient, days: tuple[int, int], names: tuple[str, ...], issuer: bool, reason: str
) -> None:
    own = [name.format(recipient.domain.ascii) for name in names]
    recipient.certified = certify(*own, issuer=root() if issuer else None, days=days)
    assert recipient.find() == Found(failure=("sts-webpki-invalid", reason))
    assert not recipient.host.requests
    assert recipient.row.backoff


def test_many_deliveries_fetch_a_policy_once(recipient: Recipient) -> None:
    found = recipient.find_at_once(5)
    assert all(each.policy is not None for each in found)
    assert recipient.host.connections == 1


def test_nobody_waits_for_a_new_policy_that_another_fetches(recipient: Recipient) -> None:
    old = recipient.find()
    assert mtastscache.claim(recipient.domain.name())
    recipient.record = "v=STSv1; id=2;"
    assert recipient.find() == old
    assert len(recipient.host.requests) == 1
    # Whoever was at it was killed.
    recipient.change(fetching_until=db.now())
    recipient.find()
    assert recipient.row.record_id == "2"


def test_a_fetch_that_is_given_up_lets_another_try(recipient: Recipient) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()

    async def run() -> None:
        async with recipient.host.serving(silent, recipient.certified) as port:
            recipient._connect_to(port)
            look = asyncio.create_task(find(recipient.domain, recipient.resolver, recipient.roots, network.database()))
            await asked.wait()
            look.cancel()
            with pytest.raises(asyncio.CancelledError):
                await look

    asked = asyncio.Event()
    asyncio.run(run())
    assert recipient.row.fetching_until is None
    assert recipient.find().policy is not None


def test_use_is_noted_by_the_minute(recipient: Recipient) -> None:
    recipient.find()
    used = recipient.row.last_use
    recipient.find()
    assert recipient.row.last_use == used
    recipient.change(last_use=used - timedelta(minutes=2))
    recipient.find()
    assert recipient.row.last_use >= used


# Refreshing.


def test_a_refresh_lets_an_unchanged_policy_count_for_longer(recipient: Recipient) -> None:
    recipient.find()
    hours = timedelta(hours=13)
    row = recipient.row
    recipient.change(valid_end=row.valid_end - hours, last_update=row.last_update - hours)
    recipient.refresh()
    assert recipient.row.valid_end > row.valid_end
    assert recipient.row.last_update > row.last_update
    assert len(recipient.host.requests) == 1


def test_a_refresh_fetches_what_has_changed(recipient: Recipient) -> None:
    recipient.find()
    recipient.record, recipient.answer = "v=STSv1; id=2;", response(policy_text("testing"))
    recipient.refresh()
    assert (recipient.row.mode, recipient.row.policy_text) == ("testing", policy_text("testing").decode())


def test_a_refresh_drops_what_was_ended_in_good_form_only(recipient: Recipient) -> None:
    recipient.find()
    recipient.record = None
    recipient.refresh()
    assert recipient.row.mode == "enforce"
    recipient.record, recipient.answer = "v=STSv1; id=2;", response(policy_text("none", ""))
    recipient.refresh()
    recipient.record = None
    recipient.refresh()
    assert not MTASTSPolicy.objects.filter(domain=recipient.domain.name()).exists()


def test_a_refresh_that_fails_leaves_the_policy(recipient: Recipient) -> None:
    recipient.find()
    recipient.dns_error = DNSErrorKind.TIMEOUT
    recipient.refresh()
    recipient.dns_error, recipient.record, recipient.answer = None, "v=STSv1; id=2;", response(b"", "404 Not Found")
    recipient.refresh()
    row = recipient.row
    assert (row.mode, row.record_id, row.backoff) == ("enforce", "1", False)


@pytest.fixture
def serving() -> Iterator[None]:
    """Not in localserve, which asks no other server for anything."""
    from server.models import ServerSettings

    ServerSettings.objects.update(localserve=False)
    ServerSettings._cached = None
    yield
    ServerSettings.objects.update(localserve=True)
    ServerSettings._cached = None


def test_the_daily_plan_spreads_the_work_and_drops_what_nobody_needs(
    make_row: Callable[..., MTASTSPolicy], serving: None
) -> None:
    now = db.now()
    stale = [make_row(last_update=now - timedelta(hours=13)) for _ in range(20)]
    fresh = make_row(last_update=now - timedelta(hours=11))
    unused = make_row(last_use=now - timedelta(days=181))
    assert mtastsrefresh.plan() >= 20
    moments = [MTASTSPolicy.objects.get(pk=row.pk).refresh_at for row in stale]
    assert all(moment is not None and now <= moment <= now + timedelta(hours=3, minutes=1) for moment in moments)
    assert len(set(moments)) > 15
    assert MTASTSPolicy.objects.get(pk=fresh.pk).refresh_at is None
    assert not MTASTSPolicy.objects.filter(pk=unused.pk).exists()


def test_each_moment_that_has_come_is_taken_once(
    make_row: Callable[..., MTASTSPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def refresh(keys: list[str]) -> None:
        asked.extend(keys)

    monkeypatch.setattr(mtastsrefresh, "_refresh_all", refresh)
    now = db.now()
    due, later = make_row(refresh_at=now), make_row(refresh_at=now + timedelta(hours=1))
    mtastsrefresh.refresh_due()
    mtastsrefresh.refresh_due()
    assert asked.count(due.domain) == 1
    assert later.domain not in asked


def test_the_list_has_policies_and_failures_page_by_page(make_row: Callable[..., MTASTSPolicy]) -> None:
    rows = sorted((make_row() for _ in range(3)), key=lambda row: row.domain)
    before = rows[0].domain[:-1]
    assert [row.pk for row in mtastsrefresh.policies(before, 2)] == [row.pk for row in rows[:2]]
    mtastscache.claim(f"{rows[0].domain}x")  # somebody who is fetching is no policy
    assert rows[1].pk == mtastsrefresh.policies(rows[0].domain, 1)[0].pk
    mtastsrefresh.forget(rows[0].domain)
    with pytest.raises(mtastsrefresh.UnknownPolicy, match="no policy of"):
        mtastsrefresh.forget(rows[0].domain)
    with pytest.raises(mtastsrefresh.UnknownPolicy, match="is not a domain"):
        mtastsrefresh.refresh_now("a..b")


@pytest.fixture
def make_row(database: None) -> Callable[..., MTASTSPolicy]:
    def make(**values: datetime) -> MTASTSPolicy:
        now = db.now()
        moments = {"inserted": now, "last_update": now, "last_use": now, "valid_end": now + timedelta(days=7), **values}
        return MTASTSPolicy.objects.create(
            domain=f"row{next(_numbers):05}.example", record_id="1", mode="enforce", mx=["a.example"], **moments
        )

    return make


@needs_name_servers
def test_it_does_so_with_real_name_servers(
    database: None, monkeypatch: pytest.MonkeyPatch, directory: Path, server_ip: str
) -> None:
    name = f"real{next(_numbers)}.test"
    recipient = Recipient(monkeypatch, name)
    records = "mta-sts CNAME policies.plain.test.\n"
    record = "_mta-sts CNAME record.plain.test.\n"
    plain = Zone("plain.test.", 'policies A 127.0.0.1\nrecord TXT "v=STSv1; id=1;"\n', Signing.NONE)
    with name_servers(directory / f"{name}-with", server_ip, [plain, Zone(f"{name}.", records + record)]) as servers:
        found = recipient.find(StubResolver([servers.resolver]))
    assert found.policy is not None
    assert found.failure == ("", "")
    with name_servers(directory / f"{name}-without", server_ip, [plain, Zone(f"{name}.", records)]) as servers:
        again = recipient.find(StubResolver([servers.resolver]))
    assert again.policy == found.policy, "enforced although the record is gone"
    assert len(recipient.host.requests) == 1
    unreachable = recipient.find(StubResolver([servers.resolver], timeout=0.1, lifetime=0.2))
    assert unreachable.policy == found.policy
    assert unreachable.failure == ("sts-policy-fetch-error", "dns-lookup+fallback-to-cached-policy")
