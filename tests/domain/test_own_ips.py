"""Our own addresses on DNS blocklists: which are asked about, when, and what the gauge and the page tell of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address

import pytest
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from prometheus_client import CollectorRegistry, generate_latest

from accounts.models import Transport
from mailqueue import ownips, tasks
from mailqueue.models import OwnIPMonitor, OwnIPStatus
from protocols.dns import MockResolver
from server import db
from server.models import Listener, ServerSettings

pytestmark = pytest.mark.database

LISTED = {"a 9.9.9.9.bl.example.": ["127.0.0.2"], "txt 9.9.9.9.bl.example.": ["see https://bl.example/"]}


@pytest.fixture(autouse=True)
def server(database: None) -> Iterator[None]:
    """A server with public addresses, which monitors one list; afterwards all is as it was."""
    before = {listener.pk: (listener.nat_ips, listener.smtp_dnsbls, listener.ips_nated) for listener in _listeners()}
    settings(localserve=False, monitor_dnsbls=["bl.example"])
    _listeners().update(nat_ips=["9.9.9.9", "2620:fe::9", "10.0.0.1"])
    OwnIPStatus.objects.all().delete()
    OwnIPMonitor.objects.all().delete()
    ownips.flush()
    yield
    for pk, (nat_ips, zones, nated) in before.items():
        Listener.objects.filter(pk=pk).update(nat_ips=nat_ips, smtp_dnsbls=zones, ips_nated=nated)
    Transport.objects.filter(kind=Transport.Kind.SOCKS).delete()
    settings(localserve=True, monitor_dnsbls=[])


def _listeners() -> QuerySet[Listener]:
    return Listener.objects.filter(smtp_enabled=True)


def settings(**values: object) -> None:
    ServerSettings.objects.update(**values)
    ServerSettings._cached = None


def gauge() -> dict[tuple[str, str], float]:
    """The gauge as it is scraped."""
    (family,) = ownips.Gauge().collect()
    return {(sample.labels["zone"], sample.labels["ip"]): sample.value for sample in family.samples}


def monitor() -> bool:
    return ownips.monitor(MockResolver(LISTED), pause=0)


def test_it_tells_for_each_public_address_whether_a_list_has_it() -> None:
    reverse = ip_address("2620:fe::9").reverse_pointer.removesuffix(".ip6.arpa")
    resolver = MockResolver(LISTED, fail=[f"a {reverse}.bl.example."])
    assert ownips.monitor(resolver, pause=0)
    assert not any("10.bl" in query for query in resolver.queries), "nobody outside has a word on private addresses"
    rows = {row.ip: (row.status, row.explanation) for row in OwnIPStatus.objects.all()}
    assert rows["9.9.9.9"] == ("fail", "see https://bl.example/")
    assert rows["2620:fe::9"][0] == "temperror"
    assert gauge() == {("bl.example", "9.9.9.9"): 0, ("bl.example", "2620:fe::9"): 0}
    ownips.monitor(MockResolver(), pause=0)
    assert gauge()["bl.example", "9.9.9.9"] == 0, "not asked again so soon"
    OwnIPMonitor.objects.update(checked=db.now() - timedelta(hours=3))
    ownips.monitor(MockResolver(), pause=0)
    assert gauge() == {("bl.example", "9.9.9.9"): 1, ("bl.example", "2620:fe::9"): 1}


def test_it_asks_again_after_a_hundred_direct_connections_of_all_processes() -> None:
    assert monitor()
    for _ in range(60):
        ownips.count_connection()
    tasks.dispatch()
    assert not monitor()
    for _ in range(40):
        ownips.count_connection()
    assert not monitor(), "other processes know nothing of them yet"
    ownips.flush()
    assert monitor()
    assert not monitor()


def test_a_new_list_or_address_is_asked_about_at_once_and_old_ones_are_forgotten() -> None:
    assert monitor()
    settings(monitor_dnsbls=["bl.example", "other.example"])
    assert monitor()
    assert len(gauge()) == 4
    Transport.objects.create(
        name="proxy-own-ips", kind="socks", socks_address="127.0.0.1:1080", socks_remote_ips=["1.1.1.1"]
    )
    assert monitor()
    assert ("bl.example", "1.1.1.1") in gauge()
    settings(monitor_dnsbls=["other.example"])
    assert not monitor()
    assert {zone for zone, _ in gauge()} == {"other.example"}
    settings(monitor_dnsbls=[])
    assert not monitor()
    assert not gauge()


def test_lists_of_listeners_are_monitored_too() -> None:
    _listeners().update(smtp_dnsbls=["in.example", "bl.example"])
    assert [zone.ascii for zone in ownips.monitored_zones()] == ["in.example", "bl.example"]


def test_addresses_that_are_not_known_are_told() -> None:
    _listeners().update(nat_ips=[], ips_nated=True)
    assert monitor()
    assert gauge() == {("bl.example", ""): -1}
    (status,) = ownips.ask_now(MockResolver())
    assert (status.ip, status.status) == (None, "unknown")
    assert "nat_ips" in status.explanation


def test_the_page_gets_what_lists_say_now() -> None:
    found = {str(status.ip): status for status in ownips.ask_now(MockResolver(LISTED))}
    assert (found["9.9.9.9"].status, found["9.9.9.9"].explanation) == ("fail", "see https://bl.example/")
    assert found["2620:fe::9"].status == "pass"
    assert not OwnIPStatus.objects.exists()


def test_localserve_asks_nobody() -> None:
    settings(localserve=True)
    assert not monitor()


def test_the_gauge_is_written_for_prometheus() -> None:
    monitor()
    registry = CollectorRegistry()
    registry.register(ownips.Gauge())
    assert 'mox_dnsbl_ips_success{ip="9.9.9.9",zone="bl.example"} 0.0' in generate_latest(registry).decode()


@pytest.mark.parametrize(
    ("zones", "error"),
    [
        (["bl.example", "BL.example"], "DNSBL zone BL.example is there twice"),
        (["in.example"], "is asked for incoming mail already"),
        (["a..b"], "'a..b' is not a domain"),
        ("bl.example", "use a list of zones"),
    ],
)
def test_zones_that_make_no_sense_are_refused(zones: object, error: str) -> None:
    _listeners().update(smtp_dnsbls=["in.example"])
    row = ServerSettings.objects.get()
    row.monitor_dnsbls = zones
    with pytest.raises(ValidationError) as caught:
        row.clean()
    assert error in caught.value.message_dict["monitor_dnsbls"][0]
