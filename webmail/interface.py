"""How one logs in to the webmail."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from accounts.login import LoginContext, LoginOutcome, login_plain
from accounts.sessions import Kind, Terms
from web.interfaces import Interface


def _log_in(username: str, password: str, context: LoginContext) -> LoginOutcome:
    return login_plain(username, "", password, context)


INTERFACE: Final = Interface(
    kind=Kind.WEBMAIL,
    name="mail",
    protocol="webmail",
    title="Webmail",
    username_label="Email address",
    username_autocomplete="email",
    username_placeholder="you@example.org",
    terms=Terms(lifetime=timedelta(hours=24), most=100),
    log_in=_log_in,
)
