"""How a call says that it is not done: one object for all of them, and plain text for what comes before a call.

raise CallError(Code.BAD_ADDRESS, 'parsing address "x": missing @')
# 400 {"Code": "badAddress", "Message": "parsing address \\"x\\": missing @"}
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from django.http import Http404, HttpResponse
from rest_framework import exceptions
from rest_framework.response import Response

from server.connections import panic_total
from server.db import DatabaseBusy
from store.errors import StorageFull
from web.requests import info

log = logging.getLogger(__name__)


class Code(enum.StrEnum):
    """What kind of problem; programs decide by it what to do."""

    USER = "user"
    SERVER = "server"
    PROTOCOL = "protocol"
    ERROR = "error"
    BAD_ADDRESS = "badAddress"
    MISSING_BODY = "missingBody"
    MULTIPLE_FROM = "multipleFrom"
    BAD_FROM = "badFrom"
    NO_RECIPIENTS = "noRecipients"
    MESSAGE_LIMIT_REACHED = "messageLimitReached"
    RECIPIENT_LIMIT_REACHED = "recipientLimitReached"
    MESSAGE_TOO_LARGE = "messageTooLarge"
    MALFORMED_MESSAGE_ID = "malformedMessageID"
    SENT_OVER_QUOTA = "sentOverQuota"
    DOMAIN_DISABLED = "domainDisabled"
    MESSAGE_NOT_FOUND = "messageNotFound"
    PART_NOT_FOUND = "partNotFound"
    INSUFFICIENT_SCOPE = "insufficientScope"
    BAD_IDEMPOTENCY_KEY = "badIdempotencyKey"
    IDEMPOTENCY_MISMATCH = "idempotencyMismatch"
    IDEMPOTENCY_IN_PROGRESS = "idempotencyInProgress"


MEANINGS: Final[Mapping[Code, str]] = {
    Code.USER: "The request is understood and not acceptable; the message says why.",
    Code.SERVER: "A fault of the server. Its log has more, under the id in the message.",
    Code.PROTOCOL: "Content type, form or JSON is not understood.",
    Code.ERROR: "Refused for another reason: an address that is listed already, or is not.",
    Code.BAD_ADDRESS: "Something is no email address.",
    Code.MISSING_BODY: "Text and HTML are both empty.",
    Code.MULTIPLE_FROM: "There is more than one From address.",
    Code.BAD_FROM: "The From address is not one that the account, or the token, may use.",
    Code.NO_RECIPIENTS: "To, CC and BCC are all empty.",
    Code.MESSAGE_LIMIT_REACHED: "The account may not send more messages in 24 hours.",
    Code.RECIPIENT_LIMIT_REACHED: "The account may not write to more new recipients in 24 hours.",
    Code.MESSAGE_TOO_LARGE: "The message, or the request, is larger than allowed.",
    Code.MALFORMED_MESSAGE_ID: "A MessageID has no < at its start and > at its end.",
    Code.SENT_OVER_QUOTA: "The message is on its way, and must not be sent again; the copy in Sent did not fit.",
    Code.DOMAIN_DISABLED: "The domain of the From address is disabled.",
    Code.MESSAGE_NOT_FOUND: "The account has no such message.",
    Code.PART_NOT_FOUND: "The path leads to no part of the message.",
    Code.INSUFFICIENT_SCOPE: "The token may not do this; the message names the scope.",
    Code.BAD_IDEMPOTENCY_KEY: "The Idempotency-Key is not 1 to 256 printable ASCII characters.",
    Code.IDEMPOTENCY_MISMATCH: "The Idempotency-Key was used for another request.",
    Code.IDEMPOTENCY_IN_PROGRESS: "The first call with this Idempotency-Key has not ended.",
}

_STATUS: Final = {
    Code.INSUFFICIENT_SCOPE: HTTPStatus.FORBIDDEN,
    Code.IDEMPOTENCY_MISMATCH: HTTPStatus.UNPROCESSABLE_ENTITY,
    Code.IDEMPOTENCY_IN_PROGRESS: HTTPStatus.CONFLICT,
}


class CallError(Exception):
    """Why a call is not done; ``more``: further members of the object."""

    def __init__(self, code: Code, message: str, more: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.more = more or {}

    @property
    def status(self) -> HTTPStatus:
        return _STATUS.get(self.code, HTTPStatus.BAD_REQUEST)


class Refused(Exception):
    """A request that does not get as far as a call: answered with a line of text. ``result``: in metrics."""

    def __init__(
        self, status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None, *, result: str = "badauth"
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}
        self.result = result


def exception_handler(exc: Exception, context: dict[str, Any]) -> HttpResponse:
    """DRF's: every exception of a call becomes an answer of ours. The view's ``result`` says which."""
    view = context["view"]
    if isinstance(exc, Refused):
        view.result = exc.result
        return plain(exc.status, exc.text, exc.headers)
    if isinstance(exc, exceptions.MethodNotAllowed):
        allowed = "GET, POST" if "POST" in view.allowed_methods else "GET"
        return plain(HTTPStatus.METHOD_NOT_ALLOWED, f"method not allowed, use {allowed}", {"Allow": allowed})
    if isinstance(exc, Http404):
        return plain(HTTPStatus.NOT_FOUND, "not found")
    error = _as_call_error(exc, context)
    view.result = error.code.value
    return Response({"Code": error.code.value, "Message": error.message, **error.more}, status=error.status)


def plain(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """A line of text."""
    return HttpResponse(f"{text}\n", content_type="text/plain; charset=utf-8", status=status, headers=headers)


def _as_call_error(exc: Exception, context: dict[str, Any]) -> CallError:
    request_id = info(context["request"]._request).id
    match exc:
        case CallError():
            return exc
        case exceptions.ValidationError():
            return CallError(Code.PROTOCOL, "; ".join(_problems(exc.detail)))
        case exceptions.UnsupportedMediaType():
            return CallError(
                Code.PROTOCOL,
                "unknown content type, use application/x-www-form-urlencoded, multipart/form-data or application/json",
            )
        case exceptions.ParseError():
            return CallError(Code.PROTOCOL, str(exc.detail))
        case DatabaseBusy():
            log.warning("database is busy, a call was not done", extra={"err": str(exc)})
            return CallError(Code.SERVER, f"the database is busy, try again in a moment (id {request_id})")
        case StorageFull():
            log.error("no room for a message", extra={"err": str(exc)})
            return CallError(Code.SERVER, f"the server has no room for the message (id {request_id})")
        case _:
            panic_total.labels("webapi").inc()
            log.error("unhandled exception in a call", exc_info=exc, extra={"id": request_id})
            return CallError(Code.SERVER, f"server error (id {request_id})")


def _problems(detail: Any, path: str = "") -> list[str]:
    """What is wrong with which field: ``To[1].Address: expected a string, got a number``."""
    if isinstance(detail, dict):
        found = []
        for name, inner in detail.items():
            step = f"[{name}]" if isinstance(name, int) else f".{name}" if path else str(name)
            found += _problems(inner, path if name == "non_field_errors" else path + step)
        return found
    if isinstance(detail, list):
        return [text for inner in detail for text in _problems(inner, path)]
    return [f"{path}: {detail}" if path else str(detail)]
