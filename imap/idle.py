"""IDLE: what others change is told as it happens, until DONE (RFC 9051 6.3.13)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from protocols.stream import Deadline, LineTooLong
from store.notify import Subscription

from . import announce
from .answers import Bye, Done
from .session import Session

POLL: Final = 30.0  # seconds after which the database is asked without a notification: Redis may be away
STILL_HERE: Final = 240.0  # seconds of silence after which a line keeps NAT entries alive
IDLE_TIMEOUT: Final = 1800.0  # seconds for DONE
DONE_MAX: Final = 1024  # bytes of the line that should be DONE


async def idle(session: Session, _: None) -> Done:
    session.send(b"+ waiting\r\n")
    await session.flush()
    reader = asyncio.ensure_future(session.stream.read_line(DONE_MAX, IDLE_TIMEOUT))
    try:
        with session.bridge.hub.subscribe(session.account_id) as subscription:
            await _tell_until(reader, session, subscription)
        line = await reader
    except LineTooLong:
        raise Bye("expected DONE") from None
    except TimeoutError:
        if reader.done() and isinstance(reader.exception(), TimeoutError):
            raise Bye("inactive") from None
        raise
    finally:
        if not reader.done():
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader
    if line.strip().upper() != b"DONE":
        raise Bye("expected DONE")
    return Done()


async def _tell_until(reader: asyncio.Future[bytes], session: Session, subscription: Subscription) -> None:
    """Tell changes until the client says something. Raises Stopping."""
    silence = Deadline(STILL_HERE)
    ask = True
    while not reader.done():
        subscription.event.clear()
        if ask or subscription.modseq > session.position:
            await announce.announce(session)
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
