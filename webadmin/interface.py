"""How one logs in to the admin pages."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from accounts.admins import login_admin
from accounts.login import LoginContext, LoginOutcome, login_service
from accounts.sessions import Kind, Terms
from web.interfaces import Interface


def _log_in(username: str, password: str, context: LoginContext) -> LoginOutcome:
    return login_admin(login_service(), username, password, context)


INTERFACE: Final = Interface(
    kind=Kind.ADMIN,
    name="admin",
    protocol="webadmin",
    title="Admin",
    username_label="User name",
    username_autocomplete="username",
    username_placeholder="admin",
    terms=Terms(lifetime=timedelta(hours=12), most=10),
    log_in=_log_in,
)
