"""IDLE: what others change is told as it happens, until DONE (RFC 9051 6.3.13)."""

from __future__ import annotations

from functools import partial
from typing import Final

from protocols.stream import LineTooLong

from . import announce, waiting
from .answers import Bye, Done
from .session import Session

IDLE_TIMEOUT: Final = 1800.0  # seconds for DONE
DONE_MAX: Final = 1024  # bytes of the line that should be DONE


async def idle(session: Session, _: None) -> Done:
    session.send(b"+ waiting\r\n")
    await session.flush()
    try:
        line = await waiting.line_while_telling(session, DONE_MAX, IDLE_TIMEOUT, partial(announce.announce, session))
    except LineTooLong:
        raise Bye("expected DONE") from None
    except waiting.Inactive:
        raise Bye("inactive") from None
    if line.strip().upper() != b"DONE":
        raise Bye("expected DONE")
    return Done()
