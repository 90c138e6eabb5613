"""The addresses that DMARC and TLS reports about a domain come to (reports.md section 1).

set_report_address(domain, ReportKind.DMARC, "dmarc-reports", account)
remove_report_address(domain, ReportKind.TLSRPT)
"""

from __future__ import annotations

import enum

from protocols.names import BadAddress, format_localpart, parse_localpart

from .accounts import ConfigurationError, changing
from .addresssettings import checked_mailbox
from .models import Account, Address, Alias, Domain


class ReportKind(enum.Enum):
    """Kinds of reports; the values begin the names of their settings."""

    DMARC = "dmarc"
    TLSRPT = "tlsrpt"


def set_report_address(
    domain: Domain,
    kind: ReportKind,
    localpart: str,
    account: Account,
    *,
    mailbox: str = "",
    elsewhere: Domain | None = None,
) -> None:
    """Have reports about a domain come to an account. Raises ConfigurationError.

    ``elsewhere``: another domain that the address is in. ``mailbox``: "" leaves it as it is.
    """
    at = elsewhere if elsewhere is not None and elsewhere != domain else None
    text = f"{format_localpart(localpart)}@{at or domain}"
    if not localpart.isascii():
        raise ConfigurationError(
            f"{kind.name} report address {text}: the localpart must be ASCII, so that all can use it"
        )
    try:
        localpart = parse_localpart(format_localpart(localpart))
    except BadAddress as exc:
        raise ConfigurationError(f'"{text}" is not an email address: {exc}') from exc
    if not localpart:
        raise ConfigurationError(f"{kind.name} report address {text}: it needs a localpart")
    changed = {"localpart": localpart, "domain": at, "account": account}
    if mailbox:
        changed["mailbox"] = checked_mailbox(mailbox)
    with changing():
        taken = address_at(localpart, (at or domain).name)
        if taken is not None:
            raise ConfigurationError(
                f"address already configured: {taken} exists, use another for {kind.name} reports or remove it first"
            )
        Domain.objects.filter(pk=domain.pk).update(**{f"{kind.value}_{name}": value for name, value in changed.items()})
    domain.refresh_from_db()


def remove_report_address(domain: Domain, kind: ReportKind) -> None:
    """Take no such reports about a domain from now on."""
    removed = {"localpart": "", "domain": None, "account": None}
    with changing():
        Domain.objects.filter(pk=domain.pk).update(**{f"{kind.value}_{name}": value for name, value in removed.items()})
    domain.refresh_from_db()


def address_at(localpart: str, domain: str) -> str | None:
    """What has an address, in words, whatever its case: that of an account, or an alias; None if nothing has."""
    for rows in (Address.objects.all(), Alias.objects.all()):
        found = rows.filter(domain__name=domain, localpart__iexact=localpart).exclude(localpart="").first()
        if found is not None:
            return f"{found._meta.verbose_name} {found}"
    return None
