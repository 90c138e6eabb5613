"""MTA-STS (RFC 8461): records, policies, and how they are had; what is kept of them is for others."""

from __future__ import annotations

from .errors import ErrorKind, StsError
from .fetching import fetch_policy
from .policy import Mode, MxPattern, Policy, parse_policy
from .record import StsRecord, lookup_record, parse_record

__all__ = [
    "ErrorKind",
    "Mode",
    "MxPattern",
    "Policy",
    "StsError",
    "StsRecord",
    "fetch_policy",
    "lookup_record",
    "parse_policy",
    "parse_record",
]
