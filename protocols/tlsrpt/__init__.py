"""TLS reporting (RFC 8460): where reports about a domain go, what is in them; keeping and sending them is not here."""

from __future__ import annotations

from .parsing import BadReport, parse_message, parse_report
from .record import ErrorKind, TlsRptError, TlsRptRecord, lookup, parse_record
from .report import FailureDetail, Policy, PolicyType, Report, Result, failure, merge, tlsa_failure

__all__ = [
    "BadReport",
    "ErrorKind",
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
    "tlsa_failure",
]
