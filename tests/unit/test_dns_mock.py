"""The resolver that answers from memory behaves as a real one does: types, CNAMEs, absence, DNSSEC, failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from protocols.dns import MX, SOA, SRV, TLSA, Answer, DNSError, ErrorKind, MockResolver, Resolver, absolute
from protocols.dns.mock import Value
from protocols.names import parse_domain

RECORDS: dict[str, list[Value]] = {
    "MX Example.ORG.": ["10 Mail.example.org.", MX(20, "backup.example.org.")],
    "txt example.org.": ["v=spf1 é", b"\xff"],
    "a mail.example.org.": ["192.0.2.1", IPv4Address("192.0.2.2")],
    "aaaa mail.example.org.": ["2001:db8::1"],
    "ptr 192.0.2.1": ["mail.example.org."],
    "ptr 2.2.0.192.in-addr.arpa.": ["mail.example.org."],
    "ns example.org.": ["ns.example.org."],
    "srv _imaps._tcp.example.org.": ["0 1 993 mail.example.org."],
    "tlsa _25._tcp.mail.example.org.": ["3 1 1 e3b0 c442", TLSA(2, 0, 1, b"x")],
    "soa example.org.": ["ns.example.org. admin.example.org. 1 2 3 4 5"],
    "cname www.example.org.": ["alias.example.org."],
    "cname alias.example.org.": ["mail.example.org."],
    "cname lost.example.org.": ["nowhere.example.net."],
    "cname loop.example.org.": ["loop.example.org."],
}


def ask(lookup: Awaitable[Answer[object]]) -> Answer[object]:
    async def main() -> Answer[object]:
        return await lookup

    return asyncio.run(main())


def failure(lookup: Awaitable[Answer[object]]) -> DNSError:
    with pytest.raises(DNSError) as caught:
        ask(lookup)
    return caught.value


def test_records_come_as_values_from_values_and_text() -> None:
    resolver: Resolver = MockResolver(RECORDS)
    mail = (IPv6Address("2001:db8::1"), IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
    mx = (MX(10, "mail.example.org."), MX(20, "backup.example.org."))
    assert ask(resolver.mx("EXAMPLE.org.")) == Answer(mx, False, "example.org.", 300)
    assert ask(resolver.txt("example.org.")).records == ("v=spf1 é".encode(), b"\xff")
    assert ask(resolver.ip("mail.example.org.")).records == mail
    for ip in ("192.0.2.1", "192.0.2.2"):
        assert ask(resolver.ptr(ip_address(ip))).records == ("mail.example.org.",)
    assert ask(resolver.ns("example.org.")).records == ("ns.example.org.",)
    assert ask(resolver.srv("_imaps._tcp.example.org.")).records == (SRV(0, 1, 993, "mail.example.org."),)
    tlsa = (TLSA(3, 1, 1, bytes.fromhex("e3b0c442")), TLSA(2, 0, 1, b"x"))
    assert ask(resolver.tlsa("_25._tcp.mail.example.org.")).records == tlsa
    assert ask(resolver.soa("example.org.")).records == (SOA("ns.example.org.", "admin.example.org.", 1, 2, 3, 4, 5),)


def test_cnames_are_followed_but_for_cname_itself() -> None:
    resolver = MockResolver(RECORDS)
    assert ask(resolver.aaaa("www.example.org.")).canonical == "mail.example.org."
    assert ask(resolver.cname("www.example.org.")).records == ("alias.example.org.",)
    lost = failure(resolver.a("lost.example.org."))
    assert (lost.kind, lost.name) == (ErrorKind.NXDOMAIN, "lost.example.org.")
    assert failure(resolver.a("loop.example.org.")).kind is ErrorKind.TEMPORARY


def test_a_name_without_such_records_differs_from_no_name() -> None:
    resolver = MockResolver(RECORDS)
    for name in ("example.org.", "org.", "_tcp.example.org."):
        assert failure(resolver.aaaa(name)).kind is ErrorKind.NOTFOUND
    for name in ("no.example.org.", "example.net."):
        assert failure(resolver.aaaa(name)).kind is ErrorKind.NXDOMAIN


def test_authentic_is_said_of_keys_and_of_every_step() -> None:
    everything = MockResolver(RECORDS, authentic=True, inauthentic=["cname alias.example.org.", "a no.example.org."])
    assert ask(everything.mx("example.org.")).authentic
    assert not ask(everything.a("www.example.org.")).authentic
    assert ask(everything.cname("www.example.org.")).authentic
    assert failure(everything.txt("no.example.org.")).authentic
    assert not failure(everything.a("no.example.org.")).authentic
    some = MockResolver(RECORDS, authentic=["mx example.org."])
    assert ask(some.mx("example.org.")).authentic
    assert not ask(some.txt("example.org.")).authentic


def test_lookups_fail_as_told_also_behind_a_cname() -> None:
    fail = {"a mail.example.org.": ErrorKind.BOGUS, "mx example.org.": ErrorKind.TIMEOUT}
    resolver = MockResolver(RECORDS, fail=fail)
    bogus = failure(resolver.a("www.example.org."))
    assert (bogus.kind, [ede.code for ede in bogus.ede]) == (ErrorKind.BOGUS, [6])
    assert failure(resolver.mx("example.org.")).kind is ErrorKind.TIMEOUT
    assert ask(resolver.ip("mail.example.org.")).records == (IPv6Address("2001:db8::1"),)
    assert failure(MockResolver(RECORDS, fail=["mx example.org."]).mx("example.org.")).kind is ErrorKind.TEMPORARY


def test_what_was_asked_is_noted_and_records_can_change() -> None:
    resolver = MockResolver()
    assert failure(resolver.a("Host.example.")).is_not_found
    resolver.add("a host.example.", "192.0.2.1")
    assert ask(resolver.a("host.example.")).records == (IPv4Address("192.0.2.1"),)
    resolver.remove("a host.example.")
    assert failure(resolver.a("host.example.")).is_not_found
    assert resolver.queries == ["a host.example."] * 3


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("example.org.", "x", 'expected "type name"'),
        ("spf example.org.", "x", 'expected "type name"'),
        ("a example.org", "192.0.2.1", "must be absolute"),
        ("a example.org.", "2001:db8::1", "a record '2001:db8::1'"),
        ("mx example.org.", "mail.example.org.", "mx record 'mail.example.org.'"),
        ("mx example.org.", "10 mail.example.org", "must be absolute"),
        ("soa example.org.", "a. b. 1 2", "soa record 'a. b. 1 2'"),
        ("cname example.org.", b"x.", "cname record b'x.': expected str or text"),
        ("ptr mail", "x.", "'mail' does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_records_that_make_no_sense_are_refused_with_the_reason(key: str, value: str | bytes, says: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        MockResolver({key: [value]})
    assert says in str(caught.value)


def test_a_domain_is_looked_up_in_a_labels() -> None:
    assert absolute(parse_domain("bücher.example")) == "xn--bcher-kva.example."
