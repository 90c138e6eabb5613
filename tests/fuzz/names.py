"""Domains, addresses, passwords and durations."""

from __future__ import annotations

import contextlib

from protocols.durations import parse_duration
from protocols.names import (
    BadAddress,
    BadDomain,
    Domain,
    dsn_localpart,
    format_localpart,
    pack,
    parse_address,
    parse_domain,
    parse_domain_lax,
    parse_localpart,
)
from protocols.precis import PrecisError, opaque_string

from .targets import Target


def domain(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for read in (parse_domain, parse_domain_lax):
        with contextlib.suppress(BadDomain):
            _check(read(text))


def _check(domain: Domain) -> None:
    assert domain.ascii.isascii()
    assert domain.ascii == domain.ascii.lower()
    for form in (domain.ascii, domain.name(), domain.xname(True)):
        assert parse_domain_lax(form) == domain


def address(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for strict in (False, True):
        with contextlib.suppress(BadAddress):
            localpart = parse_localpart(text, strict=strict)
            assert parse_localpart(format_localpart(localpart)) == localpart
            assert dsn_localpart(localpart, utf8=False).isascii()
        with contextlib.suppress(BadAddress):
            parsed = parse_address(text, strict=strict)
            for smtputf8 in (False, True):
                assert parse_address(pack(parsed, smtputf8)) == parsed


def password(data: bytes) -> None:
    with contextlib.suppress(PrecisError):
        opaque_string(data.decode("utf-8", "surrogateescape"))


def duration(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        parse_duration(data.decode("utf-8", "replace"))


DOMAINS = [
    name.encode() for name in ("example.org", "xn--bcher-kva.example", "bücher.example", "faß.例え", "a_b.example")
]
LETTERS = [letter.encode() for letter in ("a", ".", "-", "_", "xn--", "xn--a-0fa", "9", "127.1", *"éßⓇ。\u200dא١İ")]

TARGETS = [
    Target("domain", domain, DOMAINS, LETTERS),
    Target(
        "address",
        address,
        [b'"a\\"b"@example.org', *(b"a+b@" + name for name in DOMAINS)],
        [*LETTERS, b'"', b"\\", b"@"],
    ),
    Target("password", password, DOMAINS, LETTERS),
    Target("duration", duration, [b"1h30m", b"-2d", b"250ms"], [b"1", b".", b"h", b"ms", b"w", b"-", b"999999999"]),
]
