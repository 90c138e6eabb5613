"""iprev: which reverse names count, what is temporary, and what DNSSEC has to say about each result."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from protocols import metrics
from protocols.dns import MX, Answer, DNSError, ErrorKind, IPAddress, MockResolver
from protocols.iprev import MAX_NAMES, IprevResult, IprevStatus, iprev, iprev_sync
from protocols.names import Domain

V4 = ip_address("192.0.2.1")
V6 = ip_address("2001:db8::1")
RECORDS = {
    "ptr 192.0.2.1": ["other.example.", "mail.example."],
    "ptr 2001:db8::1": ["mail.example."],
    "ptr 192.0.2.2": ["mail.example.", "gone.example."],
    "ptr 192.0.2.3": ["broken.example.", "mail.example."],
    "a mail.example.": ["192.0.2.9", "192.0.2.1"],
    "aaaa mail.example.": ["2001:db8::1"],
    "a other.example.": ["192.0.2.8"],
}
FAIL = {"a broken.example.": ErrorKind.TEMPORARY, "ptr 192.0.2.66": ErrorKind.BOGUS}
MAIL, OTHER = Domain("mail.example"), Domain("other.example")


def checked(ip: IPAddress, *, authentic: bool = False, inauthentic: tuple[str, ...] = ()) -> IprevResult:
    return iprev_sync(MockResolver(RECORDS, fail=FAIL, authentic=authentic, inauthentic=inauthentic), ip)


@pytest.mark.parametrize("ip", [V4, ip_address("::ffff:192.0.2.1")])
def test_the_name_that_has_the_address_passes_after_one_that_has_not(ip: IPAddress) -> None:
    assert checked(ip) == IprevResult(IprevStatus.PASS, MAIL, (OTHER, MAIL))


def test_an_ipv6_address_is_looked_for_among_ipv6_addresses() -> None:
    assert checked(V6) == IprevResult(IprevStatus.PASS, MAIL, (MAIL,))


def test_names_without_the_address_fail() -> None:
    result = checked(ip_address("192.0.2.2"))
    assert (result.status, result.name, result.names) == (IprevStatus.FAIL, None, (MAIL, Domain("gone.example")))
    assert result.error == "no reverse name has the address 192.0.2.2"


def test_no_name_is_a_permerror() -> None:
    result = checked(ip_address("192.0.2.77"))
    assert (result.status, result.names) == (IprevStatus.PERMERROR, ())


def test_a_name_that_cannot_be_resolved_now_leaves_it_open() -> None:
    result = checked(ip_address("192.0.2.3"))
    assert (result.status, result.name) == (IprevStatus.TEMPERROR, None)
    assert "broken.example." in result.error


def test_a_reverse_zone_that_fails_dnssec_is_a_temperror() -> None:
    result = checked(ip_address("192.0.2.66"))
    assert result.status is IprevStatus.TEMPERROR
    assert "dns-extended-error-6-dnssec-bogus" in result.error


@pytest.mark.parametrize(
    ("ip", "inauthentic", "authentic"),
    [
        (V4, (), True),
        (V4, ("ptr 192.0.2.1",), False),
        (V4, ("a mail.example.",), False),
        (V4, ("a other.example.",), True),  # plays no part in the result
        (ip_address("192.0.2.2"), (), True),
        (ip_address("192.0.2.2"), ("a gone.example.",), False),  # the result rests on its absence
        (ip_address("192.0.2.77"), (), True),
        (ip_address("192.0.2.77"), ("ptr 192.0.2.77",), False),
    ],
)
def test_authentic_is_what_every_answer_behind_the_result_is(
    ip: IPAddress, inauthentic: tuple[str, ...], authentic: bool
) -> None:
    assert checked(ip, authentic=True, inauthentic=inauthentic).authentic is authentic


def test_at_most_ten_names_are_looked_at() -> None:
    names = [f"n{number}.example." for number in range(MAX_NAMES)]
    resolver = MockResolver({"ptr 192.0.2.1": [*names, "mail.example."], "a mail.example.": ["192.0.2.1"]})
    assert iprev_sync(resolver, V4).status is IprevStatus.FAIL
    assert resolver.queries == ["ptr 1.2.0.192.in-addr.arpa.", *(f"a {name}" for name in names)]


def test_a_name_that_no_host_can_have_is_never_shown() -> None:
    hostile = ["evil\\013\\010header.example.", ".", "with\\032space.example.", "mail_out.example."]
    resolver = MockResolver({"ptr 192.0.2.1": hostile, "a mail_out.example.": ["192.0.2.1"]})
    result = iprev_sync(resolver, V4)
    assert (result.status, result.names) == (IprevStatus.PASS, (Domain("mail_out.example"),))


class Silent(MockResolver):
    async def _lookup(self, name: str, rtype: str) -> Answer[MX]:
        await asyncio.Event().wait()
        raise DNSError(ErrorKind.TIMEOUT, name, rtype)


def test_it_ends_in_time_with_a_temperror_and_is_measured() -> None:
    seen: list[tuple[str, dict[str, str]]] = []
    metrics.use(lambda name, seconds, labels: seen.append((name, dict(labels))))
    try:
        result = asyncio.run(iprev(Silent(), V4, timeout=0.01))
    finally:
        metrics.use(None)
    assert result == IprevResult(IprevStatus.TEMPERROR, error="no result within 0.01 seconds")
    assert seen == [("mox_iprev_lookup_total", {"status": "temperror"})]
