"""The content of a message while it arrives: in memory while it is small, then in a temporary file."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from protocols.smtpdata import ContentTooLarge, DataReader
from protocols.stream import Deadline, Stream
from store.bridge import Bridge

from .errors import SMTPError, for_failure, too_large

MEMORY_MAX: Final = 1 << 20  # bytes of a message kept in memory, and of a larger one between two writes to its file


@dataclass(frozen=True, slots=True)
class Content:
    """A message as it was received, with line ends as they must be; ``size`` in bytes."""

    data: bytes | IO[bytes]
    size: int
    has_8bit: bool


class Spool:
    """Content on its way in. ``close()`` frees it, whatever happened."""

    def __init__(self, bridge: Bridge, directory: Path) -> None:
        self._bridge = bridge
        self._directory = directory
        self._blocks: list[bytes] = []
        self._in_memory = 0
        self._file: IO[bytes] | None = None

    async def write(self, data: bytes) -> None:
        """Add bytes. Raises OSError when the disk is full, say."""
        self._blocks.append(data)
        self._in_memory += len(data)
        if self._in_memory > MEMORY_MAX:
            await self._bridge.call(self._to_file)

    async def finish(self) -> bytes | IO[bytes]:
        """The whole content: bytes, or a file that is open until ``close()``. Raises OSError."""
        if self._file is None:
            return b"".join(self._blocks)
        await self._bridge.call(self._to_file)
        return self._file

    def close(self) -> None:
        """Forget the content."""
        self._blocks.clear()
        self._in_memory = 0
        if self._file is not None:
            # To free the blocks of a large file takes a disk a while.
            asyncio.get_running_loop().run_in_executor(None, self._file.close)
            self._file = None

    def _to_file(self) -> None:
        if self._file is None:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 # closed by close()
        self._file.writelines(self._blocks)
        self._file.flush()
        self._blocks.clear()
        self._in_memory = 0


async def receive(
    stream: Stream, spool: Spool, *, limit: int, strict: bool, idle_timeout: float, deadline: Deadline
) -> Content:
    """Read content to its end, into the spool, which must stay open. What comes after it is left in the stream.

    Raises SMTPError for content that is refused or cannot be kept. Its rest is read and dropped first, since the client
    looks for the reply after the end and nowhere else; but not where it is too large. StreamClosed, TimeoutError.
    """
    reader = DataReader(limit, strict=strict)
    failure: OSError | None = None
    while not reader.done:
        block = await stream.read_block(deadline.left(idle_timeout))
        try:
            content = reader.feed(block)
        except ContentTooLarge as exc:
            raise too_large(reader.size, limit, close=True) from exc
        if reader.violation or failure is not None:
            spool.close()
            continue
        try:
            await spool.write(content)
        except OSError as exc:
            failure = exc
    if reader.rest:
        stream.unread(reader.rest)
    if reader.violation:
        raise SMTPError(500, "5.5.2", reader.violation)
    if failure is None:
        try:
            return Content(await spool.finish(), reader.size, reader.has_8bit)
        except OSError as exc:
            failure = exc
    raise for_failure(failure) or SMTPError(451, "4.3.0", "message cannot be kept", cause=str(failure)) from failure
