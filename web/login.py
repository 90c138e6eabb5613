"""Logging in and out (webmail.md 2): two steps, so that no other site can make a browser log in.

urlpatterns = [*login.urls(INTERFACE), ...]      # login/prepare, login, logout
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, ClassVar, Final

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import URLPattern, path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import sessions
from accounts.login import LoginOutcome
from accounts.models import Account
from accounts.passwords import MAX_PASSWORD_SIZE
from server.models import LoginResult, ServerSettings

from .calls import Call, SessionCall, StrictSerializer
from .errors import Code, Problem
from .interfaces import Interface
from .requests import info
from .sessions import BAD_AUTH_DELAY, TOO_MANY, context_of

LOGIN_TOKEN_SIZE: Final = 8  # random bytes
LOGIN_TOKEN_LIFETIME: Final = 30  # seconds between the two steps, which a page makes at once
MAX_USERNAME: Final = 512  # characters, as login attempts are recorded


class PrepareCall(Call):
    """Step one: a token in the answer, and the same in a cookie that only our own pages' requests carry."""

    interface: ClassVar[Interface]

    def post(self, request: Request) -> Response:
        token = secrets.token_urlsafe(LOGIN_TOKEN_SIZE)
        response = Response({"login_token": token})
        set_cookie(request._request, response, self.interface.login_cookie, token, max_age=LOGIN_TOKEN_LIFETIME)
        return response


class Credentials(StrictSerializer):
    login_token = serializers.CharField(allow_blank=True, max_length=100)
    username = serializers.CharField(allow_blank=True, max_length=MAX_USERNAME)
    password = serializers.CharField(allow_blank=True, max_length=MAX_PASSWORD_SIZE, trim_whitespace=False)


class LoginCall(Call):
    """Step two: the token, in field and cookie, is compared before any credential is looked at."""

    interface: ClassVar[Interface]

    def post(self, request: Request) -> Response:
        serializer = Credentials(data=request.data)
        serializer.is_valid(raise_exception=True)
        given = serializer.validated_data
        self._check_login_token(request._request, given["login_token"])
        context = context_of(request._request, self.interface, "weblogin")
        outcome = self.interface.log_in(given["username"], given["password"], context)
        if not outcome.ok:
            raise _login_problem(outcome)
        owner = _owner(outcome)
        tokens = sessions.create(
            self.interface.kind,
            owner,
            login_address=outcome.login_address,
            terms=self.interface.terms,
            remote_ip=context.remote_ip,
            user_agent=context.user_agent,
            now=datetime.now(UTC),
        )
        info(request).account = outcome.account_name
        response = Response({"csrf_token": tokens.csrf})
        set_cookie(request._request, response, self.interface.session_cookie, tokens.session)
        return response

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        """However it ended, the login token is used up."""
        response = super().finalize_response(request, response, *args, **kwargs)
        if self.interface.login_cookie in request.COOKIES:
            delete_cookie(request._request, response, self.interface.login_cookie)
        return response

    def _check_login_token(self, request: HttpRequest, token: str) -> None:
        cookie = request.COOKIES.get(self.interface.login_cookie, "")
        if not cookie or not hmac.compare_digest(cookie.encode(), token.encode()):
            message = "missing login token cookie"
            if info(request).endpoint.forwarded:
                message += f" (the reverse proxy must keep the path {cookie_path(request)})"
            raise Problem(Code.ERROR, message)


class LogoutCall(SessionCall):
    def post(self, request: Request) -> Response:
        sessions.end(self.session)
        response = Response(status=HTTPStatus.NO_CONTENT)
        delete_cookie(request._request, response, self.interface.session_cookie)
        return response


def urls(interface: Interface) -> list[URLPattern]:
    """The login calls of an interface, relative to its endpoint."""
    return [
        path("login/prepare", _of(interface, PrepareCall)),
        path("login", _of(interface, LoginCall)),
        path("logout", _of(interface, LogoutCall)),
    ]


def _of(interface: Interface, call: type[Call]) -> Callable[..., HttpResponseBase]:
    """The view of a call for one interface."""
    own: type[Call] = type(call.__name__, (call,), {"interface": interface, "__module__": call.__module__})
    return own.as_view()


def login_page(request: HttpRequest, interface: Interface, *, status: HTTPStatus = HTTPStatus.OK) -> HttpResponse:
    """The form, in the place of the page that was asked for: after the login the browser loads that again.

    A session that ended is told of, and its cookie goes.
    """
    has_ended = interface.session_cookie in request.COOKIES
    response = render(
        request,
        "web/login.html",
        {
            "interface": interface,
            "base": cookie_path(request),
            "has_ended": has_ended,
            "hostname": ServerSettings.current().hostname,
        },
        status=status,
    )
    if has_ended:
        delete_cookie(request, response, interface.session_cookie)
    return response


def cookie_path(request: HttpRequest) -> str:
    """Cookies are for one endpoint: its path."""
    return info(request).endpoint.path


def set_cookie(
    request: HttpRequest, response: HttpResponse, name: str, value: str, *, max_age: int | None = None
) -> None:
    """A cookie for this endpoint alone, which no script reads and no other site's request carries."""
    response.set_cookie(
        name,
        value,
        max_age=max_age,
        path=cookie_path(request),
        secure=info(request).is_secure,
        httponly=True,
        samesite="Strict",
    )


def delete_cookie(request: HttpRequest, response: HttpResponse, name: str) -> None:
    set_cookie(request, response, name, "", max_age=0)


def _login_problem(outcome: LoginOutcome) -> Problem:
    match outcome.result:
        case LoginResult.RATELIMITED:
            return Problem(Code.ERROR, TOO_MANY, status=HTTPStatus.TOO_MANY_REQUESTS)
        case LoginResult.LOGINDISABLED:
            return Problem(Code.LOGIN_FAILED, outcome.disabled_text)
        case LoginResult.ERROR:
            return Problem(
                Code.SERVER,
                "credentials cannot be checked now, try again in a moment",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
            )
        case _:
            return Problem(Code.LOGIN_FAILED, "invalid credentials", delay=BAD_AUTH_DELAY)


def _owner(outcome: LoginOutcome) -> Account | User:
    if outcome.user_id is not None:
        return User.objects.get(pk=outcome.user_id)
    assert outcome.account_id is not None  # a login that succeeded is of one of the two
    return Account.objects.get(pk=outcome.account_id)
