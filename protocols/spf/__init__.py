"""SPF (RFC 7208): records, the check of a client, the header fields for its result; lookups are the resolver's."""

from __future__ import annotations

from .errors import BadRecord
from .evaluation import Identity, SpfArgs, SpfResult, SpfStatus, verify, verify_sync
from .header import BadReceivedSpf, ReceivedSpf, auth_method, parse_received_spf, received_spf_header
from .record import Kind, Mechanism, Qualifier, SpfRecord, is_spf, parse_record

__all__ = [
    "BadReceivedSpf",
    "BadRecord",
    "Identity",
    "Kind",
    "Mechanism",
    "Qualifier",
    "ReceivedSpf",
    "SpfArgs",
    "SpfRecord",
    "SpfResult",
    "SpfStatus",
    "auth_method",
    "is_spf",
    "parse_received_spf",
    "parse_record",
    "received_spf_header",
    "verify",
    "verify_sync",
]
