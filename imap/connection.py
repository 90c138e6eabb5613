"""One connection from greeting to goodbye: reading commands with their literals, running them, answering."""

from __future__ import annotations

import time
from typing import Any, Final

from django.db import DatabaseError
from prometheus_client import Counter, Gauge, Histogram

from protocols.stream import LineTooLong, StreamClosed
from server.connections import Connection, Stopping, panic_total
from server.db import DatabaseBusy
from store.bridge import Bridge
from store.errors import StoreError
from store.writer import WriterClosed

from . import announce, login, waiting
from .answers import Bad, Bye, Done, Refused, refusal
from .commands import COMMANDS, Command
from .general import ConnectionDropped
from .session import LoggedIn, Session
from .syntax import BadSyntax, LiteralAnnounced, LiteralNeeded, Parser, announced_literal

LINE_MAX: Final = 65_536  # bytes of a command without its literals: ID alone may need 32 kB
LITERAL_MAX: Final = 100_000  # bytes of a literal that is no message
LITERALS_MAX: Final = 1000  # of one command
LITERALS_TOGETHER: Final = 1_000_000  # bytes of all literals of one command
LITERALS_TOGETHER_BEFORE_LOGIN: Final = 16_384
LITERALS_CHECKED: Final = 4  # the syntax is looked at before each of so many: clients hear of errors before they send
BAD_IN_A_ROW_MAX: Final = 20
TIMEOUT_BEFORE_LOGIN: Final = 30.0  # seconds for a command line
TIMEOUT: Final = 1800.0  # RFC 9051 5.4 asks for at least 30 minutes
LITERAL_TIMEOUT: Final = 30.0  # seconds without progress
GOODBYE_TIMEOUT: Final = 5.0  # seconds for a last line

_SECRET: Final = frozenset({b"LOGIN", b"AUTHENTICATE"})

_connections = Counter("mox_imap_connection", "IMAP connections.", ["service"])
_sessions = Gauge("mox_imap_sessions", "Open IMAP sessions.", ["state"], multiprocess_mode="livesum")
_duration = Histogram(
    "mox_imap_command_duration_seconds",
    "Seconds that IMAP commands took.",
    ["cmd", "result"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20),
)


async def serve(connection: Connection, bridge: Bridge, account: LoggedIn | None = None) -> None:
    """Speak IMAP on a connection until it ends. ``account``: the client is logged in from the start."""
    _connections.labels(connection.service.name).inc()
    session = Session(connection, bridge)
    if account is not None:
        session.remember_login(account)
    loop = _CommandLoop(session)
    try:
        await loop.run()
    except ConnectionDropped as exc:
        connection.log.warning("connection dropped", extra={"reason": str(exc)})
        session.stream.abort()
    except Bye as exc:
        await _goodbye(session, str(exc))
    except Stopping as exc:
        await _goodbye(session, str(exc) or "shutting down")
    finally:
        session.close()
        loop.left()


async def _goodbye(session: Session, text: str) -> None:
    session.log.info("connection ended by us", extra={"reason": text})
    session.send(b"* BYE %b\r\n" % text.encode())
    await session.stream.flush(GOODBYE_TIMEOUT)


class _CommandLoop:
    """Reads and answers the commands of a session, one after the other."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stream = session.stream
        self._first = True
        self._bad_in_a_row = 0
        self._tag = self._name = b""
        self._state = session.state
        _sessions.labels(self._state.value).inc()

    def left(self) -> None:
        _sessions.labels(self._state.value).dec()

    async def run(self) -> None:
        session = self._session
        if session.account is None and session.connection.client_key:
            await login.preauthenticate(session)
        greeting = b"OK" if session.account is None else b"PREAUTH"
        session.send(b"* %b [CAPABILITY %b] mox imap\r\n" % (greeting, session.capabilities()))
        await session.flush()
        while not session.logged_out:
            await self._command(await self._next_command())
            self._first = False
            if session.state is not self._state:
                _sessions.labels(self._state.value).dec()
                self._state = session.state
                _sessions.labels(self._state.value).inc()

    async def _next_command(self) -> bytes:
        """The first line of the next command, without its end. Until it comes, NOTIFY's events are told."""
        session = self._session
        if session.watching is None or not session.watching.anything or self._stream.line_waiting():
            return await self._read_line(LINE_MAX)
        try:
            line = await waiting.line_while_telling(session, LINE_MAX, TIMEOUT, self._tell_events)
        except LineTooLong:
            raise Bye("[ALERT] line too long") from None
        except waiting.Inactive:
            raise Bye("inactive") from None
        return _without_end(line)

    async def _tell_events(self) -> None:
        try:
            await announce.announce(self._session, between_commands=True)
        except (DatabaseError, DatabaseBusy) as exc:
            self._session.log.warning("changes cannot be read", extra={"err": str(exc)})

    async def _read_line(self, limit: int) -> bytes:
        """A line without its end. Raises Bye."""
        self._stream.slow = self._session.dialogue.slow
        limit_seconds = TIMEOUT if self._session.account is not None else TIMEOUT_BEFORE_LOGIN
        try:
            line = await self._session.connection.until_stopping(self._stream.read_line(limit, limit_seconds))
        except LineTooLong:
            raise Bye("[ALERT] line too long") from None
        except TimeoutError:
            raise Bye("inactive") from None
        return _without_end(line)

    async def _command(self, line: bytes) -> None:
        """Read the rest of a command, carry it out, answer."""
        started = time.perf_counter()
        self._tag, self._name, result = b"*", b"", "ok"
        parser = Parser(line)
        try:
            command = self._begin(parser)
            arguments = await self._arguments(parser, command)
            done = await command.run(self._session, arguments)
            await self._announce(command)
            await self._answer_ok(done)
        except Exception as exc:
            result = await self._failed(exc, parser)
        finally:
            self._session.forget_uids()
            label = self._name.decode("ascii").lower() or "unknown"
            _duration.labels(label, result).observe(time.perf_counter() - started)

    def _begin(self, parser: Parser) -> Command:
        """Tag and name of a command, and its entry in the table. Raises BadSyntax, Bad, Bye."""
        line = parser.lines[0]
        try:
            if b"\0" in line:
                raise BadSyntax("NUL in a command")
            self._tag = parser.tag()
            parser.space()
            name = parser.command_name()
        except BadSyntax:
            self._session.trace_received(line)
            if self._first:
                raise Bye("please try again speaking imap") from None
            raise
        self._session.trace_received(
            line if name not in _SECRET else line.split(b" ", 2)[0] + b" " + name + b" ***", line
        )
        command = COMMANDS.get(name)
        if command is None:
            if self._first:
                raise Bye("please try again speaking imap")
            raise Bad("unknown command")
        self._name = name
        self._session.begin(self._tag)
        if self._session.state not in command.states:
            raise Bad("not allowed in this state")
        if command.by_number and self._session.uidonly:
            raise Bad("message numbers after ENABLE UIDONLY", "UIDREQUIRED")  # RFC 9586 3.2
        parser.mark()
        return command

    async def _arguments(self, parser: Parser, command: Command) -> Any:
        """Read the literals of a command, and parse it. A literal that a message is to come in is left unread."""
        used, together = len(parser.lines[0]), 0
        while (literal := announced_literal(parser.lines[-1])) is not None:
            if len(parser.literals) < LITERALS_CHECKED:
                try:
                    return self._parsed(parser, command)
                except LiteralNeeded:
                    pass
            together += literal.size
            self._check_literal(parser, literal, together)
            if literal.synchronizing:
                self._session.send(b"+ \r\n")
                await self._session.flush()
            parser.add_literal(await self._read_literal(literal.size))
            line = await self._read_line(LINE_MAX - used)
            if b"\0" in line:
                raise BadSyntax("NUL in a command", len(parser.lines))
            self._session.trace_received(line if command is not COMMANDS[b"LOGIN"] else b"***", line)
            used += len(line)
            if used >= LINE_MAX:
                raise Bye("[ALERT] line too long")
            parser.add_line(line)
        return self._parsed(parser, command)

    def _parsed(self, parser: Parser, command: Command) -> Any:
        parser.restart()
        return command.parse(parser)

    def _check_literal(self, parser: Parser, literal: LiteralAnnounced, together: int) -> None:
        most = LITERALS_TOGETHER if self._session.account is not None else LITERALS_TOGETHER_BEFORE_LOGIN
        if literal.size > min(LITERAL_MAX, most):
            problem = f"literal too big: {literal.size} bytes, at most {min(LITERAL_MAX, most)}"
        elif together > most:
            problem = f"literal too big: {together} bytes in all literals of a command, at most {most}"
        elif len(parser.literals) >= LITERALS_MAX:
            problem = f"literal too big: more than {LITERALS_MAX} literals in a command"
        else:
            return
        bad = Bad("literal too big", "TOOBIG")
        if literal.synchronizing:
            raise bad
        # Its bytes are on their way: nothing after it can be told from a command.
        raise Bye(f"[ALERT] {problem}", bad)

    async def _read_literal(self, size: int) -> bytes:
        return b"".join([block async for block in self._stream.blocks(size, LITERAL_TIMEOUT)])

    async def _announce(self, command: Command) -> None:
        session = self._session
        if not command.announces or session.account is None:
            return
        try:
            await (announce.tell_pending(session) if session.fresh else announce.announce(session))
        except (DatabaseError, DatabaseBusy) as exc:
            # What the command did is done: its answer must not suffer. The next one announces.
            session.log.warning("changes cannot be read", extra={"err": str(exc)})

    async def _answer_ok(self, done: Done) -> None:
        code = b"[%b] " % done.code if done.code else b""
        text = b", " + done.text if done.text else b""
        self._session.send(b"%b OK %b%b done%b\r\n" % (self._tag, code, _bare(self._name), text))
        await self._session.flush()
        self._bad_in_a_row = 0
        if done.afterwards is not None:
            await done.afterwards()

    async def _failed(self, exc: Exception, parser: Parser) -> str:
        """Answer a command that failed, or end the connection. Gives the result's label."""
        match exc:
            case StreamClosed() | TimeoutError() | ConnectionError() | Stopping() | ConnectionDropped():
                raise exc
            case Bye():
                if exc.bad is not None:
                    self._session.send(b"* BYE %b\r\n" % str(exc).encode())
                    self._send_failure(b"BAD", exc.bad.code, str(exc.bad))
                    await self._stream.flush(GOODBYE_TIMEOUT)
                    self._session.logged_out = True
                    return "badsyntax"
                raise exc
            case BadSyntax():
                await self._bad("", str(exc), parser.lines[exc.line])
                return "badsyntax"
            case Bad():
                await self._bad(exc.code, str(exc), b"" if exc.whole else parser.lines[-1])
                return "badsyntax"
            case Refused():
                return await self._no(exc, "usererror")
            case WriterClosed() | DatabaseBusy() | DatabaseError():
                self._session.log.warning("command failed, the database is busy", extra={"err": str(exc)})
                return await self._no(Refused("try again", "UNAVAILABLE"), "servererror")
            case StoreError():
                return await self._no(refusal(exc), "usererror")
        panic_total.labels("imap").inc()
        reference = f"{self._session.connection.cid:x}"
        self._session.log.error("unhandled exception in a command", exc_info=exc, extra={"cmd": self._name.decode()})
        return await self._no(Refused(f"internal error, reference {reference}", "SERVERBUG"), "panic")

    async def _no(self, refused: Refused, result: str) -> str:
        self._bad_in_a_row = 0
        command = COMMANDS.get(self._name)
        if command is not None:
            await self._announce(command)
        self._send_failure(b"NO", refused.code, str(refused))
        await self._session.flush()
        return result

    async def _bad(self, code: str, text: str, line: bytes) -> None:
        """Answer BAD; ``line`` is where the command is wrong, and what it announced has not been read."""
        if self._session.account is None and not code:
            text = text.partition(", got ")[0]  # nobody's input is repeated before login
        self._send_failure(b"BAD", code, text)
        await self._session.flush()
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= BAD_IN_A_ROW_MAX:
            raise Bye("too many bad commands")
        literal = announced_literal(line)
        if literal is not None and not literal.synchronizing:
            # Its bytes may be taken for commands: nothing that follows can be trusted.
            self._session.logged_out = True

    def _send_failure(self, word: bytes, code: str, text: str) -> None:
        in_brackets = f"[{code}] " if code else ""
        command = _bare(self._name) + b" " if self._name else b""
        answer = f"{in_brackets}".encode() + command + text.encode("ascii", "backslashreplace")
        self._session.send(b"%b %b %b\r\n" % (self._tag, word, answer))


def _without_end(line: bytes) -> bytes:
    return line[:-2] if line.endswith(b"\r\n") else line[:-1]


def _bare(name: bytes) -> bytes:
    """The command's name in answers: without UID."""
    return name.removeprefix(b"UID ")
