"""TLS reports as values (RFC 8460 section 4): gathered, added up, and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

MAX_DETAILS: Final = 1000  # failures of one policy that are told apart; any attacker could make up more
TRUNCATED: Final = "truncated"

JSON: TypeAlias = dict[str, Any]


class PolicyType(StrEnum):
    """RFC 8460 section 4.2."""

    STS = "sts"
    TLSA = "tlsa"
    NO_POLICY_FOUND = "no-policy-found"


@dataclass(frozen=True, slots=True)
class Policy:
    """What was asked of the connections, and by whom."""

    type: str
    """A `PolicyType`, in what others report perhaps another."""
    domain: str
    strings: tuple[str, ...] = ()
    """The lines of an MTA-STS policy, or TLSA records as text."""
    mx_hosts: tuple[str, ...] = ()
    """The patterns of an MTA-STS policy, or the host."""

    def to_json(self) -> JSON:
        """The policy as in a report."""
        return {
            "policy-type": str(self.type),
            "policy-string": list(self.strings),
            "policy-domain": self.domain,
            "mx-host": list(self.mx_hosts),
        }


@dataclass(frozen=True, slots=True)
class FailureDetail:
    """Sessions that have failed in one way (RFC 8460 section 4.4); what is not known is empty."""

    result_type: str
    reason_code: str = ""
    sending_mta_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    additional_information: str = ""
    sessions: int = 1

    def to_json(self) -> JSON:
        """The failure as in a report."""
        helo = {"receiving-mx-helo": self.receiving_mx_helo} if self.receiving_mx_helo else {}
        return {
            "result-type": self.result_type,
            "sending-mta-ip": self.sending_mta_ip,
            "receiving-mx-hostname": self.receiving_mx_hostname,
            **helo,
            "receiving-ip": self.receiving_ip,
            "failed-session-count": self.sessions,
            "additional-information": self.additional_information,
            "failure-reason-code": self.reason_code,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """The sessions under one policy. The counts may be negative until they are added up."""

    policy: Policy
    successes: int = 0
    failures: int = 0
    details: tuple[FailureDetail, ...] = ()

    def to_json(self) -> JSON:
        """The result as in a report: an element of its ``policies``."""
        return {
            "policy": self.policy.to_json(),
            "summary": {
                "total-successful-session-count": self.successes,
                "total-failure-session-count": self.failures,
            },
            "failure-details": [detail.to_json() for detail in self.details],
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A report on the sessions of one organization with a domain's hosts, mostly of a day."""

    organization_name: str
    start: datetime
    end: datetime
    contact_info: str
    report_id: str
    results: tuple[Result, ...]

    def to_json(self) -> str:
        """The text of the report, in ASCII."""
        return json.dumps(
            {
                "organization-name": self.organization_name,
                "date-range": {"start-datetime": _time(self.start), "end-datetime": _time(self.end)},
                "contact-info": self.contact_info,
                "report-id": self.report_id,
                "policies": [result.to_json() for result in self.results],
            }
        )


def merge(results: Iterable[Result]) -> tuple[Result, ...]:
    """The results with those under the same policy added up, and in them failures of the same kind.

    Of more than MAX_DETAILS kinds the rest is one detail, ``truncated``. Sums below zero become zero.
    """
    sums: dict[Policy, tuple[list[int], dict[FailureDetail, int]]] = {}
    for result in results:
        counts, details = sums.setdefault(result.policy, ([0, 0], {}))
        counts[0] += result.successes
        counts[1] += result.failures
        for detail in result.details:
            kind = replace(detail, sessions=0)
            if kind not in details and len(details) >= MAX_DETAILS:
                kind = FailureDetail("validation-failure", TRUNCATED, sessions=0)
            details[kind] = details.get(kind, 0) + detail.sessions
    return tuple(
        Result(
            policy,
            max(0, successes),
            max(0, failures),
            tuple(replace(kind, sessions=sessions) for kind, sessions in details.items()),
        )
        for policy, ((successes, failures), details) in sums.items()
    )


def _time(time: datetime) -> str:
    # Not strftime, whose years before 1000 have three digits here and four there.
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"
