"""SPF against the test suite of RFC 7208: every case of tests/conformance/spf, its zones in a resolver's memory."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path as FilePath
from typing import Any

import pytest
import yaml

from protocols.dns import ErrorKind, MockResolver
from protocols.names import Domain, IPDomain
from protocols.smtpsyntax import Path, SyntaxProblem, parse_hello
from protocols.spf import Identity, SpfArgs, SpfResult, verify

SUITE = FilePath(__file__).parents[1] / "conformance" / "spf" / "rfc7208-tests.yml"
CASES = 203
PARTS = list(yaml.load_all(SUITE.read_text(), yaml.CSafeLoader))  # C: several times as fast
RECEIVER = Domain("mx.receiver.example")


def cases() -> Iterator[Any]:
    for part in PARTS:
        for name, case in part["tests"].items():
            yield pytest.param(case, part["zonedata"], id=f"{part['description']}: {name}".replace(" ", "-"))


@pytest.mark.parametrize(("case", "zones"), list(cases()))
def test_it_gives_the_result_that_the_suite_demands(case: dict[str, Any], zones: dict[str, Any]) -> None:
    result = check(case, zones)
    expected = case["result"]
    assert result.status in (expected if isinstance(expected, list) else [expected]), result
    explanation = case.get("explanation")
    if explanation is not None:
        assert result.explanation == ("" if explanation == "DEFAULT" else explanation)
    assert result.identity == (Identity.MAIL_FROM if case["mailfrom"] else Identity.HELO)
    assert bool(result.mechanism) == (result.status in ("pass", "fail", "softfail", "neutral"))
    assert bool(result.error) == (result.status in ("none", "temperror", "permerror"))


def test_no_case_of_the_suite_is_missing() -> None:
    counts = collections.Counter(str(case["result"]) for part in PARTS for case in part["tests"].values())
    print(f"{counts.total()} cases: {dict(counts)}")
    assert counts.total() == CASES


def check(case: dict[str, Any], zones: dict[str, Any]) -> SpfResult:
    """Our result; names and localparts are taken as they are, though some are such as no client could get past MAIL."""
    localpart, _, domain = case["mailfrom"].rpartition("@")
    mail_from = Path(localpart, IPDomain(domain=Domain(domain.lower()))) if domain else Path()
    try:
        helo = parse_hello(f" {case['helo']}", literal=True)
    except SyntaxProblem:
        helo = IPDomain()
    args = SpfArgs(ip_address(case["host"]), mail_from, helo, RECEIVER)
    return asyncio.run(verify(resolver(zones), args))


def resolver(zones: dict[str, Any]) -> MockResolver:
    """The zones of the suite: SPF records stand for TXT records where there are none of these (its README)."""
    records: dict[str, list[Any]] = {}
    fail: dict[str, ErrorKind] = {}
    for name, entries in zones.items():
        values: dict[str, list[Any]] = {}
        for entry in entries:
            if entry == "TIMEOUT":
                values["TIMEOUT"] = []
            else:
                ((rtype, value),) = entry.items()
                values.setdefault(rtype, []).append(value)
        spf = values.pop("SPF", [])
        txt = [value for value in values.pop("TXT", spf) if value != "NONE"]
        if "TIMEOUT" in values:
            fail |= {
                f"{rtype} {name}.": ErrorKind.TIMEOUT
                for rtype in ("txt", "a", "aaaa", "mx")
                if rtype != "txt" or not txt
            }
        records[f"txt {name}."] = [
            ("".join(value) if isinstance(value, list) else value).encode("latin-1") for value in txt
        ]
        records[f"mx {name}."] = [f"{preference} {host.rstrip('.')}." for preference, host in values.get("MX", ())]
        for rtype in ("A", "AAAA"):
            records[f"{rtype} {name}."] = values.get(rtype, [])
        for rtype in ("PTR", "CNAME"):
            records[f"{rtype} {name}."] = [f"{value.rstrip('.')}." for value in values.get(rtype, ())]
    return MockResolver(records, fail=fail)
