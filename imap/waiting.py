"""Waiting for what a client says next, while telling it what happens: in IDLE, and between commands with NOTIFY.

One task reads; the connection's own task tells, and is the only one that writes. What is being told is told to its end
before the line that has come in the meantime is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from protocols.stream import Deadline
from store.notify import Subscription

from .session import Session

POLL: Final = 30.0  # seconds after which the database is asked without a notification: Redis may be away
STILL_HERE: Final = 240.0  # seconds of silence after which a line keeps NAT entries alive


class Inactive(Exception):
    """The client said nothing for too long."""


async def line_while_telling(
    session: Session, limit: int, seconds: float, tell: Callable[[], Awaitable[None]]
) -> bytes:
    """The next line, with its end. Until it comes ``tell`` is called, at first and whenever there may be news.

    Raises Inactive after so many seconds, LineTooLong, Stopping, and what writing and ``tell`` do.
    """
    reader = asyncio.ensure_future(session.stream.read_line(limit, seconds))
    try:
        with session.bridge.hub.subscribe(session.account_id) as subscription:
            await _tell_until(reader, session, subscription, tell)
        try:
            return await reader
        except TimeoutError:
            raise Inactive from None
    finally:
        if not reader.done():
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader


async def _tell_until(
    reader: asyncio.Future[bytes], session: Session, subscription: Subscription, tell: Callable[[], Awaitable[None]]
) -> None:
    silence = Deadline(STILL_HERE)
    ask = True
    while not reader.done():
        subscription.event.clear()
        if ask or subscription.has_news(session.position):
            await tell()
            if session.stream.pending:
                await session.flush()
                silence = Deadline(STILL_HERE)
        try:
            most = silence.left(POLL)
        except TimeoutError:
            session.send(b"* OK still here\r\n")
            await session.flush()
            silence = Deadline(STILL_HERE)
            most = POLL
        ask = not await session.connection.until_stopping(_heard(reader, subscription, most))


async def _heard(reader: asyncio.Future[bytes], subscription: Subscription, seconds: float) -> bool:
    """Wait for the client or a notification; false if the time went by without."""
    notified = asyncio.ensure_future(subscription.event.wait())
    either: set[asyncio.Future[Any]] = {reader, notified}
    try:
        done, _ = await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        notified.cancel()
    return bool(done)
