"""Domain names and addresses: the examples of RFC 5321, 5322, 6531, 6533 and of the IDNA RFCs, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from protocols.names import (
    Address,
    BadAddress,
    BadDomain,
    Domain,
    address_literal,
    dsn_localpart,
    format_localpart,
    pack,
    parse_address,
    parse_domain,
    parse_domain_lax,
    parse_localpart,
)

LONG = "a" * 63


@pytest.mark.parametrize(
    ("text", "ascii_name", "unicode_name"),
    [
        ("example.org", "example.org", ""),
        ("EXAMPLE.Org", "example.org", ""),
        ("bücher.example", "xn--bcher-kva.example", "bücher.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example", "bücher.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example", "bücher.example"),  # not NFC
        ("Ⓡ.example", "r.example", ""),
        ("faß.example", "xn--fa-hia.example", "faß.example"),  # not transitional: ß is no ss
        ("ελληνικά。example", "xn--hxargifdar.example", "ελληνικά.example"),  # an ideographic full stop
        ("ουτοπία.δπθ.gr", "xn--kxae4bafwg.xn--pxaix.gr", "ουτοπία.δπθ.gr"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah", "例え.テスト"),
        ("טעסט.example", "xn--deba0ad.example", "טעסט.example"),
        ("r3---sn-p5qlsn.example", "r3---sn-p5qlsn.example", ""),  # fine in DNS, though not in IDNA
        ("localhost", "localhost", ""),
        ("1.example", "1.example", ""),
        (f"{LONG}.example", f"{LONG}.example", ""),
        (".".join([LONG] * 3 + ["a" * 61]), ".".join([LONG] * 3 + ["a" * 61]), ""),  # 253 bytes
    ],
)
def test_it_reads_a_domain(text: str, ascii_name: str, unicode_name: str) -> None:
    domain = parse_domain(text)
    assert (domain.ascii, domain.unicode) == (ascii_name, unicode_name)
    assert parse_domain(domain.name()) == domain
    assert domain.xname(False) == ascii_name
    assert domain.xname(True) == (unicode_name or ascii_name)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("example.org.", "trailing dot"),
        ("", "empty label"),
        (".", "trailing dot"),
        ("a..b", "empty label"),
        (".example", "empty label"),
        (f"{LONG}a.example", "label longer than 63 bytes"),
        (f"{'é' * 60}.example", "label longer than 63 bytes"),
        (".".join([LONG] * 3 + ["a" * 62]), "name longer than 253 bytes"),
        ("a." * 5000, "name longer than 253 bytes"),
        ("192.0.2.1", "ipv4 address is not a domain"),
        ("127.1", "ipv4 address is not a domain"),
        ("a_b.example", "underscore not allowed"),
        ("-a.example", "label '-a' starts or ends with a hyphen"),
        ("a b.example", "not allowed"),
        ("a@b.example", "not allowed"),
        ("xn--a.example", "not allowed"),
        ("xn--.example", "not allowed"),
        ("\ud800.example", "not allowed"),
        ("a\0.example", "not allowed"),
        ("a\u200db.example", "not allowed"),  # RFC 5892 A.2: a joiner only after a virama
        ("אa.example", "not allowed"),  # RFC 5893: one direction in a label
    ],
)
def test_it_says_why_it_is_no_domain(text: str, error: str) -> None:
    with pytest.raises(BadDomain, match=error):
        parse_domain(text)


def test_underscores_are_for_names_that_are_looked_up() -> None:
    assert parse_domain_lax("_25._tcp.MX_1.example") == Domain("_25._tcp.mx_1.example")
    assert parse_domain_lax("bücher.example").ascii == "xn--bcher-kva.example"
    for text in ("_bücher.example", "_a.xn--bcher-kva.example"):
        with pytest.raises(BadDomain, match="underscore and non-ascii not allowed"):
            parse_domain_lax(text)
    with pytest.raises(BadDomain, match="label longer than 63 bytes"):
        parse_domain_lax(f"_{LONG}.example")


def test_a_log_has_both_forms() -> None:
    assert parse_domain("bücher.example").log() == "bücher.example/xn--bcher-kva.example"
    assert parse_domain("example.org").log() == "example.org"


@pytest.mark.parametrize(
    ("text", "localpart", "domain"),
    [
        ("jan@example.org", "jan", "example.org"),
        ("Jan+tag@Example.org", "Jan+tag", "example.org"),  # the case of a localpart is the host's business
        ("!#$%&'*+-/=?^_`{|}~@example.org", "!#$%&'*+-/=?^_`{|}~", "example.org"),
        ('"jan"@example.org', "jan", "example.org"),
        ('"a b"@example.org', "a b", "example.org"),
        ('"a@b"@example.org', "a@b", "example.org"),
        ('"a\\"b\\\\c"@example.org', 'a"b\\c', "example.org"),
        ('""@example.org', "", "example.org"),
        ("josé@example.org", "josé", "example.org"),
        ("jose\u0301@example.org", "josé", "example.org"),  # NFC
        ("δοκιμή@παράδειγμα.example", "δοκιμή", "xn--hxajbheg2az3al.example"),
        ("我買@屋企.example", "我買", "xn--hoqu73a.example"),
        (f"{'a' * 128}@example.org", "a" * 128, "example.org"),
    ],
)
def test_it_reads_an_address(text: str, localpart: str, domain: str) -> None:
    address = parse_address(text)
    assert (address.localpart, address.domain.ascii) == (localpart, domain)
    assert parse_address(pack(address, smtputf8=True)) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("jan", "expected @"),
        ("", "expected @"),
        ("@example.org", "empty localpart"),
        ("jan@", "domain: empty label"),
        ("jan@example.org.", "domain: trailing dot"),
        ("jan@[192.0.2.1]", "domain: not allowed"),
        ("a b@example.org", "invalid character"),
        ("a@b@example.org", "domain: not allowed"),
        (".a@example.org", "empty atom between dots"),
        ("a.@example.org", "empty atom between dots"),
        ("a..b@example.org", "empty atom between dots"),
        ('"a@example.org', "missing closing quote"),
        ('"a"b@example.org', "expected @"),
        ('a"b"@example.org', "invalid character"),
        ('"a\r\nb"@example.org', "invalid character"),
        ("a\0@example.org", "invalid character"),
        ("a\u2028@example.org", "invalid character"),
        ("<jan@example.org>", "invalid character"),
        (f"{'a' * 129}@example.org", "localpart longer than 128 octets"),
        (f"{'é' * 65}@example.org", "localpart longer than 128 octets"),
    ],
)
def test_it_says_why_it_is_no_address(text: str, error: str) -> None:
    with pytest.raises(BadAddress, match=f"invalid email address: {error}"):
        parse_address(text)


def test_strictly_a_localpart_has_64_octets() -> None:
    assert parse_localpart("a" * 64, strict=True) == "a" * 64
    with pytest.raises(BadAddress, match="localpart longer than 64 octets"):
        parse_localpart("a" * 65, strict=True)


def test_a_localpart_is_quoted_where_it_must_be() -> None:
    assert [format_localpart(text) for text in ("a.b", "", ".a", "a.", "a..b", 'a"\\', "a b", "é")] == [
        "a.b",
        '""',
        '".a"',
        '"a."',
        '"a..b"',
        '"a\\"\\\\"',
        '"a b"',
        "é",
    ]


def test_u_labels_are_for_peers_that_take_utf8() -> None:
    address = Address("jan", parse_domain("bücher.example"))
    assert pack(address, smtputf8=True) == "jan@bücher.example"
    assert pack(address, smtputf8=False) == "jan@xn--bcher-kva.example"


def test_a_notification_without_utf8_has_escapes() -> None:
    assert dsn_localpart("josé", utf8=False) == r"jos\x{e9}"
    assert dsn_localpart("a+b=c", utf8=False) == r"a\x{2b}b\x{3d}c"
    assert dsn_localpart("😀", utf8=False) == r"\x{1f600}"
    assert dsn_localpart("josé", utf8=True) == "josé"


def test_an_address_literal() -> None:
    assert address_literal(ip_address("192.0.2.1")) == "[192.0.2.1]"
    assert address_literal(ip_address("2001:db8:0:0::1")) == "[IPv6:2001:db8::1]"
