"""Django for the ASGI pipeline: the whole of a request runs in one thread of the bridge.

Django's own ASGI handler makes a thread, and with it a database connection, for each request; these keep theirs.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from .requests import BadRequest, RequestInfo

BODY_TIMEOUT: Final = 30.0  # seconds for the next piece of a request's body

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class BodyTooLarge(Exception):
    """The request has more than the endpoint takes."""


class BodyTimeout(Exception):
    """The rest of the request did not come."""


class Disconnected(Exception):
    """The client went away before it sent all of the request."""


class DjangoHandler(BaseHandler):
    """Answers requests with views. ``call`` runs a function in a thread (Bridge.call)."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        super().__init__()
        self.load_middleware()
        self._call = call

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, info: RequestInfo, urlconf: str, most: int
    ) -> None:
        """Answer a request with the views of ``urlconf``; ``most``: bytes that its body may have.

        Raises BodyTooLarge, BodyTimeout, Disconnected, BadRequest.
        """
        body = await read_body(scope, receive, most)
        scope["mox"] = info
        response: HttpResponse = await self._call(self._respond, scope, body, urlconf)
        if info.delay:
            await asyncio.sleep(info.delay)
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
        headers += [(b"set-cookie", morsel.OutputString().encode("ascii")) for morsel in response.cookies.values()]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": response.content})

    def _respond(self, scope: Scope, body: bytes, urlconf: str) -> HttpResponseBase:
        set_script_prefix(scope["root_path"] + "/")
        signals.request_started.send(sender=type(self), scope=scope)
        try:
            request = ASGIRequest(scope, io.BytesIO(body))
        except UnicodeDecodeError as exc:
            raise BadRequest("a header field is not UTF-8") from exc
        request.urlconf = urlconf  # Django looks for it: each endpoint has its own views
        response = self.get_response(request)
        if not isinstance(response, HttpResponse):
            raise TypeError(f"{request.path}: answers that are streamed are not sent here")
        response["Content-Length"] = str(len(response.content))
        response.close()  # tells Django that the request is over, in the thread whose connections it is about
        return response


async def read_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """The whole body. Raises BodyTooLarge, BodyTimeout, Disconnected."""
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > most:  # a number: the HTTP parser looked at it
            raise BodyTooLarge
    parts = []
    size = 0
    while True:
        try:
            message = await asyncio.wait_for(receive(), BODY_TIMEOUT)
        except TimeoutError:
            raise BodyTimeout from None
        if message["type"] == "http.disconnect":
            raise Disconnected
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise BodyTooLarge
        if not message.get("more_body"):
            return b"".join(parts)
