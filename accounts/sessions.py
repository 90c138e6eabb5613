"""Sessions in browsers: made by a login, extended by use; they end by logout, by time, and by a new password.

    tokens = create(Kind.WEBMAIL, account, login_address="mox@localhost", terms=Terms(timedelta(hours=24), 100), ...)
    session = find(Kind.WEBMAIL, tokens.session, now=now)      # a later request shows its cookie
    check_csrf(session, tokens.csrf)
    extend(session, terms.lifetime, now=now)

Whoever reads the table learns no token: only SHA-256 of both is stored. What a request looks like is `web`'s.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.contrib.auth.models import User
from django.db.models import QuerySet

from server import db

from .models import Account, LoginSession

TOKEN_SIZE: Final = 16  # random bytes of a token; base64url makes 22 characters of them
EXTENSION_INTERVAL: Final = timedelta(minutes=5)  # between writes of a session's end: not one per request
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{22}")

Kind = LoginSession.Kind


class Refusal(enum.Enum):
    """What is wrong with the tokens of a request; the value is the text that is answered."""

    MALFORMED = "malformed session"
    UNKNOWN = "unknown session token"
    EXPIRED = "session expired"
    CSRF = "mismatch between csrf and session tokens"


class SessionRefused(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a session lasts without use, and how many an owner may have."""

    lifetime: timedelta
    most: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """The two secrets of a session: the cookie's, and the one that proves that our own page asks."""

    session: str
    csrf: str


def create(
    kind: LoginSession.Kind,
    owner: Account | User,
    *,
    login_address: str,
    terms: Terms,
    remote_ip: str,
    user_agent: str,
    now: datetime,
) -> Tokens:
    """A new session. Over the limit of its owner, expired ones go first, then those that would expire first."""
    tokens = Tokens(secrets.token_urlsafe(TOKEN_SIZE), secrets.token_urlsafe(TOKEN_SIZE))
    with db.write():
        # Locked, so that two logins at a time do not both find room for one more.
        type(owner).objects.select_for_update().get(pk=owner.pk)
        own = of_owner(owner)
        if own.count() >= terms.most:
            own.filter(expires__lte=now).delete()
            too_many = own.count() - terms.most + 1
            if too_many > 0:
                first = own.order_by("expires", "pk").values_list("pk", flat=True)[:too_many]
                own.filter(pk__in=list(first)).delete()
        LoginSession.objects.create(
            kind=kind,
            account=owner if isinstance(owner, Account) else None,
            user=owner if isinstance(owner, User) else None,
            token_hash=_hash(tokens.session),
            csrf_hash=_hash(tokens.csrf),
            login_address=login_address[:512],
            created=now,
            last_used=now,
            expires=now + terms.lifetime,
            remote_ip=remote_ip,
            user_agent=user_agent[:512],
        )
    return tokens


def find(kind: LoginSession.Kind, token: str, *, now: datetime) -> LoginSession:
    """The session that a cookie names, with its account or user. Raises SessionRefused.

    The session of somebody who may no longer log in is unknown.
    """
    if not _TOKEN.fullmatch(token):
        raise SessionRefused(Refusal.MALFORMED)
    session = LoginSession.objects.filter(kind=kind, token_hash=_hash(token)).select_related("account", "user").first()
    if session is None:
        raise SessionRefused(Refusal.UNKNOWN)
    if session.expires <= now:
        raise SessionRefused(Refusal.EXPIRED)
    if session.account is not None and session.account.login_disabled:
        raise SessionRefused(Refusal.UNKNOWN)
    if session.user is not None and not (session.user.is_active and session.user.is_staff):
        raise SessionRefused(Refusal.UNKNOWN)
    return session


def check_csrf(session: LoginSession, token: str) -> None:
    """Raises SessionRefused unless it is the CSRF token of this very session."""
    if not hmac.compare_digest(_hash(token), bytes(session.csrf_hash)):
        raise SessionRefused(Refusal.CSRF)


def extend(session: LoginSession, lifetime: timedelta, *, now: datetime) -> bool:
    """Count the lifetime from now on. Gives whether that was written: once per 5 minutes at most."""
    if now - session.last_used < EXTENSION_INTERVAL:
        return False
    with db.write():
        # Of several requests at a time one writes.
        changed = LoginSession.objects.filter(pk=session.pk, last_used=session.last_used).update(
            last_used=now, expires=now + lifetime
        )
    if changed:
        session.last_used, session.expires = now, now + lifetime
    return bool(changed)


def end(session: LoginSession) -> None:
    """Logout."""
    with db.write():
        LoginSession.objects.filter(pk=session.pk).delete()


def end_all(owner: Account | User, *, but: LoginSession | None = None) -> int:
    """End every session of an account or admin user, of all kinds, except ``but``; gives how many."""
    others = of_owner(owner)
    if but is not None:
        others = others.exclude(pk=but.pk)
    with db.write():
        ended, _ = others.delete()
    return ended


def of_owner(owner: Account | User) -> QuerySet[LoginSession]:
    """The sessions of an account (webmail and account pages together), or of an admin user."""
    if isinstance(owner, Account):
        return LoginSession.objects.filter(account=owner)
    return LoginSession.objects.filter(user=owner)


def remove_expired(now: datetime) -> int:
    """For the daily clean-up; gives how many."""
    with db.write():
        removed, _ = LoginSession.objects.filter(expires__lte=now).delete()
    return removed


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
