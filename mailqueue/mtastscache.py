"""MTA-STS policies of recipient domains (RFC 8461): looked up for each delivery."""

from __future__ import annotations

from dataclasses import dataclass

from protocols.dns import Resolver
from protocols.mtasts import ErrorKind, Policy, StsError, fetch_policy, lookup_record
from protocols.names import Domain
from protocols.pkix import Roots
from store.pool import Threads


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a domain's policy."""

    policy: Policy | None = None
    """None: the domain counts as having none; ``mode`` may be none as well."""
    text: str = ""
    """The policy as it was served, for reports."""
    failure: tuple[str, str] = ("", "")
    """Result type and failure reason for TLS reports; set beside a policy where a cached one stands in."""
    error: str = ""
    """It cannot be known now whether there is one: nothing may be delivered. One line."""


async def find(domain: Domain, resolver: Resolver, roots: Roots, database: Threads) -> Found:
    """The policy for a recipient domain as the message has it. Called on an event loop; ``database``: for the ORM."""
    try:
        await lookup_record(resolver, domain)
        policy, text = await fetch_policy(resolver, domain, roots)
    except StsError as exc:
        return Found(failure=exc.failure, error=str(exc) if exc.kind is ErrorKind.DNS else "")
    return Found(policy, text)
