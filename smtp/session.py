"""One connection on port 25: the command loop and the commands, from the greeting to the end (RFC 5321)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from django.conf import settings

from protocols.names import BadDomain, Domain, parse_domain
from protocols.smtpreply import Reply
from protocols.smtpsyntax import (
    Command,
    Kind,
    Path,
    SyntaxProblem,
    parse_command,
    parse_hello,
    parse_mail,
    parse_rcpt,
)
from protocols.stream import Deadline, LineTooLong, StreamClosed
from server import faults
from server.cids import received_id
from server.connections import Connection, Stopping, panic_total
from server.logs import TRACE
from store.bridge import Bridge

from . import metrics
from .content import Spool, receive
from .delivery import Message, Outcome, Result, Rules, deliver, final_reply
from .errors import SMTPError, for_failure, too_large
from .localserve import MAIL_PREFIX, RCPT_PREFIX, special_failure
from .recipients import resolve_recipient
from .transaction import Hello, Peer, Recipient, Transaction

COMMAND_LINE_MAX: Final = 2048  # bytes with the line end; RFC 5321 4.5.3.1.4 and extensions ask for less
RECIPIENTS_MAX: Final = 1000  # of a message, announced as RCPTMAX; RFC 5321 4.5.3.1.8 asks for 100
FAILED_MAX: Final = 10  # failed transactions of a client that had no successful one
PENDING_MAX: Final = 64 * 1024  # bytes of replies that wait for a client's pipelined commands to end
LINGER: Final = 1.0  # seconds in which a client that still sends can read why we hang up
LINGER_BYTES: Final = 4 << 20  # and how much it may send meanwhile
SPOOL_DIRECTORY: Final = "tmp"  # in the data directory
KIND: Final = "deliver"

GO_ON_WITH_TLS: Final = Reply(220, "2.0.0", "go on with TLS")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "server is shutting down, try again later", close=True)
UNKNOWN: Final = "(unknown)"  # what metrics call a command that we don't know

Handler = Callable[[str], Awaitable[Reply]]


class Session:
    """What is known of a client, and what it may do next."""

    def __init__(self, connection: Connection, bridge: Bridge) -> None:
        self._connection = connection
        self._stream = connection.stream
        self._bridge = bridge
        self._log = connection.log
        self._received_id = received_id(connection.cid)
        self._hostname = _hostname(connection)
        self._rules = Rules(localserve=connection.settings.localserve, pedantic=connection.settings.pedantic)
        self._idle_timeout = settings.MOX.smtp_idle_timeout.total_seconds()
        self._hello: Hello | None = None
        self._transaction: Transaction | None = None
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
        metrics.connections.labels(KIND).inc()
        self._log.debug("connected", extra={"listener": self._connection.listener.name, "local": self._stream.local_ip})
        self._write(Reply(220, "", f"{self._hostname.ascii} ESMTP mox"))
        while True:
            if not self._stream.line_waiting() or self._stream.pending > PENDING_MAX:
                await self._flush()
            else:
                await asyncio.sleep(0)  # many commands in one packet keep nobody else waiting
            try:
                line = await self._connection.until_stopping(
                    self._stream.read_line(COMMAND_LINE_MAX, self._idle_timeout)
                )
            except Stopping:
                self._write(SHUTTING_DOWN)
                await self._flush()
                return
            except LineTooLong:
                self._write(Reply(500, "5.5.0", f"line of more than {COMMAND_LINE_MAX} bytes"))
                await self._hang_up(linger=True)
                return
            reply = await self._answer(line)
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
            handler = self._handler(command)
            verb = command.verb
            reply = await handler(command.argument)
        except SMTPError as exc:
            reply, cause = exc.reply, exc.cause
        except SyntaxProblem as exc:
            reply = _syntax_reply(exc, verb)
            if not self._speaks_smtp:
                reply = Reply(500, "5.5.2", "this is SMTP", close=True)
        except (StreamClosed, TimeoutError):
            raise
        except Exception as exc:
            reply, cause = self._failure(exc)
        ended = time.monotonic()
        metrics.observe_command(KIND, verb, reply.code, reply.enhanced, ended - began)
        if self._log.isEnabledFor(logging.DEBUG):
            self._log_command(verb, line, reply, cause, ended - began, began - self._last_line)
        self._last_line = ended
        return reply

    def _handler(self, command: Command) -> Handler:
        handler = self._handlers.get(command.verb)
        if handler is None:
            if not self._speaks_smtp:
                raise SMTPError(500, "5.5.2", "unknown command, this is SMTP", close=True)
            raise SMTPError(500, "5.5.1", "unknown command")
        self._speaks_smtp = True
        if command.bare_lf and self._rules.pedantic:
            raise SMTPError(500, "5.5.2", "bare line feed at the end of a command")
        return handler

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
            fields["line"] = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
            fields["reply"] = reply.text
        self._log.debug("command", extra=fields)

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
        name = parse_hello(argument, literal=False, strict=self._rules.pedantic)
        self._hello, self._transaction = Hello(name, extended=False), None
        return Reply(250, "", self._hostname.ascii)

    async def _ehlo(self, argument: str) -> Reply:
        name = parse_hello(argument, literal=True, strict=self._rules.pedantic)
        self._hello, self._transaction = Hello(name, extended=True), None  # RFC 5321 4.1.4
        return Reply(250, "", "\n".join(self._extensions()))

    def _extensions(self) -> list[str]:
        lines = [self._hostname.ascii, "PIPELINING", f"SIZE {self._connection.listener.max_message_size}"]
        if self._offers_starttls():
            lines.append("STARTTLS")
        elif self._stream.tls is not None and not self._connection.listener.smtp_no_requiretls:
            lines.append("REQUIRETLS")  # RFC 8689 section 2: only under TLS
        return [*lines, "ENHANCEDSTATUSCODES", "8BITMIME", f"LIMITS RCPTMAX={RECIPIENTS_MAX}", "SMTPUTF8"]

    def _offers_starttls(self) -> bool:
        connection = self._connection
        return self._stream.tls is None and connection.has_tls and not connection.listener.smtp_no_starttls

    async def _starttls(self, argument: str) -> Reply:
        _no_argument(argument)
        self._need_hello()
        if self._stream.tls is not None:
            raise SMTPError(503, "5.5.1", "TLS is active already")
        if not self._offers_starttls():
            raise SMTPError(503, "5.5.1", "STARTTLS is not offered")
        return GO_ON_WITH_TLS

    async def _auth(self, argument: str) -> Reply:
        raise SMTPError(503, "5.5.1", "logging in is for the submission ports")

    async def _mail(self, argument: str) -> Reply:
        self._need_hello()
        if self._failed > FAILED_MAX and not self._succeeded:
            raise SMTPError(550, "5.1.0", "too many failed transactions", close=True)
        if self._transaction is not None:
            raise SMTPError(503, "5.5.1", "MAIL was given already")
        mail = parse_mail(argument, strict=self._rules.pedantic)
        listener = self._connection.listener
        if mail.size is not None and mail.size > listener.max_message_size:
            raise too_large(mail.size, listener.max_message_size)
        if mail.require_tls and listener.smtp_no_requiretls:
            raise SMTPError(555, "5.3.3", "REQUIRETLS is not offered")
        if mail.require_tls and self._stream.tls is None:
            raise SMTPError(530, "5.7.10", "REQUIRETLS needs TLS")  # RFC 8689 section 3
        if mail.reverse_path.domain.ip is not None:
            raise SMTPError(550, "5.7.0", "sender with an address literal")
        await self._fail_if_special(mail.reverse_path, MAIL_PREFIX)
        self._transaction = Transaction(mail)
        return Reply(250, "2.1.0", "sender accepted")

    async def _rcpt(self, argument: str) -> Reply:
        transaction = self._need_transaction()
        path = parse_rcpt(argument, smtputf8=transaction.mail.smtputf8, strict=self._rules.pedantic)
        if self._connection.listener.smtp_require_starttls and self._stream.tls is None:
            raise SMTPError(530, "5.7.0", "STARTTLS is needed first")
        if transaction.accepted >= RECIPIENTS_MAX:
            raise SMTPError(452, "4.5.3", f"at most {RECIPIENTS_MAX} recipients")
        if transaction.accepted and transaction.mail.reverse_path.is_null:
            raise SMTPError(452, "4.5.3", "a bounce has one recipient")
        if transaction.accepted and not self._sender_is_proven():
            raise SMTPError(452, "4.5.3", "one recipient at a time from a sender without SPF pass")
        if path.domain.ip is not None:
            raise SMTPError(550, "5.1.1", "recipient with an address literal, and no relaying")
        await self._fail_if_special(path, RCPT_PREFIX)
        if path not in transaction.recipients:
            resolved = await self._bridge.call(resolve_recipient, path, in_localserve=self._rules.localserve)
            transaction.recipients[path] = Recipient(path, resolved)
        transaction.accepted += 1
        return Reply(250, "2.1.0", "recipient accepted")

    def _sender_is_proven(self) -> bool:
        """Whether a DSN may go to the sender: SPF of its domain passes. The place for asking, once SPF is there.

        Until then no DSN is sent either, and a message fails for all of its recipients or for none (delivery.Rules).
        """
        return True

    async def _data(self, argument: str) -> Reply:
        _no_argument(argument)
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
        _no_argument(argument)
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
        _no_argument(argument)
        return Reply(221, "2.0.0", "goodbye", close=True)

    # Receiving a message.

    async def _receive(self, transaction: Transaction, spool: Spool, deadline: Deadline) -> Reply:
        reader = await receive(
            self._stream,
            spool,
            limit=self._connection.listener.max_message_size,
            strict=self._rules.pedantic,
            idle_timeout=self._idle_timeout,
            deadline=deadline,
        )
        try:
            async with asyncio.timeout(deadline.left(float("inf"))):
                message = Message(
                    self._peer(),
                    transaction.mail,
                    list(transaction.recipients.values()),
                    await spool.finish(),
                    reader.has_8bit,
                    datetime.now(UTC),
                )
                outcomes = await deliver(self._bridge, message, self._rules)
        except TimeoutError as exc:
            raise SMTPError(451, "4.3.0", "processing took too long, try again later") from exc
        self._tell(transaction, reader.size, outcomes)
        reply = final_reply(outcomes)
        if not reply.ok and any(outcome.result is Result.UNKNOWN_USER for outcome in outcomes):
            await self._connection.pause(settings.MOX.smtp_unknown_rcpt_delay.total_seconds())
        await self._be_silent(max(outcome.silence for outcome in outcomes))
        return reply

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

    def _tell(self, transaction: Transaction, size: int, outcomes: list[Outcome]) -> None:
        """Metrics and a log line for each recipient."""
        sender = str(transaction.mail.reverse_path)
        for outcome in outcomes:
            metrics.deliveries.labels(outcome.result.value, "").inc()
            fields = {"mailfrom": sender, "rcptto": str(outcome.recipient.path), "size": size}
            if outcome.result is Result.DELIVERED:
                assert outcome.recipient.resolved is not None
                self._log.info("delivered", extra={**fields, "account": outcome.recipient.resolved.account_name})
            else:
                reason = outcome.reply.text if outcome.reply is not None else "withheld because of other recipients"
                self._log.info("not delivered", extra={**fields, "result": outcome.result.value, "reason": reason})

    # What commands need and share.

    def _need_hello(self) -> None:
        if self._hello is None:
            raise SMTPError(503, "5.5.1", "EHLO or HELO first")

    def _need_transaction(self) -> Transaction:
        self._need_hello()
        if self._transaction is None:
            raise SMTPError(503, "5.5.1", "MAIL first")
        return self._transaction

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


def _hostname(connection: Connection) -> Domain:
    try:
        return parse_domain(connection.hostname)
    except BadDomain:
        return Domain(connection.hostname)


def _no_argument(argument: str) -> None:
    if argument.strip():
        raise SyntaxProblem("this command takes no argument")


def _syntax_reply(problem: SyntaxProblem, verb: str) -> Reply:
    if problem.kind is Kind.ARGUMENT:
        return Reply(501, "5.5.4", str(problem))
    if problem.kind is Kind.UNKNOWN_PARAMETER:
        return Reply(555, "5.3.3", str(problem))
    if problem.kind is Kind.PARAMETER_VALUE:
        return Reply(555, "5.5.4", str(problem))
    if problem.kind is Kind.NEEDS_SMTPUTF8:
        return Reply(553 if verb == "RCPT" else 550, "5.6.7", str(problem))  # RFC 6531 3.5
    if verb == UNKNOWN:
        return Reply(500, "5.5.2", str(problem))
    return Reply(501, "5.5.2", str(problem))
