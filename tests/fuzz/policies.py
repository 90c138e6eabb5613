"""What domains publish about their mail, as records and as policies; the fields of DKIM, SPF and ARC; TLS reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import ip_address
from typing import Protocol

from protocols import dane, dmarc, mtasts, spf, tlsrpt
from protocols.arc.chain import BrokenChain, has_sets, is_marked_failed, newest_instance, read_chain
from protocols.dkim import DkimError, HeaderSection, parse_signature
from protocols.dns import TLSA, MockResolver
from protocols.dns.servers import parse_resolv_conf, parse_servers
from protocols.names import Domain, IPDomain
from protocols.smtpsyntax import Path
from tests.unit.certificates import certify, root

from .targets import Target

SENDER = IPDomain(domain=Domain("sender.example"))
CLIENT = spf.SpfArgs(ip_address("192.0.2.1"), Path("a-b.c", SENDER), SENDER, Domain("mx.example"))
LEAF = certify("mx.example", issuer=root())


class Record(Protocol):
    def compose(self) -> str: ...


def record(parse: Callable[[bytes], Record], error: type[Exception]) -> Callable[[bytes], None]:
    """A check of a record: what is read is written so that it is read the same."""

    def check(data: bytes) -> None:
        with contextlib.suppress(error):
            read = parse(data)
            assert parse(read.compose().encode()) == read

    return check


def policy(data: bytes) -> None:
    with contextlib.suppress(mtasts.StsError):
        read = mtasts.parse_policy(data.decode("utf-8", "replace"))
        assert mtasts.parse_policy(read.text()) == read


def spf_check(data: bytes) -> None:
    """The record as a policy, and as the one that it may include."""
    resolver = MockResolver({"ptr 192.0.2.1": ["x.example."], "a x.example.": ["192.0.2.1"]})
    for name in ("sender.example", "x.example"):
        resolver.add(f"txt {name}.", data)
    result = spf.verify_sync(resolver, CLIENT)
    for text in (result.error, result.explanation):
        assert text.isascii()
        assert text.isprintable()
    assert result.dns_lookups <= 11


def tls_report(data: bytes) -> None:
    with contextlib.suppress(tlsrpt.BadReport):
        report = tlsrpt.parse_report(data)
        assert tlsrpt.parse_report(report.to_json().encode()) == report


def tlsa(data: bytes) -> None:
    """The first bytes are a record's numbers, the rest is its data and a certificate."""
    usage, selector, matching = (number % 4 for number in data[:3].ljust(3, b"\0"))
    records = [TLSA(usage, selector, matching, data[3:]), TLSA(2, 0, 0, root().der)]
    for chain in ([LEAF.der, data[3:]], [data[3:], LEAF.der]):
        dane.verify(records, chain, [Domain("mx.example")], usages=range(4))
    assert dane.verify(records, [LEAF.der], [Domain("mx.example")]).verified


def received_spf(data: bytes) -> None:
    with contextlib.suppress(spf.BadReceivedSpf):
        spf.parse_received_spf(data.decode("utf-8", "replace"))


def signature(data: bytes) -> None:
    for smtputf8 in (False, True):
        with contextlib.suppress(DkimError):
            parse_signature(data, smtputf8=smtputf8)


def chain(data: bytes) -> None:
    header = HeaderSection(data)
    newest_instance(header)
    is_marked_failed(header)
    if has_sets(header):
        with contextlib.suppress(BrokenChain):
            read_chain(header)


def servers(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    assert parse_resolv_conf(text).servers
    with contextlib.suppress(ValueError):
        parse_servers(text)


SPF = [
    b"v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 a:x.example/24//64 mx include:%{d2r-.}.y.example -all",
    b"v=spf1 exists:%{ir}.%{l1-+}._spf.z.example ?ptr redirect=w.example exp=e.%{d} x-unknown=1",
]
DMARC = [
    b"v=DMARC1; p=reject; sp=none; pct=50; rua=mailto:a@b.example!10m,mailto:c@d.example; fo=1:d; ri=86400; adkim=s"
]
POLICY = [b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.org\r\nmx: *.example.net\r\nmax_age: 604800\r\n"]
RECEIVED = [b'pass (domain x.example) client-ip=192.0.2.1; envelope-from="a@x.example"; helo=x; problem="a \\" b"']
SIGNATURE = (
    b"DKIM-Signature: v=1; a=rsa-sha256; d=b.example; s=x; c=relaxed/simple; h=From:To; i=a=40b.example; t=1; x=2;"
)
SIGNATURE += b" l=3; q=dns/txt; z=From:a; bh=AAAA; b=AA=="
CHAIN = b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=a.example; s=x; t=1; b=AA==\r\n"
CHAIN += b"ARC-Message-Signature: i=1; a=rsa-sha256; d=a.example; s=x; h=from; bh=AAAA; b=AA==\r\n"
CHAIN += b"ARC-Authentication-Results: i=1; a.example; spf=pass\r\n"
TERMS = [
    b" ",
    b"%{",
    b"}",
    b"%%",
    b"%_",
    b"d2r-.",
    b"/",
    b"//",
    b":",
    b"=",
    b"-",
    b"ip4:",
    b"a",
    b"mx",
    b".",
    b"\xc3\xa9",
    b"9",
]
TAGS = [
    b";",
    b"=",
    b" ",
    b",",
    b"!",
    b"mailto:",
    b"https://a.example/",
    b"v=DMARC1;",
    b"p=none",
    b"rua=",
    b"10g",
    b"\0",
    b"\t",
]
LINES = [
    b"mx: ",
    b"*.",
    b"a.example",
    b"\r\n",
    b"\n",
    b"\r",
    b":",
    b"mode: none",
    b"max_age: ",
    b"31557601",
    b"\xc3\xa9",
    b"x",
]
WORDS = [b"=", b";", b'"', b"\\", b"(", b")", b" ", b"pass", b"a", b"helo=", b"\xc3\xa9"]
ARC = [
    b"i=1;",
    b"i=2;",
    b"i=51;",
    b"cv=pass;",
    b"\r\n",
    b"ARC-Seal: ",
    b"ARC-Message-Signature: ",
    b"; ",
    b"=",
    b" ",
    b"d=a.example",
]
SERVERS = [
    b"nameserver ",
    b"192.0.2.1",
    b"2001:db8::1",
    b"%eth0",
    b"\n",
    b"options trust-ad",
    b" ",
    b":53",
    b"[",
    b"]",
    b",",
    b"#",
]
REPORT = (
    b'{"organization-name":"a","date-range":{"start-datetime":"2031-03-01T00:00:00Z","end-datetime":'
    b'"2031-03-01T23:59:59"},"contact-info":"c","report-id":"d","policies":[{"policy":{"policy-type":"sts",'
    b'"policy-string":["e"],"policy-domain":"f","mx-host":"g"},"summary":{"total-successful-session-count":1,'
    b'"total-failure-session-count":"2"},"failure-details":[{"result-type":"h","failed-session-count":3}]}]}'
)
JSON = [b"{", b"}", b"[", b"]", b",", b'"', b"\\", b":", b"1", b"null", b"\x1f\x8b"]

TARGETS = [
    Target("SPF check", spf_check, SPF, TERMS),
    Target("TLS report", tls_report, [REPORT], JSON),
    Target("TLSA", tlsa, [bytes(3) + LEAF.der, b"\2\0\0" + root().der], [b"\x30", b"\x82", b"\xff", b"\0"], 8192),
    Target("SPF record", record(spf.parse_record, spf.BadRecord), SPF, TERMS),
    Target("Received-SPF", received_spf, RECEIVED, WORDS),
    Target("DMARC record", record(dmarc.parse_record, dmarc.BadRecord), DMARC, TAGS),
    Target(
        "MTA-STS record", record(mtasts.parse_record, mtasts.StsError), [b"v=STSv1; id=20310303T091244; x=y;"], TAGS
    ),
    Target("MTA-STS policy", policy, POLICY, LINES),
    Target(
        "TLS report record",
        record(tlsrpt.parse_record, tlsrpt.TlsRptError),
        [b"v=TLSRPTv1; rua=mailto:a@b.example"],
        TAGS,
    ),
    Target("DKIM-Signature", signature, [SIGNATURE], [*TAGS, b"\r\n ", b"h=", b"i=", b"d=", b"bh="]),
    Target("ARC chain", chain, [CHAIN], ARC),
    Target(
        "name servers",
        servers,
        [b"nameserver 192.0.2.1\noptions trust-ad\n", b"192.0.2.1:53,[2001:db8::1]:5353"],
        SERVERS,
    ),
]
