"""Secrets that programs log in to the webapi with: made, listed, revoked, and checked.

made = create(account, "app@example.org", [APIToken.Scope.SEND])      # made.text is shown once
log_in("mox_...", "", context)                                        # TokenLogin(outcome, token)

A token is as long as a key: its hash needs no salt and costs nothing to check, unlike that of a password.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Final

from django.db import DatabaseError
from django.db.models import Q

from protocols.names import BadAddress, parse_address
from protocols.sasl import Failed, Failure
from protocols.sasl.server import nfc
from server import db
from server.db import DatabaseBusy
from server.models import LoginResult

from .accounts import ConfigurationError
from .addresses import resolve_login
from .login import LoginContext, LoginOutcome, login_service
from .models import Account, Address, APIToken

PREFIX: Final = "mox_"
SIZE: Final = 32  # random bytes
LENGTH: Final = 43  # characters of base62 that 32 bytes need
VISIBLE: Final = 8  # characters that tell tokens apart
LAST_USED_EVERY: Final = timedelta(minutes=1)  # so that a busy token costs a write a minute
LABEL_MAX: Final = 256  # characters

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_TOKEN: Final = re.compile(r"mox_[0-9A-Za-z]{43}")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made, and its text, which nobody can read again."""

    token: APIToken
    text: str


@dataclass(frozen=True, slots=True)
class TokenLogin:
    """How a login with a token ended, and the token where it succeeded."""

    outcome: LoginOutcome
    token: APIToken | None = None


def looks_like_token(text: str) -> bool:
    """Whether a text is a token rather than a password."""
    return _TOKEN.fullmatch(text) is not None


def create(
    account: Account,
    login_address: str,
    scopes: Sequence[str],
    *,
    label: str = "",
    expires: datetime | None = None,
    from_addresses: Sequence[str] = (),
    networks: Sequence[str] = (),
) -> NewToken:
    """A new token of an account; ``login_address`` "": its first address. Raises ConfigurationError."""
    if not scopes:
        raise ConfigurationError(f"a token needs at least one scope: use some of {', '.join(APIToken.Scope.values)}")
    unknown = [scope for scope in scopes if scope not in APIToken.Scope.values]
    if unknown:
        raise ConfigurationError(f'unknown scope "{unknown[0]}": use some of {", ".join(APIToken.Scope.values)}')
    now = db.now()
    if expires is not None and expires <= now:
        raise ConfigurationError("the token would have expired already: use a time to come")
    if len(label) > LABEL_MAX:
        raise ConfigurationError(f"the label is longer than {LABEL_MAX} characters")
    text = PREFIX + _base62(secrets.token_bytes(SIZE))
    with db.write():
        token = APIToken.objects.create(
            account=account,
            label=label,
            login_address=_login_address(account, login_address),
            prefix=text[len(PREFIX) :][:VISIBLE],
            token_hash=_hash(text),
            scopes=list(dict.fromkeys(scopes)),
            from_addresses=[_from_address(address) for address in from_addresses],
            networks=[_network(network) for network in networks],
            expires=expires,
            created=now,
        )
    return NewToken(token, text)


def of_account(account: Account) -> list[APIToken]:
    """All tokens, oldest first, those that are no good any more too."""
    return list(APIToken.objects.filter(account=account).order_by("created", "pk"))


def revoke(account: Account, prefix: str) -> APIToken:
    """End a token at once, by its visible characters. Raises ConfigurationError where there is none."""
    prefix = prefix.removeprefix(PREFIX)[:VISIBLE]
    with db.write():
        token = APIToken.objects.filter(account=account, prefix=prefix).first()
        if token is None:
            raise ConfigurationError(f'account {account} has no token "{prefix}": see mox token list {account}')
        if token.revoked is None:
            token.revoked = db.now()
            token.save(update_fields=["revoked"])
    return token


def log_in(text: str, login_address: str, context: LoginContext) -> TokenLogin:
    """Log in with a token; ``login_address``: that must be the token's, "" for whatever it is."""
    service = login_service()
    login = nfc(login_address)
    allowance = service.allowance(context)
    if not allowance.allowed:
        return TokenLogin(service.refuse_too_many(login, context))
    try:
        token = APIToken.objects.select_related("account").filter(token_hash=_hash(text)).first()
        address = resolve_login(token.login_address) if token is not None else None
        why = _why_not(token, address, login, context.remote_ip)
        if token is not None and not why:
            _note_use(token)
    except (DatabaseError, DatabaseBusy) as exc:
        return TokenLogin(service.fail(login, None, Failed(Failure.UNAVAILABLE, f"database: {exc}"), context))
    if token is None or address is None or why:
        refused = Failed(Failure.CREDENTIALS, why)
        return TokenLogin(service.fail(login, address, refused, context, LoginResult.BADCREDS))
    outcome = service.succeed(token.login_address, address, allowance, context)
    return TokenLogin(outcome, token if outcome.ok else None)


def _why_not(token: APIToken | None, address: Address | None, login: str, remote_ip: str) -> str:
    """Why a token does not log in, for the log; "" if it does."""
    if token is None:
        return "no such token"
    if token.revoked is not None:
        return f"token mox_{token.prefix}... was revoked"
    if token.expires is not None and token.expires <= db.now():
        return f"token mox_{token.prefix}... has expired"
    if token.networks and not any(ip_address(remote_ip) in ip_network(network) for network in token.networks):
        return f"token mox_{token.prefix}... may not be used from {remote_ip}"
    if address is None or address.account_id != token.account_id:
        return f"login address {token.login_address} of the token is not one of its account"
    if login and _normal(login) != _normal(token.login_address):
        return f"token mox_{token.prefix}... is for another login address"
    return ""


def _note_use(token: APIToken) -> None:
    now = db.now()
    if token.last_used is not None and now - token.last_used < LAST_USED_EVERY:
        return
    due = APIToken.objects.filter(pk=token.pk).filter(Q(last_used=None) | Q(last_used__lte=now - LAST_USED_EVERY))
    with db.write():
        due.update(last_used=now)


def _login_address(account: Account, text: str) -> str:
    if not text:
        first = account.addresses.exclude(localpart="").select_related("domain").order_by("pk").first()
        if first is None:
            raise ConfigurationError(f"account {account} has no address that could log in: name a login address")
        return str(first)
    address = resolve_login(text)
    if address is None or address.account_id != account.pk:
        raise ConfigurationError(f'login address "{text}" is not an address of account {account}')
    return nfc(text)


def _from_address(text: str) -> str:
    try:
        return str(parse_address(text))
    except BadAddress as exc:
        raise ConfigurationError(f'From address "{text}": {exc}') from exc


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as exc:
        raise ConfigurationError(f'network "{text}": {exc}') from exc


def _normal(login: str) -> str:
    """A login address as two of them are compared: the localpart as it is, the domain in A-labels."""
    try:
        parsed = parse_address(login)
    except BadAddress:
        return login
    return f"{parsed.localpart}@{parsed.domain.ascii}"


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _base62(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    characters = []
    for _ in range(LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[digit])
    return "".join(characters)
