"""What people read about the API: an index, and a page with a form for each method. No login is needed."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from rest_framework import serializers as drf

from accounts.models import OutgoingEvent
from web.requests import info

from . import webhooks
from .errors import MEANINGS, Code, plain

if TYPE_CHECKING:
    from .calls import Method

_ALWAYS = (Code.USER, Code.SERVER, Code.PROTOCOL)


def root(request: HttpRequest) -> HttpResponse:
    """The only version there is."""
    if request.method not in ("GET", "HEAD"):
        return _get_only()
    response = redirect("index")
    response.status_code = HTTPStatus.SEE_OTHER
    return response


def index(request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        return _get_only()
    return _page(request, "webapi/index.html", {"here": "index", "url": request.build_absolute_uri(request.path)})


def webhooks_page(request: HttpRequest) -> HttpResponse:
    if request.method not in ("GET", "HEAD"):
        return _get_only()
    examples = [(about, _shown(payload)) for about, payload in webhooks.OUTGOING]
    context = {
        "here": "webhooks",
        "events": OutgoingEvent.values,
        "examples": examples,
        "incoming": _shown(webhooks.INCOMING),
        "headers": webhooks.HEADERS,
    }
    return _page(request, "webapi/webhooks.html", context)


def method_page(request: HttpRequest, method: type[Method]) -> HttpResponse:
    serializer = method.request_serializer()
    context = {
        "here": method.name(),
        "method": method,
        "fields": _rows(serializer),
        "result": _rows(method.response_serializer()) if method.response_serializer is not None else None,
        "errors": [(code.value, MEANINGS[code]) for code in (*method.errors, *_ALWAYS)],
        "example": _shown(method.example),
        "url": request.build_absolute_uri(request.path),
    }
    return _page(request, "webapi/method.html", context)


def _shown(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _page(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponse:
    from .methods import METHODS  # which have pages of this module

    response = render(request, template, {"base": info(request).endpoint.path, "methods": METHODS, **context})
    response["X-Robots-Tag"] = "noindex"
    return response


def _get_only() -> HttpResponse:
    return plain(HTTPStatus.METHOD_NOT_ALLOWED, "method not allowed, use GET", {"Allow": "GET"})


def _rows(serializer: drf.BaseSerializer[Any], inside: str = "") -> list[dict[str, str]]:
    """Name, type, default and meaning of each field, with those of objects in it."""
    rows = []
    for name, field in getattr(serializer, "fields", {}).items():
        rows.append({"name": inside + name, "type": _type(field), "help": str(field.help_text or "")})
        inner = getattr(field, "child", field)
        if isinstance(inner, drf.Serializer):
            rows += _rows(inner, f"{inside}{name}{'[]' if inner is not field else ''}.")
    return rows


def _type(field: drf.Field[Any, Any, Any, Any]) -> str:
    match field:
        case drf.ListSerializer():
            return "list of objects"
        case drf.Serializer():
            return "object"
        case drf.DictField():
            return "object of strings"
        case drf.ListField(child=child) if child is not None:
            return "list of pairs" if isinstance(child, drf.ListField) else f"list of {_type(child)}s"
        case drf.BooleanField():
            return "boolean or null" if field.allow_null else "boolean"
        case drf.IntegerField():
            return "integer"
        case drf.DateTimeField():
            return "time or null" if field.allow_null else "time"
    return "string"
