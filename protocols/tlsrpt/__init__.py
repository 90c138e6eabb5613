"""TLS reporting (RFC 8460): where reports about a domain go; what is in them is for others."""

from __future__ import annotations

from .record import ErrorKind, TlsRptError, TlsRptRecord, lookup, parse_record

__all__ = ["ErrorKind", "TlsRptError", "TlsRptRecord", "lookup", "parse_record"]
