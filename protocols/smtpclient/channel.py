"""Commands and replies over a stream: deadlines, the trace in the log, and the end of a connection that went wrong."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from protocols.stream import Deadline, LineTooLong, Stream, StreamClosed

from .errors import SMTPError
from .replies import MAX_LINE, Reply, ReplyParser

# Levels of the log below debug: commands, then secrets too, then content too.
TRACE: Final = 8
TRACEAUTH: Final = 6
TRACEDATA: Final = 4

CLOSING: Final = 421  # the server ends the connection, RFC 5321 3.8
REFUSED_FROM: Final = 400  # RFC 5321 4.2.1

Log: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"
Observer: TypeAlias = Callable[[str, int, str, float], None]
"""Called for each reply: command as in SMTPError, code, enhanced code or "", seconds from sending to the reply.

Code and enhanced code are the server's: it has the choice of many thousands.
"""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that each step may take."""

    connect: float = 30.0
    """For all addresses of a host together."""
    setup: float = 300.0
    """From the connection to the end of authentication."""
    reply: float = 30.0
    write: float = 30.0
    """To hand a block to the network."""
    tls_handshake: float = 60.0
    end_of_data: float = 600.0
    """For the reply to the end of the data: who waits less makes duplicates (RFC 5321 4.5.3.2.6)."""
    delivery: float = 1800.0
    """For one message; the wait for the reply to its end is never cut short by this."""
    delivery_per_mib: float = 0.0
    """What each MiB of content adds to ``delivery``."""
    quit: float = 5.0


class Channel:
    """The stream of a session. ``botched``: no further command has a meaning, not even QUIT."""

    def __init__(self, stream: Stream, timeouts: Timeouts, log: Log, observe: Observer | None) -> None:
        self.stream = stream
        self.timeouts = timeouts
        self.botched = False
        self._deadline = Deadline(timeouts.setup)
        self._log = log
        self._observe = observe
        self._since = asyncio.get_running_loop().time()

    def begin(self, seconds: float) -> None:
        """Set what all steps from now on may take together; until then it is the time for the set-up."""
        self._deadline = Deadline(seconds)

    def command(self, line: str, *, shown: str = "") -> None:
        """Collect a command for the next flush; ``shown``: what the trace has instead of a line with a secret."""
        assert not {"\r", "\n", "\0"}.intersection(line), "a command is one line"
        self.data(f"{line}\r\n".encode())
        if self._log.isEnabledFor(TRACE):
            whole = not shown or self._log.isEnabledFor(TRACEAUTH)
            self._log.log(TRACE, "smtp client out", extra={"data": line if whole else shown})

    def content(self, block: bytes) -> None:
        """Collect content for the next flush."""
        self.data(block)
        if self._log.isEnabledFor(TRACEDATA):
            self._log.log(TRACEDATA, "smtp client out", extra={"data": block.decode("ascii", "backslashreplace")})

    def data(self, data: bytes) -> None:
        self.stream.write(data)
        self._since = asyncio.get_running_loop().time()

    def send(self, command: str) -> None:
        """Send what was collected without waiting for the server to take it. Raises SMTPError."""
        try:
            self.stream.send()
        except StreamClosed as exc:
            raise self._broken(command, exc) from exc

    async def flush(self, command: str) -> None:
        """Send what was collected. Raises SMTPError, and the channel is botched."""
        try:
            await self.stream.flush(self._deadline.left(self.timeouts.write))
        except (TimeoutError, StreamClosed) as exc:
            raise self._broken(command, exc) from exc

    async def reply(self, command: str, *, limit: float | None = None) -> Reply:
        """The next reply; ``limit``: seconds for it, whatever the other deadlines.

        Raises SMTPError for a lost connection, a timeout, or what is no reply; then the channel is botched.
        """
        parser = ReplyParser()
        reply: Reply | None = None
        try:
            seconds = self._deadline.left(self.timeouts.reply) if limit is None else limit
            deadline = Deadline(seconds)
            while reply is None:
                line = await self.stream.read_line(MAX_LINE, deadline.left(seconds))
                if self._log.isEnabledFor(TRACE):
                    shown = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
                    self._log.log(TRACE, "smtp client in", extra={"data": shown})
                reply = parser.feed(line)
        except (TimeoutError, StreamClosed, LineTooLong, ValueError) as exc:
            raise self._broken(command, exc) from exc
        if reply.code == CLOSING:
            self.botched = True
        if self._observe is not None:
            self._observe(command, reply.code, reply.enhanced, asyncio.get_running_loop().time() - self._since)
        return reply

    async def exchange(self, line: str, *, shown: str = "") -> Reply:
        """One command and its reply. Raises SMTPError as `flush` and `reply` do."""
        name = line.partition(" ")[0].lower()
        self.command(line, shown=shown)
        await self.flush(name)
        return await self.reply(name)

    def refusal(self, command: str, reply: Reply) -> SMTPError:
        """The error for a reply that refuses, or that has no meaning here and leaves both sides out of step."""
        error = reply.error(command)
        if reply.code < REFUSED_FROM:
            self.botched = True
            return SMTPError(f"unexpected reply to {command}: {error}", command=command, lines=error.lines)
        return error

    def abort(self) -> None:
        """End the connection at once."""
        self.botched = True
        self.stream.abort()

    def _broken(self, command: str, exc: Exception) -> SMTPError:
        self.botched = True
        match exc:
            case TimeoutError():
                text = f"timeout during {command}"
            case StreamClosed() if isinstance(self.stream.lost_with, ssl.SSLError):
                text = f"TLS failed during {command}: {self.stream.lost_with.reason}"
            case StreamClosed():
                text = f"connection closed by server during {command}"
            case _:
                text = f"bad reply to {command}: {exc}"
        return SMTPError(text, command=command)
