"""How far a long search is, told from time to time, so that clients do not take it for a dead connection (RFC 9585).

progress = Progress(session, total=len(uids))  # 0: nobody knows
page = await progress.wait(session.call(next, pages), done=scanned)
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from .session import Session

INTERVAL: Final = 10.0  # seconds without output before the client is told, and between two times

T = TypeVar("T")


class Progress:
    """The progress of the search that the session does; ``total`` is what ``done`` will be at the end, 0 if unknown."""

    def __init__(self, session: Session, total: int, *, interval: float = INTERVAL) -> None:
        self.session = session
        self._total = total
        self._interval = interval
        self._silent = session.account is not None and "INPROGRESS" in session.account.disabled

    async def wait(self, work: Coroutine[Any, Any, T], done: int) -> T:
        """Do some of the command's work. Raises what it raises, StreamClosed and TimeoutError from telling."""
        if self._silent:
            return await work
        task = asyncio.ensure_future(work)
        try:
            while True:
                left = self.session.told_at + self._interval - asyncio.get_running_loop().time()
                await asyncio.wait({task}, timeout=max(0.0, left))
                if task.done():
                    return task.result()
                await self._tell(done)
        finally:
            task.cancel()  # where telling failed: nobody waits for the work

    async def _tell(self, done: int) -> None:
        tag = self.session.tag
        # Some parsers end a response code at the first bracket.
        named = b"NIL" if b"]" in tag else b'"%b"' % tag
        counted = b"%d %d" % (min(done, self._total), self._total) if self._total else b"NIL NIL"
        self.session.send(b"* OK [INPROGRESS (%b %b)] still searching\r\n" % (named, counted))
        await self.session.flush()
