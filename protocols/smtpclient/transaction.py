"""Handing over a message: MAIL, RCPT, DATA and the content, pipelined where the server can (RFC 5321 3.3, 2920)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from protocols.message.source import Source, chunks
from protocols.smtpdata import END_OF_DATA, BareLineEnd, DotStuffer
from protocols.smtpsyntax import Path

from .channel import REFUSED_FROM, Channel
from .errors import ExtensionMissing, SMTPError
from .extensions import Extensions
from .replies import Reply

BLOCK: Final = 64 * 1024  # bytes of content read and written at once
RCPT_MAX: Final = 1000  # recipients of a transaction with a server that has no limit of its own
MIB: Final = 1 << 20

START_INPUT: Final = 354
MAILBOX_FULL: Final = 552
# "Too many recipients", also in the older form (RFC 5321 4.5.3.1.10).
TOO_MANY_RECIPIENTS: Final = frozenset({452, MAILBOX_FULL})

_UNSENDABLE: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class RecipientResult:
    """What became of one recipient. Exactly one of the two is set."""

    recipient: Path
    accepted: Reply | None
    """The reply to the end of the data: the server has taken responsibility."""
    error: SMTPError | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message."""

    results: tuple[RecipientResult, ...]
    """For each recipient, in the order given, but for those in ``untried``."""
    untried: tuple[Path, ...] = ()
    """Recipients that want another connection: this one ended before their turn, by its limits or its server.

    Never on account of its first transaction alone, so that each connection settles someone.
    """


class Hooks(Protocol):
    """What a queue does around the moment after which a message may have been delivered."""

    async def before_dot(self, recipients: Sequence[Path]) -> None:
        """The content went out to recipients that were accepted; its final dot goes out after this.

        Raise to send none: the connection is aborted, and the server throws the content away.
        """

    async def after_reply(self, results: Sequence[RecipientResult]) -> None:
        """The server has answered the end of the data (or has not, and the outcome is unknown: ``error.sent``).

        Called before anything else is sent.
        """


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be sent, but for its recipients."""

    mail_from: Path
    content: Source
    has_8bit: bool
    smtputf8: bool
    require_tls: bool


class Transmission:
    """One message on its way over one channel."""

    def __init__(
        self,
        channel: Channel,
        extensions: Extensions,
        message: Message,
        recipients: Sequence[Path],
        *,
        tls_verified: bool,
        pedantic: bool,
        hooks: Hooks | None,
        transactions: int,
    ) -> None:
        self.transactions = transactions
        """Of the connection, those of earlier messages among them."""
        self._channel = channel
        self._extensions = extensions
        self._message = message
        self._recipients = recipients
        self._tls_verified = tls_verified
        self._pedantic = pedantic
        self._hooks = hooks
        self._results: dict[int, RecipientResult] = {}  # by place among the recipients
        self._rcpt_max = min(extensions.limits.rcpt_max or RCPT_MAX, RCPT_MAX)

    async def deliver(self) -> Delivery:
        """Transactions until each recipient has a result. Raises what hooks and content do."""
        timeouts, mail_max = self._channel.timeouts, self._extensions.limits.mail_max
        self._channel.begin(timeouts.delivery + timeouts.delivery_per_mib * self._message.content.size / MIB)
        left = self._sendable()
        while left and not self._channel.botched and (mail_max is None or self.transactions < mail_max):
            left = await self._transaction(left)
        return Delivery(
            tuple(self._results[index] for index in sorted(self._results)),
            tuple(self._recipients[index] for index in left),
        )

    def _sendable(self) -> list[int]:
        """The recipients for which there is something to try; the others have their results."""
        everyone = range(len(self._recipients))
        impossible = self._impossible()
        for index in everyone:
            error = impossible or self._unsendable(self._recipients[index], "rcpt")
            if error is not None:
                self._fail([index], error)
        return [index for index in everyone if index not in self._results]

    def _impossible(self) -> SMTPError | None:
        """Why this server cannot be given the message at all."""
        extensions, message = self._extensions, self._message
        if message.require_tls and not self._tls_verified:
            text = "message requires TLS with a verified server"
            return ExtensionMissing("STARTTLS", text, code=554, enhanced="5.7.30")
        if message.require_tls and not extensions.require_tls:
            return ExtensionMissing("REQUIRETLS", "server does not support REQUIRETLS", code=554, enhanced="5.7.30")
        if message.smtputf8 and not extensions.smtputf8:
            return ExtensionMissing("SMTPUTF8", "server does not support SMTPUTF8", enhanced="5.6.7")
        if message.has_8bit and self._pedantic and not extensions.eight_bit_mime:
            text = "server does not support 8BITMIME"
            return SMTPError(text, permanent=True, enhanced="5.6.3", command="mail")
        if extensions.size and message.content.size > extensions.size:
            text = f"message of {message.content.size} bytes is larger than the {extensions.size} that the server takes"
            return SMTPError(text, permanent=True, enhanced="5.3.4", command="mail")
        return self._unsendable(message.mail_from, "mail")

    def _unsendable(self, path: Path, command: str) -> SMTPError | None:
        """Why an address cannot be written into a command."""
        text = path.text(smtputf8=self._message.smtputf8)
        if _UNSENDABLE.search(text):
            return SMTPError("address with control characters", permanent=True, enhanced="5.1.3", command=command)
        if not self._message.smtputf8 and not text.isascii():
            return SMTPError("address outside ASCII needs SMTPUTF8", permanent=True, enhanced="5.6.7", command=command)
        return None

    async def _transaction(self, left: list[int]) -> list[int]:
        """Settle the first of these recipients, and as many more as the server lets; gives those that are left."""
        chunk, rest = left[: self._rcpt_max], left[self._rcpt_max :]
        reused = self.transactions > 0
        self.transactions += 1
        try:
            if self._extensions.pipelining:
                self._send_ahead(chunk, reused=reused)
            refusal = await self._mail(reused=reused)
        except SMTPError as exc:
            if reused:
                return left  # the connection was at its end, which says nothing about them
            self._fail(left, exc)
            return []
        if refusal is not None:
            self._fail(left, refusal)
            if self._extensions.pipelining:
                await self._drain(chunk)
            return []
        deferred: list[int] = []
        try:
            accepted, deferred = await self._rcpt(chunk)
            error = await self._send_content(accepted) if await self._data(accepted) else None
        except SMTPError as exc:
            # Those that the server answered keep its answer, the others share what went wrong.
            self._fail([index for index in chunk if index not in self._results], exc)
            error, deferred = exc, []
        left = deferred + rest
        if error is not None and self._channel.botched and not reused and not error.sent:
            # A connection that ended like this in its first transaction: the next would too.
            self._fail(left, error)
            return []
        return left

    def _send_ahead(self, chunk: list[int], *, reused: bool) -> None:
        """RSET, MAIL, all RCPT and DATA at once, to be read while they go out.

        A server may stop reading until its replies are read (RFC 2920 section 3.1), so nothing here waits.
        """
        channel = self._channel
        if reused:
            channel.command("RSET")
        channel.command(self._mail_command())
        for index in chunk:
            channel.command(self._rcpt_command(index))
        channel.command("DATA")
        channel.send("mail")

    async def _ask(self, name: str, line: str) -> Reply:
        """The reply to a command, which a server with PIPELINING has already got."""
        if self._extensions.pipelining:
            return await self._channel.reply(name)
        return await self._channel.exchange(line)

    async def _mail(self, *, reused: bool) -> SMTPError | None:
        """Begin a transaction; gives the refusal of MAIL. Raises SMTPError where the connection is at its end."""
        channel = self._channel
        if reused:
            reply = await self._ask("rset", "RSET")
            if not reply.ok:
                # No server has a reason to; the one before may still be under way.
                channel.botched = True
                raise channel.refusal("rset", reply)
        reply = await self._ask("mail", self._mail_command())
        if reply.ok:
            return None
        refusal = channel.refusal("mail", reply)
        if channel.botched:
            raise refusal
        return refusal

    async def _rcpt(self, chunk: list[int]) -> tuple[list[int], list[int]]:
        """The recipients that were accepted, and those for another transaction. The others have their results."""
        channel = self._channel
        accepted: list[int] = []
        deferred: list[int] = []
        for position, index in enumerate(chunk):
            reply = await self._ask("rcpt", self._rcpt_command(index))
            if reply.ok:
                accepted.append(index)
            elif reply.code in TOO_MANY_RECIPIENTS and position > 0:
                deferred.append(index)
                if not self._extensions.pipelining:
                    deferred += chunk[position + 1 :]
                    break
            else:
                error = channel.refusal("rcpt", reply)
                if reply.code == MAILBOX_FULL:
                    error.permanent = False  # RFC 5321 4.5.3.1.10
                self._fail([index], error)
                if channel.botched:
                    raise error
        if deferred:
            # As many as it took are what it will take: else a long list would be offered again and again.
            self._rcpt_max = max(1, len(accepted))
        return accepted, deferred

    async def _data(self, accepted: list[int]) -> bool:
        """Whether the server waits for the content. If not, those who were accepted have their results."""
        if not accepted and not self._extensions.pipelining:
            return False
        reply = await self._ask("data", "DATA")
        if reply.code == START_INPUT:
            if not accepted:
                await self._send_nothing()
            return bool(accepted)
        refusal = self._channel.refusal("data", reply)
        self._fail(accepted, refusal)
        if self._channel.botched:
            raise refusal
        return False

    async def _send_nothing(self) -> None:
        """A server that refused all recipients and takes content all the same gets none (RFC 2920 section 3.1)."""
        self._channel.content(END_OF_DATA)
        self._channel.send("data")
        await self._channel.reply("data", limit=self._channel.timeouts.end_of_data)

    async def _drain(self, chunk: list[int]) -> None:
        """Read what a server answers to the commands that went out behind a MAIL that it refused."""
        channel = self._channel
        with contextlib.suppress(SMTPError):
            replies = [await channel.reply("rcpt") for _ in chunk]
            reply = await channel.reply("data")
            if reply.code == START_INPUT and not any(rcpt.ok for rcpt in replies):
                await self._send_nothing()
            elif reply.code < REFUSED_FROM:
                channel.botched = True

    async def _send_content(self, accepted: list[int]) -> SMTPError | None:
        """The content after 354, its end, and the reply that settles the recipients. Gives the error among these."""
        channel = self._channel
        try:
            await self._send_blocks()
        except BareLineEnd as exc:
            channel.botched = True
            raise SMTPError(f"message has a {exc}", permanent=True, enhanced="5.6.0", command="data") from exc
        if self._hooks is not None:
            await self._hooks.before_dot([self._recipients[index] for index in accepted])
        error = await self._interruption()
        accepted_with = None
        if error is None:
            accepted_with, error = await self._end_of_data()
        for index in accepted:
            self._results[index] = RecipientResult(self._recipients[index], accepted_with, error)
        if self._hooks is not None:
            await self._hooks.after_reply([self._results[index] for index in accepted])
        return error

    async def _send_blocks(self) -> None:
        """All of the content but the dot. Raises BareLineEnd, SMTPError, and what reading the content does."""
        content = self._message.content
        stuffer = DotStuffer()
        size = 0
        for block in chunks(content, 0, content.size, BLOCK):
            size += len(block)
            self._channel.content(stuffer.feed(block))
            await self._flush_content()
        if size != content.size:
            raise EOFError(f"content ended after {size} of {content.size} bytes")
        self._channel.content(stuffer.finish())
        await self._flush_content()

    async def _flush_content(self) -> None:
        """Send a block. Raises SMTPError."""
        error = await self._interruption()
        if error is None:
            try:
                await self._channel.flush("data")
            except SMTPError as exc:
                error = await self._interruption() or exc
        if error is not None:
            raise error

    async def _interruption(self) -> SMTPError | None:
        """Why the content cannot go on: the server has left, or spoke out of turn, which is to refuse it."""
        channel = self._channel
        await channel.stream.look()
        if not channel.stream.ended and not channel.stream.line_waiting():
            return None
        try:
            reply = await channel.reply("data")
        except SMTPError as exc:
            return exc
        channel.botched = True
        return channel.refusal("data", reply)

    async def _end_of_data(self) -> tuple[Reply | None, SMTPError | None]:
        """The reply to the dot if it accepts the content, else why it does not, or what came instead of it."""
        channel = self._channel
        try:
            channel.content(END_OF_DATA)
            channel.send("end-of-data")
            reply = await channel.reply("end-of-data", limit=channel.timeouts.end_of_data)
        except SMTPError as exc:
            exc.sent = True
            return None, exc
        if reply.ok:
            return reply, None
        error = channel.refusal("end-of-data", reply)
        error.sent = reply.code < REFUSED_FROM  # an answer that tells nothing
        return None, error

    def _fail(self, indices: Sequence[int], error: SMTPError) -> None:
        for index in indices:
            self._results[index] = RecipientResult(self._recipients[index], None, error)

    def _mail_command(self) -> str:
        extensions, message = self._extensions, self._message
        line = f"MAIL FROM:<{message.mail_from.text(smtputf8=message.smtputf8)}>"
        if extensions.size is not None:
            line += f" SIZE={message.content.size}"
        if extensions.eight_bit_mime:
            line += " BODY=8BITMIME" if message.has_8bit else " BODY=7BIT"
        if message.smtputf8:
            line += " SMTPUTF8"
        if message.require_tls:
            line += " REQUIRETLS"
        return line

    def _rcpt_command(self, index: int) -> str:
        return f"RCPT TO:<{self._recipients[index].text(smtputf8=self._message.smtputf8)}>"
