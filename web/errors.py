"""How calls and pages say that something went wrong: one shape for all (webmail.md 14, admin.md 3).

raise Problem(Code.NOT_FOUND, "message does not exist")
# 404 {"error": {"code": "user:notFound", "message": "message does not exist"}}
"""

from __future__ import annotations

import enum
import logging
from http import HTTPStatus
from typing import Any, Final

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from prometheus_client import Counter
from rest_framework import exceptions
from rest_framework.response import Response

from server.connections import panic_total
from server.db import DatabaseBusy

from .requests import info

log = logging.getLogger(__name__)

api_errors_total = Counter("mox_api_errors", "Calls that failed.", ["api", "function", "code"])


class Code(enum.StrEnum):
    """What kind of problem; clients decide by it what to do."""

    NO_AUTH = "user:noAuth"
    BAD_AUTH = "user:badAuth"
    LOGIN_FAILED = "user:loginFailed"
    ERROR = "user:error"
    NOT_FOUND = "user:notFound"
    CONFLICT = "user:conflict"
    TOO_LARGE = "user:tooLarge"
    RATE_LIMITED = "user:rateLimited"
    SERVER = "server:error"


_STATUS: Final = {
    Code.NO_AUTH: HTTPStatus.UNAUTHORIZED,
    Code.BAD_AUTH: HTTPStatus.UNAUTHORIZED,
    Code.LOGIN_FAILED: HTTPStatus.UNAUTHORIZED,
    Code.ERROR: HTTPStatus.BAD_REQUEST,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.CONFLICT: HTTPStatus.CONFLICT,
    Code.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.RATE_LIMITED: HTTPStatus.TOO_MANY_REQUESTS,
    Code.SERVER: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Problem(Exception):
    """Why a call is not done. ``delay``: seconds that the answer is kept back; ``status``: other than the code's."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        fields: dict[str, list[str]] | None = None,
        delay: float = 0.0,
        status: HTTPStatus | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = fields
        self.delay = delay
        self.status = status or _STATUS[code]


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response:
    """DRF's: every exception of a call becomes an answer of the one shape."""
    request = context["request"]
    problem = _as_problem(exc, request.method)
    view = type(context["view"])
    api = view.__module__.partition(".")[0]
    if problem is None:
        panic_total.labels(api).inc()
        log.error("unhandled exception in a call", exc_info=exc, extra={"path": request.path, "id": info(request).id})
        problem = Problem(Code.SERVER, f"server error (id {info(request).id})")
    if problem.code is Code.SERVER:
        api_errors_total.labels(api, view.__name__, problem.code.value).inc()
    info(request).delay = problem.delay
    error: dict[str, Any] = {"code": problem.code.value, "message": problem.message}
    if problem.fields:
        error["fields"] = problem.fields
    headers = {"Allow": ", ".join(context["view"].allowed_methods)} if problem.status == 405 else None
    return Response({"error": error}, status=problem.status, headers=headers)


def _as_problem(exc: Exception, method: str) -> Problem | None:
    match exc:
        case Problem():
            return exc
        case exceptions.ValidationError():
            return _validation_problem(exc)
        case exceptions.MethodNotAllowed():
            return Problem(Code.ERROR, f"method {method} is not allowed here", status=HTTPStatus.METHOD_NOT_ALLOWED)
        case exceptions.UnsupportedMediaType():
            return Problem(
                Code.ERROR, "send application/json as Content-Type", status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE
            )
        case exceptions.ParseError():
            return Problem(Code.ERROR, f"the request is not JSON: {exc.detail}")
        case exceptions.NotFound() | Http404():
            return Problem(Code.NOT_FOUND, str(exc))
        case exceptions.APIException() if exc.status_code < 500:
            return Problem(Code.ERROR, str(exc.detail), status=HTTPStatus(exc.status_code))
        case DatabaseBusy():
            log.warning("database is busy, a call was not done", extra={"err": str(exc)})
            return Problem(
                Code.SERVER, "the database is busy, try again in a moment", status=HTTPStatus.SERVICE_UNAVAILABLE
            )
        case PermissionDenied():
            return Problem(Code.ERROR, "not permitted", status=HTTPStatus.FORBIDDEN)
        case _:
            return None


def _validation_problem(exc: exceptions.ValidationError) -> Problem:
    detail = exc.detail
    if not isinstance(detail, dict):
        return Problem(Code.ERROR, "; ".join(map(str, detail)))
    fields = {str(name): [str(text) for text in _texts(texts)] for name, texts in detail.items()}
    message = "; ".join(f"{name}: {text}" for name, texts in fields.items() for text in texts)
    return Problem(Code.ERROR, message, fields=fields)


def _texts(detail: Any) -> list[Any]:
    if isinstance(detail, dict):
        return [text for texts in detail.values() for text in _texts(texts)]
    return list(detail) if isinstance(detail, list | tuple) else [detail]


# Pages: a line of text, for those that have nothing better to show.


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _plain(HTTPStatus.BAD_REQUEST, "bad request")


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _plain(HTTPStatus.FORBIDDEN, "forbidden")


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _plain(HTTPStatus.NOT_FOUND, "not found")


def server_error(request: HttpRequest) -> HttpResponse:
    panic_total.labels("web").inc()
    return _plain(HTTPStatus.INTERNAL_SERVER_ERROR, f"server error (id {info(request).id})")


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Of Django's own forms, those of its admin."""
    return _plain(HTTPStatus.FORBIDDEN, f"{reason} Go back, reload the page, and send the form again.")


def _plain(status: HTTPStatus, text: str) -> HttpResponse:
    return HttpResponse(f"{text}\n", content_type="text/plain; charset=utf-8", status=status)
