"""Whole messages that are verified, signed and sealed; what DNS says about the address of a client."""

from __future__ import annotations

import asyncio
import contextlib
import io
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, Final

from protocols import arc, dkim
from protocols.arc.chain import BrokenChain
from protocols.dkim import DkimError, DkimRecord, DkimStatus, Selector, generate_ed25519
from protocols.dns import Answer, DNSError, ErrorKind
from protocols.dns.lookups import Lookups, format_name
from protocols.dnsbl import check_health, dnsbl_lookup
from protocols.iprev import IprevStatus, iprev
from protocols.message import BadHeaderText
from protocols.names import Domain

from .messages import MESSAGES
from .targets import Target

NOW: Final = 1_700_000_000
DOMAIN: Final = Domain("a.example")
KEY: Final = generate_ed25519()
PLAIN: Final = Selector(Domain("s"), KEY)
RELAXED: Final = Selector(Domain("s"), KEY, header_relaxed=True, body_relaxed=True)
MOST_RECORDS: Final = 4000  # in an answer: as many as a DNS message has room for
CONFORMANCE: Final = Path(__file__).parents[1] / "conformance" / "dkimpy"


class Everywhere(Lookups):
    """The same records whatever the name; a type without records does not exist."""

    def __init__(self, records: dict[str, tuple[Any, ...]]) -> None:
        self._records = records

    async def _lookup(self, name: str, rtype: str) -> Answer[Any]:
        if not self._records.get(rtype):
            raise DNSError(ErrorKind.NXDOMAIN, name, rtype)
        return Answer(self._records[rtype], True, name, 300)


KEYS: Final = Everywhere({"txt": (DkimRecord.for_key(KEY).compose().encode(),)})


def verified(data: bytes) -> None:
    """A message with signatures and a chain; from a file as from memory."""
    results = dkim.verify_sync(KEYS, data, now=NOW)
    assert dkim.verify_sync(KEYS, io.BytesIO(data), now=NOW) == results
    for result in results:
        _check_line(result.error)
        assert (result.status is DkimStatus.PASS) == (not result.error)
        if result.status is DkimStatus.PASS:
            assert result.sig is not None
            assert "from" in map(str.lower, result.sig.signed_headers)
    chain = arc.verify_sync(KEYS, data, now=NOW)
    _check_line(chain.error)
    assert chain.status is not arc.ArcStatus.PASS or chain.sets


def signed(data: bytes) -> None:
    """What can be signed verifies, and what can be sealed has a chain that does."""
    for selector in (PLAIN, RELAXED):
        with contextlib.suppress(DkimError):
            field = dkim.sign(data, "jan", DOMAIN, [selector], now=NOW)
            (result, *_) = dkim.verify_sync(KEYS, field + data, now=NOW)
            assert result.status is DkimStatus.PASS, result
        with contextlib.suppress(DkimError, BrokenChain, BadHeaderText):
            before = arc.verify_sync(KEYS, data, now=NOW)
            fields = arc.seal(data, selector, DOMAIN, "mx.example", "spf=pass", before, now=NOW)
            after = arc.verify_sync(KEYS, fields + data, now=NOW)
            sealed_broken = not fields or before.status is arc.ArcStatus.FAIL
            assert after.status is (arc.ArcStatus.FAIL if sealed_broken else arc.ArcStatus.PASS), after


def client_names(data: bytes) -> None:
    """The octets are what reverse DNS and a blocklist answer with."""
    texts = data.split(b"\n")[:MOST_RECORDS]
    names = tuple(format_name((*(label[:63] for label in text.split(b".") if label), b"")) for text in texts)
    addresses = tuple(IPv4Address(text[:4].rjust(4, b"\x7f")) for text in texts)
    resolver = Everywhere({"ptr": names, "a": addresses, "txt": tuple(texts)})
    asyncio.run(_check_client(resolver))


async def _check_client(resolver: Everywhere) -> None:
    for text in ("192.0.2.1", "2001:db8::1", "127.0.0.1"):
        ip = ip_address(text)
        result = await iprev(resolver, ip)
        _check_line(result.error)
        assert (result.status is IprevStatus.PASS) == (result.name is not None)
        listed = await dnsbl_lookup(resolver, DOMAIN, ip)
        _check_line(listed.error)
        _check_line(listed.explanation)
    _check_line((await check_health(resolver, DOMAIN)).error)


def _check_line(text: str) -> None:
    """It goes into a header, into the log, and before people."""
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 998


def _sealed(message: bytes) -> bytes:
    for selector in (PLAIN, RELAXED):
        chain = arc.verify_sync(KEYS, message, now=NOW)
        message = arc.seal(message, selector, DOMAIN, "mx.example", "spf=pass", chain, now=NOW) + message
    return message


SIMPLE: Final = b"From: Jan <jan@a.example>\r\nSubject: hello\r\nTo: b@b.example\r\n\r\nHello.\r\n\r\n"
SIGNED = [dkim.sign(SIMPLE, "jan", DOMAIN, [PLAIN, RELAXED], now=NOW) + SIMPLE, _sealed(SIMPLE)]
SIGNED += [
    path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") for path in sorted(CONFORMANCE.glob("*.msg"))
]
FIELDS: Final = [
    b"DKIM-Signature: ",
    b"ARC-Seal: i=1; ",
    b"ARC-Message-Signature: i=1; ",
    b"ARC-Authentication-Results: i=1; a.example; spf=pass\r\n",
    b"v=1; a=ed25519-sha256; d=a.example; s=s; ",
    b"c=relaxed/relaxed; ",
    b"h=from:subject; ",
    b"bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; ",
    b"b=AA==",
    b"cv=pass; ",
    b"cv=none; ",
    b"i=2; ",
    b"t=1; x=2; ",
    b"l=3; ",
    b"From: a@a.example\r\n",
    b"Subject: x\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b";",
    b" ",
    b"\xe9",
    b"\0",
    b"\r",
    b"\n",
]
NAMES: Final = [b"a.example", b"\n", b".", b"_", b"xn--a", b"\x7f\0\0\2", b"\x7f\xff\xff\1", b"\\", b"\0", b"\xc3\xa9"]

TARGETS = [
    Target("signed message", verified, SIGNED, FIELDS, seconds_per_mib=16),
    Target("message to sign", signed, [SIMPLE, SIGNED[1], *MESSAGES], FIELDS, seconds_per_mib=32),
    Target("client names", client_names, [b"mx.a.example\nb_c.example\n\x7f\0\0\2"], NAMES, seconds_per_mib=8),
]
