"""What connections to other servers have shown of their TLS, kept by day for the reports of RFC 8460."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocols.tlsrpt import Result


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


def record(observations: Sequence[Observation]) -> None:
    """Add these to the rows of the day. Part of the transaction that stores the result of the attempt."""
