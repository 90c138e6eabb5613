"""Where a recipient leads: to an account, to the members of an alias, nowhere, or away from here. Uses the database."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from accounts.addresses import (
    AddressError,
    AddressNotFound,
    Destination,
    DomainDisabled,
    DomainNotFound,
    Reports,
    Resolved,
    ResolvedAlias,
    reports_at,
    resolve,
    resolve_account,
)
from accounts.addresssettings import refusal
from protocols.smtpsyntax import Path

from . import localserve
from .errors import SMTPError

_TLS_REPORTS: Final = Reports.DOMAIN_TLS | Reports.HOST_TLS


def resolve_recipient(path: Path, *, in_localserve: bool) -> Destination | None:
    """Where mail from elsewhere goes; None for an address that a hosted domain does not have.

    Whoever guesses addresses must not learn that before a message was sent. Raises SMTPError for other domains, and for
    an address that refuses all mail.
    """
    try:
        return _accepting(resolve(path.localpart, path.domain.domain))
    except DomainDisabled as exc:
        raise SMTPError(450, "4.2.1", "domain takes no mail for now, try again later") from exc
    except (DomainNotFound, AddressNotFound) as exc:
        if in_localserve:
            return _catch_all()
        if isinstance(exc, DomainNotFound):
            raise SMTPError(550, "5.1.1", "no such domain here, and no relaying", cause=str(exc)) from exc
        return None


def resolve_submitted(path: Path, *, in_localserve: bool) -> Destination | None:
    """Where a user's mail goes; None for an address that is not here. Raises SMTPError where none is there.

    Users are told at once: whom they write to is no secret from them.
    """
    if path.domain.ip is not None:
        return None
    try:
        return _accepting(resolve(path.localpart, path.domain.domain))
    except DomainNotFound:
        return None
    except DomainDisabled as exc:
        raise SMTPError(450, "4.2.1", "domain takes no mail for now, try again later") from exc
    except AddressNotFound as exc:
        if in_localserve:
            return _catch_all()
        raise SMTPError(550, "5.1.1", "no such user") from exc


def takes_tls_reports(path: Path) -> bool:
    """Whether an address is there for TLS reports, which come even where TLS does not work (RFC 8460 section 3)."""
    return bool(reports_at(path.localpart, path.domain.domain) & _TLS_REPORTS)


def copies_of(destination: Destination | None) -> int:
    """How many copies of a message are to be stored for it, at most."""
    if destination is None:
        return 0
    return len(destination.members) if isinstance(destination, ResolvedAlias) else 1


def _accepting(found: Destination) -> Destination:
    """The destination without members that refuse all mail. Raises SMTPError if nobody is left, AddressNotFound."""
    if isinstance(found, Resolved):
        if found.smtp_error:
            raise SMTPError(*refusal(found.smtp_error))
        return found
    members = tuple(member for member in found.members if not member.resolved.smtp_error)
    if not members and found.members:
        raise SMTPError(*refusal(found.members[0].resolved.smtp_error))
    if not members:
        raise AddressNotFound(f"alias {found.canonical} has no members")
    return replace(found, members=members)


def _catch_all() -> Resolved | None:
    """In localserve mail for any address goes to the account made for trying out, unless that was removed."""
    try:
        return resolve_account(localserve.CATCHALL_LOCALPART, localserve.CATCHALL_DOMAIN)
    except AddressError:
        return None
