"""TLS reporting (RFC 8460): where reports about a domain go, what is in them; keeping and sending them is not here."""

from __future__ import annotations

from .failures import MX_MISMATCH, TLSA_UNUSABLE, Failure, failure, tlsa_failure
from .parsing import BadReport, parse_message, parse_report, parse_result
from .record import ErrorKind, TlsRptError, TlsRptRecord, lookup, parse_record
from .report import FailureDetail, Policy, PolicyType, Report, Result, merge

__all__ = [
    "MX_MISMATCH",
    "TLSA_UNUSABLE",
    "BadReport",
    "ErrorKind",
    "Failure",
    "FailureDetail",
    "Policy",
    "PolicyType",
    "Report",
    "Result",
    "TlsRptError",
    "TlsRptRecord",
    "failure",
    "lookup",
    "merge",
    "parse_message",
    "parse_record",
    "parse_report",
    "parse_result",
    "tlsa_failure",
]
