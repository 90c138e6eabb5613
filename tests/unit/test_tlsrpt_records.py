"""Records for TLS reports: read as RFC 8460 says, written with escapes, looked up among others."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dns import ErrorKind as DNSErrorKind
from protocols.dns import MockResolver
from protocols.names import Domain
from protocols.tlsrpt import ErrorKind, TlsRptError, TlsRptRecord, lookup, parse_record


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("v=TLSRPTv1;rua=mailto:reports@example.com", TlsRptRecord((("mailto:reports@example.com",),))),
        (
            "v=TLSRPTv1 ; rua = https://a.example/v1?x=y , mailto:b%2Cc@example.com; rua=mailto:d@example.com ;",
            TlsRptRecord((("https://a.example/v1?x=y", "mailto:b%2Cc@example.com"), ("mailto:d@example.com",))),
        ),
        ("v=TLSRPTv1;rua=mailto:a!10m@example.com", TlsRptRecord((("mailto:a%2110m@example.com",),))),
        (
            "v=TLSRPTv1; x=1; rua=mailto:a@example.com; x=2",
            TlsRptRecord((("mailto:a@example.com",),), (("x", "1"), ("x", "2"))),
        ),
    ],
)
def test_it_reads_records(text: str, record: TlsRptRecord) -> None:
    assert parse_record(text.encode()) == record
    assert parse_record(record.compose().encode()) == record


def test_what_has_a_meaning_in_records_is_escaped() -> None:
    record = TlsRptRecord((("mailto:a,b!c;d@example.com", "mailto:e@example.com"), ("mailto:e@example.com",)))
    assert record.compose() == (
        "v=TLSRPTv1; rua=mailto:a%2Cb%21c%3Bd@example.com,mailto:e@example.com; rua=mailto:e@example.com"
    )
    assert record.uris == ("mailto:a,b!c;d@example.com", "mailto:e@example.com")


@pytest.mark.parametrize(
    ("txt", "error"),
    [
        (b"", "does not begin"),
        (b"v=TLSRPTv1", "does not begin"),
        (b"v=tlsrptv1; rua=mailto:a@example.com", "does not begin"),
        (b"v=TLSRPTv1;", "missing rua"),
        (b"v=TLSRPTv1; x=1", "missing rua"),
        (b"v=TLSRPTv1; rua=", "expected a URI"),
        (b"v=TLSRPTv1; rua=a@example.com", "expected a URI"),
        (b"v=TLSRPTv1; rua=mailto:a@example.com,", "expected a URI"),
        (b"v=TLSRPTv1; rua=mailto:a b@example.com", "expected a URI"),
        (b"v=TLSRPTv1;; rua=mailto:a@example.com", "expected tag=value"),
        (b"v=TLSRPTv1; rua=mailto:a@example.com; x", "expected tag=value"),
        (b"v=TLSRPTv1; rua=mailto:a@example.com; -x=y", "bad field"),
        (b"v=TLSRPTv1; rua=mailto:a@example.com; x=\xff", "not ASCII"),
        (b"v=TLSRPTv1; rua=mailto:" + b"a" * 9000, "longer than"),
    ],
)
def test_it_refuses_broken_records(txt: bytes, error: str) -> None:
    with pytest.raises(TlsRptError, match=error) as caught:
        parse_record(txt)
    assert caught.value.kind is ErrorKind.RECORD_SYNTAX
    assert str(caught.value).isascii()


GOOD = "v=TLSRPTv1; rua=mailto:a@example.com"


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (("v=spf1 -all", GOOD), TlsRptRecord((("mailto:a@example.com",),))),
        ((), ErrorKind.NO_RECORD),
        (("v=spf1 -all",), ErrorKind.NO_RECORD),
        ((GOOD, GOOD), ErrorKind.MULTIPLE_RECORDS),
        (("v=TLSRPTv1;",), ErrorKind.RECORD_SYNTAX),
    ],
)
def test_it_finds_the_record_among_others(records: tuple[str, ...], found: TlsRptRecord | ErrorKind) -> None:
    resolver = MockResolver({"txt _smtp._tls.example.com.": records})
    try:
        record, txt = asyncio.run(lookup(resolver, Domain("example.com")))
    except TlsRptError as exc:
        assert exc.kind is found  # noqa: PT017 # or it is a record, and there is no error
    else:
        assert record == found
        assert txt == GOOD.encode()


def test_without_an_answer_it_is_not_known() -> None:
    for kind in (DNSErrorKind.TEMPORARY, DNSErrorKind.TIMEOUT, DNSErrorKind.BOGUS):
        with pytest.raises(TlsRptError) as caught:
            asyncio.run(lookup(MockResolver(fail={"txt _smtp._tls.example.com.": kind}), Domain("example.com")))
        assert caught.value.kind is ErrorKind.DNS


@given(st.text(alphabet="v=TLSRPTv1;rua mailto:@.,!").map(lambda text: f"v=TLSRPTv1;{text}") | st.text())
def test_any_text_is_a_record_or_a_bad_record(text: str) -> None:
    with contextlib.suppress(TlsRptError):
        record = parse_record(text.encode())
        assert parse_record(record.compose().encode()) == record


@pytest.mark.parametrize("text", ["rua=" + "a+" * 4000, "rua=" + "a:b," * 2000, "x=1;" * 2000, "rua=" + "," * 8000])
def test_hostile_records_cost_little(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(TlsRptError):
        parse_record(b"v=TLSRPTv1;" + text.encode())
    assert time.process_time() - started < 0.2
