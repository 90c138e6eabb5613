"""The resolver on a real one: what unbound verified, refused or found missing in zones that nsd serves."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from protocols.dns import MX, SRV, Answer, DNSError, ErrorKind
from protocols.dns.servers import parse_resolv_conf
from protocols.dns.stub import StubResolver
from protocols.dnsbl import DnsblResult, DnsblStatus, check_health, dnsbl_health_sync, dnsbl_lookup_sync
from protocols.iprev import IprevStatus, iprev_sync
from protocols.names import Domain
from tests.nameservers import NameServers, needs_name_servers
from tests.system.zones import BROKEN

pytestmark = needs_name_servers

MAIL = (IPv6Address("2001:db8::2"), IPv4Address("192.0.2.2"))


@pytest.fixture
def resolver(dns_servers: NameServers) -> StubResolver:
    return StubResolver([dns_servers.resolver])


needs_dig = pytest.mark.skipif(shutil.which("dig") is None, reason="dig is missing (Debian package bind9-dnsutils)")


def dig(servers: NameServers, name: str) -> tuple[list[str], str]:
    """The flags of the answer of the resolver for addresses of this name, and all that dig shows of it."""
    ip, port = str(servers.resolver.ip), str(servers.resolver.port)
    command = ["dig", "+adflag", f"@{ip}", "-p", port, name, "A"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    flags = shown.partition(";; flags: ")[2].partition(";")[0].split()
    assert "qr" in flags
    return flags, shown


def failure(lookup: Callable[[], Awaitable[object]]) -> DNSError:
    async def fail() -> DNSError:
        with pytest.raises(DNSError) as caught:
            await lookup()
        return caught.value

    return asyncio.run(fail())


def test_a_signed_zone_is_authentic_in_all_its_records(resolver: StubResolver) -> None:
    async def ask() -> None:
        name = "signed.test."
        mx = (MX(10, "mail.signed.test."), MX(20, "backup.unsigned.test."))
        found = await resolver.mx(name)
        assert (tuple(sorted(found.records)), found.authentic, found.canonical) == (mx, True, name)
        assert await resolver.txt(name) == Answer((b"v=spf1 mx -all",), True, name, 300)
        mail = await resolver.ip("mail.signed.test.")
        assert (mail.records, mail.authentic) == (MAIL, True)
        tlsa = await resolver.tlsa("_25._tcp.mail.signed.test.")
        assert [str(record) for record in tlsa.records] == [
            "3 1 1 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        ]
        assert tlsa.authentic
        srv = await resolver.srv("_imaps._tcp.signed.test.")
        assert (srv.records, srv.authentic) == ((SRV(0, 1, 993, "mail.signed.test."),), True)
        assert (await resolver.mx("null.signed.test.")).records == (MX(0, "."),)
        assert (await resolver.ns(name)).records == ("ns.name-server.test.",)
        assert (await resolver.soa(name)).records[0].minimum == 300
        assert (await resolver.txt("any.wild.signed.test.")).authentic

    asyncio.run(ask())


def test_an_unsigned_zone_is_not_authentic(resolver: StubResolver) -> None:
    async def ask() -> None:
        found = await resolver.a("host.unsigned.test.")
        assert (found.records, found.authentic) == ((IPv4Address("192.0.2.6"),), False)

    asyncio.run(ask())
    nothing = failure(lambda: resolver.a("no.unsigned.test."))
    assert (nothing.kind, nothing.authentic) == (ErrorKind.NXDOMAIN, False)


@pytest.mark.parametrize("zone", ["signed.test.", "nsec3.test."])
def test_what_is_not_there_is_denied_by_signature(resolver: StubResolver, zone: str) -> None:
    no_name = failure(lambda: resolver.tlsa(f"_25._tcp.no.{zone}"))
    assert (no_name.kind, no_name.authentic) == (ErrorKind.NXDOMAIN, True)
    no_record = failure(lambda: resolver.srv(f"mail.{zone}"))
    assert (no_record.kind, no_record.authentic) == (ErrorKind.NOTFOUND, True)


@pytest.mark.parametrize(
    ("zone", "ede"),
    [
        ("expired.test.", "dns-extended-error-7-signature-expired"),
        ("future.test.", "dns-extended-error-8-signature-not-yet-valid"),
        ("tampered.test.", "dns-extended-error-6-dnssec-bogus"),
        ("wrong-key.test.", "dns-extended-error-9-dnskey-missing"),
        ("stripped.test.", "dns-extended-error-9-dnskey-missing"),
    ],
)
def test_a_broken_zone_gives_nothing_but_the_reason(
    resolver: StubResolver, dns_servers: NameServers, zone: str, ede: str
) -> None:
    error = failure(lambda: resolver.a(f"mail.{zone}"))
    assert (error.kind, [str(e) for e in error.ede]) == (ErrorKind.BOGUS, [ede])
    assert error.is_temporary
    assert not error.authentic
    assert error.server == str(dns_servers.resolver)
    assert str(error).startswith(f"dns: a mail.{zone}: dnssec verification failed: ")
    assert str(error).endswith(f"({ede})")
    # Both families: bogus is no reason to go without DNSSEC.
    assert failure(lambda: resolver.ip(f"mail.{zone}")).kind is ErrorKind.BOGUS


@needs_dig
def test_it_is_told_of_a_broken_zone_what_dig_is_told(resolver: StubResolver, dns_servers: NameServers) -> None:
    # This zone alone: of others unbound tells a precise reason once, then remembers no more than that they are bogus.
    name = "mail.tampered.test."
    flags, shown = dig(dns_servers, name)
    (ede,) = failure(lambda: resolver.a(name)).ede
    assert "status: SERVFAIL," in shown
    assert "ad" not in flags
    assert shown.count("EDE: ") == 1
    assert f"EDE: {ede.code} ({ede.name})" in shown


def test_all_ways_to_break_a_zone_are_tested() -> None:
    assert len(BROKEN) == 5


def test_cnames_are_as_authentic_as_all_their_steps(resolver: StubResolver) -> None:
    async def ask() -> None:
        signed = await resolver.ip("alias.signed.test.")
        assert (signed.records, signed.authentic, signed.canonical) == (MAIL, True, "mail.signed.test.")
        for name, end in [
            ("to-unsigned.signed.test.", "host.unsigned.test."),
            ("to-signed.unsigned.test.", "mail.signed.test."),
        ]:
            mixed = await resolver.a(name)
            assert (mixed.authentic, mixed.canonical) == (False, end)
        step = await resolver.cname("to-unsigned.signed.test.")
        assert (step.records, step.authentic) == (("host.unsigned.test.",), True)

    asyncio.run(ask())
    assert failure(lambda: resolver.a("to-tampered.signed.test.")).kind is ErrorKind.BOGUS
    nothing = failure(lambda: resolver.a("to-nothing.signed.test."))
    assert (nothing.is_not_found, nothing.authentic) == (True, True)


@pytest.mark.parametrize("name", ["loop1.signed.test.", "chain1.signed.test."])
def test_cnames_without_end_are_a_temporary_error(resolver: StubResolver, name: str) -> None:
    error = failure(lambda: resolver.a(name))
    assert error.is_temporary
    assert error.kind is not ErrorKind.BOGUS


def test_a_long_answer_comes_over_tcp(resolver: StubResolver) -> None:
    found = asyncio.run(resolver.txt("long.signed.test."))
    assert (len(found.records), found.authentic) == (100, True)


def test_no_word_of_an_untrusted_resolver_is_authentic(dns_servers: NameServers) -> None:
    untrusted = StubResolver([dns_servers.resolver], trust_ad=False)
    assert asyncio.run(untrusted.a("signed.test.")).authentic is False
    assert failure(lambda: untrusted.a("no.signed.test.")).authentic is False
    assert failure(lambda: untrusted.a("tampered.test.")).kind is ErrorKind.BOGUS
    # As resolv.conf has it when the resolver is on another machine.
    other = "nameserver 192.0.2.53\n"
    assert not StubResolver(system=lambda: parse_resolv_conf(other)).is_trusted
    assert StubResolver(system=lambda: parse_resolv_conf(other + "options trust-ad\n")).is_trusted


def test_an_authoritative_server_verifies_nothing(dns_servers: NameServers) -> None:
    authoritative = StubResolver([dns_servers.authoritative])
    assert asyncio.run(authoritative.a("tampered.test.")).authentic is False


@needs_dig
@pytest.mark.parametrize(
    "name",
    ["mail.signed.test.", "no.signed.test.", "host.unsigned.test.", "to-unsigned.signed.test.", "mail.nsec3.test."],
)
def test_it_sees_what_dig_sees(resolver: StubResolver, dns_servers: NameServers, name: str) -> None:
    flags, shown = dig(dns_servers, name)
    try:
        seen = asyncio.run(resolver.a(name))
        status, authentic = "NOERROR", seen.authentic
    except DNSError as error:
        status, authentic = error.kind.name, error.authentic
    assert f"status: {status}," in shown
    assert ("ad" in flags) is authentic
    assert "EDE: " not in shown


# What rests on it


@pytest.mark.parametrize(
    ("ip", "status", "name", "authentic"),
    [
        ("192.0.2.2", IprevStatus.PASS, "mail.signed.test", True),
        ("2001:db8::2", IprevStatus.PASS, "mail.signed.test", True),
        ("192.0.2.7", IprevStatus.PASS, "backup.unsigned.test", False),
        ("192.0.2.8", IprevStatus.FAIL, None, True),
        ("192.0.2.9", IprevStatus.PERMERROR, None, True),
        ("192.0.2.66", IprevStatus.TEMPERROR, None, False),
    ],
)
def test_iprev(resolver: StubResolver, ip: str, status: IprevStatus, name: str | None, authentic: bool) -> None:
    result = iprev_sync(resolver, ip_address(ip))
    assert (result.status, result.name, result.authentic) == (status, Domain(name) if name else None, authentic)


def test_a_blocklist(resolver: StubResolver) -> None:
    zone = Domain("blocklist.test")
    assert dnsbl_health_sync(resolver, zone) == ""
    listed = DnsblResult(DnsblStatus.FAIL, "Listed, see https://blocklist.test/?ip=192.0.2.66")
    assert dnsbl_lookup_sync(resolver, zone, ip_address("192.0.2.66")) == listed
    assert dnsbl_lookup_sync(resolver, zone, ip_address("192.0.2.1")) == DnsblResult(DnsblStatus.PASS)
    broken = asyncio.run(check_health(resolver, Domain("tampered.test")))
    assert broken.error == "dnsbl does not contain required test address 127.0.0.2"
