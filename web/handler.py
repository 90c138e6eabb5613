"""Django for the ASGI pipeline: the whole of a request runs in one thread of the bridge.

Django's own ASGI handler makes a thread, and with it a database connection, for each request; these keep theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from .requests import BadRequest, RequestInfo

BODY_TIMEOUT: Final = 60.0  # seconds for a request's body: 1 MiB over a slow line
MAX_HELD: Final = 64 << 20  # bytes of bodies in memory at a time; more are refused

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


class BodyTooLarge(Exception):
    """The request has more than the endpoint takes."""


class BodyTimeout(Exception):
    """The rest of the request did not come."""


class Overloaded(Exception):
    """So much is being sent to this process that it has no room for more."""


class Disconnected(Exception):
    """The client went away before it sent all of the request."""


class DjangoHandler(BaseHandler):
    """Answers requests with views. ``call`` runs a function in a thread (Bridge.call)."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        super().__init__()
        self.load_middleware()
        self._call = call
        self._bodies = Bodies()

    async def answer(
        self, scope: Scope, receive: Receive, send: Send, info: RequestInfo, urlconf: str, most: int
    ) -> None:
        """Answer a request with the views of ``urlconf``; ``most``: bytes that its body may have.

        Raises BodyTooLarge, BodyTimeout, Disconnected, Overloaded, BadRequest.
        """
        scope["mox"] = info
        async with self._bodies.read(scope, receive, most) as body:
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


class Bodies:
    """Bodies of requests on their way in, for one process: bounded together, since anybody may send them."""

    def __init__(self) -> None:
        self._held = 0  # bytes

    @contextlib.asynccontextmanager
    async def read(self, scope: Scope, receive: Receive, most: int) -> AsyncIterator[bytes]:
        """The whole body, as long as it is needed. Raises BodyTooLarge, BodyTimeout, Disconnected, Overloaded."""
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > most:  # a number: the HTTP parser looked at it
                raise BodyTooLarge
        parts: list[bytes] = []
        size = 0
        try:
            try:
                async with asyncio.timeout(BODY_TIMEOUT):
                    async for part in _parts(receive):
                        parts.append(part)
                        size += len(part)
                        self._held += len(part)
                        if size > most:
                            raise BodyTooLarge
                        if self._held > MAX_HELD:
                            raise Overloaded
            except TimeoutError:
                raise BodyTimeout from None
            yield b"".join(parts)
        finally:
            self._held -= size


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        yield message.get("body", b"")
        if not message.get("more_body"):
            return
