"""Reports among incoming mail: DMARC aggregate reports and TLS reports for addresses that are there for them.

    found = recognize(resolved.reports, evidence, source)      # parsed; or the fields that say why it is none
    found.joins(message_from)                                  # what stores it in the transaction of the delivery

Whoever keeps reports registers for them, and is called in a savepoint of its own: that a report cannot be stored never
fails its delivery.

    @reports.on_dmarc_report
    def store(tx: AccountTx, placement: Placement, report: Feedback, from_domain: str) -> None: ...
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias, TypeVar

from django.db import OperationalError, transaction

from accounts.addresses import Reports, hosted_domain
from protocols import tlsrpt
from protocols.dkim import DkimResult, DkimStatus
from protocols.dmarc import report as dmarc_report
from protocols.dmarc.report import Feedback
from protocols.message.source import Source
from protocols.names import Address, BadDomain, Domain, own_hostname, parse_domain
from protocols.publicsuffix import organizational_domain
from server.models import ServerSettings
from store.db import AccountTx
from store.delivery import Join
from store.messages import Placement

log = logging.getLogger(__name__)

CLOCK_SKEW: Final = 60  # seconds that the end of a report's time may be in the future
TLS_SERVICE: Final = "tlsrpt"  # of a DKIM key, RFC 8460 section 3

DMARC_ERROR: Final = "X-Mox-DMARCReport-Error"
TLS_ERROR: Final = "X-Mox-TLSReport-Error"

T = TypeVar("T")

DmarcHandler: TypeAlias = Callable[[AccountTx, Placement, Feedback, str], None]
TLSHandler: TypeAlias = Callable[[AccountTx, Placement, tlsrpt.Report, str], None]

_dmarc_handlers: list[DmarcHandler] = []
_tls_handlers: list[TLSHandler] = []


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was verified of the message that may be a report."""

    author: Address | None
    dmarc_passed: bool
    signatures: Sequence[DkimResult]
    received: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """A message for a report address. ``errors``: fields to add, of what it is not, and why."""

    dmarc: Feedback | None = None
    tls: tlsrpt.Report | None = None
    errors: tuple[tuple[str, str], ...] = ()
    from_domain: str = ""

    @property
    def is_report(self) -> bool:
        return self.dmarc is not None or self.tls is not None

    def joins(self) -> tuple[Join, ...]:
        """What is to be done in the transaction of the delivery."""
        made: list[Join] = []
        if self.dmarc is not None:
            made += [_join(handler, self.dmarc, self.from_domain) for handler in _dmarc_handlers]
        if self.tls is not None:
            made += [_join(handler, self.tls, self.from_domain) for handler in _tls_handlers]
        return tuple(made)


NOTHING: Final = Found()


def on_dmarc_report(handler: DmarcHandler) -> DmarcHandler:
    """Call it for each DMARC report that is delivered: with the domain (Unicode) of its From address."""
    _dmarc_handlers.append(handler)
    return handler


def on_tls_report(handler: TLSHandler) -> TLSHandler:
    """Call it for each TLS report that is delivered."""
    _tls_handlers.append(handler)
    return handler


def recognize(wanted: Reports, evidence: Evidence, source: Source) -> Found:
    """The reports, of those that its recipient is there for, that a message is. Reads the database."""
    if not wanted:
        return NOTHING
    dmarc: Feedback | None = None
    tls: tlsrpt.Report | None = None
    errors: list[tuple[str, str]] = []
    if wanted & Reports.DMARC:
        try:
            dmarc = _dmarc_report(evidence, source)
        except _NoReport as exc:
            errors.append((DMARC_ERROR, str(exc)))
    if dmarc is None and wanted & (Reports.DOMAIN_TLS | Reports.HOST_TLS):
        try:
            tls = _tls_report(evidence, source)
        except _NoReport as exc:
            errors.append((TLS_ERROR, str(exc)))
    if dmarc is not None or tls is not None:
        errors = []  # an address may be there for several kinds, and a message is of one
    domain = evidence.author.domain.name() if evidence.author is not None else ""
    return Found(dmarc, tls, tuple(errors), domain)


class _NoReport(Exception):
    """The text says why a message does not count as a report."""


def _dmarc_report(evidence: Evidence, source: Source) -> Feedback:
    if not evidence.dmarc_passed:
        raise _NoReport("no DMARC pass")  # RFC 7489 section 7.2.1.1
    try:
        report = dmarc_report.parse_message(source)
    except dmarc_report.BadReport as exc:
        log.info("no DMARC report", extra={"err": str(exc)})
        raise _NoReport("could not parse report") from exc
    try:
        domain = parse_domain(report.policy.domain)
    except BadDomain as exc:
        raise _NoReport("could not parse domain in published policy") from exc
    if hosted_domain(domain.ascii) is None:
        raise _NoReport("published policy domain unrecognized")
    if report.metadata.end > evidence.received.timestamp() + CLOCK_SKEW:
        raise _NoReport("report has end date in the future")
    return report


def _tls_report(evidence: Evidence, source: Source) -> tlsrpt.Report:
    if evidence.author is None or not any(_vouches(each, evidence.author.domain) for each in evidence.signatures):
        raise _NoReport("no DKIM signature of the From domain that is good for TLS reports")
    try:
        report = tlsrpt.parse_message(source)
    except tlsrpt.BadReport as exc:
        log.info("no TLS report", extra={"err": str(exc)})
        raise _NoReport("could not parse report") from exc
    if not any(_is_ours(result.policy.domain) for result in report.results):
        raise _NoReport("no policy is of a domain of this server")
    return report


def _vouches(result: DkimResult, author: Domain) -> bool:
    """Whether a signature is the From domain's, or one above it within its organizational domain (RFC 8460 5.3)."""
    if result.status is not DkimStatus.PASS or result.sig is None or result.record is None:
        return False
    signer = result.sig.domain
    is_above = author.ascii == signer.ascii or author.ascii.endswith(f".{signer.ascii}")
    same = organizational_domain(author) == organizational_domain(signer)
    return is_above and same and result.record.service_allowed(TLS_SERVICE)


def _is_ours(name: str) -> bool:
    try:
        domain = parse_domain(name)
    except BadDomain:
        return False
    return hosted_domain(domain.ascii) is not None or domain == own_hostname(ServerSettings.current().hostname)


def _join(handler: Callable[[AccountTx, Placement, T, str], None], report: T, from_domain: str) -> Join:
    def join(tx: AccountTx, placement: Placement) -> None:
        try:
            with transaction.atomic():
                handler(tx, placement, report, from_domain)
        except OperationalError:
            raise  # the whole transaction is lost
        except Exception:
            log.exception("report cannot be stored", extra={"message_id": placement.message_id})

    return join
