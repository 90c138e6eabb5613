"""Blocklists: the names that are asked for, which answers mean "listed", and zones that must not be believed."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from protocols import dnsbl
from protocols.dns import Answer, ErrorKind, IPAddress, MockResolver
from protocols.dnsbl import (
    DnsblHealth,
    DnsblResult,
    DnsblStatus,
    check_health,
    dnsbl_health,
    dnsbl_health_sync,
    dnsbl_lookup,
    dnsbl_lookup_sync,
)
from protocols.names import Domain

ZONE = Domain("bl.example")
V4 = ip_address("192.0.2.99")
V6 = ip_address("2001:db8:1:2:3:4:567:89ab")
V4_NAME = "99.2.0.192.bl.example."
V6_NAME = "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.bl.example."  # RFC 5782 2.4
HEALTHY = {"a 2.0.0.127.bl.example.": ["127.0.0.2"]}
V6_TEST = "2.0.0.0.0.0.f.7.f.f.f.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.bl.example."


@pytest.mark.parametrize(("ip", "name"), [(V4, V4_NAME), (ip_address("::ffff:192.0.2.99"), V4_NAME), (V6, V6_NAME)])
def test_a_listed_address_is_told_with_all_explanations(ip: IPAddress, name: str) -> None:
    resolver = MockResolver({f"a {name}": ["127.0.0.10"], f"txt {name}": ["Sent spam", "see https://bl.example/é"]})
    expected = DnsblResult(DnsblStatus.FAIL, "Sent spam; see https://bl.example/\\xe9")
    assert dnsbl_lookup_sync(resolver, ZONE, ip) == expected


def test_an_address_that_is_not_listed_passes_with_one_query() -> None:
    resolver = MockResolver(HEALTHY)
    assert dnsbl_lookup_sync(resolver, ZONE, V4) == DnsblResult(DnsblStatus.PASS)
    assert resolver.queries == [f"a {V4_NAME}"]


def test_listed_stays_listed_without_an_explanation() -> None:
    resolver = MockResolver({f"a {V4_NAME}": ["127.0.0.2"]}, fail=[f"txt {V4_NAME}"])
    assert dnsbl_lookup_sync(resolver, ZONE, V4) == DnsblResult(DnsblStatus.FAIL)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (["127.255.255.254"], "blocklist refuses our queries (answer 127.255.255.254)"),
        (["127.0.0.2", "127.255.255.255"], "blocklist refuses our queries (answer 127.255.255.255)"),
        (["203.0.113.7"], "blocklist gives 203.0.113.7, which is not in 127.0.0.0/8"),
    ],
)
def test_an_answer_that_is_no_verdict_is_a_temperror(answer: list[str], error: str) -> None:
    resolver = MockResolver({f"a {V4_NAME}": answer})
    assert dnsbl_lookup_sync(resolver, ZONE, V4) == DnsblResult(DnsblStatus.TEMPERROR, error=error)


def test_a_failing_lookup_and_a_name_too_long_are_temperrors() -> None:
    assert dnsbl_lookup_sync(MockResolver(fail=[f"a {V4_NAME}"]), ZONE, V4).status is DnsblStatus.TEMPERROR
    long = Domain(".".join(["a" * 60] * 4))
    assert "name longer than 255 bytes" in dnsbl_lookup_sync(MockResolver(), long, V6).error


class Stalling(MockResolver):
    """Never answers for one type."""

    stalls = ""

    async def _lookup(self, name: str, rtype: str) -> Answer[object]:
        if rtype == self.stalls:
            await asyncio.Event().wait()
        return await super()._lookup(name, rtype)


def test_a_list_that_does_not_answer_in_time_is_a_temperror_but_only_its_words_can_be_missing() -> None:
    resolver = Stalling({f"a {V4_NAME}": ["127.0.0.2"]})
    resolver.stalls = "txt"
    assert asyncio.run(dnsbl_lookup(resolver, ZONE, V4, 0.01)) == DnsblResult(DnsblStatus.FAIL)
    resolver.stalls = "a"
    expected = DnsblResult(DnsblStatus.TEMPERROR, error="no result within 0.01 seconds")
    assert asyncio.run(dnsbl_lookup(resolver, ZONE, V4, 0.01)) == expected


def test_what_the_operator_says_cannot_break_a_line_or_fill_the_log() -> None:
    resolver = MockResolver({f"a {V4_NAME}": ["127.0.0.2"], f"txt {V4_NAME}": [b"a\r\nb\xff", "x" * 5000]})
    explanation = dnsbl_lookup_sync(resolver, ZONE, V4).explanation
    assert explanation.startswith("a\\r\\nb\\xff; xxx")
    assert len(explanation) == dnsbl.MAX_EXPLANATION


def test_a_zone_with_the_test_address_and_without_the_other_is_healthy() -> None:
    assert dnsbl_health_sync(MockResolver(HEALTHY), ZONE) == ""
    assert dnsbl_health_sync(MockResolver({f"a {V6_TEST}": ["127.0.0.2"]}), ZONE, 6) == ""


@pytest.mark.parametrize(
    ("records", "error"),
    [
        ({}, "dnsbl does not contain required test address 127.0.0.2"),
        ({**HEALTHY, "a 1.0.0.127.bl.example.": ["127.0.0.2"]}, "dnsbl contains unwanted test address 127.0.0.1"),
        ({"a 2.0.0.127.bl.example.": ["127.255.255.254"]}, "blocklist refuses our queries (answer 127.255.255.254)"),
        (
            {"a 2.0.0.127.bl.example.": ["198.51.100.1"], "a 1.0.0.127.bl.example.": ["198.51.100.1"]},
            "blocklist gives 198.51.100.1, which is not in 127.0.0.0/8",
        ),
    ],
)
def test_a_zone_that_answers_wrongly_is_not_used(records: dict[str, list[str]], error: str) -> None:
    assert dnsbl_health_sync(MockResolver(records), ZONE) == error


def test_a_zone_without_ipv6_is_not_used_for_ipv6() -> None:
    resolver = MockResolver(HEALTHY)
    assert dnsbl_health_sync(resolver, ZONE, 6) == "dnsbl does not contain required test address ::FFFF:7F00:2"
    assert dnsbl_health_sync(resolver, ZONE) == ""


def test_health_is_remembered_for_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = MockResolver()
    assert dnsbl_health_sync(resolver, ZONE)
    resolver.add("a 2.0.0.127.bl.example.", "127.0.0.2")
    asked = len(resolver.queries)
    assert dnsbl_health_sync(resolver, ZONE)
    assert len(resolver.queries) == asked
    monkeypatch.setattr(dnsbl, "_health", {resolver: {("bl.example", 4): (0.0, "long ago")}})
    assert dnsbl_health_sync(resolver, ZONE) == ""


def test_a_dns_error_says_nothing_against_the_zone_and_is_not_remembered() -> None:
    async def asked_twice() -> None:
        resolver = MockResolver(
            {"a 1.0.0.127.bl.example.": ["127.0.0.2"]}, fail={"a 2.0.0.127.bl.example.": ErrorKind.TIMEOUT}
        )
        health = await check_health(resolver, ZONE)
        assert health == DnsblHealth(usable=True, error="dns: a 2.0.0.127.bl.example.: no answer in time: made to fail")
        assert await dnsbl_health(resolver, ZONE) == ""
        before = len(resolver.queries)
        assert await dnsbl_health(resolver, ZONE) == ""
        assert len(resolver.queries) > before

    asyncio.run(asked_twice())
