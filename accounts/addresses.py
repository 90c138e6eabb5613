"""Where an address leads: to an account, to the members of an alias, or nowhere; for delivery, sending and logging in.

match resolve("info+sales", parse_domain("example.org")):
    case Resolved() as found: ...       # an account, and the mailbox that its settings name
    case ResolvedAlias() as found: ...  # several of them
"""

from __future__ import annotations

import enum
import unicodedata
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from django.db.models import Q

from protocols.names import Address as MailAddress
from protocols.names import BadAddress, own_hostname, parse_address
from protocols.names import Domain as DomainName
from server.models import Listener, ServerSettings
from server.statements import ModelStatement, Statement

from .models import Account, Address, Alias, AliasMember, Domain

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
    REPORTS = "reports"


class Reports(enum.Flag):
    """The reports that come to an address."""

    NONE = 0
    DMARC = enum.auto()
    DOMAIN_TLS = enum.auto()
    HOST_TLS = enum.auto()


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where mail for an address goes: an account and the mailbox that its settings name ("" is Inbox)."""

    account_id: int
    account_name: str
    address_id: int | None
    canonical: str
    mailbox: str
    kind: ResolvedKind
    reports: Reports = Reports.NONE
    smtp_error: str = ""
    """Mail is refused at RCPT, and how (see `addresssettings.refusal`)."""
    message_auth_required_error: str = ""
    """Mail is refused with this text unless its From domain is verified."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an alias: its address as its owner writes it, and where that leads."""

    address: MailAddress
    resolved: Resolved


@dataclass(frozen=True, slots=True)
class ResolvedAlias:
    """An alias, which leads to its members. Each is an address of an account, so that there are no loops."""

    canonical: str
    post_public: bool
    allow_msg_from: bool
    members: tuple[Member, ...]


Destination: TypeAlias = Resolved | ResolvedAlias

_hosted: Final = ModelStatement(
    Domain,
    lambda name: Domain.objects.filter(name=name).only(
        "name",
        "disabled",
        "localpart_catchall_separators",
        "localpart_case_sensitive",
        "dmarc_localpart",
        "dmarc_domain",
        "tlsrpt_localpart",
        "tlsrpt_domain",
    ),
)
_addresses: Final = Statement(
    lambda canonical, catchall: Address.objects.filter(Q(canonical=canonical) | Q(canonical=catchall)).values_list(
        "canonical",
        "account_id",
        "account__name",
        "pk",
        "default_mailbox",
        "smtp_error",
        "message_auth_required_error",
    )
)
_aliases: Final = Statement(
    lambda canonical: Alias.objects.filter(canonical=canonical).values_list("pk", "post_public", "allow_msg_from")
)
_members: Final = Statement(
    lambda alias_id: (
        AliasMember.objects.filter(alias_id=alias_id)
        .order_by("pk")
        .values_list(
            "address__localpart",
            "address__domain__name",
            "address__domain__unicode_name",
            "address__canonical",
            "address__account_id",
            "address__account__name",
            "address_id",
            "address__default_mailbox",
            "address__smtp_error",
            "address__message_auth_required_error",
        )
    )
)
_reports: Final = Statement(
    lambda domain_id, dmarc_domain_id, tlsrpt_domain_id: (
        Domain.objects.filter(
            Q(pk=domain_id) | Q(dmarc_domain_id=dmarc_domain_id) | Q(tlsrpt_domain_id=tlsrpt_domain_id)
        )
        .order_by("name")
        .values_list(
            "pk",
            "dmarc_localpart",
            "dmarc_domain_id",
            "dmarc_account_id",
            "dmarc_account__name",
            "dmarc_mailbox",
            "tlsrpt_localpart",
            "tlsrpt_domain_id",
            "tlsrpt_account_id",
            "tlsrpt_account__name",
            "tlsrpt_mailbox",
        )
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
    return localpart if domain.localpart_case_sensitive else fold(localpart)


def fold(localpart: str) -> str:
    """The localpart in lower case; in NFC still, which a capital letter with an accent of its own can leave."""
    return unicodedata.normalize("NFC", localpart.lower())


def canonical_address(localpart: str, domain: Domain) -> str:
    """What the database has of an address: ``localpart@A-labels``, and ``@A-labels`` for a catchall."""
    return f"{canonical_localpart(localpart, domain)}@{domain.name}"


def resolve(localpart: str, domain: DomainName | None, *, allow_implicit: bool = True) -> Destination:
    """Where mail for an address goes; ``domain`` is None for the bare ``<postmaster>``.

    Without ``allow_implicit``, addresses that follow from settings, of the postmaster and for reports, lead nowhere:
    nobody owns them. Raises DomainNotFound, DomainDisabled or AddressNotFound.
    """
    is_postmaster = allow_implicit and localpart.lower() == POSTMASTER
    if is_postmaster and (domain is None or domain.ascii in _hostnames()):
        return _postmaster()
    if domain is None:
        raise DomainNotFound(f"address {localpart!r} has no domain")
    hosted = _hosted.row(domain.ascii)
    reports = _reports_at(fold(localpart), domain, hosted)
    if reports is not None:
        if not allow_implicit:
            raise AddressNotFound(f"address {localpart}@{domain.name()} is for reports")
        return reports
    if hosted is None:
        raise DomainNotFound(f"domain {domain.name()} is not hosted here")
    if hosted.disabled:
        raise DomainDisabled(f"domain {domain.name()} takes no mail for now")
    found = _row_of(canonical_address(localpart, hosted), f"@{hosted.name}")
    if found is not None:
        return found
    if is_reports_only(hosted):
        raise DomainNotFound(f"domain {domain.name()} is known here for its reports only")
    if is_postmaster:
        return _postmaster()
    raise AddressNotFound(f"address {localpart}@{domain.name()} does not exist")


def resolve_account(localpart: str, domain: DomainName | None, *, allow_implicit: bool = True) -> Resolved:
    """As `resolve`, where an alias is no address that exists. Raises what that raises."""
    found = resolve(localpart, domain, allow_implicit=allow_implicit)
    if isinstance(found, ResolvedAlias):
        raise AddressNotFound(f"address {found.canonical} is an alias, not one of an account")
    return found


def reports_at(localpart: str, domain: DomainName | None) -> Reports:
    """The reports that come to an address; nothing else about it is looked up."""
    found = _reports_at(fold(localpart), domain, _hosted.row(domain.ascii)) if domain is not None else None
    return found.reports if found is not None else Reports.NONE


def resolve_login(login: str) -> Address | None:
    """The address that a login name stands for; None when there is none. Aliases and postmaster do not log in."""
    try:
        parsed = parse_address(unicodedata.normalize("NFC", login))
        resolved = resolve_account(parsed.localpart, parsed.domain, allow_implicit=False)
    except (BadAddress, DomainNotFound, AddressNotFound):
        return None
    except DomainDisabled:
        # Its accounts still log in to read what they have.
        hosted = Domain.objects.get(name=parsed.domain.ascii)
        canonical = canonical_address(parsed.localpart, hosted)
        return Address.objects.filter(canonical=canonical).select_related("account", "domain").first()
    assert resolved.address_id is not None  # only what follows from settings has none, and it was not asked for
    return Address.objects.select_related("account", "domain").get(pk=resolved.address_id)


def may_send_as(account_id: int, localpart: str, domain: DomainName | None) -> bool:
    """Whether an account may use an address as sender and in From; never one of a disabled domain.

    It may if the address is its own, by a separator or as its catchall too, or an alias that lets its members do so.
    """
    try:
        found = resolve(localpart, domain, allow_implicit=False)
    except AddressError:
        return False
    if isinstance(found, ResolvedAlias):
        return found.allow_msg_from and any(member.resolved.account_id == account_id for member in found.members)
    return found.account_id == account_id


def is_reports_only(domain: Domain) -> bool:
    """Whether a domain is here only so that reports about it, to an address in another domain, are taken."""
    about_it = ((domain.dmarc_localpart, domain.dmarc_domain_id), (domain.tlsrpt_localpart, domain.tlsrpt_domain_id))
    elsewhere = [domain_id for localpart, domain_id in about_it if localpart]
    return (
        bool(elsewhere)
        and not {None, domain.pk} & set(elsewhere)
        and not Domain.objects.filter(Q(dmarc_domain=domain) | Q(tlsrpt_domain=domain)).exists()
        and not Address.objects.filter(domain=domain).exists()
        and not Alias.objects.filter(domain=domain).exists()
    )


def _row_of(canonical: str, catchall: str) -> Destination | None:
    """The address, the alias or the catchall that takes mail for an address."""
    found = {row[0]: row for row in _addresses.rows(canonical, catchall)}
    if canonical in found:
        return _resolved(found[canonical], ResolvedKind.ADDRESS if canonical != catchall else ResolvedKind.CATCHALL)
    alias = _aliases.row(canonical)
    if alias is not None:
        alias_id, post_public, allow_msg_from = alias
        return ResolvedAlias(canonical, post_public, allow_msg_from, tuple(map(_member, _members.rows(alias_id))))
    return _resolved(found[catchall], ResolvedKind.CATCHALL) if catchall in found else None


def _resolved(row: tuple[Any, ...], kind: ResolvedKind) -> Resolved:
    canonical, account_id, account_name, address_id, mailbox, smtp_error, auth_required = row
    return Resolved(
        account_id,
        account_name,
        address_id,
        canonical,
        mailbox,
        kind,
        smtp_error=smtp_error,
        message_auth_required_error=auth_required,
    )


def _member(row: tuple[Any, ...]) -> Member:
    localpart, domain, unicode_name, *rest = row
    return Member(
        MailAddress(localpart, DomainName(domain, unicode_name)), _resolved(tuple(rest), ResolvedKind.ADDRESS)
    )


def _reports_at(folded: str, domain: DomainName, hosted: Domain | None) -> Resolved | None:
    """Where reports that come to an address go. The whole localpart counts: it may contain a separator."""
    accounts: list[tuple[int, str, str]] = []
    kinds = Reports.NONE
    hosted_id = hosted.pk if hosted is not None else 0
    for pk, *columns in _reports.rows(hosted_id, hosted_id, hosted_id) if hosted_id else ():
        about: Any  # the five columns about a kind of reports
        for kind, about in ((Reports.DMARC, columns[:5]), (Reports.DOMAIN_TLS, columns[5:])):
            report_localpart, domain_id, account_id, account_name, mailbox = about
            comes_here = bool(report_localpart) and fold(report_localpart) == folded and (domain_id or pk) == hosted_id
            if comes_here and account_id:
                accounts.append((account_id, account_name, mailbox))
                kinds |= kind
    settings = ServerSettings.current()
    if takes_host_reports(folded, domain.ascii):
        account = Account.objects.filter(name=settings.host_tlsrpt_account).first()
        if account is not None:
            accounts.append((account.pk, account.name, settings.host_tlsrpt_mailbox))
            kinds |= Reports.HOST_TLS
    if not accounts:
        return None
    account_id, account_name, mailbox = accounts[0]
    canonical = f"{folded}@{domain.ascii}"
    return Resolved(account_id, account_name, None, canonical, mailbox, ResolvedKind.REPORTS, kinds)


def takes_host_reports(folded: str, domain: str) -> bool:
    """Whether TLS reports about this server come to an address: its localpart in lower case, and A-labels."""
    settings = ServerSettings.current()
    return (
        bool(settings.host_tlsrpt_account)
        and fold(settings.host_tlsrpt_localpart) == folded
        and own_hostname(settings.hostname).ascii == domain
    )


def _hostnames() -> set[str]:
    """The names of this server, in A-labels."""
    names = {ServerSettings.current().hostname}
    names.update(Listener.objects.filter(smtp_enabled=True).exclude(hostname="").values_list("hostname", flat=True))
    return {own_hostname(name).ascii for name in names}


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
