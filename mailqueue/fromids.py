"""Senders that are unique to a message: ``local+id@domain``, so that what comes back to one names its message.

A login whose address is among the account's ``fromid_login_addresses`` sends so.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from django.db import IntegrityError, transaction

from accounts.addresses import hosted_domain
from accounts.fromidlogins import is_login
from protocols.smtpsyntax import Path

from .errors import FromIDNeedsOneRecipient, FromIDUsed
from .models import FromID

SIZE: Final = 16  # random bytes, 22 characters of base64url


def assign(
    account_id: int, login_address: str, mail_from: Path, recipients: int
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """MAIL FROM and from id for each recipient; the MAIL FROM as given, and no id, for other logins.

    Raises FromIDNeedsOneRecipient where the client chose an id itself.
    """
    separator = _separator(account_id, login_address, mail_from)
    if not separator:
        return (mail_from,) * recipients, ("",) * recipients
    base, found, given = mail_from.localpart.partition(separator)
    if found:
        if given and recipients > 1:
            raise FromIDNeedsOneRecipient
        return (mail_from,) * recipients, (given,) * recipients
    ids = tuple(secrets.token_urlsafe(SIZE) for _ in range(recipients))
    return tuple(replace(mail_from, localpart=f"{base}{separator}{from_id}") for from_id in ids), ids


def take(from_ids: Sequence[str], now: datetime) -> None:
    """Claim ids for good, in a transaction. Raises FromIDUsed."""
    for from_id in from_ids:
        try:
            with transaction.atomic():
                FromID.objects.create(from_id=from_id, created=now)
        except IntegrityError:
            raise FromIDUsed(from_id) from None


def id_in(path: Path) -> str:
    """The id in an address that `assign` made, "" for others. Of a domain of this server; uses the database."""
    domain = path.domain.domain
    if domain is None:
        return ""
    separator = _separator_of(domain.ascii)
    return path.localpart.partition(separator)[2] if separator else ""


def _separator(account_id: int, login_address: str, mail_from: Path) -> str:
    """What stands before the id; "" where none is to be made."""
    domain = mail_from.domain.domain
    if domain is None or not login_address or not is_login(account_id, login_address):
        return ""
    return _separator_of(domain.ascii)


def _separator_of(domain: str) -> str:
    hosted = hosted_domain(domain)
    return str(hosted.localpart_catchall_separators[0]) if hosted and hosted.localpart_catchall_separators else ""
