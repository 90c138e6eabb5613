"""Logins whose messages get a sender each of their own, so that a bounce names its message.

    set_logins(account, ["app+fromid@example.org"])
    is_login(account.pk, "app+fromid@Example.org")      # True; "app@example.org" sends as usual

Whoever logs in with such an address, as it is listed here, has an id of the message put into its MAIL FROM.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from protocols.names import Address as MailAddress
from protocols.names import BadAddress, parse_address
from server.statements import Statement

from .accounts import ConfigurationError, changing
from .addresses import canonical_address, hosted_domain
from .models import Account, Address, Domain, FromIDLoginAddress

_of_account: Final = Statement(
    lambda account_id: FromIDLoginAddress.objects.filter(account_id=account_id).values_list("login")
)


def is_login(account_id: int, login_address: str) -> bool:
    """Whether messages of this login get such senders: by the localpart exactly as it was typed."""
    logins = _of_account.rows(account_id)
    if not logins:
        return False
    try:
        return (_login(_parsed(login_address)),) in logins
    except BadAddress:
        return False


def set_logins(account: Account, logins: Iterable[str]) -> None:
    """Have these, and no others, be such logins of an account. Raises ConfigurationError, and then nothing changes."""
    with changing():
        wanted = dict(_checked(account, login) for login in logins)
        FromIDLoginAddress.objects.filter(account=account).exclude(login__in=wanted).delete()
        for login, address in wanted.items():
            FromIDLoginAddress.objects.update_or_create(account=account, login=login, defaults={"address": address})


def logins_in(domain: Domain) -> list[FromIDLoginAddress]:
    """Those that need the domain to have a separator."""
    found = FromIDLoginAddress.objects.filter(address__domain=domain).select_related("account")
    return list(found.order_by("login"))


def _checked(account: Account, text: str) -> tuple[str, Address]:
    """The login as it is stored, and the address of the account that it is a form of."""
    try:
        parsed = _parsed(text)
    except BadAddress as exc:
        raise ConfigurationError(f'invalid fromid login address "{text}": {exc}') from exc
    domain = hosted_domain(parsed.domain.ascii)
    if domain is None:
        raise ConfigurationError(f'unknown domain in fromid login address "{text}"')
    if not domain.localpart_catchall_separators:
        raise ConfigurationError(
            f"localpart catchall separator not configured for domain {parsed.domain.name()}: "
            f'without one, messages of "{text}" cannot have senders of their own'
        )
    forms = (canonical_address(parsed.localpart, domain), f"@{domain.name}")
    address = Address.objects.filter(account=account, canonical__in=forms).order_by("-canonical").first()
    if address is None:
        raise ConfigurationError(
            f'fromid login address "{text}" does not match its destination addresses: account {account} has neither '
            f"{forms[0]} nor the catchall of {parsed.domain.name()}"
        )
    return _login(parsed), address


def _parsed(text: str) -> MailAddress:
    """Raises BadAddress."""
    return parse_address(unicodedata.normalize("NFC", text))


def _login(address: MailAddress) -> str:
    return f"{address.localpart}@{address.domain.name()}"
