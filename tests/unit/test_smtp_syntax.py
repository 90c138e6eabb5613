"""SMTP command lines: the examples of the RFCs, what hostile clients send, and that nothing takes long."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.names import IPDomain, parse_domain
from protocols.smtpsyntax import (
    Auth,
    Body,
    Command,
    Kind,
    Mail,
    Path,
    SyntaxProblem,
    decode_xtext,
    parse_auth,
    parse_command,
    parse_hello,
    parse_mail,
    parse_rcpt,
)


def path(localpart: str, domain: str) -> Path:
    return Path(localpart, IPDomain(domain=parse_domain(domain)))


def mail(argument: str, *, strict: bool = False) -> Mail:
    return parse_mail(argument, strict=strict)


def rcpt(argument: str, *, smtputf8: bool = False, strict: bool = False) -> Path:
    return parse_rcpt(argument, smtputf8=smtputf8, strict=strict)


def refused(function: Callable[[], object]) -> SyntaxProblem:
    with pytest.raises(SyntaxProblem) as caught:
        function()
    return caught.value


# Command lines.


def test_it_reads_the_verb_without_case_up_to_the_first_space() -> None:
    assert parse_command(b"mAiL FROM:<a@b.example>\r\n") == Command("MAIL", " FROM:<a@b.example>")
    assert parse_command(b"QUIT\r\n") == Command("QUIT", "")
    assert parse_command(b"NOOP\tx\r\n").verb == "NOOP\tX"
    assert parse_command(b"\r\n") == Command("", "")


def test_it_tells_a_bare_line_feed() -> None:
    assert parse_command(b"RSET\n") == Command("RSET", "", bare_lf=True)


@pytest.mark.parametrize("line", [b"RS\rET\r\n", b"NOOP a\0b\r\n", b"NOOP \x1b[2J\r\n", b"\r\r\n", b"NOOP \x7f\r\n"])
def test_it_refuses_control_characters(line: bytes) -> None:
    assert refused(lambda: parse_command(line)).kind is Kind.SYNTAX


# Hello names (RFC 5321 4.1.1.1, 4.1.3).


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (" bar.com", IPDomain(domain=parse_domain("bar.com"))),
        (" LOCALHOST  ", IPDomain(domain=parse_domain("localhost"))),
        (" [192.0.2.1]", IPDomain(ip=IPv4Address("192.0.2.1"))),
        (" [IPv6:2001:db8::1]", IPDomain(ip=IPv6Address("2001:db8::1"))),
        (" [ipv6:::1] behind a proxy", IPDomain(ip=IPv6Address("::1"))),
    ],
)
def test_it_reads_hello_names(argument: str, expected: IPDomain) -> None:
    assert parse_hello(argument, literal=True) == expected


@pytest.mark.parametrize(
    "argument",
    [
        *("", " ", "  host", " two words", " host.", " a..b", " 192.0.2.1", " 2001:db8::1", " bücher.example"),
        *(" []", " [192.0.2.1", " [192.0.2.1]x", " [IPv6:fe80::1%eth0]", " [x400:abc]", " [2001:db8::1]", " [1.2.3]"),
        *(" -a.example", " a" * 70, " ;drop"),
    ],
)
def test_it_refuses_other_hello_names(argument: str) -> None:
    refused(lambda: parse_hello(argument, literal=True))


def test_helo_takes_no_literal_and_pedantry_no_underscore() -> None:
    refused(lambda: parse_hello(" [192.0.2.1]", literal=False))
    assert parse_hello(" my_pc", literal=True).domain is not None
    refused(lambda: parse_hello(" my_pc", literal=True, strict=True))


def test_an_ipv6_literal_without_its_tag_where_that_is_wanted() -> None:
    assert parse_hello(" [2001:db8::1]", literal=True, untagged_ipv6=True).ip == IPv6Address("2001:db8::1")
    assert parse_hello(" [192.0.2.1]", literal=True, untagged_ipv6=True).ip == IPv4Address("192.0.2.1")
    for argument in (" [fe80::1%eth0]", " [2001:db8]", " [IPv6:192.0.2.1]"):
        refused(lambda argument=argument: parse_hello(argument, literal=True, untagged_ipv6=True))  # type: ignore[misc]  # the default binds the loop's value


# Paths.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<JQP@bar.com>", path("JQP", "bar.com")),
        ("<Smith@[192.0.2.7]>", Path("Smith", IPDomain(ip=IPv4Address("192.0.2.7")))),
        ("<@hosta.int,@jkl.org:userc@d.bar.org>", path("userc", "d.bar.org")),  # RFC 5321 appendix C
        ('<"Joe Smith"@example.com>', path("Joe Smith", "example.com")),
        ('<"a>b\\"@c"@example.com>', path('a>b"@c', "example.com")),
        ('<""@example.org>', path("", "example.org")),
        ("<mailbox+detail/x=y@example.com>", path("mailbox+detail/x=y", "example.com")),
        ("<" + "b" * 128 + "@example.org>", path("b" * 128, "example.org")),
    ],
)
def test_it_reads_paths(text: str, expected: Path) -> None:
    assert mail(f" FROM:{text}").reverse_path == expected
    assert rcpt(f" TO:{text}") == expected


def test_the_null_path_and_the_bare_postmaster() -> None:
    assert mail(" FROM:<>").reverse_path.is_null
    assert str(mail(" FROM:<>").reverse_path) == ""
    assert rcpt(" TO:<Postmaster>") == Path("Postmaster")
    assert not rcpt(" TO:<Postmaster>").is_null
    assert not mail(' FROM:<""@example.org>').reverse_path.is_null
    refused(lambda: rcpt(" TO:<>"))
    refused(lambda: mail(" FROM:<postmaster>"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "a@b.example", "<a@b.example", "a@b.example>", "<<a@b.example>>", "<a@b.example>x", "<a b@c.example>"),
        *("<@b.example>", "<a@>", "<a@b@c>", "<.a@b.example>", "<a..b@c.example>", "<a@b.example.>", "<a@1.2.3.4>"),
        *('<"a@b.example>', '<"a"b@c.example>', "<@a:b>", "<@a,b:c@d>", "<a@[1.2.3.4>", "<a@1.2.3.4]>", "<user>"),
        "<" + "b" * 129 + "@example.org>",
        "<" + "b" * 100 + "@" + "c" * 50 + "." + "d" * 50 + "." + "e" * 60 + ">",
    ],
)
def test_it_refuses_other_paths(text: str) -> None:
    assert refused(lambda: mail(f" FROM:{text}")).kind is Kind.SYNTAX
    assert refused(lambda: rcpt(f" TO:{text}")).kind is Kind.SYNTAX


def test_pedantry_allows_64_octets_and_no_space_before_the_path() -> None:
    assert mail(" FROM: <a@b.example>").reverse_path == path("a", "b.example")
    refused(lambda: mail(" FROM: <a@b.example>", strict=True))
    refused(lambda: mail(f" FROM:<{'b' * 65}@example.org>", strict=True))
    refused(lambda: mail(" FROM <a@b.example>"))
    refused(lambda: mail(" TO:<a@b.example>"))


def test_localparts_outside_ascii_need_smtputf8_which_comes_later_on_the_line() -> None:
    given = " FROM:<δοκιμή@παράδειγμα.example>"
    assert refused(lambda: mail(given)).kind is Kind.NEEDS_SMTPUTF8
    parsed = mail(f"{given} SMTPUTF8")
    assert parsed.reverse_path.localpart == "δοκιμή"
    assert parsed.reverse_path.text(smtputf8=False) == "δοκιμή@xn--hxajbheg2az3al.example"
    assert str(parsed.reverse_path) == "δοκιμή@παράδειγμα.example"
    assert refused(lambda: rcpt(" TO:<é@b.example>")).kind is Kind.NEEDS_SMTPUTF8
    assert rcpt(" TO:<e\u0301@b.example>", smtputf8=True).localpart == "é"  # NFC
    assert refused(lambda: rcpt(" TO:<a@bücher.example>")).kind is Kind.SYNTAX


def test_bytes_that_are_no_utf8_are_no_localpart() -> None:
    command = parse_command(b"MAIL FROM:<\xff@b.example> SMTPUTF8\r\n")
    assert refused(lambda: mail(command.argument)).kind is Kind.SYNTAX


# Parameters.


def test_it_reads_all_parameters_of_mail() -> None:
    parsed = mail(" FROM:<a@b.example> SIZE=500000 body=8bitmime AUTH=<> SMTPUTF8 REQUIRETLS ")
    assert parsed == Mail(path("a", "b.example"), 500000, Body.EIGHT_BIT, smtputf8=True, require_tls=True)
    assert mail(" FROM:<a@b.example> AUTH=e+3Dmc2@example.com").size is None  # RFC 4954 section 5
    assert mail(" FROM:<a@b.example> BODY=7BIT").body is Body.SEVEN_BIT
    assert mail(" FROM:<a@b.example> SIZE=" + "9" * 20).size == int("9" * 20)


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ("SIZE=1 SIZE=2", Kind.ARGUMENT),
        ("SMTPUTF8 smtputf8", Kind.ARGUMENT),
        ("BODY=BINARYMIME", Kind.PARAMETER_VALUE),
        ("RET=HDRS", Kind.UNKNOWN_PARAMETER),
        ("ENVID=QQ314159", Kind.UNKNOWN_PARAMETER),
        ("HOLDFOR=60", Kind.UNKNOWN_PARAMETER),
        ("X" * 1000, Kind.UNKNOWN_PARAMETER),
        ("SIZE=" + "9" * 21, Kind.SYNTAX),
        ("SIZE=-1", Kind.SYNTAX),
        ("SIZE=１", Kind.SYNTAX),  # a digit of another script
        ("SIZE", Kind.SYNTAX),
        ("SIZE=", Kind.SYNTAX),
        ("BODY", Kind.SYNTAX),
        ("SMTPUTF8=yes", Kind.SYNTAX),
        ("REQUIRETLS=1", Kind.SYNTAX),
        ("AUTH=a=b", Kind.SYNTAX),
        ("AUTH=a+3d", Kind.SYNTAX),
        ("AUTH", Kind.SYNTAX),
        ("=x", Kind.SYNTAX),
        ("-A=x", Kind.SYNTAX),
        ("<b@c.example>", Kind.SYNTAX),
    ],
)
def test_it_refuses_parameters(parameters: str, kind: Kind) -> None:
    assert refused(lambda: mail(f" FROM:<a@b.example> {parameters}")).kind is kind


def test_rcpt_has_no_parameters() -> None:
    assert refused(lambda: rcpt(" TO:<a@b.example> NOTIFY=NEVER")).kind is Kind.UNKNOWN_PARAMETER
    assert refused(lambda: rcpt(" TO:<a@b.example> ORCPT=rfc822;a@b.example")).kind is Kind.UNKNOWN_PARAMETER
    assert rcpt(" TO:<a@b.example>  ") == path("a", "b.example")


def test_xtext() -> None:
    assert decode_xtext("e+3Dmc2@example.com") == "e=mc2@example.com"
    for bad in ("", "a b", "a=b", "a+", "a+2", "a+2g", "a+3d", "é", "a\r\nb"):
        refused(lambda bad=bad: decode_xtext(bad))  # type: ignore[misc]  # the default binds the loop's value


# FUTURERELEASE (RFC 4865).


def test_a_message_may_be_held_for_a_time_or_until_one() -> None:
    now = datetime(2031, 1, 1, tzinfo=UTC)
    held = parse_mail(" FROM:<a@b.example> holdfor=60", future_release=True).hold
    assert held is not None
    assert (held.request, held.release(now)) == ("for;60", now + timedelta(minutes=1))
    held = parse_mail(" FROM:<a@b.example> HOLDUNTIL=2031-03-01T00:00:00Z", future_release=True).hold
    assert held is not None
    assert (held.request, held.release(now)) == ("until;2031-03-01T00:00:00Z", datetime(2031, 3, 1, tzinfo=UTC))
    held = parse_mail(" FROM:<a@b.example> HOLDUNTIL=2031-03-01t00:00:59.5z", future_release=True).hold
    assert held is not None
    assert held.until == datetime(2031, 3, 1, 0, 0, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ("HOLDFOR=60 HOLDUNTIL=2031-03-01T00:00:00Z", Kind.ARGUMENT),
        ("HOLDUNTIL=2031-03-01T00:00:00Z HOLDFOR=60", Kind.ARGUMENT),
        ("HOLDFOR=60 HOLDFOR=60", Kind.ARGUMENT),
        *((f"HOLDFOR={value}", Kind.SYNTAX) for value in ("", "-1", "1.5", "1" * 10, "６", "x")),
        *(
            (f"HOLDUNTIL={value}", Kind.SYNTAX)
            for value in (
                *("", "60", "2031-03-01", "2031-03-01T00:00:00", "2031-03-01T00:00:00+00:00", "2031-02-29T00:00:00Z"),
                *("2031-03-01T24:00:00Z", "0000-01-01T00:00:00Z", "٢٠٣١-03-01T00:00:00Z", "2031-03-01T00:00:00ZZ"),
            )
        ),
        ("HOLDFOR", Kind.SYNTAX),
        ("HOLDUNTIL", Kind.SYNTAX),
    ],
)
def test_it_refuses_other_times(parameters: str, kind: Kind) -> None:
    argument = f" FROM:<a@b.example> {parameters}"
    assert refused(lambda: parse_mail(argument, future_release=True)).kind is kind


# AUTH (RFC 4954 section 4).


def test_it_reads_the_arguments_of_auth() -> None:
    assert parse_auth(" PLAIN") == Auth("PLAIN", None)
    assert parse_auth(" plain =") == Auth("PLAIN", b"")
    assert parse_auth(" SCRAM-SHA-256-PLUS eA==") == Auth("SCRAM-SHA-256-PLUS", b"x")
    assert parse_auth(" PLAIN    eA==") == Auth("PLAIN", b"x")
    assert "secret" not in repr(Auth("PLAIN", b"secret"))


@pytest.mark.parametrize(
    "argument", ["", " ", "  PLAIN", " PL.AIN", f" {'A' * 21}", " PLÄIN", " PLAIN eA=", " PLAIN e", " PLAIN eA== x"]
)
def test_it_refuses_other_arguments_and_repeats_nothing_of_them(argument: str) -> None:
    assert refused(lambda: parse_auth(argument)).rest == ""


def test_pedantry_allows_one_space_before_the_initial_response() -> None:
    refused(lambda: parse_auth(" PLAIN  eA==", strict=True))
    refused(lambda: parse_auth(" PLAIN ", strict=True))
    assert parse_auth(" PLAIN eA==", strict=True).initial == b"x"


def test_it_tells_what_could_not_be_read() -> None:
    assert refused(lambda: mail(" FROM:a@b.example")).rest == "a@b.example"
    assert refused(lambda: mail(" FROM:<a@b.example> SIZE=x")).rest == "x"
    assert refused(lambda: mail(" FROM:<a@b..example>")).rest == "b..example"
    assert refused(lambda: rcpt(" TO:<a@b.example>junk")).rest == "junk"
    assert refused(lambda: parse_hello(" two words", literal=True)).rest == "two words"


# Hostile input.


@given(st.binary(max_size=300))
def test_only_syntax_problems_come_out(line: bytes) -> None:
    try:
        command = parse_command(line + b"\r\n")
    except SyntaxProblem:
        return
    for parse in (
        lambda: parse_hello(command.argument, literal=True),
        lambda: parse_mail(" FROM:<" + command.argument),
        lambda: parse_mail(" FROM:<a@b.example> " + command.argument, future_release=True),
        lambda: parse_mail(" FROM:<a@b.example> HOLDUNTIL=" + command.argument, future_release=True),
        lambda: parse_auth(command.argument),
        lambda: parse_auth(" PLAIN " + command.argument, strict=True),
        lambda: parse_rcpt(" TO:<" + command.argument + ">", smtputf8=True),
    ):
        with contextlib.suppress(SyntaxProblem):
            parse()


@given(st.text(min_size=1, max_size=60), st.sampled_from(["example.org", "xn--bcher-kva.example"]))
def test_a_path_survives_being_written_and_read(localpart: str, domain: str) -> None:
    quoted = '"' + localpart.replace("\\", "\\\\").replace('"', '\\"') + '"'
    try:
        first = rcpt(f" TO:<{quoted}@{domain}>", smtputf8=True)
    except SyntaxProblem:
        return
    assert rcpt(f" TO:<{first.text(smtputf8=True)}>", smtputf8=True) == first


@pytest.mark.parametrize(
    "make",
    [
        lambda n: "<" + "a" * n,
        lambda n: '<"' + "\\a" * n,
        lambda n: '<"a"' * n,
        lambda n: "<" + "@a," * n,
        lambda n: "<a@b.example> " + "A=b " * n,
        lambda n: "<a@b.example> AUTH=" + "+2B" * n + "=",
        lambda n: "<a@" + "b." * n + ">",
    ],
)
def test_the_time_grows_with_the_length_only(make: Callable[[int], str]) -> None:
    def seconds(n: int) -> float:
        text = " FROM:" + make(n)
        best = float("inf")
        for _ in range(5):
            start = time.process_time()
            for _ in range(5):
                refused(lambda: mail(text))
            best = min(best, time.process_time() - start)
        return best

    assert seconds(16_000) < 20 * max(seconds(2_000), 1e-5)
