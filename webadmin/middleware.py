"""Who is asking, on the admin endpoint: the user of the session, for Django's admin too."""

from __future__ import annotations

from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.auth.models import AnonymousUser, User
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject

from accounts.models import LoginSession
from server.models import EndpointKind
from web.requests import info
from web.sessions import session_for_page

from .interface import INTERFACE


def session_of(request: HttpRequest) -> LoginSession | None:
    """The admin session of a request on the admin endpoint; looked up once."""
    if not hasattr(request, "_admin_session"):
        is_admin = info(request).endpoint.kind is EndpointKind.ADMIN
        request._admin_session = session_for_page(request, INTERFACE) if is_admin else None  # type: ignore[attr-defined]
    found: LoginSession | None = request._admin_session  # type: ignore[attr-defined]
    return found


class AdminUser(AuthenticationMiddleware):
    """In the place of Django's, which would look into a session of Django's."""

    def process_request(self, request: HttpRequest) -> None:
        def user() -> User | AnonymousUser:
            session = session_of(request)
            return session.user if session is not None and session.user is not None else AnonymousUser()

        request.user = SimpleLazyObject(user)  # type: ignore[assignment]  # as Django has it
