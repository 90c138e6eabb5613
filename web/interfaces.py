"""What a package of pages gives to the shared login: names, terms, and who checks its passwords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from accounts.login import LoginContext, LoginOutcome
from accounts.sessions import Kind, Terms


@dataclass(frozen=True, slots=True)
class Interface:
    """One set of pages with a login of its own: a session of one does not open another."""

    kind: Kind
    name: str
    """In texts about sessions: mail, account, admin."""
    protocol: str
    """In cookie names, login attempts and metrics: webmail, webaccount, webadmin."""
    title: str
    """On the login page."""
    username_label: str
    username_autocomplete: str
    username_placeholder: str
    terms: Terms
    log_in: Callable[[str, str, LoginContext], LoginOutcome]
    """User name and password, as they were sent, to an outcome that is counted and recorded."""

    @property
    def login_cookie(self) -> str:
        """Holds the token that ``login/prepare`` gave out, for one attempt to log in."""
        return f"{self.protocol}login"

    @property
    def session_cookie(self) -> str:
        return f"{self.protocol}session"

    @property
    def csrf_key(self) -> str:
        """Where pages keep the CSRF token in localStorage, so that several tabs share one login."""
        return f"{self.protocol}csrftoken"

    @property
    def lifetime_text(self) -> str:
        return f"{int(self.terms.lifetime.total_seconds()) // 3600} hours"
