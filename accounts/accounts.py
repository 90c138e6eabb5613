"""Making and changing accounts and their addresses, with every rule that they must keep; domains: `domains`."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from django.db.models import F, Q

from protocols.names import Address as MailAddress
from protocols.names import BadAddress, BadDomain, format_localpart, parse_address, parse_domain, parse_localpart
from server import db

from . import sessions
from .addresses import POSTMASTER, canonical_address
from .models import Account, AccountRemoval, Address, Domain, JunkFilterConfig

ACCOUNT_NAME_MAX: Final = 64  # characters
REASON_MAX: Final = 256  # characters of the text that refuses a login; SMTP and IMAP have it in a line
RESERVED_NAMES: Final = frozenset({"admin", "-"})
_NAME_PUNCTUATION: Final = frozenset("._-")

_created: list[Callable[[Account], None]] = []


class ConfigurationError(Exception):
    """A change of domains, accounts or addresses that breaks a rule; the text names the value and the remedy."""


@dataclass(frozen=True, slots=True)
class RemovedAddress:
    """An address that is gone. ``was_last``: its account has none left, and so can't log in."""

    account: Account
    was_last: bool


def on_create(function: Callable[[Account], None]) -> None:
    """Register what a higher package makes with each account, in the same transaction."""
    if function not in _created:
        _created.append(function)


def find_account(name: str) -> Account:
    """Raises ConfigurationError."""
    found = Account.objects.filter(name=unicodedata.normalize("NFC", name))
    account = found.select_related("domain", "removal").first()
    if account is None:
        raise ConfigurationError(f"account {name} does not exist: mox config account list shows all")
    if hasattr(account, "removal"):
        raise ConfigurationError(f"account {name} is being removed")
    return account


def find_domain(name: str) -> Domain:
    """A hosted domain by A-labels or U-labels. Raises ConfigurationError."""
    try:
        parsed = parse_domain(name)
    except BadDomain as exc:
        raise ConfigurationError(f'"{name}" is not a domain name: {exc}') from exc
    domain = Domain.objects.filter(name=parsed.ascii).first()
    if domain is None:
        raise ConfigurationError(f"domain {parsed.name()} is not configured, add it first")
    return domain


def create_account(name: str, localpart: str, domain: Domain) -> Account:
    """A new account with its first address, its mailboxes, and no password yet. Raises ConfigurationError."""
    name = unicodedata.normalize("NFC", name)
    _check_account_name(name)
    with db.write():
        folded = name.casefold()
        if any(removed.casefold() == folded for removed in _names_being_removed()):
            raise ConfigurationError(f"account {name} is still being removed: its name is free when that is done")
        if any(other.casefold() == folded for other in Account.objects.values_list("name", flat=True)):
            raise ConfigurationError(f"account name {name} already present, use another (case makes no difference)")
        account = Account.objects.create(name=name, domain=domain)
        JunkFilterConfig.objects.create(account=account)
        add_address(account, localpart, domain)
        for function in _created:
            function(account)
    return account


def disable_account(account: Account, reason: str) -> None:
    """Refuse all logins with this text, and end web sessions; mail is still delivered. Raises ConfigurationError."""
    if not reason.strip() or not reason.isprintable():
        raise ConfigurationError("a reason is needed, in one line: it is what the user is told when a login is refused")
    if len(reason) > REASON_MAX:
        raise ConfigurationError(f"the reason is too long ({len(reason)} characters, at most {REASON_MAX})")
    _set_login_disabled(account, reason)


def enable_account(account: Account) -> None:
    """Allow logins again."""
    _set_login_disabled(account, "")


def parse_hosted(text: str) -> tuple[str, Domain]:
    """Localpart and hosted domain of an address; ``@domain`` is the catchall, "". Raises ConfigurationError."""
    if text.startswith("@"):
        return "", find_domain(text[1:])
    parsed = _parsed(text)
    return parsed.localpart, find_domain(parsed.domain.ascii)


def add_address(account: Account, localpart: str, domain: Domain) -> Address:
    """A further address of an account; an empty localpart is the catchall. Raises ConfigurationError."""
    try:
        localpart = parse_localpart(format_localpart(localpart)) if localpart else ""
    except BadAddress as exc:
        raise ConfigurationError(f'"{localpart}@{domain}" is not an email address: {exc}') from exc
    for separator in domain.localpart_catchall_separators:
        if separator in localpart:
            raise ConfigurationError(
                f'localpart {localpart} contains "{separator}", the catchall separator of {domain}; '
                f'mail to it would go to "{localpart.split(separator, 1)[0]}"'
            )
    canonical = canonical_address(localpart, domain) if localpart else f"@{domain.name}"
    with db.write():
        _check_free(localpart, domain, canonical)
        _changed(account)
        return Address.objects.create(account=account, domain=domain, localpart=localpart, canonical=canonical)


def find_address(text: str) -> Address:
    """An address of an account, by any of its forms; ``@domain`` is the catchall. Raises ConfigurationError."""
    localpart, domain = parse_hosted(text)
    canonical = canonical_address(localpart, domain) if localpart else f"@{domain.name}"
    address = Address.objects.filter(canonical=canonical).select_related("account", "domain").first()
    if address is None:
        raise ConfigurationError(_why_no_address(localpart, domain))
    return address


def remove_address(text: str) -> RemovedAddress:
    """Take an address from its account; mail to it is refused from now on. Raises ConfigurationError.

    Unique senders that were given out for it go with it, messages stay.
    """
    with db.write():
        address = find_address(text)
        account = address.account
        address.delete()
        _changed(account)
        return RemovedAddress(account, was_last=not account.addresses.exists())


def report_domains(localpart: str, domain: Domain) -> list[tuple[Domain, str]]:
    """The domains whose DMARC or TLS reports come to this address, each with the kind of reports."""
    found: list[tuple[Domain, str]] = []
    for kind in ("DMARC", "TLSRPT"):
        prefix = kind.lower()
        takes_them = Q(**{f"{prefix}_domain": domain}) | Q(**{f"{prefix}_domain": None, "pk": domain.pk})
        matching = Domain.objects.filter(takes_them, **{f"{prefix}_localpart__iexact": localpart}).order_by("name")
        found += [(one, kind) for one in matching]
    return found


def _names_being_removed() -> Iterable[str]:
    return AccountRemoval.objects.filter(finished=None).values_list("name", flat=True)


def _check_account_name(name: str) -> None:
    allowed = all(character.isalnum() or character in _NAME_PUNCTUATION for character in name)
    if not 1 <= len(name) <= ACCOUNT_NAME_MAX or not allowed or name[0] in ".-":
        raise ConfigurationError(
            f"account name {name!r}: use 1 to {ACCOUNT_NAME_MAX} letters, digits, dots, dashes and underscores, "
            "with no dot or dash in front"
        )
    if name.casefold() in RESERVED_NAMES:
        raise ConfigurationError(f"account name {name} is reserved, use another")


def _check_free(localpart: str, domain: Domain, canonical: str) -> None:
    other = Address.objects.filter(canonical=canonical).select_related("account").first()
    if other is not None and not localpart:
        raise ConfigurationError(f"@{domain} is already the catchall of account {other.account}")
    if other is not None:
        difference = "" if other.localpart == localpart else f" (as {other})"
        raise ConfigurationError(f"{localpart}@{domain} is already an address of account {other.account}{difference}")
    reports = report_domains(localpart, domain) if localpart else []
    if reports:
        raise ConfigurationError(
            f"{localpart}@{domain} takes the {reports[0][1]} reports of {reports[0][0]}: "
            "use another address, or change that in the domain's settings"
        )


def _why_no_address(localpart: str, domain: Domain) -> str:
    address = f"{format_localpart(localpart) if localpart else ''}@{domain}"
    if localpart.lower() == POSTMASTER:
        return f"{address} is not an address of an account: it follows the server's postmaster setting"
    for reporting, kind in report_domains(localpart, domain) if localpart else []:
        return f"{address} is not an address of an account: it comes from the {kind} settings of {reporting}"
    if not localpart:
        return f"{address}: domain {domain} has no catchall"
    return f"{address} is not an address on this server: mox config account addresses ACCOUNT shows those of an account"


def _parsed(text: str) -> MailAddress:
    try:
        return parse_address(text)
    except BadAddress as exc:
        raise ConfigurationError(f'"{text}" is not an email address: {exc}') from exc


def _set_login_disabled(account: Account, reason: str) -> None:
    with db.write():
        Account.objects.filter(pk=account.pk).update(login_disabled=reason, version=F("version") + 1)
        if reason:
            sessions.end_all(account)
    account.login_disabled = reason


def _changed(account: Account) -> None:
    """Whoever edits the account at this moment is told that it has changed."""
    Account.objects.filter(pk=account.pk).update(version=F("version") + 1)
