"""Authentication-Results: what we write, the examples of RFC 8601, and what common servers write."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.message import (
    AuthMethod,
    AuthProp,
    AuthResults,
    BadAuthResults,
    BadHeaderText,
    iter_headers,
    parse_auth_results,
)
from protocols.names import parse_domain


def read_again(results: AuthResults) -> AuthResults:
    [field] = iter_headers(results.compose())
    assert field.name == "Authentication-Results"
    return parse_auth_results(field.value().decode())


def test_it_writes_a_line_for_each_method() -> None:
    results = AuthResults(
        "mail.example.net",
        methods=(
            AuthMethod("iprev", "pass", comment="without dnssec", props=(AuthProp("policy", "iprev", "198.51.100.9"),)),
            AuthMethod(
                "dkim",
                "pass",
                comment="2048 bit rsa, with dnssec",
                props=(
                    AuthProp("header", "d", "sender.example"),
                    AuthProp("header", "s", "s1"),
                    AuthProp("header", "a", "rsa-sha256"),
                    AuthProp("header", "b", "pM9jVtGq0aXz"),
                ),
            ),
            AuthMethod("spf", "pass", comment="with dnssec", props=(AuthProp("smtp", "mailfrom", "sender.example"),)),
            AuthMethod("dmarc", "fail", reason='not "aligned"'),
        ),
    )
    assert results.compose().decode() == (
        "Authentication-Results: mail.example.net;\r\n"
        "\tiprev=pass (without dnssec) policy.iprev=198.51.100.9;\r\n"
        "\tdkim=pass (2048 bit rsa, with dnssec) header.d=sender.example header.s=s1\r\n"
        "\t header.a=rsa-sha256 header.b=pM9jVtGq0aXz;\r\n"
        "\tspf=pass (with dnssec) smtp.mailfrom=sender.example;\r\n"
        '\tdmarc=fail reason="not \\"aligned\\""\r\n'
    )
    assert read_again(results) == results


def test_it_writes_that_nothing_was_checked() -> None:
    assert AuthResults("mail.example.net").compose() == b"Authentication-Results: mail.example.net; none\r\n"


def test_an_address_is_written_as_it_is_unless_it_would_end_its_place() -> None:
    def written(value: str) -> str:
        prop = AuthProp("smtp", "mailfrom", value, is_addr=True)
        field = AuthResults("x", methods=(AuthMethod("auth", "pass", props=(prop,)),)).compose().decode()
        return field.partition("auth=pass ")[2].removesuffix("\r\n")

    assert written("a+b@example.net") == "smtp.mailfrom=a+b@example.net"
    assert written('"a ;b"@example.net') == 'smtp.mailfrom="a ;b"@example.net'
    assert written("a; dkim=pass") == 'smtp.mailfrom="a; dkim=pass"'
    assert written("a (b") == 'smtp.mailfrom="a (b"'
    assert written("") == 'smtp.mailfrom=""'


def test_a_domain_has_its_ascii_form_beside_it() -> None:
    domain = parse_domain("grün.example")
    assert AuthProp.of_domain("header", "d", domain, smtputf8=False).value == "xn--grn-ioa.example"
    prop = AuthProp.of_domain("header", "d", domain, smtputf8=True)
    results = AuthResults(domain.name(), domain.ascii, (AuthMethod("dkim", "pass", props=(prop,)),))
    assert results.compose().decode() == (
        "Authentication-Results: grün.example (xn--grn-ioa.example);\r\n"
        "\tdkim=pass header.d=grün.example (xn--grn-ioa.example)\r\n"
    )
    assert read_again(results) == results


@pytest.mark.parametrize("evil", ["a\r\nX: y", "a\nb", "a\rb", "a\0b"])
def test_a_line_end_in_any_value_is_an_error(evil: str) -> None:
    for results in (
        AuthResults(evil),
        AuthResults("x", evil),
        AuthResults("x", methods=(AuthMethod("dkim", "fail", comment=evil),)),
        AuthResults("x", methods=(AuthMethod("dkim", "fail", reason=evil),)),
        AuthResults("x", methods=(AuthMethod("dkim", "fail", props=(AuthProp("header", "d", evil),)),)),
        AuthResults("x", methods=(AuthMethod("dkim", "fail", props=(AuthProp("header", "d", evil, is_addr=True),)),)),
    ):
        with pytest.raises(BadHeaderText):
            results.compose()


# RFC 8601, appendix B.


def test_it_reads_that_nothing_was_checked() -> None:
    assert parse_auth_results("example.org 1; none") == AuthResults("example.org")
    assert parse_auth_results("example.org") == AuthResults("example.org")


def test_it_reads_several_methods_with_comments() -> None:
    assert parse_auth_results(
        "example.com;\t auth=pass (cram-md5) smtp.auth=sender@example.net;\t spf=pass smtp.mailfrom=example.net"
    ) == AuthResults(
        "example.com",
        methods=(
            AuthMethod(
                "auth",
                "pass",
                comment="cram-md5",
                props=(AuthProp("smtp", "auth", "sender@example.net", is_addr=True),),
            ),
            AuthMethod("spf", "pass", props=(AuthProp("smtp", "mailfrom", "example.net"),)),
        ),
    )


def test_it_reads_a_reason() -> None:
    [dkim, other] = parse_auth_results(
        'example.com; dkim=pass reason="good signature" header.i=@mail-router.example.net;'
        ' dkim=fail reason="bad signature" header.i=@newyork.example.com'
    ).methods
    assert (dkim.result, dkim.reason) == ("pass", "good signature")
    assert dkim.props == (AuthProp("header", "i", "@mail-router.example.net", is_addr=True),)
    assert (other.result, other.reason) == ("fail", "bad signature")


def test_it_reads_comments_everywhere() -> None:
    results = parse_auth_results(
        "foo.example.net (foobar) 1 (baz); dkim (Because I like it) / 1 (One yay) = (wait for it) fail"
        " policy (A dot can go here) . (like that) expired (this surprised me) = (as I wasn't expecting it) 1362471462"
    )
    assert (results.hostname, results.comment) == ("foo.example.net", "foobar baz")
    [method] = results.methods
    assert (method.method, method.version, method.result) == ("dkim", "1", "fail")
    assert method.props == (AuthProp("policy", "expired", "1362471462"),)


# What common servers write.


def test_it_reads_gmail() -> None:
    results = parse_auth_results(
        "mx.google.com;       dkim=pass header.i=@example.org header.s=s1 header.b=a/b+cD12;"
        "       arc=pass (i=1 spf=pass spfdomain=example.org dkim=pass);"
        "       spf=pass (google.com: domain of x@example.org designates 192.0.2.1 as permitted sender)"
        " smtp.mailfrom=x@example.org;       dmarc=pass (p=REJECT sp=REJECT dis=NONE) header.from=example.org"
    )
    assert [(method.method, method.result) for method in results.methods] == [
        ("dkim", "pass"),
        ("arc", "pass"),
        ("spf", "pass"),
        ("dmarc", "pass"),
    ]
    assert results.methods[0].props[2] == AuthProp("header", "b", "a/b+cD12")


def test_it_reads_exchange() -> None:
    results = parse_auth_results(
        "mx.microsoft.com 1; spf=pass (sender ip is 192.0.2.1) smtp.rcpttodomain=a.example smtp.mailfrom=b.example;"
        " dmarc=pass (p=none sp=none pct=100) action=none header.from=b.example; dkim=none (message not signed);"
    )
    assert results.methods[1].props == (AuthProp("", "action", "none"), AuthProp("header", "from", "b.example"))
    assert results.methods[2] == AuthMethod("dkim", "none", comment="message not signed")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a authserv-id"),
        ("; none", "expected a authserv-id"),
        ("example.org x", "expected a version"),
        ("example.org 1 2; none", "expected ';'"),
        ("example.org; dkim", "expected '='"),
        ("example.org; dkim=", "expected a result"),
        ("example.org; =pass", "expected a method"),
        ("example.org; dkim=pass header", "expected '='"),
        ("example.org; dkim=pass header.=x", "expected a property"),
        ("example.org; dkim=pass (open", "comment without end"),
        ('example.org; dkim=pass reason="open', "expected a reason"),
        ('example.org; dkim=pass header.d="open', "expected a property"),
        ("example.org; dkim=pass (" + "x" * 70_000 + ")", "longer than 65536 characters"),
    ],
)
def test_it_names_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(BadAuthResults, match=problem):
        parse_auth_results(text)


# Whatever comes.

texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20).map(lambda text: " ".join(text.split()))
balanced = texts.map(lambda text: text.replace("(", "").replace(")", ""))
keywords = st.sampled_from(["dkim", "spf", "x-a", "header", "d", "b_c"])
props = st.builds(AuthProp, keywords.filter(lambda k: k != "reason"), keywords, texts, st.just(False), balanced)
some_props = st.lists(props, max_size=3).map(tuple)
methods = st.builds(AuthMethod, keywords, keywords, st.just(""), balanced, texts, some_props)
written = st.builds(AuthResults, texts, balanced, st.lists(methods, max_size=3).map(tuple))


@given(written)
def test_what_is_written_is_read_again(results: AuthResults) -> None:
    def spaced(value: object) -> str:
        return " ".join(str(value).split())

    assert spaced(read_again(results)) == spaced(results)


pieces = st.sampled_from(["dkim", "=", "pass", "reason", "none", "é", *' ;()\\"./@'])


@given(st.text(max_size=60) | st.lists(pieces).map("".join))
def test_anything_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadAuthResults):
        parse_auth_results(text)


@pytest.mark.parametrize("unit", ["(", "()", "\\", '"', '"a"', ";", "a=b;", " a.b=c", "a", " ", "a@", '@"'])
@pytest.mark.parametrize("before", ["", "x; dkim=pass ", "x; dkim=pass a.b="])
def test_it_takes_time_by_the_length(unit: str, before: str) -> None:
    def seconds(size: int) -> float:
        best = 9.0
        for _ in range(5):
            start = time.process_time()
            with contextlib.suppress(BadAuthResults):
                parse_auth_results(before + unit * size)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(8_000) / max(seconds(1_000), 1e-5) < 20
