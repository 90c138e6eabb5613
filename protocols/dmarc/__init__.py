"""DMARC (RFC 7489): policies and verdicts; it leaves SPF and DKIM to their packages, reports to others."""

from __future__ import annotations

from .record import AlignmentMode, BadRecord, DmarcPolicy, DmarcRecord, ReportURI, parse_record
from .verification import (
    Alignment,
    DmarcLookup,
    DmarcResult,
    DmarcStatus,
    ExternalResult,
    alignment,
    auth_method,
    external_reports_accepted,
    lookup,
    verify,
    verify_sync,
)

__all__ = [
    "Alignment",
    "AlignmentMode",
    "BadRecord",
    "DmarcLookup",
    "DmarcPolicy",
    "DmarcRecord",
    "DmarcResult",
    "DmarcStatus",
    "ExternalResult",
    "ReportURI",
    "alignment",
    "auth_method",
    "external_reports_accepted",
    "lookup",
    "parse_record",
    "verify",
    "verify_sync",
]
