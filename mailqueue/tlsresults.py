"""What connections to other servers have shown of their TLS, kept by day for the reports of RFC 8460.

Each attempt of a direct delivery has an `Observation` of the recipient's domain and one of each host that was tried.
`record` adds them to the rows of the day, `TLSResult`, in the transaction that stores what came of the attempt: the
counts are those of attempts that happened, each once. Reports are made of the rows elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC
from typing import Final

from django.db import connection
from django.db.models import QuerySet

from protocols.mtasts import Mode
from protocols.tlsrpt import FailureDetail, Policy, PolicyType, Result, merge, parse_result
from protocols.tlsrpt.report import TRUNCATED
from server import db
from server.models import ServerSettings
from server.statements import ModelStatement

from .models import MessageKind, TLSResult
from .mtastscache import Found

MAX_DETAILS: Final = 1000  # failures in a row that are told apart: a peer can make up any number of them
MAX_POLICIES: Final = 20  # in a row; a domain can have another policy for each delivery
MAX_STRINGS: Final = 100  # lines or hosts of a policy that are told


@dataclass(frozen=True, slots=True)
class Observation:
    """The sessions of one attempt under one policy: of the recipient's domain, or of one of its hosts."""

    recipient_domain: str
    """In A-labels, as the message has it: before any CNAME."""
    result: Result
    """Its ``policy.domain``, in A-labels, is the policy domain."""
    is_host: bool
    """The policy is a host's (TLSA records, or none), and not the recipient domain's (MTA-STS, or none)."""
    send_report: bool
    """False where the message was a report itself, which would have reports answer reports."""


def sts_policy(domain: str, found: Found) -> Policy:
    """What a recipient domain (A-labels) asks for, as reports have it."""
    if found.policy is None or found.policy.mode is Mode.NONE:
        return Policy(PolicyType.NO_POLICY_FOUND, domain)
    lines = tuple(line.strip() for line in found.text.splitlines() if line.strip())
    hosts = tuple(str(pattern) for pattern in found.policy.mx)
    return Policy(PolicyType.STS, domain, lines[:MAX_STRINGS], hosts[:MAX_STRINGS])


def tlsa_policy(base_domain: str, host: str, records: Iterable[object]) -> Policy:
    """What a host asks for by its TLSA records, whose text is ``3 1 1 ab12...``; no policy where there are none."""
    strings = tuple(sorted(map(str, records)))[:MAX_STRINGS]
    kind = PolicyType.TLSA if strings else PolicyType.NO_POLICY_FOUND
    return Policy(kind, base_domain, strings, (host,))


def is_reason_for_report(kind: str, results: Iterable[Result]) -> bool:
    """Whether results of a message of this kind may be what a report is sent for.

    Not of a TLS report, of a DMARC report only where something has failed: two servers would go on reporting about
    their reports for ever (RFC 8460 section 5.3).
    """
    if kind == MessageKind.TLS_REPORT:
        return False
    return kind != MessageKind.DMARC_REPORT or any(result.failures for result in results)


def record(observations: Sequence[Observation]) -> None:
    """Add these to the rows of the day. Part of the transaction that stores the result of the attempt."""
    settings = ServerSettings.current()
    if not observations or settings.no_outgoing_tls_reports or settings.localserve:
        return
    now = db.now()
    day = now.astimezone(UTC).strftime("%Y%m%d")
    by_row: dict[tuple[str, str], list[Observation]] = {}
    for observation in _without_repetitions(observations):
        key = (observation.result.policy.domain, observation.recipient_domain)
        by_row.setdefault(key, []).append(observation)
    for (policy_domain, recipient_domain), seen in sorted(by_row.items()):  # all workers lock them in the same order
        is_host = all(observation.is_host for observation in seen)
        send_report = any(observation.send_report for observation in seen)
        new = TLSResult(
            policy_domain=policy_domain,
            day_utc=day,
            recipient_domain=recipient_domain,
            is_host=is_host,
            created=now,
            updated=now,
        )
        row = _row.row(policy_domain, day, recipient_domain)
        if row is None:
            TLSResult.objects.bulk_create([new], ignore_conflicts=True)
            row = _row.row(policy_domain, day, recipient_domain)
            assert row is not None, "it is there, or another transaction has put it there"
        row.results = [
            result.to_json()
            for result in _bounded([*map(parse_result, row.results), *(_as_stored(o.result) for o in seen)])
        ]
        row.is_host = row.is_host and is_host
        row.send_report = row.send_report or send_report
        row.updated = now
        row.save(update_fields=["results", "is_host", "send_report", "updated"])


def _row_for_update(policy_domain: str, day: str, recipient_domain: str) -> QuerySet[TLSResult]:
    rows = TLSResult.objects.filter(policy_domain=policy_domain, day_utc=day, recipient_domain=recipient_domain)
    # Another worker that adds to the same row waits, and sees what this one has added. SQLite has one writer anyway.
    return rows.select_for_update() if connection.features.has_select_for_update else rows


_row: Final = ModelStatement(TLSResult, _row_for_update)


def _without_repetitions(observations: Sequence[Observation]) -> list[Observation]:
    """Without "no policy" for a domain that is its own host, where its other policy says more of the same sessions."""
    with_policy = {o.result.policy.domain for o in observations if o.result.policy.type != PolicyType.NO_POLICY_FOUND}
    of_recipient = {o.result.policy.domain for o in observations if not o.is_host}
    return [
        o
        for o in observations
        if o.result.policy.type != PolicyType.NO_POLICY_FOUND
        or not (o.result.policy.domain in with_policy or (o.is_host and o.result.policy.domain in of_recipient))
    ]


def _as_stored(result: Result) -> Result:
    """The same with its texts as they will be read again, so that equal policies and failures are found to be equal."""
    return replace(parse_result(result.to_json()), successes=result.successes, failures=result.failures)


def _bounded(results: Sequence[Result]) -> list[Result]:
    """The results added up, with no more policies and details than a row may have; no count is lost."""
    policies: dict[Policy, Policy] = {}
    for result in results:
        policy = result.policy
        if policy not in policies and len(policies) >= MAX_POLICIES:
            policies[policy] = replace(policy, strings=(), mx_hosts=())
        else:
            policies.setdefault(policy, policy)
    left = MAX_DETAILS
    bounded = []
    for result in merge(replace(result, policy=policies[result.policy]) for result in results):
        told = [detail for detail in result.details if detail.reason_code != TRUNCATED]
        rest = sum(detail.sessions for detail in result.details) - sum(detail.sessions for detail in told[:left])
        details = told[:left]
        left -= len(details)
        if rest:
            details.append(FailureDetail("validation-failure", TRUNCATED, sessions=rest))
        bounded.append(replace(result, details=tuple(details)))
    return bounded
