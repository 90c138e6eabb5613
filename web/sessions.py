"""Whether a request has a session, and whether it comes from our own page (webmail.md 2)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from django.http import HttpRequest

from accounts import sessions
from accounts.admins import RECORDED_AS
from accounts.login import LoginContext, LoginOutcome, login_service
from accounts.models import LoginSession
from accounts.sessions import Refusal, SessionRefused
from server.db import DatabaseBusy
from server.models import LoginResult

from .errors import Code, Problem
from .interfaces import Interface
from .requests import info

log = logging.getLogger(__name__)

CSRF_HEADER: Final = "x-mox-csrf"
BAD_AUTH_DELAY: Final = 1.0  # seconds that an answer to a bad token or password is kept back
TOO_MANY: Final = "too many authentication attempts"


def context_of(request: HttpRequest, interface: Interface, mechanism: str) -> LoginContext:
    """Where a login comes from."""
    known = info(request)
    return LoginContext(
        protocol=interface.protocol,
        mechanism=mechanism,
        remote_ip=known.client_ip,
        local_ip=known.local_ip,
        tls=known.tls,
        user_agent=known.user_agent,
    )


def session_for_call(request: HttpRequest, interface: Interface) -> LoginSession:
    """The session of a call, which must have the CSRF token in a header. Raises Problem."""
    csrf = request.headers.get(CSRF_HEADER, "")
    if not csrf:
        raise Problem(Code.NO_AUTH, "missing required csrf header")
    token = request.COOKIES.get(interface.session_cookie, "")
    if not token:
        raise Problem(Code.NO_AUTH, f'no session for "{interface.name}" web interface')
    try:
        session = sessions.find(interface.kind, token, now=datetime.now(UTC))
        sessions.check_csrf(session, csrf)
    except SessionRefused as exc:
        raise _refused(request, interface, exc.refusal) from exc
    _used(request, interface, session)
    return session


def session_for_page(request: HttpRequest, interface: Interface) -> LoginSession | None:
    """The session of a page that changes nothing; the cookie is enough (SameSite=Strict). None: show the login."""
    token = request.COOKIES.get(interface.session_cookie, "")
    if not token:
        return None
    try:
        session = sessions.find(interface.kind, token, now=datetime.now(UTC))
    except SessionRefused:
        return None
    _used(request, interface, session)
    return session


def refusal_text(refusal: Refusal, interface: Interface) -> str:
    if refusal is Refusal.EXPIRED:
        return f"{refusal.value} (after {interface.lifetime_text} inactivity)"
    return str(refusal.value)


def _refused(request: HttpRequest, interface: Interface, refusal: Refusal) -> Problem:
    """A bad token counts as a failed login: it may have been guessed. One that was good until it expired does not:
    the calls of one forgotten tab would lock its owner out."""
    if refusal is not Refusal.EXPIRED:
        service = login_service()
        context = context_of(request, interface, "websession")
        if not service.allowance(context).allowed:
            service.refuse_too_many("", context)
            return Problem(Code.ERROR, TOO_MANY, status=HTTPStatus.TOO_MANY_REQUESTS)
        service.conclude(LoginOutcome(LoginResult.BADCREDS, "", reason=refusal.value), context)
    return Problem(Code.BAD_AUTH, refusal_text(refusal, interface), delay=BAD_AUTH_DELAY)


def _used(request: HttpRequest, interface: Interface, session: LoginSession) -> None:
    name = session.account.name if session.account is not None else f"{RECORDED_AS} {session.user}"
    info(request).account = name
    try:
        extended = sessions.extend(session, interface.terms.lifetime, now=datetime.now(UTC))
    except DatabaseBusy as exc:
        log.warning("session is not extended yet", extra={"err": str(exc)})
        return
    if extended:
        # Recorded as often as it is written, not for each of the many requests of a page.
        account_name = RECORDED_AS if session.account is None else session.account.name
        outcome = LoginOutcome(LoginResult.OK, session.login_address, account_name=account_name)
        login_service().conclude(outcome, context_of(request, interface, "websession"))
