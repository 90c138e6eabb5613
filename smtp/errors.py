"""The one error that commands raise: the reply for the peer, and for the log what is none of the peer's business."""

from __future__ import annotations

import errno
from typing import Final

from protocols.smtpreply import Reply
from server.db import DatabaseBusy
from store.errors import StorageFull
from store.writer import WriterClosed

USUAL_SIZE_LIMIT: Final = 100 << 20  # bytes; who refuses less than that has a lower limit than others
_DISK_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


class SMTPError(Exception):
    """A command is refused. ``cause`` is for the log alone; ``close``: the connection ends with the reply."""

    def __init__(self, code: int, enhanced: str, text: str, *, close: bool = False, cause: str = "") -> None:
        super().__init__(cause or text)
        self.reply = Reply(code, enhanced, text, close)
        self.cause = cause


def too_large(size: int, limit: int, *, close: bool = False) -> SMTPError:
    """So many bytes are more than the listener takes (RFC 1870 section 6)."""
    enhanced = "5.2.3" if size < USUAL_SIZE_LIMIT else "5.3.4"
    return SMTPError(552, enhanced, f"message too large, at most {limit} bytes are accepted", close=close)


def for_failure(exc: BaseException) -> SMTPError | None:
    """What a failure that can be expected is for the peer; None for one that is our fault."""
    if isinstance(exc, StorageFull) or (isinstance(exc, OSError) and exc.errno in _DISK_FULL):
        return SMTPError(452, "4.3.1", "storage is full, try again later", cause=str(exc))
    if isinstance(exc, DatabaseBusy):
        return SMTPError(451, "4.3.0", "server is busy, try again later", cause=str(exc))
    if isinstance(exc, WriterClosed):
        return SMTPError(421, "4.3.2", "server is shutting down, try again later", close=True, cause=str(exc))
    return None
