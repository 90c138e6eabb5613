"""Adding and removing hosted domains, with the rules that they must keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from protocols.names import BadDomain, parse_domain
from server import db
from server.models import EndpointKind, ListenerEndpoint, ServerSettings

from . import dkim
from .accounts import ConfigurationError, add_address, create_account, find_account
from .addresses import POSTMASTER
from .models import Account, Address, DKIMSelector, Domain, RemovedKey

DMARC_LOCALPART: Final = "dmarc-reports"
TLSRPT_LOCALPART: Final = "tls-reports"
REMOVED_KEYS_KEPT: Final = timedelta(days=30)  # time to find out that a key, or its domain, is needed after all
NAMED_MAX: Final = 10  # of the things that stand in the way, in an error


@dataclass(frozen=True, slots=True)
class AddedDomain:
    """A new domain with its owner; ``made``: the account is new too; ``postmaster``: it got postmaster@domain."""

    domain: Domain
    account: Account
    made: bool
    postmaster: bool


def create_domain(name: str) -> Domain:
    """A new hosted domain, without owner and keys. Raises ConfigurationError if it exists or the name is none."""
    try:
        parsed = parse_domain(name)
    except BadDomain as exc:
        raise ConfigurationError(f'"{name}" is not a domain name: {exc}') from exc
    with db.write():
        if Domain.objects.filter(name=parsed.ascii).exists():
            raise ConfigurationError(f"domain {parsed.name()} is already configured")
        return Domain.objects.create(
            name=parsed.ascii, unicode_name=parsed.unicode, client_settings_domain=f"mail.{parsed.ascii}"
        )


def add_domain(name: str, account_name: str, localpart: str = "", *, disabled: bool = False) -> AddedDomain:
    """A new hosted domain with keys that sign, an owner, and reports that come to the owner.

    ``localpart``: of the first address, for an account that does not exist yet. Raises ConfigurationError.
    """
    now = datetime.now(UTC)
    keys = dkim.new_keys(now.year)  # takes a second: not while others wait for the database
    with db.write():
        domain = create_domain(name)
        account, made = _owner(account_name, localpart, domain)
        postmaster = not made and account.name != ServerSettings.current().postmaster_account
        if postmaster:
            add_address(account, POSTMASTER, domain)
        if localpart.lower() in (DMARC_LOCALPART, TLSRPT_LOCALPART):
            raise ConfigurationError(f"{localpart}@{domain} takes the reports of {domain}: use another address")
        dkim.add_selectors(domain, keys)
        domain.disabled = disabled
        domain.dmarc_localpart, domain.dmarc_account = DMARC_LOCALPART, account
        domain.tlsrpt_localpart, domain.tlsrpt_account = TLSRPT_LOCALPART, account
        if ListenerEndpoint.objects.filter(kind=EndpointKind.MTASTS, enabled=True).exists():
            domain.mtasts_policy_id = f"{now:%Y%m%dT%H%M%S}"
            domain.mtasts_mx = [ServerSettings.current().hostname]
        domain.save()
    return AddedDomain(domain, account, made, postmaster)


def set_disabled(domain: Domain, disabled: bool) -> None:
    """Refuse mail in and out for now, or take it again."""
    with db.write():
        Domain.objects.filter(pk=domain.pk).update(disabled=disabled)
    domain.disabled = disabled


def remove_domain(domain: Domain, *, cascade: bool = False) -> list[Address]:
    """Stop hosting a domain; gives the addresses that went with it. Accounts and messages stay.

    Refused while anything depends on it; with ``cascade``, its addresses go too. Its keys are kept for 30 days.
    Raises ConfigurationError.
    """
    with db.write():
        addresses = list(
            Address.objects.filter(domain=domain).select_related("account", "domain").order_by("canonical")
        )
        if addresses and not cascade:
            raise ConfigurationError(
                f"domain {domain} is in use by {_named(f'{one} (account {one.account})' for one in addresses)}: "
                "remove these addresses first, or all of them with --cascade"
            )
        _check_not_needed(domain)
        for account in Account.objects.filter(domain=domain).order_by("name"):
            _move_to_other_domain(account, domain)
        for address in addresses:
            address.delete()
        _keep_keys(domain)
        domain.delete()
    return addresses


def remove_expired_keys(now: datetime) -> int:
    """Drop keys of removed domains after their time; gives how many."""
    with db.write():
        return RemovedKey.objects.filter(removed__lt=now - REMOVED_KEYS_KEPT).delete()[0]


def _owner(account_name: str, localpart: str, domain: Domain) -> tuple[Account, bool]:
    exists = Account.objects.filter(name=account_name).exists()
    if exists and localpart:
        raise ConfigurationError(f"account {account_name} exists: leave localpart empty")
    if exists:
        return find_account(account_name), False
    if not localpart:
        raise ConfigurationError(f"account {account_name} does not exist yet: give a localpart for its first address")
    return create_account(account_name, localpart, domain), True


def _check_not_needed(domain: Domain) -> None:
    others = Domain.objects.exclude(pk=domain.pk)
    for kind in ("dmarc", "tlsrpt"):
        reporting = others.filter(**{f"{kind}_domain": domain}).order_by("name")
        if reporting:
            raise ConfigurationError(
                f"{kind.upper()} reports of {_named(map(str, reporting))} come to addresses in {domain}: "
                "change that in the settings of these domains first"
            )


def _move_to_other_domain(account: Account, domain: Domain) -> None:
    """An account that was made in the domain is from now on one of another domain that it has an address in."""
    other = account.addresses.exclude(domain=domain).select_related("domain").order_by("pk").first()
    if other is None:
        raise ConfigurationError(
            f"account {account} was made in {domain} and has no address in another domain: give it one first, "
            "with mox config address add"
        )
    account.domain = other.domain
    account.save(update_fields=["domain"])


def _keep_keys(domain: Domain) -> None:
    now = datetime.now(UTC)
    RemovedKey.objects.bulk_create(
        RemovedKey(domain=domain.name, name=selector.name, private_key=selector.private_key, removed=now)
        for selector in DKIMSelector.objects.filter(domain=domain)
    )


def _named(things: Iterable[str]) -> str:
    listed = list(things)
    more = f" and {len(listed) - NAMED_MAX} more" if len(listed) > NAMED_MAX else ""
    return ", ".join(listed[:NAMED_MAX]) + more
