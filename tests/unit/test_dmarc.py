"""DMARC verdicts: the examples of RFC 7489 appendix B, a table of alignments, policies, lookups, reports elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from protocols.dkim import DkimResult, DkimStatus, Signature
from protocols.dmarc import (
    Alignment,
    DmarcPolicy,
    DmarcRecord,
    DmarcResult,
    DmarcStatus,
    ExternalResult,
    ReportURI,
    alignment,
    auth_method,
    external_reports_accepted,
    lookup,
    verify,
    verify_sync,
)
from protocols.dns import Answer, ErrorKind, MockResolver
from protocols.message.authresults import AuthResults
from protocols.names import parse_domain, parse_domain_lax
from protocols.spf import Identity, SpfResult, SpfStatus

NO_SPF = SpfResult(SpfStatus.NONE, Identity.MAIL_FROM)


def spf(domain: str, status: SpfStatus = SpfStatus.PASS) -> SpfResult:
    return SpfResult(status, Identity.MAIL_FROM, parse_domain_lax(domain))


def dkim(domain: str, status: DkimStatus = DkimStatus.PASS) -> DkimResult:
    signature = Signature(parse_domain_lax(domain), parse_domain("s1"), "rsa", "sha256", ("From",), b"")
    return DkimResult(status, signature)


def verdict(
    from_domain: str,
    *records: str,
    spf_result: SpfResult = NO_SPF,
    dkim_results: Sequence[DkimResult] = (),
    at: str = "example.com",
    rng: float = 0.5,
    apply_pct: bool = True,
    **options: Any,
) -> DmarcResult:
    resolver = MockResolver({f"txt _dmarc.{at}.": records}, **options)
    domain = parse_domain(from_domain)
    return verify_sync(resolver, domain, dkim_results, spf_result, apply_pct=apply_pct, rng=lambda: rng)


# RFC 7489 appendix B.1: what the mail comes from, what it is signed for, From, and the mode that makes it fail.
@pytest.mark.parametrize(
    ("spf_domain", "dkim_domain", "from_domain", "relaxed", "strict"),
    [
        ("example.com", "", "example.com", True, True),  # B.1.1, example 1
        ("child.example.com", "", "example.com", True, False),  # example 2
        ("example.net", "", "child.example.com", False, False),  # example 3
        ("", "example.com", "example.com", True, True),  # B.1.2, example 1
        ("", "example.com", "child.example.com", True, False),  # example 2
        ("", "sample.net", "child.example.com", False, False),  # example 3
    ],
)
def test_the_alignments_of_appendix_b(
    spf_domain: str, dkim_domain: str, from_domain: str, relaxed: bool, strict: bool
) -> None:
    found = {
        "spf_result": spf(spf_domain) if spf_domain else NO_SPF,
        "dkim_results": [dkim(dkim_domain)] if dkim_domain else [],
    }
    for record, passes in (("v=DMARC1; p=reject", relaxed), ("v=DMARC1; p=reject; aspf=s; adkim=s", strict)):
        result = verdict(from_domain, record, **found)  # type: ignore[arg-type]  # a dict of two types
        assert result.status is (DmarcStatus.PASS if passes else DmarcStatus.FAIL)
        assert result.reject is not passes


@pytest.mark.parametrize(
    ("text", "record"),
    [
        # RFC 7489 appendix B.2.1 to B.2.4
        (
            "v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com",
            DmarcRecord(rua=(ReportURI("mailto:dmarc-feedback@example.com"),)),
        ),
        (
            "v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com; ruf=mailto:auth-reports@thirdparty.example.net",
            DmarcRecord(
                rua=(ReportURI("mailto:dmarc-feedback@example.com"),),
                ruf=(ReportURI("mailto:auth-reports@thirdparty.example.net"),),
            ),
        ),
        (
            (
                "v=DMARC1; p=quarantine; rua=mailto:dmarc-feedback@example.com,"
                "mailto:tld-test@thirdparty.example.net!10m; pct=25"
            ),
            DmarcRecord(
                DmarcPolicy.QUARANTINE,
                rua=(
                    ReportURI("mailto:dmarc-feedback@example.com"),
                    ReportURI("mailto:tld-test@thirdparty.example.net", 10, "m"),
                ),
                pct=25,
            ),
        ),
    ],
)
def test_the_records_of_appendix_b(text: str, record: DmarcRecord) -> None:
    assert verdict("example.com", text).record == record


ORG, SUB, DEEP, SIBLING, OTHER = (
    "example.com",
    "mail.example.com",
    "a.mail.example.com",
    "shop.example.com",
    "other.com",
)
NAMES = (ORG, SUB, DEEP, SIBLING, OTHER)
PAIRS = [
    # From, the name that was authenticated, how they belong together
    *((name, name, Alignment.STRICT) for name in NAMES),
    *((a, b, Alignment.RELAXED) for a in NAMES[:4] for b in NAMES[:4] if a != b),
    *((name, OTHER, Alignment.NONE) for name in NAMES[:4]),
    *((OTHER, name, Alignment.NONE) for name in NAMES[:4]),
    ("example.co.uk", "mail.example.co.uk", Alignment.RELAXED),
    ("mail.example.co.uk", "example.co.uk", Alignment.RELAXED),
    ("example.co.uk", "other.co.uk", Alignment.NONE),
    ("example.co.uk", "co.uk", Alignment.NONE),
    ("co.uk", "co.uk", Alignment.STRICT),
    ("co.uk", "uk", Alignment.NONE),
    ("uk", "co.uk", Alignment.NONE),
    ("com", "example.com", Alignment.NONE),
    ("example.com", "com", Alignment.NONE),
    ("one.github.io", "two.github.io", Alignment.RELAXED),  # of the private section, which is left out
    ("one.blogspot.com", "blogspot.com", Alignment.RELAXED),
    ("x.a.b.ck", "a.b.ck", Alignment.RELAXED),  # *.ck
    ("a.one.ck", "a.two.ck", Alignment.NONE),
    ("www.ck", "a.www.ck", Alignment.RELAXED),  # !www.ck
    ("city.kawasaki.jp", "x.city.kawasaki.jp", Alignment.RELAXED),  # !city.kawasaki.jp
    ("a.other.kawasaki.jp", "b.other.kawasaki.jp", Alignment.NONE),  # *.kawasaki.jp
    ("one.unknown-top", "two.unknown-top", Alignment.NONE),
    ("a.one.unknown-top", "one.unknown-top", Alignment.RELAXED),
    ("example.com", "example.com.attacker.net", Alignment.NONE),
    ("example.com", "notexample.com", Alignment.NONE),
    ("example.com", "example.com.au", Alignment.NONE),
    ("bücher.example", "post.xn--bcher-kva.example", Alignment.RELAXED),
    ("bücher.example", "xn--bcher-kva.example", Alignment.STRICT),
    ("bücher.example", "bucher.example", Alignment.NONE),
    ("a.公司.cn", "b.公司.cn", Alignment.NONE),
    ("x.a.公司.cn", "a.xn--55qx5d.cn", Alignment.RELAXED),
    ("EXAMPLE.com", "example.COM", Alignment.STRICT),
    ("example.com", "_spf.example.com", Alignment.RELAXED),
    ("gov.uk", "example.gov.uk", Alignment.NONE),
    ("a.example.gov.uk", "b.example.gov.uk", Alignment.RELAXED),
    ("example.org", "example.com", Alignment.NONE),
    ("a.b.c.d.e.example.com", "f.g.h.example.com", Alignment.RELAXED),
    ("xn--bcher-kva.example", "post.bücher.example", Alignment.RELAXED),
    ("straße.example", "strasse.example", Alignment.NONE),
    ("example", "example", Alignment.STRICT),
]


@pytest.mark.parametrize(("from_domain", "domain", "expected"), PAIRS, ids=str)
def test_names_that_belong_together_align(from_domain: str, domain: str, expected: Alignment) -> None:
    """Each also as a verdict, by SPF and by DKIM in both modes, so the table and the verdicts cannot differ."""
    one, other = parse_domain(from_domain), parse_domain_lax(domain)
    assert alignment(one, other) is expected
    assert alignment(other, one) is expected
    for mode in "rs":
        passes = expected is Alignment.STRICT or (expected is Alignment.RELAXED and mode == "r")
        by_spf = verdict(from_domain, f"v=DMARC1; p=reject; aspf={mode}", at=one.ascii, spf_result=spf(domain))
        assert (by_spf.aligned_spf, by_spf.aligned_dkim, by_spf.reject) == (passes, False, not passes)
        by_dkim = verdict(from_domain, f"v=DMARC1; p=reject; adkim={mode}", at=one.ascii, dkim_results=[dkim(domain)])
        assert (by_dkim.aligned_spf, by_dkim.aligned_dkim, by_dkim.reject) == (False, passes, not passes)


def test_the_table_has_sixty_rows() -> None:
    print(f"{len(PAIRS)} alignments")
    assert len(PAIRS) == 60


@pytest.mark.parametrize("status", [status for status in SpfStatus if status is not SpfStatus.PASS])
def test_only_a_pass_of_spf_counts(status: SpfStatus) -> None:
    result = verdict(ORG, "v=DMARC1; p=reject", spf_result=spf(ORG, status))
    temporary = status is SpfStatus.TEMPERROR
    assert result.status is (DmarcStatus.TEMPERROR if temporary else DmarcStatus.FAIL)
    assert result.reject is not temporary


@pytest.mark.parametrize("status", [status for status in DkimStatus if status is not DkimStatus.PASS])
def test_only_a_pass_of_dkim_counts(status: DkimStatus) -> None:
    result = verdict(ORG, "v=DMARC1; p=reject", dkim_results=[dkim(ORG, status)])
    temporary = status is DkimStatus.TEMPERROR
    assert result.status is (DmarcStatus.TEMPERROR if temporary else DmarcStatus.FAIL)
    assert result.reject is not temporary


def test_a_pass_wins_over_temporary_errors() -> None:
    failing = [dkim(ORG, DkimStatus.TEMPERROR), DkimResult(DkimStatus.PERMERROR), dkim(OTHER)]
    result = verdict(ORG, "v=DMARC1; p=reject", spf_result=spf(SUB), dkim_results=failing)
    assert (result.status, result.aligned_spf, result.aligned_dkim) == (DmarcStatus.PASS, True, False)
    result = verdict(
        ORG,
        "v=DMARC1; p=reject",
        spf_result=spf(ORG, SpfStatus.TEMPERROR),
        dkim_results=[*failing, dkim(SUB)],
    )
    assert (result.status, result.aligned_spf, result.aligned_dkim) == (DmarcStatus.PASS, False, True)


def test_temporary_errors_of_names_that_could_not_align_are_no_way_around_a_policy() -> None:
    result = verdict(
        ORG,
        "v=DMARC1; p=reject; adkim=s",
        spf_result=spf(OTHER, SpfStatus.TEMPERROR),
        dkim_results=[dkim(OTHER, DkimStatus.TEMPERROR), dkim(SUB, DkimStatus.TEMPERROR)],
    )
    assert (result.status, result.reject) == (DmarcStatus.FAIL, True)


@pytest.mark.parametrize(
    ("record", "from_domain", "reject"),
    [
        ("p=none", ORG, False),
        ("p=quarantine", ORG, True),
        ("p=reject", ORG, True),
        ("p=reject", DEEP, True),
        ("p=reject; sp=none", ORG, True),
        ("p=reject; sp=none", DEEP, False),
        ("p=none; sp=quarantine", DEEP, True),
        ("p=none; sp=reject", ORG, False),
    ],
)
def test_subdomains_have_the_policy_for_them(record: str, from_domain: str, reject: bool) -> None:
    result = verdict(from_domain, f"v=DMARC1; {record}")
    assert (result.reject, result.use, result.domain) == (reject, True, parse_domain(ORG))


def test_sp_means_nothing_in_a_subdomains_own_record() -> None:
    assert verdict(SUB, "v=DMARC1; p=none; sp=reject", at=SUB).reject is False


@pytest.mark.parametrize(
    ("pct", "rng", "use"),
    [(100, 0.999999, True), (0, 0.0, False), (25, 0.2499, True), (25, 0.25, False), (1, 0.0, True), (99, 0.99, False)],
)
def test_a_policy_is_applied_to_its_share(pct: int, rng: float, use: bool) -> None:
    result = verdict(ORG, f"v=DMARC1; p=reject; pct={pct}", rng=rng)
    assert (result.reject, result.use, result.sampled_out) == (True, use, not use)
    assert verdict(ORG, f"v=DMARC1; p=reject; pct={pct}", rng=rng, apply_pct=False).use


@pytest.mark.parametrize(
    ("records", "status", "error"),
    [
        ((), DmarcStatus.NONE, "no dmarc record"),
        (("v=spf1 -all", "something"), DmarcStatus.NONE, "no dmarc record"),
        (("v=DMARC1; p=reject", "v=DMARC1; p=reject"), DmarcStatus.NONE, "several dmarc records"),
        (("v=DMARC1; p=reject", "v=DMARC1; p"), DmarcStatus.NONE, "several dmarc records"),
        (("v=DMARC1; p=block", "v=spf1 -all"), DmarcStatus.PERMERROR, "p= is missing or bad, and"),
    ],
    ids=["nothing", "others", "two", "two, one bad", "bad"],
)
def test_without_one_good_record_there_is_no_policy(records: tuple[str, ...], status: DmarcStatus, error: str) -> None:
    result = verdict(ORG, *records)
    assert (result.status, result.record, result.reject, result.use) == (status, None, False, False)
    assert result.error.startswith(error)


def test_the_organizational_domain_is_asked_only_when_the_from_domain_has_nothing() -> None:
    for records in (["v=DMARC1; p"], ["v=DMARC1; p=none", "v=DMARC1; p=none"], ["v=DMARC1; p=none"]):
        resolver = MockResolver({f"txt _dmarc.{DEEP}.": records, f"txt _dmarc.{ORG}.": ["v=DMARC1; p=reject"]})
        found = asyncio.run(lookup(resolver, parse_domain(DEEP)))
        assert found.domain == parse_domain(DEEP)
        assert resolver.queries == [f"txt _dmarc.{DEEP}."]
    resolver = MockResolver({f"txt _dmarc.{SUB}.": ["v=DMARC1; p=none"], f"txt _dmarc.{ORG}.": ["v=DMARC1; p=reject"]})
    found = asyncio.run(lookup(resolver, parse_domain(DEEP)))
    assert (found.domain, found.txt) == (parse_domain(ORG), b"v=DMARC1; p=reject")


@pytest.mark.parametrize("at", [SUB, ORG])
def test_without_an_answer_nothing_is_rejected(at: str) -> None:
    for kind in (ErrorKind.TEMPORARY, ErrorKind.TIMEOUT, ErrorKind.BOGUS):
        result = verdict(SUB, "v=DMARC1; p=reject", fail={f"txt _dmarc.{at}.": kind})
        assert (result.status, result.reject, result.use) == (DmarcStatus.TEMPERROR, False, False)
        assert f"_dmarc.{at}." in result.error


class Silent(MockResolver):
    """Never answers."""

    async def txt(self, name: str) -> Answer[bytes]:
        await asyncio.Event().wait()
        raise AssertionError


def test_it_ends_in_time() -> None:
    result = asyncio.run(verify(Silent(), parse_domain(ORG), [], NO_SPF, timeout=0.01))
    assert (result.status, result.error) == (DmarcStatus.TEMPERROR, "no policy within 0.01 seconds")
    accepted = asyncio.run(external_reports_accepted(Silent(), parse_domain(ORG), parse_domain(OTHER), timeout=0.01))
    assert (accepted.accepted, accepted.status) == (False, DmarcStatus.TEMPERROR)


@pytest.mark.parametrize(
    ("inauthentic", "authentic"),
    [((), True), ((f"txt _dmarc.{ORG}.",), False), ((f"txt _dmarc.{SUB}.",), False)],
)
def test_it_is_authentic_when_each_answer_is(inauthentic: tuple[str, ...], authentic: bool) -> None:
    assert verdict(SUB, "v=DMARC1; p=reject", authentic=True, inauthentic=inauthentic).authentic is authentic


def external(*records: str, **options: Any) -> ExternalResult:
    resolver = MockResolver({"txt example.com._report._dmarc.reports.example.": records}, **options)
    return asyncio.run(external_reports_accepted(resolver, parse_domain(ORG), parse_domain("reports.example")))


@pytest.mark.parametrize(
    ("records", "accepted", "status"),
    [
        ((), False, DmarcStatus.NONE),
        (("v=spf1 -all",), False, DmarcStatus.NONE),
        (("v=DMARC1",), True, DmarcStatus.NONE),
        (("v=DMARC1;", "v=spf1 -all"), True, DmarcStatus.NONE),
        (("v=DMARC1; rua=mailto:other@reports.example",), True, DmarcStatus.NONE),
        (("v=DMARC1; p=none", "v=DMARC1"), True, DmarcStatus.NONE),
        (("v=DMARC1; rua", "v=DMARC1"), False, DmarcStatus.PERMERROR),
    ],
)
def test_reports_go_elsewhere_where_they_are_welcome(
    records: tuple[str, ...], accepted: bool, status: DmarcStatus
) -> None:
    result = external(*records)
    assert (result.accepted, result.status) == (accepted, status)
    assert bool(result.error) is not accepted


def test_reports_wait_for_an_answer() -> None:
    result = external(fail=["txt example.com._report._dmarc.reports.example."])
    assert (result.accepted, result.status) == (False, DmarcStatus.TEMPERROR)


@pytest.mark.parametrize(
    ("result", "overrides", "line"),
    [
        (
            DmarcResult(DmarcStatus.PASS, parse_domain(ORG), authentic=True),
            (),
            "dmarc=pass (with dnssec) header.from=mail.example.com",
        ),
        (
            DmarcResult(DmarcStatus.FAIL, parse_domain(ORG), error="why"),
            ("sampled_out", "mailing_list"),
            (
                'dmarc=fail (without dnssec, override sampled_out, override mailing_list)\r\n\t reason="why"'
                " header.from=mail.example.com"
            ),
        ),
    ],
)
def test_it_gives_the_method_of_authentication_results(
    result: DmarcResult, overrides: tuple[str, ...], line: str
) -> None:
    method = auth_method(result, parse_domain(SUB), overrides=overrides)
    assert AuthResults("mx", methods=(method,)).compose().decode() == f"Authentication-Results: mx;\r\n\t{line}\r\n"
