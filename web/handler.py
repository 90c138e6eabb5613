"""Django for the ASGI pipeline: the whole of a request runs in one thread of the bridge.

Django's own ASGI handler makes a thread, and with it a database connection, for each request; these keep theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import IO, Any, Final, TypeAlias, cast

from django.conf import settings
from django.core import signals
from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.base import BaseHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import set_script_prefix

from store.writer import GroupWriter

from .requests import BadRequest, RequestInfo

BODY_TIMEOUT: Final = 60.0  # seconds for each MiB of a request's body: over a slow line
IN_MEMORY: Final = 1 << 20  # bytes of a body; more is on disk, where an endpoint takes more
MAX_HELD: Final = 64 << 20  # bytes of bodies in memory at a time; more are refused
MAX_SPOOLED: Final = 2 << 30  # bytes of bodies on disk at a time: of clients that have logged in

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Admit: TypeAlias = Callable[[HttpRequest], bool]


class BodyTooLarge(Exception):
    """The request has more than the endpoint takes."""


class BodyTimeout(Exception):
    """The rest of the request did not come."""


class Overloaded(Exception):
    """So much is being sent to this process that it has no room for more."""


class Disconnected(Exception):
    """The client went away before it sent all of the request."""


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body. Unread: it is larger than allowed, or its sender may not send it; then ``file`` is empty."""

    file: IO[bytes]
    size: int
    is_unread: bool = False


class DjangoHandler(BaseHandler):
    """Answers requests with views. ``call`` runs a function in a thread (Bridge.call); ``writer``: for views."""

    def __init__(self, call: Callable[..., Awaitable[Any]], writer: GroupWriter) -> None:
        super().__init__()
        self.load_middleware()
        self._call = call
        self._writer = writer
        self._bodies = Bodies()

    async def answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        info: RequestInfo,
        urlconf: str,
        most: int,
        admit: Admit | None = None,
    ) -> None:
        """Answer a request with the views of ``urlconf``; ``most``: bytes that its body may have.

        A body that is too large for memory is taken only if ``admit`` says so, from the header; the views answer the
        others with ``info.is_unread``. Raises BodyTooLarge, BodyTimeout, Disconnected, Overloaded, BadRequest.
        """
        scope["mox"] = info
        info.writer = self._writer

        async def take_large() -> bool:
            assert admit is not None
            return bool(await self._call(self._admits, scope, admit))

        large = Large(take_large, self._call) if admit is not None else None
        async with self._bodies.read(scope, receive, most, large) as body:
            info.is_unread = body.is_unread
            response: HttpResponseBase = await self._call(self._respond, scope, body, urlconf)
        if info.delay:
            await asyncio.sleep(info.delay)
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
        headers += [(b"set-cookie", morsel.OutputString().encode("ascii")) for morsel in response.cookies.values()]
        if info.is_unread:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        if isinstance(response, HttpResponse):
            await send({"type": "http.response.body", "body": response.content})
            return
        try:
            pieces = iter(cast(StreamingHttpResponse, response))
            while piece := await self._call(next, pieces, b""):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await self._call(response.close)

    def _admits(self, scope: Scope, admit: Admit) -> bool:
        return admit(_request(scope, io.BytesIO()))

    def _respond(self, scope: Scope, body: Body, urlconf: str) -> HttpResponseBase:
        set_script_prefix(scope["root_path"] + "/")
        signals.request_started.send(sender=type(self), scope=scope)
        request = _request(scope, body.file)
        request.META["CONTENT_LENGTH"] = str(body.size)  # also of one that came in chunks
        request.urlconf = urlconf  # Django looks for it: each endpoint has its own views
        response = self.get_response(request)
        if isinstance(response, HttpResponse):
            response["Content-Length"] = str(len(response.content))
            response.close()  # tells Django that the request is over, in the thread whose connections it is about
        return response


def _request(scope: Scope, body: IO[bytes]) -> ASGIRequest:
    try:
        return ASGIRequest(scope, body)
    except UnicodeDecodeError as exc:
        raise BadRequest("a header field is not UTF-8") from exc


@dataclass(frozen=True, slots=True)
class Large:
    """How bodies are taken that are too large for memory: whether at all, and what runs a function in a thread."""

    admit: Callable[[], Awaitable[bool]]
    call: Callable[..., Awaitable[Any]]


class Bodies:
    """Bodies of requests on their way in, for one process: bounded together, since anybody may send them."""

    def __init__(self) -> None:
        self._held = 0  # bytes in memory
        self._spooled = 0  # bytes on disk

    @contextlib.asynccontextmanager
    async def read(self, scope: Scope, receive: Receive, most: int, large: Large | None = None) -> AsyncIterator[Body]:
        """The whole body, as long as it is needed. Raises BodyTooLarge, BodyTimeout, Disconnected, Overloaded.

        With ``large``, one that is too large is not read; what is more than memory has room for is on disk.
        """
        declared = _declared(scope)
        if declared > most:
            if large is None:
                raise BodyTooLarge
            yield _UNREAD
            return
        if large is not None and declared > IN_MEMORY and not await large.admit():
            yield _UNREAD
            return
        taken = _Taken(is_admitted=declared > IN_MEMORY)
        try:
            try:
                whole = await self._take(receive, most, large, taken)
            except TimeoutError:
                raise BodyTimeout from None
            if not whole:
                yield _UNREAD
                return
            if taken.file is None:
                yield Body(io.BytesIO(b"".join(taken.parts)), taken.size)
            else:
                taken.file.seek(0)
                yield Body(taken.file, taken.size)
        finally:
            self._held -= taken.held
            self._spooled -= taken.size - taken.held
            if taken.file is not None:
                taken.file.close()

    async def _take(self, receive: Receive, most: int, large: Large | None, taken: _Taken) -> bool:
        """Read all of it; False if it may not be."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(BODY_TIMEOUT) as deadline:
            async for part in _parts(receive):
                if (taken.size + len(part)) >> 20 != taken.size >> 20:
                    deadline.reschedule(loop.time() + BODY_TIMEOUT)
                taken.size += len(part)
                if taken.size > most:
                    if large is None:
                        self._held += len(part)
                        taken.held += len(part)
                        raise BodyTooLarge
                    taken.size -= len(part)
                    return False
                if large is not None and taken.size > IN_MEMORY:
                    self._spooled += len(part)
                    if self._spooled > MAX_SPOOLED:
                        raise Overloaded
                    if taken.file is None:
                        if not taken.is_admitted and not await large.admit():
                            return False
                        taken.file = await large.call(_spool, taken.parts)
                        taken.parts = []
                        self._held -= taken.held
                        self._spooled += taken.held
                        taken.held = 0
                    await large.call(taken.file.write, part)
                    continue
                taken.parts.append(part)
                taken.held += len(part)
                self._held += len(part)
                if self._held > MAX_HELD:
                    raise Overloaded
        return True


@dataclass(slots=True)
class _Taken:
    """What came of a body so far; ``held`` bytes of it are in memory."""

    is_admitted: bool
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    held: int = 0
    file: IO[bytes] | None = None


_UNREAD: Final = Body(io.BytesIO(), 0, is_unread=True)


def _declared(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # a number: the HTTP parser looked at it
    return 0


def _spool(parts: list[bytes]) -> IO[bytes]:
    file = tempfile.TemporaryFile(dir=settings.MOX.temporary_dir)  # noqa: SIM115 # its reader closes it
    file.writelines(parts)
    return file


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        yield message.get("body", b"")
        if not message.get("more_body"):
            return
