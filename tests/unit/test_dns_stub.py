"""The resolver against a scripted server: what it asks, whose word counts, what comes of failures, what is kept."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.flags
import dns.message
import dns.rcode
import pytest
import uvloop

from protocols import metrics
from protocols.dns import EDE, MX, SOA, SRV, TLSA, Answer, DNSError, ErrorKind
from protocols.dns import stub as stub_module
from protocols.dns.servers import NameServer, Servers
from protocols.dns.stub import HINT, StubResolver
from tests.unit.name_server import Reply, Script, ScriptedServer, answer, serving

SOA_RECORD = "example.org. {ttl} IN SOA ns.example.org. admin.example.org. 1 7200 3600 1209600 {minimum}"


def negative(ttl: int = 300, minimum: int = 300) -> tuple[str, ...]:
    return (SOA_RECORD.format(ttl=ttl, minimum=minimum),)


def run(
    script: Script,
    use: Callable[[StubResolver, ScriptedServer], Awaitable[None]],
    *,
    trust_ad: bool | None = None,
    timeout: float = 10,
) -> None:
    """Let ``use`` work with a resolver that asks a server with this script, on the loop that our servers have."""

    async def main() -> None:
        async with serving(script) as server:
            await use(StubResolver([server.address], trust_ad=trust_ad, timeout=timeout), server)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def failure(lookup: Awaitable[object]) -> DNSError:
    with pytest.raises(DNSError) as caught:
        await lookup
    return caught.value


ZONE = {
    "TXT": ['example.org. 300 IN TXT "v=spf1 " "-all"', 'example.org. 300 IN TXT "\\255\\000"'],
    "A": ["example.org. 300 IN A 192.0.2.1"],
    "AAAA": ["example.org. 300 IN AAAA 2001:db8::1"],
    "MX": ["example.org. 300 IN MX 20 Mail.Example.ORG.", "example.org. 300 IN MX 10 ."],
    "NS": ["example.org. 300 IN NS ns.example.org."],
    "CNAME": ["example.org. 300 IN CNAME other.example.org."],
    "PTR": ["1.2.0.192.in-addr.arpa. 300 IN PTR we\\010ird\\.Name.example.org."],
    "SRV": ["example.org. 300 IN SRV 1 2 993 imap.example.org."],
    "TLSA": ["example.org. 300 IN TLSA 3 1 1 e3b0c442", f"example.org. 300 IN TLSA 2 0 2 {'ab' * 64}"],
    "SOA": [SOA_RECORD.format(ttl=300, minimum=60)],
}


def from_zone(query: dns.message.Message, over_tcp: bool) -> Reply:
    return answer(query, *ZONE[query.question[0].rdtype.name])


def test_each_type_gives_its_records() -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        name = "Example.Org."
        assert await resolver.txt(name) == Answer((b"v=spf1 -all", b"\xff\x00"), False, "example.org.", 300)
        assert (await resolver.a(name)).records == (IPv4Address("192.0.2.1"),)
        assert (await resolver.aaaa(name)).records == (IPv6Address("2001:db8::1"),)
        assert (await resolver.ip(name)).records == (IPv6Address("2001:db8::1"), IPv4Address("192.0.2.1"))
        assert (await resolver.mx(name)).records == (MX(20, "mail.example.org."), MX(10, "."))
        assert (await resolver.ns(name)).records == ("ns.example.org.",)
        assert (await resolver.cname(name)).records == ("other.example.org.",)
        assert (await resolver.ptr(ip_address("192.0.2.1"))).records == ("we\\010ird\\.name.example.org.",)
        assert (await resolver.srv(name)).records == (SRV(1, 2, 993, "imap.example.org."),)
        # A record with data of the wrong length is no reason to lose the others.
        tlsa = (TLSA(3, 1, 1, bytes.fromhex("e3b0c442")), TLSA(2, 0, 2, b"\xab" * 64))
        assert (await resolver.tlsa(name)).records == tlsa
        assert [str(record) for record in tlsa] == ["3 1 1 e3b0c442", "2 0 2 " + "ab" * 64]
        soa = SOA("ns.example.org.", "admin.example.org.", 1, 7200, 3600, 1209600, 60)
        assert (await resolver.soa(name)).records == (soa,)

    run(from_zone, use)


def test_it_asks_for_the_ad_bit_with_edns_and_for_nothing_more() -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        await resolver.a("example.org.")
        query = server.messages[0]
        assert query.flags == dns.flags.RD | dns.flags.AD
        assert (query.edns, query.payload, query.ednsflags) == (0, 1232, 0)

    run(from_zone, use)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("example.org", "dns: host to lookup must be absolute, ending with a dot: a example.org"),
        ("", "dns: host to lookup must be absolute, ending with a dot: a (empty name)"),
        ("bücher.example.", "dns: not ascii: a b\\xfccher.example."),
        ("a..example.", "dns: empty label: a a..example."),
        (".example.", "dns: empty label: a .example."),
        ("a\\999.example.", "dns: bad escape: a a\\999.example."),
        (f"{'a' * 64}.example.", "label longer than 63 bytes"),
        ("a." * 128, "name longer than 255 bytes"),
        ("a" * 5000 + ".", "name longer than 255 bytes"),
    ],
)
def test_a_name_that_cannot_be_looked_up_is_never_asked_for(name: str, says: str) -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        error = await failure(resolver.a(name))
        assert error.kind is ErrorKind.INVALID
        assert not error.is_not_found
        assert not error.is_temporary
        assert says in str(error)
        assert server.queries == []

    run(from_zone, use)


@pytest.mark.parametrize("name", [".", "*.example.org.", "with\\032space\\.dot.example.org.", "_25._tcp.example.org."])
def test_any_other_name_goes_out_as_it_is(name: str) -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        error = await failure(resolver.txt(name))
        assert (error.kind, error.name) == (ErrorKind.NOTFOUND, name)
        assert server.queries == [f"udp txt {name}"]

    run(lambda query, over_tcp: answer(query), use)


# Whose word counts


@pytest.mark.parametrize(
    ("servers", "trust_ad", "trusted"),
    [
        (["127.0.0.1", "127.9.9.9", "::1"], False, True),
        (["127.0.0.1", "192.0.2.53"], False, False),
        (["192.0.2.53"], True, True),
        (["192.0.2.53"], False, False),
    ],
)
def test_servers_on_this_machine_are_trusted_and_those_that_resolv_conf_vouches_for(
    servers: list[str], trust_ad: bool, trusted: bool
) -> None:
    found = Servers(tuple(NameServer(ip_address(server)) for server in servers), trust_ad)
    assert StubResolver(system=lambda: found).is_trusted is trusted
    assert StubResolver(system=lambda: found, trust_ad=True).is_trusted is True
    assert StubResolver(system=lambda: found, trust_ad=False).is_trusted is False


@pytest.mark.parametrize(
    ("ad", "trust_ad", "authentic"), [(True, None, True), (True, False, False), (False, True, False)]
)
def test_authentic_takes_the_ad_bit_and_a_trusted_server(ad: bool, trust_ad: bool | None, authentic: bool) -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        if query.question[0].name.to_text() == "example.org.":
            return answer(query, "example.org. 300 IN A 192.0.2.1", ad=ad)
        return answer(query, authority=negative(), rcode=dns.rcode.NXDOMAIN, ad=ad)

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        for _ in range(2):  # the second time from the cache
            assert (await resolver.a("example.org.")).authentic is authentic
            assert (await failure(resolver.a("no.example.org."))).authentic is authentic
        assert len(server.queries) == 2

    run(script, use, trust_ad=trust_ad)


def test_cnames_are_followed_to_the_canonical_name() -> None:
    chain = ("a.example.org. 300 IN CNAME b.example.org.", "b.example.org. 60 IN CNAME C.example.net.")

    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        if query.question[0].rdtype.name == "A":
            return answer(query, *chain, "c.example.net. 300 IN A 192.0.2.1", ad=True)
        if query.question[0].rdtype.name == "CNAME":
            return answer(query, chain[0])
        return answer(query, *chain, authority=negative())

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        assert await resolver.a("a.example.org.") == Answer((IPv4Address("192.0.2.1"),), True, "c.example.net.", 60)
        assert (await resolver.cname("a.example.org.")).records == ("b.example.org.",)
        assert (await failure(resolver.mx("a.example.org."))).kind is ErrorKind.NOTFOUND

    run(script, use)


def test_addresses_of_one_family_are_given_when_the_other_fails_and_stay_authentic() -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        name, rtype = query.question[0].name.to_text(), query.question[0].rdtype.name
        if rtype == "A" and name != "v6.":
            return answer(query, f"{name} 300 IN A 192.0.2.1", ad=True)
        if rtype == "AAAA" and name != "v4.":
            return answer(query, rcode=dns.rcode.SERVFAIL)
        return answer(query, authority=negative(), rcode=dns.rcode.NXDOMAIN)

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        for name in ("v4.", "broken."):
            found = await resolver.ip(name)
            assert (found.records, found.authentic) == ((IPv4Address("192.0.2.1"),), True)
        # No IPv4 address, and nobody knows whether there is an IPv6 address.
        assert (await failure(resolver.ip("v6."))).kind is ErrorKind.TEMPORARY

    run(script, use)


# Failures


def test_no_such_name_and_no_such_record_are_both_not_found() -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        rcode = dns.rcode.NXDOMAIN if query.question[0].name.to_text().startswith("no.") else dns.rcode.NOERROR
        return answer(query, authority=negative(), rcode=rcode)

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        nodata, nxdomain = await failure(resolver.a("example.org.")), await failure(resolver.a("no.example.org."))
        assert (nodata.kind, nxdomain.kind) == (ErrorKind.NOTFOUND, ErrorKind.NXDOMAIN)
        assert nodata.is_not_found
        assert nxdomain.is_not_found
        assert str(nxdomain) == "dns: a no.example.org.: no such name"
        assert nodata.server == nxdomain.server == str(server.address)

    run(script, use)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.FORMERR, dns.rcode.NOTIMP])
def test_a_server_that_fails_is_a_temporary_error_that_is_not_kept(rcode: dns.rcode.Rcode) -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        error = await failure(resolver.mx("example.org."))
        assert (error.kind, error.ede, error.server) == (ErrorKind.TEMPORARY, (), str(server.address))
        assert error.is_temporary
        assert f"{server.address} answered {rcode.name}" in str(error)
        await failure(resolver.mx("example.org."))
        assert len(server.queries) == 2

    run(lambda query, over_tcp: answer(query, rcode=rcode), use)


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (6, ErrorKind.BOGUS, "dns-extended-error-6-dnssec-bogus"),
        (7, ErrorKind.BOGUS, "dns-extended-error-7-signature-expired"),
        (9, ErrorKind.BOGUS, "dns-extended-error-9-dnskey-missing"),
        (22, ErrorKind.TEMPORARY, "dns-extended-error-22-no-reachable-authority"),
        (4711, ErrorKind.TEMPORARY, "dns-extended-error-4711"),
    ],
)
def test_extended_errors_come_with_the_failure(code: int, kind: ErrorKind, text: str) -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        return answer(query, rcode=dns.rcode.SERVFAIL, ede=((code, "their\nwords é"),))

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        error = await failure(resolver.mx("example.org."))
        assert (error.kind, error.ede) == (kind, (EDE(code, "their\\nwords \\xe9"),))
        assert str(error).endswith(f"; their\\nwords \\xe9 ({text})")
        assert "\n" not in str(error)

    run(script, use)


def test_an_error_survives_the_way_between_processes() -> None:
    error = DNSError(ErrorKind.BOGUS, "example.org.", "mx", "why", ede=(EDE(6, "text"),), server="127.0.0.1:53")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.kind, copy.ede, copy.server) == (str(error), error.kind, error.ede, error.server)


def test_silence_is_a_timeout_after_two_tries() -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        start = time.monotonic()
        error = await failure(resolver.a("example.org."))
        assert error.kind is ErrorKind.TIMEOUT
        assert str(error) == f"dns: a example.org.: no answer in time: {server.address} did not answer"
        assert time.monotonic() - start < 3
        assert server.queries == ["udp a example.org."] * 2

    run(lambda query, over_tcp: None, use, timeout=0.5)


def test_the_next_server_is_asked_when_one_fails() -> None:
    async def main() -> None:
        async with (
            serving(lambda query, over_tcp: answer(query, rcode=dns.rcode.SERVFAIL)) as broken,
            serving(from_zone, "::1") as good,
        ):
            closed = NameServer(ip_address("127.0.0.1"), 9)
            resolver = StubResolver([broken.address, closed, good.address])
            assert (await resolver.a("example.org.")).records == (IPv4Address("192.0.2.1"),)
            assert (len(broken.queries), len(good.queries)) == (1, 1)

    asyncio.run(main())


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_nobody_listening_is_told_at_once_with_a_hint(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        error = await failure(StubResolver([NameServer(ip_address("127.0.0.1"), 9)]).a("example.org."))
        assert error.kind is ErrorKind.TEMPORARY
        assert "127.0.0.1:9 could not be asked: connection refused" in str(error)
        assert HINT in str(error)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main(), 4))


def test_what_does_not_fit_in_a_datagram_comes_over_tcp() -> None:
    long = [f'example.org. 300 IN TXT "{number:0200}"' for number in range(300)]  # near the 64 kB of a message

    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        if over_tcp:
            return answer(query, *long, ad=True)
        response = answer(query, long[0], ad=True)
        response.flags |= dns.flags.TC
        return response

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        found = await resolver.txt("example.org.")
        assert (len(found.records), found.authentic) == (300, True)
        assert server.queries == ["udp txt example.org.", "tcp txt example.org."]

    run(script, use)


def test_a_server_without_tcp_fails_for_long_answers() -> None:
    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        response = answer(query)
        response.flags |= dns.flags.TC
        return None if over_tcp else response

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        assert (await failure(resolver.txt("example.org."))).is_temporary

    run(script, use, timeout=0.5)


def test_answers_to_another_question_or_id_are_not_taken() -> None:
    def other_id(query: dns.message.Message) -> Reply:
        forged = answer(query, "example.org. 300 IN A 203.0.113.66", ad=True)
        forged.id ^= 1
        return forged

    def other_question(query: dns.message.Message) -> Reply:
        other = dns.message.make_query("evil.example.", query.question[0].rdtype)
        other.id = query.id
        return answer(other, "evil.example. 300 IN A 203.0.113.66", ad=True)

    forgers = [other_id, other_question]

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        assert (await failure(resolver.a("example.org."))).kind is ErrorKind.TIMEOUT
        assert forgers == []

    run(lambda query, over_tcp: forgers.pop()(query), use, timeout=0.5)


def test_records_of_other_names_in_an_answer_are_not_taken() -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        assert (await failure(resolver.a("example.org."))).kind is ErrorKind.NOTFOUND

    run(lambda query, over_tcp: answer(query, "other.example.org. 300 IN A 203.0.113.66", ad=True), use)


def test_cnames_in_a_circle_are_a_temporary_error() -> None:
    circle = ("a.example.org. 300 IN CNAME b.example.org.", "b.example.org. 300 IN CNAME a.example.org.")

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        assert (await failure(resolver.a("a.example.org."))).kind is ErrorKind.TEMPORARY

    run(lambda query, over_tcp: answer(query, *circle), use)


def test_cancelling_ends_the_lookup_at_once() -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.ip("example.org."), 0.05)

    run(lambda query, over_tcp: None, use)


# What is kept


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the cache forward."""
    passed = 0.0
    real = time.monotonic

    def forward(seconds: float) -> None:
        nonlocal passed
        passed += seconds

    monkeypatch.setattr("protocols.dns.cache.time.monotonic", lambda: real() + passed)
    return forward


@pytest.mark.parametrize(("ttl", "kept"), [(0, 0), (100, 100), (100_000, 3600)])
def test_an_answer_is_kept_for_its_ttl_and_an_hour_at_most(clock: Callable[[float], None], ttl: int, kept: int) -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        assert (await resolver.a("example.org.")).ttl == kept
        if kept:
            clock(kept - 10)
            assert 0 <= (await resolver.a("EXAMPLE.org.")).ttl <= 10
            assert len(server.queries) == 1
            clock(11)
        await resolver.a("example.org.")
        assert len(server.queries) == 2

    run(lambda query, over_tcp: answer(query, f"example.org. {ttl} IN A 192.0.2.1"), use)


@pytest.mark.parametrize(("ttl", "minimum", "kept"), [(3600, 100, 100), (60, 3600, 60), (86400, 86400, 300)])
@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_an_absence_is_kept_as_its_soa_says_and_five_minutes_at_most(
    clock: Callable[[float], None], ttl: int, minimum: int, kept: int, rcode: dns.rcode.Rcode
) -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        first = await failure(resolver.a("no.example.org."))
        clock(kept - 1)
        second = await failure(resolver.a("no.example.org."))
        assert (second.kind, second.server) == (first.kind, first.server)
        assert len(server.queries) == 1
        clock(2)
        await failure(resolver.a("no.example.org."))
        assert len(server.queries) == 2

    run(lambda query, over_tcp: answer(query, authority=negative(ttl, minimum), rcode=rcode), use)


def test_the_cache_can_be_passed_by_and_emptied() -> None:
    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        await resolver.a("example.org.")
        await resolver.without_cache().a("example.org.")
        await resolver.for_package("spf").a("example.org.")
        assert len(server.queries) == 2
        resolver.clear_cache()
        await resolver.a("example.org.")
        assert len(server.queries) == 3

    run(from_zone, use)


def test_what_other_servers_said_is_not_known_from_those_that_took_their_place() -> None:
    async def main() -> None:
        async with serving(lambda query, over_tcp: answer(query, *ZONE["A"], ad=True)) as server:
            now = Servers((server.address,))
            resolver = StubResolver(system=lambda: now)
            assert (await resolver.a("example.org.")).authentic
            # The same server's answers, now that one on another machine is asked as well.
            now = Servers((server.address, NameServer(ip_address("192.0.2.53"))))
            assert not (await resolver.a("example.org.")).authentic

    asyncio.run(main())


def test_every_lookup_is_measured_for_the_package_that_made_it() -> None:
    seen: list[tuple[str, dict[str, str]]] = []

    def script(query: dns.message.Message, over_tcp: bool) -> Reply:
        name = query.question[0].name.to_text()
        if name.startswith("servfail."):
            return answer(query, rcode=dns.rcode.SERVFAIL)
        if name.startswith("silent."):
            return None
        return answer(query, *ZONE["A"]) if name == "example.org." else answer(query)

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        spf = resolver.for_package("spf")
        await spf.a("example.org.")
        await spf.a("example.org.")
        for name in ("no.example.org.", "servfail.example.org.", "relative"):
            await failure(resolver.a(name))
        await failure(StubResolver([server.address], timeout=0.1).a("silent.example.org."))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(resolver.a("silent.example.net."), 0.05)

    metrics.use(lambda name, seconds, labels: seen.append((name, dict(labels))))
    try:
        run(script, use)
    finally:
        metrics.use(None)
    assert {name for name, _ in seen} == {"mox_dns_lookup_duration_seconds"}
    assert [(labels["pkg"], labels["type"], labels["result"]) for _, labels in seen] == [
        ("spf", "a", "ok"),
        ("spf", "a", "ok"),
        ("", "a", "nxdomain"),
        ("", "a", "temporary"),
        ("", "a", "error"),
        ("", "a", "timeout"),
        ("", "a", "canceled"),
    ]


def test_threads_share_a_resolver() -> None:
    async def main() -> None:
        async with serving(from_zone) as server:
            resolver = StubResolver([server.address])

            def in_a_thread() -> Answer[bytes]:
                return asyncio.run(resolver.txt("example.org."))

            answers = await asyncio.gather(*(asyncio.to_thread(in_a_thread) for _ in range(8)))
            assert {found.records for found in answers} == {(b"v=spf1 -all", b"\xff\x00")}

    asyncio.run(main())


def test_hostile_answers_leave_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends mail chooses names that are looked up, and how much they have to say."""
    text = " ".join(f'"{"x" * 250}"' for _ in range(100))
    monkeypatch.setattr(stub_module, "PAYLOAD", 65535)

    async def use(resolver: StubResolver, server: ScriptedServer) -> None:
        resolver._cache._max_bytes = 200_000
        for number in range(20):
            assert len((await resolver.txt(f"n{number}.example.org.")).records[0]) == 25_000
        assert len(resolver._cache) == 7
        server.queries.clear()
        await resolver.txt("n19.example.org.")
        await resolver.txt("n0.example.org.")
        assert server.queries == ["udp txt n0.example.org."]

    run(lambda query, over_tcp: answer(query, f"{query.question[0].name} 300 IN TXT {text}"), use)
