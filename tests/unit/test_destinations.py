"""Where mail for a domain goes: MX records and what stands in for them, aliases, and what DNSSEC vouches for."""

from __future__ import annotations

import asyncio
import random
from ipaddress import ip_address

import pytest

from protocols import destinations
from protocols.destinations import Destination, DestinationError, HostAddresses, find_addresses, find_hosts
from protocols.dns import ErrorKind, MockResolver
from protocols.names import IPDomain, parse_domain


def hosts_of(resolver: MockResolver, domain: str = "far.example", *, pedantic: bool = False) -> Destination:
    target = IPDomain(domain=parse_domain(domain))
    return asyncio.run(find_hosts(resolver, target, pedantic=pedantic, rng=random.Random(1)))


def names(destination: Destination) -> list[str]:
    return [host.domain.ascii for host in destination.hosts if host.domain is not None]


def addresses_of(
    resolver: MockResolver, host: str = "mx.far.example", *, ipv4: bool = True, ipv6: bool = True
) -> HostAddresses:
    return asyncio.run(find_addresses(resolver, IPDomain(domain=parse_domain(host)), ipv4=ipv4, ipv6=ipv6))


def test_it_gives_hosts_by_preference_with_equals_in_any_order() -> None:
    resolver = MockResolver({"mx far.example.": ["20 c.example.", "10 a.example.", "10 b.example.", "30 d.example."]})
    seen = {
        tuple(names(asyncio.run(find_hosts(resolver, IPDomain(domain=parse_domain("far.example")))))) for _ in range(64)
    }
    assert seen == {
        ("a.example", "b.example", "c.example", "d.example"),
        ("b.example", "a.example", "c.example", "d.example"),
    }


def test_it_takes_the_domain_itself_where_there_are_no_mx_records() -> None:
    found = hosts_of(MockResolver({"a far.example.": ["192.0.2.1"]}, authentic=True))
    assert names(found) == ["far.example"]
    assert (found.has_mx, found.authentic) == (False, True)


def test_it_gives_an_address_literal_as_it_is_without_asking() -> None:
    literal = IPDomain(ip=ip_address("192.0.2.1"))
    resolver = MockResolver()
    found = asyncio.run(find_hosts(resolver, literal))
    assert found.hosts == (literal,)
    assert not found.authentic
    assert asyncio.run(find_addresses(resolver, literal)).addresses == (ip_address("192.0.2.1"),)
    assert not resolver.queries


def test_it_follows_aliases_and_knows_how_far_dnssec_vouches() -> None:
    records = {
        "cname far.example.": ["near.example."],
        "cname near.example.": ["end.example."],
        "mx end.example.": ["10 mx.end.example."],
    }
    found = hosts_of(MockResolver(records, authentic=True))
    assert found.expanded == parse_domain("end.example")
    assert (found.original_authentic, found.authentic) == (True, True)
    found = hosts_of(MockResolver(records, authentic=True, inauthentic=["cname near.example."]))
    assert (found.original_authentic, found.authentic) == (True, False)
    found = hosts_of(MockResolver(records, authentic=True, inauthentic=["mx end.example."]))
    assert (found.original_authentic, found.authentic) == (True, False)
    found = hosts_of(MockResolver(records, authentic=True, inauthentic=["cname far.example."]))
    assert (found.original_authentic, found.authentic) == (False, False)


def test_it_refuses_a_domain_with_a_null_mx_for_good() -> None:
    with pytest.raises(DestinationError, match="accepts no mail") as refused:
        hosts_of(MockResolver({"mx far.example.": ["0 ."]}))
    assert (refused.value.permanent, refused.value.enhanced) == (True, "5.1.10")


def test_it_passes_over_targets_that_are_no_names() -> None:
    good_and_bad = MockResolver({"mx far.example.": ["5 .", "10 bad\\032name.example.", "20 mx_1.far.example."]})
    assert names(hosts_of(good_and_bad)) == ["mx_1.far.example"]
    with pytest.raises(DestinationError, match="name no host") as refused:
        hosts_of(good_and_bad, pedantic=True)
    assert (refused.value.permanent, refused.value.enhanced) == (True, "5.4.4")


@pytest.mark.parametrize(
    "records",
    [
        {"cname far.example.": ["far.example."]},
        {"cname far.example.": ["b.example."], "cname b.example.": ["far.example."]},
        {"cname far.example.": ["0.example."]} | {f"cname {n}.example.": [f"{n + 1}.example."] for n in range(16)},
    ],
)
def test_it_waits_where_aliases_lead_nowhere(records: dict[str, list[str]]) -> None:
    with pytest.raises(DestinationError) as refused:
        hosts_of(MockResolver(records))
    assert (refused.value.permanent, refused.value.enhanced) == (False, "4.4.3")


def test_it_follows_sixteen_aliases() -> None:
    records = {"cname far.example.": ["0.example."]} | {f"cname {n}.example.": [f"{n + 1}.example."] for n in range(15)}
    assert names(hosts_of(MockResolver(records))) == ["15.example"]


@pytest.mark.parametrize("key", ["cname far.example.", "mx far.example."])
def test_it_keeps_what_dns_said_where_it_fails(key: str) -> None:
    with pytest.raises(DestinationError) as refused:
        hosts_of(MockResolver({"mx far.example.": ["10 mx.far.example."]}, fail={key: ErrorKind.BOGUS}))
    assert not refused.value.permanent
    assert refused.value.cause is not None
    assert [ede.code for ede in refused.value.cause.ede] == [6]


def test_it_waits_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(MockResolver):
        async def mx(self, name: str):  # type: ignore[no-untyped-def]  # it never returns
            await asyncio.Event().wait()

    monkeypatch.setattr(destinations, "LOOKUP_TIMEOUT", 0.01)
    with pytest.raises(DestinationError, match="no answer in time"):
        hosts_of(Silent())


def test_it_gives_addresses_of_both_families_or_one() -> None:
    resolver = MockResolver({"a mx.far.example.": ["192.0.2.1", "192.0.2.2"], "aaaa mx.far.example.": ["2001:db8::1"]})
    v6, v4 = ip_address("2001:db8::1"), (ip_address("192.0.2.1"), ip_address("192.0.2.2"))
    both = addresses_of(resolver)
    assert (both.addresses, both.dual_stack) == ((v6, *v4), True)
    only = addresses_of(resolver, ipv6=False)
    assert (only.addresses, only.dual_stack) == (v4, False)
    assert addresses_of(resolver, ipv4=False).addresses == (v6,)


def test_it_follows_aliases_of_hosts_and_tells_their_first_answer_from_the_rest() -> None:
    records = {"cname mx.far.example.": ["mx.near.example."], "a mx.near.example.": ["192.0.2.1"]}
    found = addresses_of(MockResolver(records, authentic=True))
    assert (found.expanded, found.authentic, found.expanded_authentic) == (parse_domain("mx.near.example"), True, True)
    found = addresses_of(MockResolver(records, authentic=["cname mx.far.example."]))
    assert (found.authentic, found.expanded_authentic) == (True, False)
    found = addresses_of(MockResolver(records, authentic=True, inauthentic=["cname mx.far.example."]))
    assert (found.authentic, found.expanded_authentic) == (False, False)
    plain = {"a mx.far.example.": ["192.0.2.1"]}
    assert addresses_of(MockResolver(plain, authentic=True)).authentic
    assert not addresses_of(MockResolver(plain, authentic=["cname mx.far.example."])).authentic


@pytest.mark.parametrize("kind", [ErrorKind.TEMPORARY, ErrorKind.BOGUS, ErrorKind.NXDOMAIN])
def test_it_waits_for_a_host_without_addresses(kind: ErrorKind) -> None:
    fail = {"a mx.far.example.": kind, "aaaa mx.far.example.": kind}
    with pytest.raises(DestinationError) as refused:
        addresses_of(MockResolver({"mx far.example.": ["10 mx.far.example."]}, fail=fail))
    assert (refused.value.permanent, refused.value.enhanced) == (False, "4.4.3")
    assert refused.value.cause is not None
    assert refused.value.cause.kind is kind
