"""What all calls have in common: who may call, what a request is, how it is answered, measured and logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from prometheus_client import Counter, Histogram
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from accounts.models import APIToken
from store.db import Tx
from web.requests import info

from . import pages
from .authentication import Caller, Credentials
from .errors import CallError, Code, exception_handler
from .fields import BadJSON, Object, load
from .openapi import CallSchema
from .parsers import Body, FormBody, JSONBody, MultipartBody, closing
from .renderers import JSONAnswer, NoNegotiation

log = logging.getLogger(__name__)

results = Counter("mox_webapi_results", "Calls.", ["method", "result"])
duration = Histogram(
    "mox_webapi_duration_seconds", "Calls.", ["method"], buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30)
)


class Method(APIView):
    """A method: POST is the call, GET its page."""

    http_method_names = ["get", "head", "post"]
    authentication_classes = [Credentials]
    parser_classes = [FormBody, MultipartBody, JSONBody]
    renderer_classes = [JSONAnswer]
    content_negotiation_class = NoNegotiation
    schema = CallSchema()

    summary: ClassVar[str]
    scope: ClassVar[APIToken.Scope]
    request_serializer: ClassVar[type[Object]]
    response_serializer: ClassVar[type[BaseSerializer[Any]] | None]
    """None: bytes."""
    errors: ClassVar[tuple[Code, ...]] = ()
    example: ClassVar[Mapping[str, Any]]

    result = "ok"
    """What became of the call, as metrics name it."""
    caller: Caller

    def call(self, given: Mapping[str, Any], body: Body) -> HttpResponseBase:
        """Do it; ``given`` is what the serializer made of the request. Raises CallError."""
        raise NotImplementedError

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    def get(self, request: Request) -> HttpResponse:
        return pages.method_page(request._request, type(self))

    def post(self, request: Request) -> HttpResponseBase:
        started = time.monotonic()
        try:
            return self._post(request)
        finally:
            duration.labels(self.name()).observe(time.monotonic() - started)

    def _post(self, request: Request) -> HttpResponseBase:
        assert isinstance(request.user, Caller)
        self.caller = request.user
        if info(request._request).is_unread:
            raise CallError(Code.MESSAGE_TOO_LARGE, "the request is larger than the server takes")
        with closing(request.data) as body:
            given = self._given(body)
            self.caller.require(self.scope)
            assert body is not None  # or its request would have been missing
            return self.call(given, body)

    def write(self, job: Callable[[Tx], Any]) -> Any:
        """Run a job of the group commit that has the caller's account."""
        return info(self.request._request).write([self.caller.account.pk], job)

    def get_authenticators(self) -> list[Any]:
        # Pages are for everybody.
        is_call = self.request is not None and self.request.method == "POST"
        return super().get_authenticators() if is_call else []

    def get_exception_handler(self) -> Any:
        return exception_handler

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        if request.method == "POST":
            self._account_for(request._request)
        return response

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {}

    @classmethod
    def _serializer(cls) -> Object:
        """One for all calls: it is made of many objects, and keeps nothing of a request."""
        if "_shared" not in cls.__dict__:
            cls._shared = cls.request_serializer()
        return cls._shared

    _shared: ClassVar[Object]

    def _given(self, body: Body | None) -> Mapping[str, Any]:
        if body is None or not body.request:
            raise CallError(Code.PROTOCOL, 'field "request" is missing or empty: it has the JSON object of the call')
        text, body.request = body.request, ""  # it may be large
        try:
            value = load(text)
        except BadJSON as exc:
            raise CallError(Code.PROTOCOL, f"request is not JSON: {exc}") from exc
        given: Mapping[str, Any] = self._serializer().run_validation(value)
        return given

    def _account_for(self, request: HttpRequest) -> None:
        results.labels(self.name(), "internal" if self.result == Code.SERVER else self.result).inc()
        caller: Caller | None = getattr(self, "caller", None)
        log.log(
            logging.ERROR if self.result == Code.SERVER else logging.INFO,
            "webapi call",
            extra={
                "id": info(request).id,
                "method": self.name(),
                "login": caller.login_address if caller is not None else "",
                "result": self.result,
            },
        )
