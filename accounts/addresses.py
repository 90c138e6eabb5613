"""Which account an address leads to (canonical forms, catchall, postmaster), for delivery and for logging in."""

from __future__ import annotations

import enum
import unicodedata
from dataclasses import dataclass
from typing import Final

from django.db.models import Q

from protocols.names import BadAddress, parse_address
from protocols.names import Domain as DomainName
from server.models import Listener, ServerSettings
from server.statements import ModelStatement, Statement

from .models import Account, Address, Domain

POSTMASTER: Final = "postmaster"


class AddressError(Exception):
    """The address leads nowhere."""


class DomainNotFound(AddressError):
    """The domain is not hosted here."""


class DomainDisabled(AddressError):
    """The domain is hosted here and takes no mail for now."""


class AddressNotFound(AddressError):
    """The domain is hosted here, the localpart is unknown."""


class ResolvedKind(enum.Enum):
    ADDRESS = "address"
    CATCHALL = "catchall"
    POSTMASTER = "postmaster"


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where mail for an address goes: an account and the mailbox that its settings name ("" is Inbox)."""

    account_id: int
    account_name: str
    address_id: int | None
    canonical: str
    mailbox: str
    kind: ResolvedKind


_hosted: Final = ModelStatement(
    Domain,
    lambda name: Domain.objects.filter(name=name).only(
        "name", "disabled", "localpart_catchall_separators", "localpart_case_sensitive"
    ),
)
_addresses: Final = Statement(
    lambda canonical, catchall: Address.objects.filter(Q(canonical=canonical) | Q(canonical=catchall)).values_list(
        "canonical", "account_id", "account__name", "pk", "default_mailbox"
    )
)


def hosted_domain(name: str) -> Domain | None:
    """A domain of this server by its A-labels, with what resolving addresses needs of it."""
    return _hosted.row(name)


def canonical_localpart(localpart: str, domain: Domain) -> str:
    """The localpart as addresses are compared: cut at the first catchall separator, folded unless case-sensitive."""
    localpart = unicodedata.normalize("NFC", localpart)
    cuts = [at for s in domain.localpart_catchall_separators if (at := localpart.find(s)) > 0]
    if cuts:
        localpart = localpart[: min(cuts)]
    return localpart if domain.localpart_case_sensitive else localpart.lower()


def canonical_address(localpart: str, domain: Domain) -> str:
    return f"{canonical_localpart(localpart, domain)}@{domain.name}"


def resolve(
    localpart: str, domain: DomainName | None, *, allow_postmaster: bool = True, allow_alias: bool = True
) -> Resolved:
    """The account and mailbox for an address; ``domain`` is None for the bare ``<postmaster>``.

    Raises DomainNotFound, DomainDisabled or AddressNotFound.
    """
    is_postmaster = allow_postmaster and localpart.lower() == POSTMASTER
    if is_postmaster and (domain is None or domain.ascii in _hostnames()):
        return _postmaster()
    if domain is None:
        raise DomainNotFound(f"address {localpart!r} has no domain")
    hosted = _hosted.row(domain.ascii)
    if hosted is None:
        raise DomainNotFound(f"domain {domain.name()} is not hosted here")
    if hosted.disabled:
        raise DomainDisabled(f"domain {domain.name()} takes no mail for now")
    canonical = canonical_address(localpart, hosted)
    catchall = f"@{hosted.name}"
    found = {row[0]: row[1:] for row in _addresses.rows(canonical, catchall)}
    for key, kind in ((canonical, ResolvedKind.ADDRESS), (catchall, ResolvedKind.CATCHALL)):
        if key in found:
            account_id, account_name, address_id, mailbox = found[key]
            return Resolved(account_id, account_name, address_id, key, mailbox, kind)
    if is_postmaster:
        return _postmaster()
    raise AddressNotFound(f"address {localpart}@{domain.name()} does not exist")


def resolve_login(login: str) -> Address | None:
    """The address that a login name stands for; None when there is none. Aliases and postmaster do not log in."""
    try:
        parsed = parse_address(unicodedata.normalize("NFC", login))
        resolved = resolve(parsed.localpart, parsed.domain, allow_postmaster=False, allow_alias=False)
    except (BadAddress, DomainNotFound, AddressNotFound):
        return None
    except DomainDisabled:
        # Its accounts still log in to read what they have.
        hosted = Domain.objects.get(name=parsed.domain.ascii)
        canonical = canonical_address(parsed.localpart, hosted)
        return Address.objects.filter(canonical=canonical).select_related("account", "domain").first()
    assert resolved.address_id is not None  # only the postmaster has none, and it was not asked for
    return Address.objects.select_related("account", "domain").get(pk=resolved.address_id)


def may_send_as(account_id: int, localpart: str, domain: DomainName | None) -> bool:
    """Whether an address is the account's, by a separator or as its catchall too; never one of a disabled domain."""
    try:
        return resolve(localpart, domain, allow_postmaster=False).account_id == account_id
    except AddressError:
        return False


def _hostnames() -> set[str]:
    names = {ServerSettings.current().hostname}
    names.update(Listener.objects.filter(smtp_enabled=True).exclude(hostname="").values_list("hostname", flat=True))
    return names


def _postmaster() -> Resolved:
    settings = ServerSettings.current()
    account = Account.objects.filter(name=settings.postmaster_account).first()
    if account is None:
        raise AddressNotFound(
            f"postmaster account {settings.postmaster_account!r} does not exist: set postmaster_account in the settings"
        )
    return Resolved(account.pk, account.name, None, POSTMASTER, settings.postmaster_mailbox, ResolvedKind.POSTMASTER)


def delivery_mailboxes(account_id: int) -> frozenset[str]:
    """The mailboxes, other than Inbox, that addresses of an account deliver to."""
    named = Address.objects.filter(account_id=account_id).exclude(default_mailbox="")
    return frozenset(named.values_list("default_mailbox", flat=True))
