"""Making and changing accounts and their addresses, with every rule that they must keep; domains: `domains`."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from django.db.models import F, Q, QuerySet

from protocols.names import Address as MailAddress
from protocols.names import BadAddress, BadDomain, format_localpart, parse_address, parse_domain, parse_localpart
from server import db
from server.models import ServerSettings

from . import sessions
from .addresses import POSTMASTER, canonical_address, fold, takes_host_reports
from .models import Account, AccountRemoval, Address, Alias, AliasMember, Domain, JunkFilterConfig

ACCOUNT_NAME_MAX: Final = 64  # characters
REASON_MAX: Final = 256  # characters of the text that refuses a login; SMTP and IMAP have it in a line
NAMED_MAX: Final = 10  # of the things that stand in the way, in an error
RESERVED_NAMES: Final = frozenset({"admin", "-"})
_NAME_PUNCTUATION: Final = frozenset("._-")

_created: list[Callable[[Account], None]] = []


class ConfigurationError(Exception):
    """A change of domains, accounts or addresses that breaks a rule; the text names the value and the remedy."""


@dataclass(frozen=True, slots=True)
class RemovedAddress:
    """An address that is gone, also from ``aliases``. ``was_last``: its account has none left, and so can't log in."""

    account: Account
    was_last: bool
    aliases: tuple[Alias, ...]


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """A transaction for a change that rules about other rows depend on: there is one at a time, in all processes."""
    with db.write():
        list(ServerSettings.objects.select_for_update(no_key=True).values_list("pk"))
        yield


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


def parse_hosted(text: str, find: Callable[[str], Domain] = find_domain) -> tuple[str, Domain]:
    """Localpart and hosted domain of an address; ``@domain`` is the catchall, "". Raises ConfigurationError."""
    if text.startswith("@"):
        return "", find(text[1:])
    parsed = _parsed(text)
    return parsed.localpart, find(parsed.domain.ascii)


def add_address(account: Account, localpart: str, domain: Domain) -> Address:
    """A further address of an account; an empty localpart is the catchall. Raises ConfigurationError."""
    with changing():
        if AccountRemoval.objects.filter(account=account).exists():
            raise ConfigurationError(f"account {account} is being removed")
        domain = Domain.objects.get(pk=domain.pk)  # somebody may have changed its separators
        localpart = checked_localpart(localpart, domain) if localpart else ""
        canonical = canonical_address(localpart, domain)
        check_free(localpart, domain)
        _changed(account)
        return Address.objects.create(account=account, domain=domain, localpart=localpart, canonical=canonical)


def find_address(text: str) -> Address:
    """An address of an account, by any of its forms; ``@domain`` is the catchall. Raises ConfigurationError."""
    localpart, domain = parse_hosted(text)
    canonical = canonical_address(localpart, domain)
    address = Address.objects.filter(canonical=canonical).select_related("account", "domain").first()
    if address is None:
        raise ConfigurationError(_why_no_address(localpart, domain))
    return address


def remove_address(text: str) -> RemovedAddress:
    """Take an address from its account; mail to it is refused from now on. Raises ConfigurationError.

    It leaves its aliases, and unique senders that were given out for it go with it; messages stay.
    """
    with changing():
        address = find_address(text)
        account = address.account
        aliases = leave_aliases(Address.objects.filter(pk=address.pk))
        address.delete()
        _changed(account)
        return RemovedAddress(account, was_last=not account.addresses.exists(), aliases=aliases)


def leave_aliases(addresses: QuerySet[Address]) -> tuple[Alias, ...]:
    """Take addresses, which are about to go, out of aliases; gives these.

    In a transaction. Raises ConfigurationError where an alias would have no member left.
    """
    leaving = AliasMember.objects.filter(address__in=addresses)
    aliases = Alias.objects.filter(memberships__in=leaving).select_related("domain").distinct().order_by("canonical")
    left = tuple(aliases)
    staying = AliasMember.objects.filter(alias__in=[alias.pk for alias in left]).exclude(address__in=addresses)
    kept = set(staying.values_list("alias_id", flat=True))
    emptied = [alias for alias in left if alias.pk not in kept]
    if emptied:
        last = leaving.filter(alias=emptied[0]).select_related("address__domain").order_by("pk").last()
        assert last is not None  # or the alias would not be among them
        raise ConfigurationError(
            f"{last.address} is the last member of alias {named(emptied)}: add another member or remove the alias first"
        )
    Alias.objects.filter(pk__in=[alias.pk for alias in left]).update(version=F("version") + 1)
    leaving.delete()
    return left


def checked_localpart(localpart: str, domain: Domain) -> str:
    """A localpart that an address or alias of a domain can have, in NFC. Raises ConfigurationError."""
    try:
        localpart = parse_localpart(format_localpart(localpart))
    except BadAddress as exc:
        raise ConfigurationError(f'"{localpart}@{domain}" is not an email address: {exc}') from exc
    if not localpart:
        raise ConfigurationError(f'""@{domain} cannot be configured: mail to it goes to the catchall @{domain}')
    for separator in domain.localpart_catchall_separators:
        if separator in localpart:
            raise ConfigurationError(
                f'localpart {localpart} contains "{separator}", the catchall separator of {domain}; '
                f'mail to it would go to "{localpart.split(separator, 1)[0]}"'
            )
    return localpart


def check_free(localpart: str, domain: Domain) -> None:
    """Raises ConfigurationError for an address that an account, an alias or reports have; "" is the catchall."""
    shown = f"{format_localpart(localpart) if localpart else ''}@{domain}"
    canonical = canonical_address(localpart, domain)
    other = Address.objects.filter(canonical=canonical).select_related("account", "domain").first()
    if other is not None and not localpart:
        raise ConfigurationError(f"{shown} is already the catchall of account {other.account}")
    if other is not None:
        difference = "" if other.localpart == localpart else f" (as {other})"
        raise ConfigurationError(f"{shown} is already an address of account {other.account}{difference}")
    alias = Alias.objects.filter(canonical=canonical).select_related("domain").first()
    if alias is not None:
        difference = "" if alias.localpart == localpart else f" (as {alias})"
        raise ConfigurationError(f"{shown} is already an alias{difference}: use another address, or remove the alias")
    for about, kind in report_domains(localpart, domain) if localpart else ():
        raise ConfigurationError(
            f"{shown} takes the {kind} reports of {about}: use another address, or change that in the domain's settings"
        )
    if localpart and takes_host_reports(fold(localpart), domain.name):
        raise ConfigurationError(
            f"{shown} takes the TLS reports about this server: use another address, or change that in its settings"
        )


def named(things: Iterable[object]) -> str:
    """The first few of them, for an error."""
    listed = list(map(str, things))
    more = f" and {len(listed) - NAMED_MAX} more" if len(listed) > NAMED_MAX else ""
    return ", ".join(listed[:NAMED_MAX]) + more


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


def _why_no_address(localpart: str, domain: Domain) -> str:
    address = f"{format_localpart(localpart) if localpart else ''}@{domain}"
    if localpart and Alias.objects.filter(canonical=canonical_address(localpart, domain)).exists():
        return f"{address} is an alias, not an address of an account: mox config alias print {address}"
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
