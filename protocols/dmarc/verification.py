"""Whether the From domain stands behind a message, and what it asks for otherwise (RFC 7489 sections 3.1, 6.6, 7.1).

result = await verify(resolver, from_domain, dkim_results, spf_result)
if result.use and result.reject: ...
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from protocols import metrics
from protocols.dkim import DkimResult, DkimStatus
from protocols.dns import DNSError, Resolver
from protocols.message.authresults import AuthMethod, AuthProp
from protocols.names import Domain
from protocols.publicsuffix import organizational_domain
from protocols.spf import SpfResult, SpfStatus

from .record import AlignmentMode, BadRecord, DmarcPolicy, DmarcRecord, parse_record

TIMEOUT: Final = 60.0  # seconds for the lookups of a policy


class DmarcStatus(StrEnum):
    """RFC 7489 section 11.2."""

    NONE = "none"
    PASS = "pass"  # noqa: S105 # a result
    FAIL = "fail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Alignment(StrEnum):
    """How a name and the From domain belong together (RFC 7489 section 3.1)."""

    NONE = "none"
    RELAXED = "relaxed"
    """They have the same organizational domain."""
    STRICT = "strict"
    """They are the same."""


@dataclass(frozen=True, slots=True)
class DmarcLookup:
    """The policy for a From domain. ``status`` is none with a record, or when there is none; else an error."""

    status: DmarcStatus
    domain: Domain
    """Where the record is, or was last looked for: the From domain or its organizational domain."""
    record: DmarcRecord | None = None
    txt: bytes = b""
    authentic: bool = False
    """Whether DNSSEC has verified every answer."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class DmarcResult:
    """The verdict. ``error``, when there is one, is a line of ASCII."""

    status: DmarcStatus
    domain: Domain
    """As in `DmarcLookup`."""
    record: DmarcRecord | None = None
    reject: bool = False
    """Whether the policy is against the message; quarantine counts as well."""
    use: bool = False
    """Whether to apply the policy: there is one, and its ``pct`` has not sampled the message out."""
    aligned_spf: bool = False
    """Whether SPF has passed for a name that is aligned."""
    aligned_dkim: bool = False
    authentic: bool = False
    error: str = ""

    @property
    def sampled_out(self) -> bool:
        """Whether the message would be rejected but for the policy's ``pct``."""
        return self.reject and not self.use


@dataclass(frozen=True, slots=True)
class ExternalResult:
    """Whether a domain accepts reports about another, which has its addresses in its policy (RFC 7489 section 7.1)."""

    accepted: bool
    status: DmarcStatus
    """None, or temperror or permerror."""
    records: tuple[DmarcRecord, ...] = ()
    """Their ``rua``, if any, replace the addresses at this domain in the policy."""
    txts: tuple[bytes, ...] = ()
    authentic: bool = False
    error: str = ""


def alignment(from_domain: Domain, domain: Domain) -> Alignment:
    """How a name that was authenticated and the From domain belong together."""
    if domain == from_domain:
        return Alignment.STRICT
    same = organizational_domain(domain) == organizational_domain(from_domain)
    return Alignment.RELAXED if same else Alignment.NONE


async def lookup(
    resolver: Resolver,
    from_domain: Domain,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
) -> DmarcLookup:
    """The policy of the From domain, else of its organizational domain (RFC 7489 section 6.6.3)."""
    domain = from_domain
    try:
        async with asyncio.timeout(timeout):
            found, authentic = await _records(resolver, f"_dmarc.{domain.ascii}.")
            if not found and (above := organizational_domain(domain)) != domain:
                domain = above
                found, also = await _records(resolver, f"_dmarc.{domain.ascii}.")
                authentic = authentic and also
    except TimeoutError:
        return DmarcLookup(DmarcStatus.TEMPERROR, domain, error=f"no policy within {timeout:g} seconds")
    except DNSError as exc:
        return DmarcLookup(DmarcStatus.TEMPERROR, domain, error=str(exc))
    if len(found) != 1:
        error = "several dmarc records" if found else "no dmarc record"
        return DmarcLookup(DmarcStatus.NONE, domain, authentic=authentic, error=error)
    ((txt, record),) = found
    if isinstance(record, BadRecord):
        return DmarcLookup(DmarcStatus.PERMERROR, domain, None, txt, authentic, str(record))
    return DmarcLookup(DmarcStatus.NONE, domain, record, txt, authentic)


async def verify(
    resolver: Resolver,
    from_domain: Domain,
    dkim: Sequence[DkimResult],
    spf: SpfResult,
    *,
    apply_pct: bool = True,
    rng: Callable[[], float] = random.random,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
) -> DmarcResult:
    """The verdict on a message from its From domain and what DKIM and SPF have found.

    ``rng`` gives numbers from 0 to below 1: which messages are sampled out by ``pct``, unless not ``apply_pct``.
    """
    start = time.monotonic()
    found = await lookup(resolver, from_domain, timeout=timeout)
    result = _verdict(found, from_domain, dkim, spf)
    if result.record is not None and (not apply_pct or rng() * 100 < result.record.pct):
        result = replace(result, use=True)
    labels = {"status": result.status.value, "reject": _yes(result.reject), "use": _yes(result.use)}
    metrics.observe("mox_dmarc_verify_duration_seconds", time.monotonic() - start, labels)
    return result


def verify_sync(
    resolver: Resolver,
    from_domain: Domain,
    dkim: Sequence[DkimResult],
    spf: SpfResult,
    *,
    apply_pct: bool = True,
    rng: Callable[[], float] = random.random,
    timeout: float = TIMEOUT,
) -> DmarcResult:
    """`verify` where there is no event loop."""
    return asyncio.run(verify(resolver, from_domain, dkim, spf, apply_pct=apply_pct, rng=rng, timeout=timeout))


async def external_reports_accepted(
    resolver: Resolver,
    policy_domain: Domain,
    report_domain: Domain,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
) -> ExternalResult:
    """Whether reports about ``policy_domain`` may be sent to addresses at ``report_domain``."""
    name = f"{policy_domain.ascii}._report._dmarc.{report_domain.ascii}."
    try:
        async with asyncio.timeout(timeout):
            found, authentic = await _records(resolver, name, required=False)
    except TimeoutError:
        return ExternalResult(False, DmarcStatus.TEMPERROR, error=f"no answer within {timeout:g} seconds")
    except DNSError as exc:
        return ExternalResult(False, DmarcStatus.TEMPERROR, error=str(exc))
    records = tuple(record for _, record in found if isinstance(record, DmarcRecord))
    txts = tuple(txt for txt, _ in found)
    for _, record in found:
        if isinstance(record, BadRecord):
            return ExternalResult(False, DmarcStatus.PERMERROR, records, txts, authentic, str(record))
    error = "" if records else "no record that accepts reports"
    return ExternalResult(bool(records), DmarcStatus.NONE, records, txts, authentic, error)


def auth_method(
    result: DmarcResult, from_domain: Domain, *, overrides: Sequence[str] = (), smtputf8: bool = False
) -> AuthMethod:
    """The method for Authentication-Results: ``dmarc=pass (with dnssec) header.from=example.org``.

    ``overrides``: why the policy was not applied, such as ``mailing_list``, ``forwarded``, ``sampled_out``.
    """
    dnssec = "with dnssec" if result.authentic else "without dnssec"
    said = ", ".join([dnssec, *(f"override {override}" for override in overrides)])
    prop = AuthProp.of_domain("header", "from", from_domain, smtputf8=smtputf8)
    return AuthMethod("dmarc", result.status, comment=said, reason=result.error, props=(prop,))


async def _records(
    resolver: Resolver, name: str, *, required: bool = True
) -> tuple[list[tuple[bytes, DmarcRecord | BadRecord]], bool]:
    """What there is of DMARC among the TXT records, and whether the answer is authentic. Raises DNSError."""
    found: list[tuple[bytes, DmarcRecord | BadRecord]] = []
    try:
        answer = await resolver.txt(name)
    except DNSError as exc:
        if exc.is_temporary:
            raise
        return found, exc.authentic
    for txt in answer.records:
        try:
            found.append((txt, parse_record(txt, required=required)))
        except BadRecord as exc:
            if exc.claims_dmarc:
                found.append((txt, exc))
    return found, answer.authentic


def _verdict(found: DmarcLookup, from_domain: Domain, dkim: Sequence[DkimResult], spf: SpfResult) -> DmarcResult:
    record = found.record
    if record is None:
        return DmarcResult(found.status, found.domain, authentic=found.authentic, error=found.error)
    policy = record.policy
    if found.domain != from_domain and record.subdomain_policy is not None:
        policy = record.subdomain_policy
    # Only what could have aligned counts, temporary errors too: else a signature whose key no server gives would be
    # a way around each policy.
    spf_status = spf.status if spf.domain is not None and _aligns(record.aspf, from_domain, spf.domain) else None
    dkim_statuses = {
        result.status
        for result in dkim
        if result.sig is not None and _aligns(record.adkim, from_domain, result.sig.domain)
    }
    aligned_spf, aligned_dkim = spf_status is SpfStatus.PASS, DkimStatus.PASS in dkim_statuses
    if aligned_spf or aligned_dkim:
        status = DmarcStatus.PASS
    elif spf_status is SpfStatus.TEMPERROR or DkimStatus.TEMPERROR in dkim_statuses:
        status = DmarcStatus.TEMPERROR
    else:
        status = DmarcStatus.FAIL
    return DmarcResult(
        status,
        found.domain,
        record,
        reject=status is DmarcStatus.FAIL and policy is not DmarcPolicy.NONE,
        aligned_spf=aligned_spf,
        aligned_dkim=aligned_dkim,
        authentic=found.authentic,
        error=_ERRORS[status],
    )


_ERRORS: Final = {
    DmarcStatus.PASS: "",
    DmarcStatus.FAIL: "neither spf nor dkim has passed for the domain",
    DmarcStatus.TEMPERROR: "temporary error in spf or dkim of the domain",
}


def _aligns(mode: AlignmentMode, from_domain: Domain, domain: Domain) -> bool:
    how = alignment(from_domain, domain)
    return how is Alignment.STRICT or (how is Alignment.RELAXED and mode is AlignmentMode.RELAXED)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
