"""Where a recipient leads: to an account, nowhere, or away from here. Uses the database."""

from __future__ import annotations

from accounts.addresses import AddressError, AddressNotFound, DomainDisabled, DomainNotFound, Resolved, resolve
from protocols.smtpsyntax import Path

from . import localserve
from .errors import SMTPError


def resolve_recipient(path: Path, *, in_localserve: bool) -> Resolved | None:
    """The account of a recipient; None for an address that a hosted domain does not have.

    Whoever guesses addresses must not learn that before a message was sent. Raises SMTPError for other domains.
    """
    try:
        return resolve(path.localpart, path.domain.domain)
    except DomainDisabled as exc:
        raise SMTPError(450, "4.2.1", "domain takes no mail for now, try again later") from exc
    except (DomainNotFound, AddressNotFound) as exc:
        if in_localserve:
            return _catch_all()
        if isinstance(exc, DomainNotFound):
            raise SMTPError(550, "5.1.1", "no such domain here, and no relaying", cause=str(exc)) from exc
        return None


def resolve_submitted(path: Path, *, in_localserve: bool) -> Resolved | None:
    """The account of a recipient of a user's; None for one that is not here. Raises SMTPError where none is there.

    Users are told at once: whom they write to is no secret from them.
    """
    if path.domain.ip is not None:
        return None
    try:
        return resolve(path.localpart, path.domain.domain)
    except DomainNotFound:
        return None
    except DomainDisabled as exc:
        raise SMTPError(450, "4.2.1", "domain takes no mail for now, try again later") from exc
    except AddressNotFound as exc:
        if in_localserve:
            return _catch_all()
        raise SMTPError(550, "5.1.1", "no such user") from exc


def _catch_all() -> Resolved | None:
    """In localserve mail for any address goes to the account made for trying out, unless that was removed."""
    try:
        return resolve(localserve.CATCHALL_LOCALPART, localserve.CATCHALL_DOMAIN, allow_alias=False)
    except AddressError:
        return None
