"""What domains publish about their mail, as records and as policies; and the fields of DKIM, SPF and ARC."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from protocols import dmarc, mtasts, spf, tlsrpt
from protocols.arc.chain import BrokenChain, has_sets, is_marked_failed, newest_instance, read_chain
from protocols.dkim import DkimError, HeaderSection, parse_signature
from protocols.dns.servers import parse_resolv_conf, parse_servers

from .targets import Target


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

TARGETS = [
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
