"""MTA-STS records and policies: read as RFC 8461 says, hosts matched, every broken one refused."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dns import ErrorKind as DNSErrorKind
from protocols.dns import MockResolver
from protocols.mtasts import (
    ErrorKind,
    Mode,
    MxPattern,
    Policy,
    StsError,
    StsRecord,
    lookup_record,
    parse_policy,
    parse_record,
)
from protocols.names import Domain, parse_domain

DOMAIN = Domain("example.com")


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("v=STSv1; id=20160831085700Z;", StsRecord("20160831085700Z")),  # RFC 8461 section 3.1
        ("v=STSv1;id=a", StsRecord("a")),
        ("v=STSv1 ;\tid = " + "1" * 32 + " ; ", StsRecord("1" * 32)),
        ("v=STSv1; id=1; id=2; x=y; x-y.z=$<>~; x=z", StsRecord("1", (("x", "y"), ("x-y.z", "$<>~")))),
        ("v=STSv1; x=y; id=1; v=other", StsRecord("1", (("x", "y"),))),
    ],
)
def test_it_reads_records(text: str, record: StsRecord) -> None:
    assert parse_record(text.encode()) == record
    assert parse_record(record.compose().encode()) == record


@pytest.mark.parametrize(
    "txt",
    [
        b"",
        b"v=STSv1",
        b"v=STSv1;",
        b"v=stsv1; id=1;",
        b"v=STSv2; id=1;",
        b" v=STSv1; id=1;",
        b"id=1; v=STSv1;",
        b"v=STSv1; id=;",
        b"v=STSv1; id=a-b;",
        b"v=STSv1; id=" + b"1" * 33,
        b"v=STSv1; id=1;; x=y",
        b"v=STSv1; id=1; x",
        b"v=STSv1; id=1; x=a b",
        b"v=STSv1; id=1; x=",
        b"v=STSv1; id=1; -x=y",
        b"v=STSv1; id=1; x=\xff",
        b"v=STSv1; id=1; x=" + b"y" * 5000,
    ],
)
def test_it_refuses_broken_records(txt: bytes) -> None:
    with pytest.raises(StsError) as caught:
        parse_record(txt)
    assert caught.value.kind is ErrorKind.RECORD_SYNTAX
    assert str(caught.value).isascii()


def found(*records: str, **options: object) -> StsRecord | ErrorKind:
    resolver = MockResolver({"txt _mta-sts.example.com.": records}, **options)  # type: ignore[arg-type]  # as they come
    try:
        return asyncio.run(lookup_record(resolver, DOMAIN))
    except StsError as exc:
        return exc.kind


def test_it_finds_the_record_among_others() -> None:
    assert found("something", "v=STSv1; id=1;", "v=spf1 -all") == StsRecord("1")
    assert found() is ErrorKind.NO_RECORD
    assert found("v=spf1 -all", "v=STSv2; id=1;") is ErrorKind.NO_RECORD
    assert found("v=STSv1; id=1;", "v=STSv1; id=1;") is ErrorKind.MULTIPLE_RECORDS
    assert found("v=STSv1; id=1;", "v=STSv1; id=;") is ErrorKind.MULTIPLE_RECORDS
    assert found("v=STSv1; id=;") is ErrorKind.RECORD_SYNTAX
    for kind in (DNSErrorKind.TEMPORARY, DNSErrorKind.TIMEOUT, DNSErrorKind.BOGUS):
        assert found("v=STSv1; id=1;", fail={"txt _mta-sts.example.com.": kind}) is ErrorKind.DNS


def test_it_follows_aliases() -> None:
    zone = {"cname _mta-sts.example.com.": ["sts.hoster.example."], "txt sts.hoster.example.": ["v=STSv1; id=7"]}
    assert asyncio.run(lookup_record(MockResolver(zone), DOMAIN)).id == "7"


POLICY = Policy(
    Mode.ENFORCE,
    (MxPattern(Domain("mail.example.com")), MxPattern(Domain("example.net"), wildcard=True)),
    604_800,
)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n", POLICY),
        ("mx:mail.example.com\nmax_age:\t604800 \n\nmx: *.Example.NET  \nmode: enforce\nversion: STSv1", POLICY),
        ("version: STSv1\nmode: none\nmax_age: 0", Policy(Mode.NONE, (), 0)),
        (
            "version: STSv1\nmode: none\nmx: a.example\nmax_age: 0",
            Policy(Mode.NONE, (MxPattern(Domain("a.example")),), 0),
        ),
        (
            "version: STSv1\nmode: testing\nmx: _mx.example\nmax_age: 9999999999\nmode: enforce\nversion: x\nnew: ü: v",
            Policy(Mode.TESTING, (MxPattern(Domain("_mx.example")),), 31_557_600, (("new", "ü: v"),)),
        ),
        (
            "version: STSv1\nmode: enforce\nmx: xn--bcher-kva.example\nmax_age: 1",
            Policy(Mode.ENFORCE, (MxPattern(Domain("xn--bcher-kva.example")),), 1),
        ),
    ],
    ids=["rfc", "odd order", "none", "none with mx", "duplicates", "international"],
)
def test_it_reads_policies(text: str, policy: Policy) -> None:
    assert parse_policy(text) == policy
    assert parse_policy(policy.text()) == policy


GOOD = {"version": "STSv1", "mode": "enforce", "mx": "mail.example.com", "max_age": "86400"}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"version": ""}, "expected name: value"),
        ({"version": None}, "version is missing"),
        ({"version": "STSv2"}, "unknown version"),
        ({"mode": None}, "mode is missing"),
        ({"mode": "Enforce"}, "unknown mode"),
        ({"max_age": None}, "max_age is missing"),
        ({"max_age": "-1"}, "bad max_age"),
        ({"max_age": "1" * 11}, "bad max_age"),
        ({"max_age": "x"}, "bad max_age"),
        ({"mx": None}, "mx is missing"),
        ({"mx": "mail.*.example.com"}, "bad mx"),
        ({"mx": "*.*.example.com"}, "bad mx"),
        ({"mx": "*"}, "bad mx"),
        ({"mx": "192.0.2.1"}, "bad mx"),
        ({"mx": "mail.example.com."}, "bad mx"),
        ({"mx": "a..b"}, "bad mx"),
        ({"no colon": None, "x": "y\rz"}, "expected name: value"),
        ({"x y": "z"}, "expected name: value"),
        ({"x": "y\0"}, "expected name: value"),
        ({"x": "y" * 70_000}, "longer than 65536 bytes"),
    ],
)
def test_it_refuses_broken_policies(changes: dict[str, str | None], error: str) -> None:
    text = "".join(f"{name}: {value}\r\n" for name, value in (GOOD | changes).items() if value is not None)
    with pytest.raises(StsError, match=error) as caught:
        parse_policy(text)
    assert caught.value.kind is ErrorKind.POLICY_SYNTAX
    assert caught.value.failure == ("sts-policy-invalid", "policy-syntax-error")


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com", True),
        ("example.com", False),
        ("a.mail.example.com", False),
        ("a.example.net", True),
        ("b.a.example.net", False),
        ("example.net", False),
        ("aexample.net", False),
        ("net", False),
    ],
)
def test_hosts_match_exactly_or_with_one_label_more(host: str, matches: bool) -> None:
    assert POLICY.matches(parse_domain(host)) is matches


LINES = st.sampled_from(
    ["version: STSv1", "mode: enforce", "mode: none", "mx: *.a.example", "mx: b", "max_age: 1", ":", "\r", "\n", "x: y"]
)


@given(st.lists(LINES | st.text(max_size=4), max_size=9).map("\n".join) | st.text())
def test_any_text_is_a_policy_or_a_bad_policy(text: str) -> None:
    with contextlib.suppress(StsError):
        policy = parse_policy(text)
        assert parse_policy(policy.text()) == policy


@given(st.text(alphabet="v=STSv1;id x") | st.text().map(lambda text: f"v=STSv1;id=1;{text}") | st.text())
def test_any_text_is_a_record_or_a_bad_record(text: str) -> None:
    with contextlib.suppress(StsError):
        record = parse_record(text.encode())
        assert parse_record(record.compose().encode()) == record


@pytest.mark.parametrize(
    "text", ["\r" * 60_000, "\n" * 60_000, "a: b\n" * 12_000, "mx: a.example\n" * 4000, " " * 60_000]
)
def test_hostile_policies_cost_little(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(StsError):
        parse_policy(text)
    assert time.process_time() - started < 0.5
