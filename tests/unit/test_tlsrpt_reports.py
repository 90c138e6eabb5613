"""TLS reports: written as RFC 8460 has them, added up, and read from whoever sends them, also broken and hostile."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dns import EDE, DNSError, ErrorKind
from protocols.message import BytesSource
from protocols.mtasts import ErrorKind as StsErrorKind
from protocols.mtasts import StsError
from protocols.pkix import TLSProblem
from protocols.tlsrpt import (
    BadReport,
    FailureDetail,
    Policy,
    PolicyType,
    Report,
    Result,
    failure,
    merge,
    parse_message,
    parse_report,
    tlsa_failure,
)
from protocols.tlsrpt.report import MAX_DETAILS

STS = Policy(
    PolicyType.STS,
    "dest.example",
    ("version: STSv1", "mode: enforce", "max_age: 604800", "mx: mx1.dest.example"),
    ("mx1.dest.example",),
)
EXPIRED = FailureDetail(
    "certificate-expired",
    sending_mta_ip="198.51.100.4",
    receiving_mx_hostname="mx1.dest.example",
    receiving_mx_helo="mx1.dest.example",
    receiving_ip="203.0.113.9",
)
REPORT = Report(
    "example.org",
    datetime(2026, 3, 1, tzinfo=UTC),
    datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC),
    "postmaster@example.org",
    "20260301.dest.example@example.org",
    (Result(STS, 12, 1, (EXPIRED,)),),
)
TEXT = """{"organization-name":"example.org","date-range":{"start-datetime":"2026-03-01T00:00:00Z",
 "end-datetime":"2026-03-01T23:59:59Z"},
 "contact-info":"postmaster@example.org","report-id":"20260301.dest.example@example.org",
 "policies":[{"policy":{"policy-type":"sts",
   "policy-string":["version: STSv1","mode: enforce","max_age: 604800","mx: mx1.dest.example"],
   "policy-domain":"dest.example","mx-host":["mx1.dest.example"]},
  "summary":{"total-successful-session-count":12,"total-failure-session-count":1},
  "failure-details":[{"result-type":"certificate-expired","sending-mta-ip":"198.51.100.4",
   "receiving-mx-hostname":"mx1.dest.example","receiving-mx-helo":"mx1.dest.example","receiving-ip":"203.0.113.9",
   "failed-session-count":1,"additional-information":"","failure-reason-code":""}]}]}"""


def test_it_writes_and_reads_reports() -> None:
    assert json.loads(REPORT.to_json()) == json.loads(TEXT)
    assert parse_report(TEXT.encode()) == REPORT
    assert parse_report(REPORT.to_json().encode()) == REPORT
    assert parse_report(gzip.compress(TEXT.encode())) == REPORT


def test_times_are_whole_seconds_of_any_year() -> None:
    times = {"start-datetime": "0999-03-01T00:00:00.5Z", "end-datetime": "2031-03-01T23:59:59,25"}
    report = parse_report(changed("date-range", times))
    assert (report.start, report.end) == (
        datetime(999, 3, 1, tzinfo=UTC),
        datetime(2031, 3, 1, 23, 59, 59, tzinfo=UTC),
    )
    assert parse_report(report.to_json().encode()) == report


def test_lists_are_there_when_they_are_empty_and_a_helo_name_is_not() -> None:
    bare = replace(REPORT, results=(Result(Policy(PolicyType.NO_POLICY_FOUND, "a.example")),))
    (policy,) = json.loads(bare.to_json())["policies"]
    assert policy["failure-details"] == policy["policy"]["mx-host"] == policy["policy"]["policy-string"] == []
    assert "receiving-mx-helo" not in FailureDetail("validation-failure").to_json()


def changed(path: str, value: object) -> bytes:
    """The report with another value where the path leads, in lists to the first element."""
    report = json.loads(TEXT)
    *names, last = path.split("/")
    place = report
    for name in names:
        place = place[name]
        place = place[0] if isinstance(place, list) else place
    place[last] = value
    return json.dumps(report).encode()


@pytest.mark.parametrize(
    ("data", "report"),
    [
        (b"\xef\xbb\xbf \n" + TEXT.encode() + b"\n trailing } data [", REPORT),
        (
            changed(
                "date-range", {"start-datetime": "2026-03-01T00:00:00", "end-datetime": "2026-03-02T00:59:59+01:00"}
            ),
            REPORT,
        ),
        (changed("policies/policy/mx-host", "mx1.dest.example"), REPORT),
        (
            changed("policies/summary", {"total-successful-session-count": "12", "total-failure-session-count": 1.0}),
            REPORT,
        ),
        (
            changed("policies/policy/policy-string", None),
            replace(REPORT, results=(Result(replace(STS, strings=()), 12, 1, (EXPIRED,)),)),
        ),
        (
            changed("policies/summary", {"total-successful-session-count": -1, "total-failure-session-count": "many"}),
            replace(REPORT, results=(Result(STS, 0, 0, (EXPIRED,)),)),
        ),
        (changed("policies/failure-details", None), replace(REPORT, results=(Result(STS, 12, 1),))),
        (changed("report-id", "a\0b\ud800" + "ü" * 4000), replace(REPORT, report_id="ab\ufffd" + "ü" * 2045)),
        (changed("contact-info", [1]), replace(REPORT, contact_info="")),
        (changed("policies", []), replace(REPORT, results=())),
    ],
    ids=[
        "around",
        "no zone",
        "one host",
        "counts",
        "no strings",
        "no counts",
        "no details",
        "texts",
        "no text",
        "no policies",
    ],
)
def test_it_reads_what_others_write(data: bytes, report: Report) -> None:
    assert parse_report(data) == report


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "not json"),
        (b"<feedback/>", "not json"),
        (b"[]", "report is missing or no object"),
        (b"{}", "date-range is missing"),
        (TEXT.encode()[:-5], "not json"),
        (b'{"x": ' + b"1" * 5000 + b"}", "not json"),
        (changed("date-range", {"start-datetime": "yesterday"}), "bad start-datetime 'yesterday'"),
        (
            changed("date-range", {"start-datetime": "0001-01-01T00:00:00+23:00", "end-datetime": ""}),
            "bad start-datetime",
        ),
        (changed("policies", None), "policies is missing"),
        (changed("policies", [1]), "policies is missing or no object"),
        (changed("policies", [{}]), "policy is missing"),
        (b"\x1f\x8bnonsense", "not gzip"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"x":[' + b"0," * 1_100_000 + b"0]}", "too many values"),
        (b"{" + b" " * (21 << 20), "too large"),
        (gzip.compress(b" " * (21 << 20)), "too large after decompression"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_it_refuses_what_is_no_report(data: bytes, error: str) -> None:
    with pytest.raises(BadReport, match=error) as caught:
        parse_report(data)
    assert str(caught.value).isascii()


def message(content_type: str, body: bytes, report_type: str | None = "tlsrpt") -> BytesSource:
    part = b"Content-Type: %s\r\nContent-Transfer-Encoding: base64\r\n\r\n%s" % (
        content_type.encode(),
        base64.encodebytes(body).replace(b"\n", b"\r\n"),
    )
    if report_type is None:
        return BytesSource(b"Subject: x\r\n" + part)
    return BytesSource(
        b'Content-Type: multipart/report; report-type="%s"; boundary=b\r\n\r\n'
        b"--b\r\nContent-Type: text/plain\r\n\r\nA report.\r\n--b\r\n%s--b--\r\n" % (report_type.encode(), part)
    )


PACKED = gzip.compress(TEXT.encode())


@pytest.mark.parametrize(
    "source",
    [
        message("application/tlsrpt+gzip", PACKED),
        message("application/tlsrpt+json", TEXT.encode()),
        message("application/gzip", PACKED),
        message("application/json", TEXT.encode()),
        message("application/tlsrpt+json", PACKED),
        message("application/tlsrpt+gzip", PACKED, report_type=None),
        message("application/tlsrpt+json; charset=utf-8", TEXT.encode(), report_type="TLSRPT"),
    ],
)
def test_it_finds_the_report_in_a_message(source: BytesSource) -> None:
    assert parse_message(source) == REPORT


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (message("application/tlsrpt+gzip", PACKED, report_type="delivery-status"), "unknown report-type parameter"),
        (message("text/plain", TEXT.encode()), "no tls report found"),
        (message("application/gzip", PACKED, report_type=None), "no tls report found"),
        (message("application/tlsrpt+gzip", b""), "not json"),
        (BytesSource(b""), "no tls report found"),
        (BytesSource(b"x" * (16 << 20)), "report message too large"),
    ],
    ids=["dsn", "text", "gzip alone", "empty", "nothing", "large"],
)
def test_it_says_why_there_is_no_report(source: BytesSource, error: str) -> None:
    with pytest.raises(BadReport, match=error):
        parse_message(source)


def test_results_under_one_policy_are_added_up() -> None:
    other = replace(EXPIRED, receiving_ip="203.0.113.10")
    host = Policy(PolicyType.TLSA, "mx1.dest.example", ("3 1 1 00",), ("mx1.dest.example",))
    merged = merge(
        [
            Result(STS, 1, 2, (EXPIRED, other)),
            Result(host, -1),
            Result(STS, 3, 4, (replace(EXPIRED, sessions=5),)),
            Result(replace(STS, strings=()), 1),
        ]
    )
    assert merged == (
        Result(STS, 4, 6, (replace(EXPIRED, sessions=6), other)),
        Result(host, 0),
        Result(replace(STS, strings=()), 1),
    )
    assert merge(merged) == merged


def test_kinds_of_failures_without_number_end_in_one() -> None:
    details = tuple(replace(EXPIRED, receiving_ip=f"203.0.113.{n}", sessions=2) for n in range(MAX_DETAILS + 5))
    (merged,) = merge([Result(STS, 0, 10, details), Result(STS, 0, 10, details)])
    assert len(merged.details) == MAX_DETAILS + 1
    assert merged.details[-1] == FailureDetail("validation-failure", "truncated", sessions=20)
    assert {detail.sessions for detail in merged.details[:-1]} == {4}


def dns(kind: ErrorKind, *codes: int) -> DNSError:
    return DNSError(kind, "a.example.", "a", ede=tuple(EDE(code) for code in codes))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (failure(TLSProblem("certificate-expired", "x", "text")), ("certificate-expired", "x")),
        (failure(StsError(StsErrorKind.NO_POLICY, "text")), ("sts-policy-fetch-error", "no-policy-served")),
        (failure(dns(ErrorKind.BOGUS, 22, 6)), ("validation-failure", "dns-extended-error-6-dnssec-bogus")),
        (failure(dns(ErrorKind.TIMEOUT)), ("validation-failure", "dns-timeout")),
        (tlsa_failure(dns(ErrorKind.BOGUS, 7)), ("dnssec-invalid", "extended-dns-error-7-signature-expired")),
        (tlsa_failure(dns(ErrorKind.TEMPORARY)), ("dnssec-invalid", "dns-temporary")),
    ],
)
def test_what_has_failed_has_a_name(found: tuple[str, str], expected: tuple[str, str]) -> None:
    assert found == expected


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["policy", "summary", "x"]), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from(["policies", "date-range", "report-id", "organization-name", "contact-info"])


@given(st.dictionaries(FIELDS, VALUES) | VALUES)
def test_any_json_is_a_report_or_none(value: Any) -> None:
    with contextlib.suppress(BadReport):
        parse_report(json.dumps(value).encode())
    if isinstance(value, dict):
        with contextlib.suppress(BadReport):
            report = parse_report(json.dumps(json.loads(TEXT) | value).encode())
            assert parse_report(report.to_json().encode()) == report


@given(st.binary(max_size=60))
def test_any_bytes_are_a_report_or_none(data: bytes) -> None:
    for each in (data, b"\x1f\x8b\x08\x00" + data, TEXT.encode()[: len(data) * 10] + data):
        with contextlib.suppress(BadReport):
            parse_report(each)


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"' + b'\\"' * 500_000 + b"\\",
        b'"' * 1_000_000,
        b"{" * 1_000_000,
        b"," * 999_999,
        b'["' + b"\\" * 1_000_000,
    ],
    ids=["escapes", "quotes", "objects", "commas", "backslashes"],
)
def test_hostile_reports_cost_little(data: bytes) -> None:
    started = time.process_time()
    with pytest.raises(BadReport):
        parse_report(data)
    assert time.process_time() - started < 1
