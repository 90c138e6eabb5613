"""Making domains, accounts and addresses, with every rule that they must keep."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Final

from protocols.names import BadAddress, format_localpart, parse_domain, parse_localpart
from server import db

from .addresses import canonical_address
from .models import Account, Address, Domain

_ACCOUNT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

_created: list[Callable[[Account], None]] = []


class ConfigurationError(Exception):
    """A change of domains, accounts or addresses that breaks a rule; the text names the value and the remedy."""


def on_create(function: Callable[[Account], None]) -> None:
    """Register what a higher package makes with each account, in the same transaction."""
    if function not in _created:
        _created.append(function)


def create_domain(name: str) -> Domain:
    """A new hosted domain. Raises ConfigurationError if it exists; BadDomain if the name is none."""
    parsed = parse_domain(name)
    with db.write():
        if Domain.objects.filter(name=parsed.ascii).exists():
            raise ConfigurationError(f"domain {parsed.name()} is already configured")
        return Domain.objects.create(
            name=parsed.ascii, unicode_name=parsed.unicode, client_settings_domain=f"mail.{parsed.ascii}"
        )


def create_account(name: str, localpart: str, domain: Domain) -> Account:
    """A new account with its first address, its mailboxes, and no password yet. Raises ConfigurationError."""
    name = unicodedata.normalize("NFC", name)
    if not _ACCOUNT_NAME.fullmatch(name):
        raise ConfigurationError(
            f"account name {name!r}: use 1 to 63 lower-case letters, digits, dots, dashes and underscores"
        )
    with db.write():
        if Account.objects.filter(name=name).exists():
            raise ConfigurationError(f"account name {name} already present")
        account = Account.objects.create(name=name, domain=domain)
        add_address(account, localpart, domain)
        for function in _created:
            function(account)
    return account


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
        other = Address.objects.filter(canonical=canonical).select_related("account").first()
        if other is not None:
            if not localpart:
                raise ConfigurationError(f"@{domain} is already the catchall of account {other.account}")
            raise ConfigurationError(f"{localpart}@{domain} is already an address of account {other.account}")
        return Address.objects.create(account=account, domain=domain, localpart=localpart, canonical=canonical)
