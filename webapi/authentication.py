"""Who calls: an address with a password, or a token; looked at before anything that the client sent besides."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from django.http import HttpRequest
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from accounts import apitokens
from accounts.login import LoginContext, LoginOutcome, login_plain, login_service
from accounts.models import Account, APIToken
from protocols.sasl import Failed, Failure
from server.models import LoginResult
from web.requests import info

from .errors import CallError, Code, Refused

PROTOCOL: Final = "webapi"
ASK: Final = {"WWW-Authenticate": 'Basic realm="webapi", charset="UTF-8"'}
_HOW: Final = "use HTTP basic authentication with an email address as user name, or a token"


@dataclass(frozen=True, slots=True)
class Caller:
    """An account, the address it logged in with as it was given, and its token, None with a password."""

    account: Account
    login_address: str
    token: APIToken | None = None

    def require(self, scope: APIToken.Scope) -> None:
        """Raises CallError for a token that may not do this."""
        if self.token is not None and scope not in self.token.scopes:
            raise CallError(Code.INSUFFICIENT_SCOPE, f'the token has no scope "{scope.value}"')


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What came of the credentials of a request; no outcome: it had none."""

    outcome: LoginOutcome | None = None
    account: Account | None = None
    token: APIToken | None = None


def admits(request: HttpRequest) -> bool:
    """Whether a client may send a large body: only after it logged in. Remembered, not to be asked again."""
    if _is_cross_site(request):
        return False
    attempt = info(request).login = _log_in(request)
    return attempt.outcome is not None and attempt.outcome.ok


class Credentials(BaseAuthentication):
    """Raises Refused, CallError."""

    def authenticate(self, request: Request) -> tuple[Caller, Any]:
        http = request._request
        if _is_cross_site(http):
            # Browsers send stored credentials along with the forms of any site.
            raise Refused(HTTPStatus.FORBIDDEN, "calls from pages of other sites are refused", result="crosssite")
        known = info(http).login
        attempt = known if isinstance(known, _Attempt) else _log_in(http)
        outcome = attempt.outcome
        if outcome is None:
            raise Refused(HTTPStatus.UNAUTHORIZED, f"no credentials: {_HOW}", ASK)
        info(http).account = outcome.account_name
        match outcome.result:
            case LoginResult.OK:
                if attempt.account is None:  # it was removed at this very moment
                    raise Refused(HTTPStatus.UNAUTHORIZED, f"bad credentials: {_HOW}", ASK)
                return Caller(attempt.account, outcome.login_address, attempt.token), attempt.token
            case LoginResult.RATELIMITED:
                raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "too many authentication attempts")
            case LoginResult.LOGINDISABLED:
                raise Refused(HTTPStatus.UNAUTHORIZED, outcome.disabled_text, ASK)
            case LoginResult.ERROR:
                raise CallError(Code.SERVER, f"credentials cannot be checked now (id {info(http).id})")
            case _:
                raise Refused(HTTPStatus.UNAUTHORIZED, f"bad credentials: {_HOW}", ASK)


def _is_cross_site(request: HttpRequest) -> bool:
    if request.headers.get("Sec-Fetch-Site", "") in ("cross-site", "same-site"):
        return True
    origin = request.headers.get("Origin")
    return origin is not None and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower()


def _log_in(request: HttpRequest) -> _Attempt:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return _with_token(request, value, "")
    if scheme.lower() != "basic":
        return _Attempt()
    try:
        login, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return _Attempt()
    if not colon:
        return _Attempt()
    if apitokens.looks_like_token(password):
        return _with_token(request, password, login)
    context = _context(request, "httpbasic")
    outcome = login_plain(login, "", password, context)
    account = _account(outcome)
    if account is not None and account.no_webapi_password:
        refused = Failed(Failure.CREDENTIALS, "the account takes tokens only")
        return _Attempt(login_service().fail(login, None, refused, context, LoginResult.BADCREDS))
    return _Attempt(outcome, account)


def _with_token(request: HttpRequest, text: str, login: str) -> _Attempt:
    found = apitokens.log_in(text, login, _context(request, "token"))
    return _Attempt(found.outcome, _account(found.outcome), found.token)


def _account(outcome: LoginOutcome) -> Account | None:
    """Whose login it is, where it succeeded."""
    return Account.objects.filter(pk=outcome.account_id).first() if outcome.ok and outcome.account_id else None


def _context(request: HttpRequest, mechanism: str) -> LoginContext:
    known = info(request)
    return LoginContext(
        protocol=PROTOCOL,
        mechanism=mechanism,
        remote_ip=known.client_ip,
        local_ip=known.local_ip,
        tls=known.tls,
        user_agent=known.user_agent,
    )
