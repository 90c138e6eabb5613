"""The verdict for each copy of a message: what was verified goes to junk.analysis, which knows the account.

verdicts = await judge(bridge, resolver, case, copies, zones)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Final

from accounts.addresses import Resolved
from junk import reports
from junk.analysis import AskBlocklists, Incoming, Verdict, analyze, conclude
from junk.content import HEADER_MAX
from junk.reports import Evidence, Found
from junk.reputation import Sender
from protocols.dmarc import DmarcStatus
from protocols.dns import Resolver
from protocols.dnsbl import DnsblStatus, dnsbl_health, dnsbl_lookup
from protocols.iprev import IprevStatus
from protocols.names import Address, BadDomain, parse_domain
from protocols.publicsuffix import organizational_domain
from protocols.smtpsyntax import Path
from protocols.spf import Identity, SpfStatus
from store import blobs, content
from store.bridge import Bridge
from store.messages import Origin

from .copies import Copy
from .transaction import Peer
from .verification import Verification

log = logging.getLogger(__name__)

SMALL: Final = 64 * 1024  # bytes of a message that is judged between others
FEW: Final = 10  # and its copies


@dataclass(frozen=True, slots=True)
class Case:
    """A message, and what is known of it whoever gets it."""

    peer: Peer
    reverse_path: Path
    blob: blobs.PreparedBlob
    author: Address | None
    origin: Origin
    verification: Verification
    received: datetime


async def judge(
    bridge: Bridge,
    resolver: Resolver,
    case: Case,
    copies: Sequence[Copy],
    zones: Sequence[str],
) -> list[Verdict]:
    """A verdict for each copy, in their order. Blocklists are asked once, and only if a verdict needs them."""
    brief = case.blob.data is not None and case.blob.size <= SMALL and len(copies) <= FEW
    found = await (bridge.brief if brief else bridge.call)(_analyze_all, case, copies, tuple(zones))
    listed: asyncio.Task[str] | None = None
    verdicts: list[Verdict] = []
    for verdict in found:
        if isinstance(verdict, AskBlocklists):
            listed = listed or asyncio.ensure_future(_listed_in(resolver, verdict.zones, case.peer.remote_ip))
            verdict = await bridge.call(conclude, verdict, await listed)
        verdicts.append(verdict)
    return verdicts


def _analyze_all(case: Case, copies: Sequence[Copy], zones: tuple[str, ...]) -> list[Verdict | AskBlocklists]:
    """In a thread, with one reader of the content for all."""
    blob = case.blob
    with content.blob_reader(0, blob.size, blob.data, blob.storage_name) as source:
        found: list[Verdict | AskBlocklists] = []
        head, body = blob.structure.get("head", 0), blob.structure.get("body", 0)
        header = source.read_at(head, min(body - head, HEADER_MAX))
        for copy in copies:
            sender = _sender(case, copy.resolved.account_id)
            report = reports.recognize(copy.resolved.reports, _evidence(case), source)
            found.append(analyze(_incoming(case, copy.path, copy.resolved, sender, header, source, zones, report)))
        return found


def _incoming(
    case: Case,
    path: Path,
    resolved: Resolved,
    sender: Sender,
    header: bytes,
    source: content.Reader,
    zones: tuple[str, ...],
    report: Found,
) -> Incoming:
    verification = case.verification
    spf, policy = verification.spf, verification.dmarc
    return Incoming(
        account_id=resolved.account_id,
        address_id=resolved.address_id,
        canonical=resolved.canonical,
        mailbox=resolved.mailbox,
        sender=sender,
        author=case.author,
        mail_from=str(case.reverse_path),
        spf_domain=spf.domain.ascii if spf.status is SpfStatus.PASS and spf.domain is not None else "",
        spf_is_hello=spf.identity is Identity.HELO,
        spf_failed=spf.status in (SpfStatus.FAIL, SpfStatus.SOFTFAIL),
        signed_by=tuple(domain.ascii for domain in verification.signed_by),
        iprev_passed=verification.iprev.status is IprevStatus.PASS,
        has_tls=bool(case.peer.tls_version),
        policy_refusal=verification.policy_refusal(),
        auth_refusal="" if verification.author_is_vouched_for else resolved.message_auth_required_error,
        dmarc_passed=policy is not None and policy.status is DmarcStatus.PASS,
        is_addressed=not path.localpart or _is_addressed(case.blob, path),
        header=header,
        source=source,
        structure=case.blob.structure,
        subject=case.blob.part.envelope.subject if case.blob.part.envelope is not None else "",
        size=case.blob.size,
        received=case.received,
        blocklists=zones,
        report=report,
    )


def _evidence(case: Case) -> Evidence:
    policy = case.verification.dmarc
    passed = policy is not None and policy.status is DmarcStatus.PASS
    return Evidence(case.author, passed, case.verification.dkim, case.received)


def _sender(case: Case, account_id: int) -> Sender:
    origin, author = case.origin, case.author
    return Sender(
        account_id=account_id,
        msg_from_localpart=origin.msg_from_localpart,
        msg_from_domain=origin.msg_from_domain,
        msg_from_org_domain=origin.msg_from_org_domain,
        ascii_domain=author.domain.ascii if author is not None else "",
        ascii_org_domain=organizational_domain(author.domain).ascii if author is not None else "",
        msg_from_validated=origin.msg_from_validated,
        mail_from_localpart=origin.mail_from_localpart,
        mail_from_domain=origin.mail_from_domain,
        mail_from_validated=origin.mail_from_validated,
        ehlo_domain=origin.ehlo_domain,
        ehlo_validated=origin.ehlo_validated,
        dkim_domains=case.verification.dkim_domains,
        networks=(origin.remote_ip_masked1, origin.remote_ip_masked2, origin.remote_ip_masked3),
    )


def _is_addressed(blob: blobs.PreparedBlob, path: Path) -> bool:
    """Whether To or Cc name the recipient."""
    envelope, domain = blob.part.envelope, path.domain.domain
    if envelope is None or domain is None:
        return False
    wanted = path.localpart.lower()
    for address in (*envelope.to, *envelope.cc):
        if (address.user or "").lower() == wanted:
            try:
                if parse_domain(address.host or "") == domain:
                    return True
            except BadDomain:
                continue
    return False


async def _listed_in(resolver: Resolver, zones: Sequence[str], remote_ip: str) -> str:
    """The first of the zones that lists the client, "" if none does. A zone that cannot be believed is left out."""
    ip = ip_address(remote_ip)
    for text in zones:
        try:
            zone = parse_domain(text)
        except BadDomain:
            log.error("blocklist of the listener is no domain", extra={"zone": text})
            continue
        problem = await dnsbl_health(resolver, zone, 4 if ip.version == 4 else 6)
        if problem:
            log.warning("blocklist is not used", extra={"zone": text, "err": problem})
            continue
        result = await dnsbl_lookup(resolver, zone, ip)
        if result.status is DnsblStatus.FAIL:
            log.info("client is on a blocklist", extra={"zone": text, "remote": remote_ip, "said": result.explanation})
            return zone.ascii
    return ""
