"""One SMTP connection: the command loop and the commands, as reception and submission share them (RFC 5321).

What is different about the two, subclasses say: who may send, for whom, what else is offered, and where messages go.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final

from django.conf import settings

from accounts.addresses import Destination
from protocols.names import IPDomain, own_hostname
from protocols.smtpreply import Reply
from protocols.smtpsyntax import (
    Command,
    Kind,
    Mail,
    Path,
    SyntaxProblem,
    parse_command,
    parse_rcpt,
)
from protocols.stream import Deadline, LineTooLong, StreamClosed
from server import faults
from server.cids import received_id
from server.connections import Connection, Stopping, panic_total
from server.logs import TRACE, TRACEAUTH
from store.bridge import Bridge

from . import metrics
from .content import Content, Spool, receive
from .errors import SMTPError, for_failure, too_large
from .localserve import MAIL_PREFIX, RCPT_PREFIX, special_failure
from .transaction import Done, Hello, Peer, Rules, Transaction

COMMAND_LINE_MAX: Final = 2048  # bytes with the line end; RFC 5321 4.5.3.1.4 and extensions ask for less
RECIPIENTS_MAX: Final = 1000  # of a message, announced as RCPTMAX; RFC 5321 4.5.3.1.8 asks for 100
FAILED_MAX: Final = 10  # failed transactions of a client that had no successful one
PENDING_MAX: Final = 64 * 1024  # bytes of replies that wait for a client's pipelined commands to end
LINGER: Final = 1.0  # seconds in which a client that still sends can read why we hang up
LINGER_BYTES: Final = 4 << 20  # and how much it may send meanwhile
SPOOL_DIRECTORY: Final = "tmp"  # in the data directory

GO_ON_WITH_TLS: Final = Reply(220, "2.0.0", "go on with TLS")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "server is shutting down, try again later", close=True)
UNKNOWN: Final = "(unknown)"  # what metrics call a command that we don't know

Handler = Callable[[str], Awaitable[Reply]]


class Session(abc.ABC):
    """What is known of a client, and what it may do next."""

    kind: ClassVar[str]
    """What metrics call these connections."""

    def __init__(self, connection: Connection, bridge: Bridge) -> None:
        self._connection = connection
        self._stream = connection.stream
        self._bridge = bridge
        self._log = connection.log
        self._received_id = received_id(connection.cid)
        self._hostname = own_hostname(connection.hostname)
        self._rules = Rules(localserve=connection.settings.localserve, pedantic=connection.settings.pedantic)
        self._idle_timeout = settings.MOX.smtp_idle_timeout.total_seconds()
        self._hello: Hello | None = None
        self._transaction: Transaction | None = None
        self._slow = 0.0  # seconds per step of the stream's slow mode, from the next read on
        self._speaks_smtp = False  # a first command that we know was seen
        self._failed = self._succeeded = 0  # transactions, from the end of DATA on
        self._last_line = time.monotonic()
        self._handlers: dict[str, Handler] = {
            "HELO": self._helo,
            "EHLO": self._ehlo,
            "STARTTLS": self._starttls,
            "AUTH": self._auth,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": self._noop,
            "HELP": self._help,
            "VRFY": self._vrfy,
            "EXPN": self._vrfy,
            "QUIT": self._quit,
        }

    async def run(self) -> None:
        """Talk until one of the two has enough. Raises StreamClosed, TimeoutError, TLSFailed."""
        metrics.connections.labels(self.kind).inc()
        self._log.debug("connected", extra={"listener": self._connection.listener.name, "local": self._stream.local_ip})
        self._write(Reply(220, "", f"{self._hostname.ascii} ESMTP mox"))
        while True:
            if not self._stream.line_waiting() or self._stream.pending > PENDING_MAX:
                await self._flush()
            else:
                await asyncio.sleep(0)  # many commands in one packet keep nobody else waiting
            self._stream.slow = self._slow
            reading = self._stream.read_line(COMMAND_LINE_MAX, self._idle_timeout)
            try:
                reply = await self._answer(await self._connection.until_stopping(reading))
            except Stopping as exc:
                self._write(Reply(421, "4.7.0", str(exc), close=True) if str(exc) else SHUTTING_DOWN)
                await self._flush()
                return
            except LineTooLong as exc:
                self._write(Reply(500, "5.5.0", str(exc)))
                await self._hang_up(linger=True)
                return
            self._write(reply)
            if reply is GO_ON_WITH_TLS:
                await self._start_tls()
            elif reply.close:
                await self._hang_up(linger=not reply.ok)
                return

    async def _start_tls(self) -> None:
        # What a client, or somebody in between, sent behind the command is not under TLS: it is never run.
        self._stream.discard()
        await self._flush()
        await self._connection.start_tls()
        self._hello = self._transaction = None  # RFC 3207 4.2
        if self._stream.tls is not None:
            self._log.debug("tls", extra={"version": self._stream.tls.version, "cipher": self._stream.tls.cipher})

    # One command.

    async def _answer(self, line: bytes) -> Reply:
        """Run a command; whatever goes wrong in it becomes its reply."""
        began = time.monotonic()
        verb, cause = UNKNOWN, ""
        try:
            command = parse_command(line)
            handler = self._handler(command.verb)
            verb = command.verb
            self._check_line(command)
            reply = await handler(command.argument)
        except SMTPError as exc:
            reply, cause = exc.reply, exc.cause
        except SyntaxProblem as exc:
            reply = _syntax_reply(exc, verb, self._explained(exc))
            if not self._speaks_smtp:
                reply = Reply(500, "5.5.2", "this is SMTP", close=True)
        except (StreamClosed, TimeoutError, LineTooLong, Stopping):
            raise
        except Exception as exc:
            reply, cause = self._failure(exc)
        ended = time.monotonic()
        metrics.observe_command(self.kind, verb, reply.code, reply.enhanced, ended - began)
        if self._log.isEnabledFor(logging.DEBUG):
            self._log_command(verb, line, reply, cause, ended - began, began - self._last_line)
        self._last_line = ended
        return reply

    def _handler(self, verb: str) -> Handler:
        handler = self._handlers.get(verb)
        if handler is None:
            if not self._speaks_smtp:
                raise SMTPError(500, "5.5.2", "unknown command, this is SMTP", close=True)
            raise SMTPError(500, "5.5.1", "unknown command")
        self._speaks_smtp = True
        return handler

    def _check_line(self, command: Command) -> None:
        """Raises SMTPError, SyntaxProblem for what is wrong about a line, whatever its command."""
        if command.bare_lf and self._rules.pedantic:
            raise SMTPError(500, "5.5.2", "bare line feed at the end of a command")

    def _failure(self, exc: Exception) -> tuple[Reply, str]:
        expected = for_failure(exc)
        if expected is not None:
            self._log.error("command failed", extra={"err": expected.cause})
            return expected.reply, expected.cause
        panic_total.labels("smtp").inc()
        self._log.exception("command failed")
        return Reply(451, "4.3.0", "internal error, try again later"), str(exc)

    def _log_command(self, verb: str, line: bytes, reply: Reply, cause: str, duration: float, since: float) -> None:
        fields = {"cmd": verb, "code": reply.code, "ecode": reply.enhanced, "duration": duration, "delta": since}
        if cause:
            fields["err"] = cause
        if self._log.isEnabledFor(TRACE):
            fields["line"] = self._shown(line)
            fields["reply"] = reply.text
        self._log.debug("command", extra=fields)

    def _shown(self, line: bytes) -> str:
        """A command line for the log, without a password in it."""
        if line.lstrip()[:4].upper() == b"AUTH" and not self._log.isEnabledFor(TRACEAUTH):
            line = b" ".join(line.split(None, 2)[:2]) + b" ***"
        return line.decode("utf-8", "backslashreplace").rstrip("\r\n")

    def _write(self, reply: Reply) -> None:
        self._stream.write(reply.encode(self._received_id))

    async def _flush(self) -> None:
        await self._stream.flush(self._idle_timeout)

    async def _hang_up(self, *, linger: bool) -> None:
        """Send what is to be sent. With ``linger`` a client that is still sending gets a moment to read it.

        A socket that is closed with unread bytes in it is reset, and the peer may never see our last words.
        """
        await self._flush()
        if not linger:
            return
        dropped = self._stream.buffered
        self._stream.discard()
        with contextlib.suppress(TimeoutError, StreamClosed):
            async with asyncio.timeout(LINGER):
                while dropped < LINGER_BYTES:
                    dropped += len(await self._stream.read_block(LINGER))

    # Commands, in the order of smtp.md. Each gives its reply, or raises SMTPError or SyntaxProblem.

    async def _helo(self, argument: str) -> Reply:
        self._hello, self._transaction = Hello(self._hello_name(argument, literal=False), extended=False), None
        return Reply(250, "", self._hostname.ascii)

    async def _ehlo(self, argument: str) -> Reply:
        self._hello, self._transaction = Hello(self._hello_name(argument, literal=True), extended=True), None
        return Reply(250, "", "\n".join(self._extensions()))  # RFC 5321 4.1.4

    def _extensions(self) -> list[str]:
        lines = [self._hostname.ascii, "PIPELINING", f"SIZE {self._connection.listener.max_message_size}"]
        if self._offers_starttls():
            lines.append("STARTTLS")
        elif self._stream.tls is not None and self._requiretls_allowed():
            lines.append("REQUIRETLS")  # RFC 8689 section 2: only under TLS
        lines += self._more_extensions()
        return [*lines, "ENHANCEDSTATUSCODES", "8BITMIME", f"LIMITS RCPTMAX={RECIPIENTS_MAX}", "SMTPUTF8"]

    def _offers_starttls(self) -> bool:
        return self._stream.tls is None and self._connection.has_tls and self._starttls_allowed()

    async def _starttls(self, argument: str) -> Reply:
        no_argument(argument)
        self._need_hello()
        if self._stream.tls is not None:
            raise SMTPError(503, "5.5.1", "TLS is active already")
        if not self._offers_starttls():
            raise SMTPError(503, "5.5.1", "STARTTLS is not offered")
        return GO_ON_WITH_TLS

    async def _mail(self, argument: str) -> Reply:
        self._check_may_send()
        if self._failed > FAILED_MAX and not self._succeeded:
            raise SMTPError(550, "5.1.0", "too many failed transactions", close=True)
        if self._transaction is not None:
            raise SMTPError(503, "5.5.1", "MAIL was given already")
        mail = self._parse_mail(argument)
        limit = self._connection.listener.max_message_size
        if mail.size is not None and mail.size > limit:
            raise too_large(mail.size, limit)
        if mail.require_tls and not self._requiretls_allowed():
            raise SMTPError(555, "5.3.3", "REQUIRETLS is not offered")
        if mail.require_tls and self._stream.tls is None:
            raise SMTPError(530, "5.7.10", "REQUIRETLS needs TLS")  # RFC 8689 section 3
        await self._fail_if_special(mail.reverse_path, MAIL_PREFIX)
        await self._check_sender(mail)
        self._transaction = Transaction(mail)
        return Reply(250, "2.1.0", "sender accepted")

    async def _rcpt(self, argument: str) -> Reply:
        transaction = self._need_transaction()
        path = parse_rcpt(argument, smtputf8=transaction.mail.smtputf8, strict=self._rules.pedantic)
        await self._check_recipient(transaction, path)
        await self._fail_if_special(path, RCPT_PREFIX)
        if path not in transaction.recipients:
            transaction.recipients[path] = await self._resolve(transaction, path)
        transaction.accepted += 1
        return Reply(250, "2.1.0", "recipient accepted")

    async def _data(self, argument: str) -> Reply:
        no_argument(argument)
        transaction = self._need_transaction()
        if not transaction.recipients:
            raise SMTPError(503, "5.5.1", "RCPT first")
        deadline = Deadline(settings.MOX.smtp_data_timeout.total_seconds())
        self._write(Reply(354, "", "go on, a dot on a line of its own is the end"))
        await self._flush()
        self._transaction = None
        self._failed += 1
        spool = Spool(self._bridge, settings.MOX.data_dir / SPOOL_DIRECTORY)
        try:
            reply = await self._receive(transaction, spool, deadline)
        finally:
            spool.close()
        if reply.ok:
            self._failed -= 1
            self._succeeded += 1
        faults.point("smtp.before_reply")
        return reply

    async def _rset(self, argument: str) -> Reply:
        no_argument(argument)
        self._transaction = None
        return Reply(250, "2.0.0", "transaction forgotten")

    async def _noop(self, argument: str) -> Reply:
        return Reply(250, "2.0.0", "nothing done")

    async def _help(self, argument: str) -> Reply:
        return Reply(214, "2.0.0", "see RFC 5321")

    async def _vrfy(self, argument: str) -> Reply:
        if not argument.strip():
            raise SyntaxProblem("argument missing")
        return Reply(252, "2.7.0", "cannot verify, but will try to deliver")

    async def _quit(self, argument: str) -> Reply:
        no_argument(argument)
        return Reply(221, "2.0.0", "goodbye", close=True)

    # Receiving a message.

    async def _receive(self, transaction: Transaction, spool: Spool, deadline: Deadline) -> Reply:
        content = await receive(
            self._stream,
            spool,
            limit=self._connection.listener.max_message_size,
            strict=self._rules.pedantic,
            idle_timeout=self._idle_timeout,
            deadline=deadline,
        )
        try:
            async with asyncio.timeout(deadline.left(float("inf"))):
                done = await self._take(transaction, content)
        except TimeoutError as exc:
            raise SMTPError(451, "4.3.0", "processing took too long, try again later") from exc
        await self._connection.pause(done.pause)
        await self._be_silent(done.silence)
        return done.reply

    def _peer(self) -> Peer:
        assert self._hello is not None
        stream, tls = self._stream, self._stream.tls
        return Peer(
            cid=self._connection.cid,
            remote_ip=stream.remote_ip,
            local_ip=stream.local_ip,
            hostname=self._hostname,
            hello=self._hello,
            tls_version=tls.version if tls is not None else "",
            tls_cipher=tls.cipher if tls is not None else "",
        )

    # What commands need and share.

    def _need_hello(self) -> None:
        if self._hello is None:
            raise SMTPError(503, "5.5.1", "EHLO or HELO first")

    def _need_transaction(self) -> Transaction:
        self._check_may_send()
        if self._transaction is None:
            raise SMTPError(503, "5.5.1", "MAIL first")
        return self._transaction

    def _check_count(self, transaction: Transaction) -> None:
        if transaction.accepted >= RECIPIENTS_MAX:
            raise SMTPError(452, "4.5.3", f"at most {RECIPIENTS_MAX} recipients")

    async def _fail_if_special(self, path: Path, prefix: str) -> None:
        """In localserve an address may ask for a failure at its command. Raises SMTPError."""
        if not self._rules.localserve or not path.localpart.lower().startswith(prefix):
            return
        special = special_failure(path.localpart)
        if special is not None:
            await self._be_silent(special.silence)
            reply = special.reply
            raise SMTPError(reply.code, reply.enhanced, reply.text, close=reply.close)

    async def _be_silent(self, seconds: float) -> None:
        """Give no answer for so long, but not to a client that went away. Raises StreamClosed."""
        if not seconds:
            return
        with contextlib.suppress(TimeoutError):
            try:
                early = await self._connection.until_stopping(self._stream.read_block(seconds))
            except Stopping:
                return
            self._stream.unread(early)
            await self._connection.pause(seconds)

    # What reception and submission have of their own.

    @abc.abstractmethod
    def _starttls_allowed(self) -> bool:
        """Whether the listener's settings let STARTTLS be offered."""

    @abc.abstractmethod
    def _requiretls_allowed(self) -> bool:
        """Whether the listener's settings let REQUIRETLS be offered."""

    @abc.abstractmethod
    def _more_extensions(self) -> list[str]:
        """Lines for the answer to EHLO."""

    @abc.abstractmethod
    def _hello_name(self, argument: str, *, literal: bool) -> IPDomain:
        """What the client calls itself; ``literal``: in EHLO. Raises SyntaxProblem."""

    @abc.abstractmethod
    async def _auth(self, argument: str) -> Reply:
        """The command AUTH."""

    @abc.abstractmethod
    def _parse_mail(self, argument: str) -> Mail:
        """The arguments of MAIL. Raises SyntaxProblem, SMTPError."""

    @abc.abstractmethod
    async def _check_sender(self, mail: Mail) -> None:
        """Raises SMTPError for a sender that may not send here."""

    @abc.abstractmethod
    async def _check_recipient(self, transaction: Transaction, path: Path) -> None:
        """Raises SMTPError for a recipient that cannot be added, wherever it leads."""

    @abc.abstractmethod
    async def _resolve(self, transaction: Transaction, path: Path) -> Destination | None:
        """Where a recipient leads: see Transaction. Raises SMTPError."""

    @abc.abstractmethod
    async def _take(self, transaction: Transaction, content: Content) -> Done:
        """Store the message. Raises SMTPError, and what the store raises."""

    def _explained(self, problem: SyntaxProblem) -> str:
        """What the client is told of a line that cannot be used."""
        return str(problem)

    def _check_may_send(self) -> None:
        """Raises SMTPError unless the client has done what must come before MAIL."""
        self._need_hello()


def no_argument(argument: str) -> None:
    if argument.strip():
        raise SyntaxProblem("this command takes no argument", rest=argument)


def _syntax_reply(problem: SyntaxProblem, verb: str, text: str) -> Reply:
    if problem.kind is Kind.ARGUMENT:
        return Reply(501, "5.5.4", text)
    if problem.kind is Kind.UNKNOWN_PARAMETER:
        return Reply(555, "5.3.3", text)
    if problem.kind is Kind.PARAMETER_VALUE:
        return Reply(555, "5.5.4", text)
    if problem.kind is Kind.NEEDS_SMTPUTF8:
        return Reply(553 if verb == "RCPT" else 550, "5.6.7", text)  # RFC 6531 3.5
    if verb == UNKNOWN:
        return Reply(500, "5.5.2", text)
    return Reply(501, "5.5.2", text)
