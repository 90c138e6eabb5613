"""Users who administer the server: `django.contrib.auth` users with ``is_staff``, and no accounts for mail."""

from __future__ import annotations

import unicodedata
from typing import Final

from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db import DatabaseError

from server import db
from server.db import DatabaseBusy
from server.models import LoginResult

from . import sessions
from .login import LoginContext, LoginOutcome, LoginService
from .models import LoginSession
from .passwords import hash_for_nobody, prepare, prepare_new

DEFAULT_NAME: Final = "admin"
RECORDED_AS: Final = "(admin)"  # the account name of login attempts; no account can be called like this


class BadAdminName(ValueError):
    """The name cannot be that of a user; the text says why."""


def set_admin_password(username: str, password: str) -> bool:
    """Give an admin user a password; without a name, ``admin``. Gives whether the user was made for it.

    For who is at the machine: an existing user gets back all rights. Sessions of the user end.
    Raises PasswordRejected and BadAdminName.
    """
    username = _canonical(username)
    with db.write():
        user = User.objects.filter(username=username).first()
        is_new = user is None
        user = user or User(username=username)
        user.is_staff = user.is_superuser = user.is_active = True
        try:
            user.full_clean(exclude=["password"])
        except ValidationError as exc:
            raise BadAdminName(f"admin user {username!r}: {' '.join(exc.messages)}") from exc
        change_admin_password(user, password)
    return is_new


def change_admin_password(user: User, password: str, *, keep: LoginSession | None = None) -> None:
    """Give a user a password, and no rights. Sessions of the user end, except ``keep``. Raises PasswordRejected."""
    prepared = prepare_new(password)
    with db.write():
        user.password = make_password(prepared)
        user.save()
        sessions.end_all(user, but=keep)


def login_admin(service: LoginService, username: str, password: str, context: LoginContext) -> LoginOutcome:
    """Log in an admin user with a password; counted, limited and recorded like all logins."""
    username = _canonical(username)
    allowance = service.allowance(context)
    if not allowance.allowed:
        return service.refuse_too_many(username, context)
    try:
        user = User.objects.filter(username=username, is_staff=True, is_active=True).first()
    except (DatabaseError, DatabaseBusy) as exc:
        return service.conclude(_outcome(LoginResult.ERROR, username, reason=f"database: {exc}"), context)
    if user is None:
        hash_for_nobody()
        return service.conclude(_outcome(LoginResult.BADUSER, username, reason="no such admin user"), context)
    if not check_admin_password(user, password):
        return service.conclude(_outcome(LoginResult.BADPASSWORD, username, reason="wrong password"), context)
    return service.conclude(_outcome(LoginResult.OK, username, user_id=user.pk), context, allowance)


def check_admin_password(user: User, password: str) -> bool:
    """Whether this is the password of an admin user; takes the same time for what cannot be one."""
    prepared = prepare(password)
    if prepared is None:
        hash_for_nobody()
        return False
    return check_password(prepared, user.password)


def _outcome(result: LoginResult, username: str, *, user_id: int | None = None, reason: str = "") -> LoginOutcome:
    return LoginOutcome(result, username, account_name=RECORDED_AS, user_id=user_id, reason=reason)


def _canonical(username: str) -> str:
    """As Django's users are named: NFKC."""
    return unicodedata.normalize("NFKC", username) or DEFAULT_NAME
