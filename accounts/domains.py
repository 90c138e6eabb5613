"""Adding and removing hosted domains, with the rules that they must keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from protocols.names import BadDomain, parse_domain
from server import db
from server.models import EndpointKind, ListenerEndpoint, ServerSettings

from . import dkim
from .accounts import (
    ConfigurationError,
    add_address,
    changing,
    create_account,
    find_account,
    leave_aliases,
    named,
)
from .addresses import POSTMASTER, canonical_address
from .fromidlogins import logins_in
from .models import Account, Address, Alias, DKIMSelector, Domain, RemovedKey

DMARC_LOCALPART: Final = "dmarc-reports"
TLSRPT_LOCALPART: Final = "tls-reports"
SEPARATOR_MAX: Final = 8  # characters; longer ones leave no room for what they separate
SEPARATORS_MAX: Final = 10  # of a domain: each is looked for in every recipient
SEPARATOR_CHARACTERS: Final = frozenset("!#$%&'*+-./=?^_`{|}~")  # atext and the dot, without letters and digits
BATCH: Final = 500  # rows of a statement
REMOVED_KEYS_KEPT: Final = timedelta(days=30)  # time to find out that a key, or its domain, is needed after all


@dataclass(frozen=True, slots=True)
class AddedDomain:
    """A new domain with its owner; ``made``: the account is new too; ``postmaster``: it got postmaster@domain."""

    domain: Domain
    account: Account
    made: bool
    postmaster: bool


@dataclass(frozen=True, slots=True)
class RemovedDomain:
    """What went with a domain."""

    addresses: list[Address]
    aliases: list[Alias]


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
    with changing():
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


def set_localparts(
    domain: Domain, *, separators: Sequence[str] | None = None, case_sensitive: bool | None = None
) -> Domain:
    """Change how localparts of a domain are told apart; None leaves it as it is. Gives the domain as it is then.

    Raises ConfigurationError where addresses or aliases would no longer be reached, or become the same.
    """
    with changing():
        domain = Domain.objects.get(pk=domain.pk)
        before = list(domain.localpart_catchall_separators)
        if separators is not None:
            domain.localpart_catchall_separators = _checked_separators(separators)
        if case_sensitive is not None:
            domain.localpart_case_sensitive = case_sensitive
        _check_unique_senders(domain, before)
        addresses = list(domain.addresses.exclude(localpart="").select_related("domain"))
        aliases = list(domain.aliases.select_related("domain"))
        rows: list[Address | Alias] = [*addresses, *aliases]
        _check_reached(domain, rows)
        by_canonical: dict[str, list[Address | Alias]] = {}
        for row in rows:
            row.canonical = canonical_address(row.localpart, domain)
            by_canonical.setdefault(row.canonical, []).append(row)
        merged = [same for same in by_canonical.values() if len(same) > 1]
        if merged:
            pairs = (" and ".join(sorted(map(str, same))) for same in merged)
            raise ConfigurationError(f"case-insensitive would merge {named(pairs)}: remove one of them first")
        Address.objects.bulk_update(addresses, ["canonical"], batch_size=BATCH)
        Alias.objects.bulk_update(aliases, ["canonical"], batch_size=BATCH)
        domain.save(update_fields=["localpart_catchall_separators", "localpart_case_sensitive"])
    return domain


def remove_domain(domain: Domain, *, cascade: bool = False) -> RemovedDomain:
    """Stop hosting a domain; gives what went with it. Accounts and messages stay.

    Refused while anything depends on it; with ``cascade``, its addresses and aliases go too, and the addresses leave
    aliases of other domains. Its keys are kept for 30 days. Raises ConfigurationError.
    """
    with changing():
        own = Address.objects.filter(domain=domain).select_related("account", "domain").order_by("canonical")
        removed = RemovedDomain(list(own), list(domain.aliases.select_related("domain").order_by("canonical")))
        used_by = [f"{address} (account {address.account})" for address in removed.addresses]
        used_by += [f"alias {alias}" for alias in removed.aliases]
        if used_by and not cascade:
            raise ConfigurationError(
                f"domain {domain} is in use by {named(used_by)}: remove these first, or all of them with --cascade"
            )
        _check_not_needed(domain)
        for account in Account.objects.filter(domain=domain).order_by("name"):
            _move_to_other_domain(account, domain)
        domain.aliases.all().delete()
        leave_aliases(own)
        own.delete()
        _keep_keys(domain)
        domain.delete()
    return removed


def remove_expired_keys(now: datetime) -> int:
    """Drop keys of removed domains after their time; gives how many."""
    with db.write():
        return RemovedKey.objects.filter(removed__lt=now - REMOVED_KEYS_KEPT).delete()[0]


def _checked_separators(separators: Sequence[str]) -> list[str]:
    for number, separator in enumerate(separators):
        if not separator or len(separator) > SEPARATOR_MAX:
            raise ConfigurationError(f'separator "{separator}": use 1 to {SEPARATOR_MAX} characters')
        if not set(separator) <= SEPARATOR_CHARACTERS:
            raise ConfigurationError(
                f'separator "{separator}": use {" ".join(sorted(SEPARATOR_CHARACTERS))}; other characters are part of '
                "names, or need quotes"
            )
        if separator in separators[:number]:
            raise ConfigurationError(f'separator "{separator}" is listed twice')
    if len(separators) > SEPARATORS_MAX:
        raise ConfigurationError(f"{len(separators)} separators, at most {SEPARATORS_MAX}")
    return list(separators)


def _check_unique_senders(domain: Domain, before: Sequence[str]) -> None:
    """What comes back to a unique sender must be recognised, also one that was made by the separator of before."""
    if not before or before[0] in domain.localpart_catchall_separators:
        return
    logins = logins_in(domain)
    if logins:
        raise ConfigurationError(
            f'cannot remove separator "{before[0]}": account {logins[0].account} uses unique sender ids with '
            f"{logins[0]}, remove those first"
        )


def _check_reached(domain: Domain, rows: Sequence[Address | Alias]) -> None:
    for separator in domain.localpart_catchall_separators:
        used = [
            f"{'alias' if isinstance(row, Alias) else 'address'} {row}" for row in rows if separator in row.localpart
        ]
        if used:
            raise ConfigurationError(f'cannot set separator "{separator}": in use in {named(used)}; rename those first')


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
                f"{kind.upper()} reports of {named(map(str, reporting))} come to addresses in {domain}: "
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
