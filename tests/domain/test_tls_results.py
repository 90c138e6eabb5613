"""TLS results of a day, as reports will tell them: counted once each, by whichever worker, and bounded."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest
from django.db import connection

from mailqueue import domainhints
from mailqueue.models import MessageKind, TLSResult
from mailqueue.mtastscache import Found
from mailqueue.tlsresults import (
    MAX_DETAILS,
    MAX_POLICIES,
    Observation,
    is_reason_for_report,
    record,
    sts_policy,
    tlsa_policy,
)
from protocols.mtasts import parse_policy
from protocols.tlsrpt import MX_MISMATCH, Failure, FailureDetail, Policy, Result, parse_result
from server import db
from server.models import ServerSettings

pytestmark = pytest.mark.database

_numbers = itertools.count(1)


@pytest.fixture
def domain(database: None) -> Iterator[str]:
    """A recipient domain of the test's own, of a server that is no localserve."""
    _set(localserve=False)
    yield f"results{next(_numbers)}.example"
    _set(localserve=True, no_outgoing_tls_reports=False)


def _set(**values: bool) -> None:
    ServerSettings.objects.update(**values)
    ServerSettings._cached = None


def no_policy(domain: str) -> Policy:
    return Policy("no-policy-found", domain)


def succeeded(policy: Policy) -> Result:
    return Result(policy, successes=1)


def failed(policy: Policy, failure: Failure, *, sending_ip: str = "", mx: str = "") -> Result:
    detail = FailureDetail(*failure, sending_mta_ip=sending_ip, receiving_mx_hostname=mx)
    return Result(policy, failures=1, details=(detail,))


def observe(*results: Result, recipient: str, is_host: bool = False, send_report: bool = True) -> None:
    with db.write():
        record([Observation(recipient, result, is_host, send_report) for result in results])


def row(policy_domain: str, recipient: str = "") -> TLSResult:
    return TLSResult.objects.get(policy_domain=policy_domain, recipient_domain=recipient or policy_domain)


def results(policy_domain: str, recipient: str = "") -> list[Result]:
    return [parse_result(value) for value in row(policy_domain, recipient).results]


def test_sessions_of_a_day_add_up(domain: str) -> None:
    policy = no_policy(domain)
    refused = failed(policy, ("starttls-not-supported", ""), sending_ip="192.0.2.1", mx="mx.example")
    for result in (succeeded(policy), refused, succeeded(policy), refused):
        observe(result, recipient=domain)
    (result,) = results(domain)
    assert (result.policy, result.successes, result.failures) == (policy, 2, 2)
    (detail,) = result.details
    assert (detail.result_type, detail.sending_mta_ip, detail.receiving_mx_hostname, detail.sessions) == (
        "starttls-not-supported",
        "192.0.2.1",
        "mx.example",
        2,
    )
    stored = row(domain)
    assert (stored.day_utc, stored.is_host, stored.send_report) == (f"{db.now():%Y%m%d}", False, True)
    assert stored.updated > stored.created


def test_each_policy_and_each_failure_counts_by_itself(domain: str) -> None:
    sts = sts_policy(domain, Found(parse_policy(POLICY), POLICY))
    assert sts.strings == ("version: STSv1", "mode: enforce", "max_age: 86400", "mx: *.example.net")
    assert (sts.type, sts.mx_hosts) == ("sts", ("*.example.net",))
    observe(failed(sts, MX_MISMATCH, mx="mx.one.example"), recipient=domain)
    observe(failed(sts, MX_MISMATCH, mx="mx.two.example"), recipient=domain)
    observe(succeeded(no_policy(domain)), recipient=domain)
    first, second = results(domain)
    assert (first.policy, first.failures, len(first.details)) == (sts, 2, 2)
    assert (second.policy.type, second.successes) == ("no-policy-found", 1)


POLICY = "version: STSv1\r\nmode: enforce\r\nmax_age: 86400\r\nmx: *.example.net\r\n\r\n"


def test_hosts_have_rows_for_each_recipient_domain(domain: str) -> None:
    host = f"mx.{domain}"
    policy = tlsa_policy(host, host, ["3 1 1 cd", "2 0 1 ab"])
    assert (policy.type, policy.strings, policy.mx_hosts) == ("tlsa", ("2 0 1 ab", "3 1 1 cd"), (host,))
    observe(succeeded(policy), recipient=domain, is_host=True)
    observe(succeeded(policy), recipient=f"other.{domain}", is_host=True)
    assert row(host, domain).is_host
    assert results(host, f"other.{domain}")[0].successes == 1
    assert tlsa_policy(host, host, []).type == "no-policy-found"


def test_a_domain_that_is_its_own_host_is_told_once(domain: str) -> None:
    tlsa = tlsa_policy(domain, domain, ["3 1 1 ab"])
    both = [
        Observation(domain, succeeded(no_policy(domain)), is_host=False, send_report=True),
        Observation(domain, succeeded(tlsa), is_host=True, send_report=True),
    ]
    with db.write():
        record(both)
    assert [result.policy.type for result in results(domain)] == ["tlsa"]
    own = f"own.{domain}"
    for is_host in (False, True):
        both[is_host] = Observation(own, succeeded(no_policy(own)), is_host, send_report=True)
    with db.write():
        record(both)
    assert [result.successes for result in results(own)] == [1]
    assert not row(own).is_host


def test_a_success_that_is_taken_back_never_makes_a_sum_negative(domain: str) -> None:
    policy = no_policy(domain)
    taken_back = Result(policy, successes=-1)
    observe(taken_back, recipient=domain)
    observe(succeeded(policy), recipient=domain)
    assert results(domain)[0].successes == 1
    observe(taken_back, recipient=domain)
    observe(taken_back, recipient=domain)
    assert results(domain)[0].successes == 0


def test_a_row_has_so_many_details_and_loses_no_count(domain: str) -> None:
    policy = no_policy(domain)
    for start in (0, 600, 1200):
        many = [failed(policy, ("validation-failure", f"tls-local-{number}")) for number in range(start, start + 600)]
        observe(*many, recipient=domain)
    observe(failed(policy, ("validation-failure", "tls-local-7")), recipient=domain)
    (result,) = results(domain)
    assert len(result.details) == MAX_DETAILS + 1
    assert result.failures == sum(detail.sessions for detail in result.details) == 1801
    by_reason = {detail.reason_code: detail.sessions for detail in result.details}
    assert (by_reason["truncated"], by_reason["tls-local-7"]) == (800, 2)


def test_a_domain_with_ever_new_policies_fills_no_disk(domain: str) -> None:
    for number in range(MAX_POLICIES + 10):
        policy = Policy("sts", domain, (f"mode: enforce{number}", "x" * 9000), ("a.example",))
        for _ in range(2):
            observe(succeeded(policy), recipient=domain)
    found = results(domain)
    assert len(found) == MAX_POLICIES + 1
    assert sum(result.successes for result in found) == 2 * (MAX_POLICIES + 10)
    assert [result.successes for result in found] == [2] * MAX_POLICIES + [20]


def test_two_workers_lose_no_count(domain: str) -> None:
    policies = [no_policy(domain), no_policy(f"mx.{domain}")]
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        try:
            start.wait(10)
            # The rows in different orders: they must not wait for each other for ever.
            for _ in range(10):
                observe(*map(succeeded, policies[:: 1 if number % 2 else -1]), recipient=domain)
        except BaseException as exc:
            errors.append(exc)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert [results(policy.domain, domain)[0].successes for policy in policies] == [40, 40]


def test_what_is_rolled_back_does_not_count(domain: str) -> None:
    class Lost(Exception):
        pass

    def attempt() -> None:
        with db.write():
            record([Observation(domain, succeeded(no_policy(domain)), is_host=False, send_report=True)])
            raise Lost

    with pytest.raises(Lost):
        attempt()
    assert not TLSResult.objects.filter(policy_domain=domain).exists()


def test_reports_alone_are_no_reason_for_a_report(domain: str) -> None:
    policy = no_policy(domain)
    bad = failed(policy, ("starttls-not-supported", ""))
    assert is_reason_for_report(MessageKind.MESSAGE, [succeeded(policy)])
    assert is_reason_for_report(MessageKind.DSN, [succeeded(policy)])
    assert not is_reason_for_report(MessageKind.TLS_REPORT, [bad])
    assert not is_reason_for_report(MessageKind.DMARC_REPORT, [succeeded(policy)])
    assert is_reason_for_report(MessageKind.DMARC_REPORT, [succeeded(policy), bad])
    for send_report, expected in ((False, False), (True, True), (False, True)):
        observe(succeeded(policy), recipient=domain, send_report=send_report)
        assert row(domain).send_report is expected


@pytest.mark.parametrize("setting", ["no_outgoing_tls_reports", "localserve"])
def test_nothing_is_kept_where_no_reports_are_sent(domain: str, setting: str) -> None:
    _set(**{setting: True})
    observe(succeeded(no_policy(domain)), recipient=domain)
    assert not TLSResult.objects.filter(policy_domain=domain).exists()


def test_what_a_domain_offered_last_is_remembered(domain: str) -> None:
    assert domainhints.recall(domain) is None
    for starttls, requiretls in ((True, False), (True, True), (True, True), (False, False)):
        domainhints.remember(domain, starttls=starttls, requiretls=requiretls)
        known = domainhints.recall(domain)
        assert known is not None
        assert (known.starttls, known.requiretls) == (starttls, requiretls)
