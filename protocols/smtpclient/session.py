"""A session with one server: greeting, EHLO, STARTTLS, AUTH; then deliveries, and QUIT (RFC 5321, 3207, 4954)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from protocols.message.source import Readable, as_source
from protocols.names import IPDomain, address_literal
from protocols.pkix import TLSProblem, peer_chain
from protocols.smtpsyntax import Path
from protocols.stream import Stream, TLSFailed, TLSState

from .authentication import Credentials, authenticate
from .channel import Channel, Log, Observer, Timeouts
from .dial import Dialer, dial
from .errors import SMTPError, TLSFailure
from .extensions import Extensions, parse_extensions
from .replies import Reply
from .tlspolicy import CheckResult, TLSMode, TLSPolicy, handshake_problem, starttls_problem, unverified_context
from .transaction import Delivery, Hooks, Message, Transmission

READY: Final = 220  # of a greeting, and of STARTTLS
HELO_AFTER: Final = frozenset({500, 501, 502, 503, 504})  # codes after which EHLO is taken for unknown

_log = logging.getLogger(__name__)


async def connect(
    addresses: Sequence[IPv4Address | IPv6Address],
    port: int,
    *,
    hello: IPDomain,
    tls: TLSPolicy,
    credentials: Credentials | None = None,
    timeouts: Timeouts | None = None,
    local_addresses: Sequence[IPv4Address | IPv6Address] = (),
    pedantic: bool = False,
    log: Log = _log,
    observe: Observer | None = None,
    dialer: Dialer = dial,
) -> Session:
    """A session ready for deliveries, with the first address that can be reached. Raises SMTPError; see `dial`.

    ``hello``: the name or address that this side calls itself. ``pedantic``: what a server does not announce is not
    sent to it. ``observe`` is called for each reply. ``dialer``: what opens the connection, if not `dial`.
    """
    timeouts = timeouts or Timeouts()
    stream = await dialer(addresses, port, timeout=timeouts.connect, local_addresses=local_addresses)
    session = Session(stream, hello=hello, tls=tls, timeouts=timeouts, pedantic=pedantic, log=log, observe=observe)
    await session.start(credentials)
    return session


class Session:
    """One connection. Made by `connect`, or over a stream of one's own (a proxy's) and then started.

    Used by one task at a time. Whatever raises out of it, cancellation included, ends the connection.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        hello: IPDomain,
        tls: TLSPolicy,
        timeouts: Timeouts | None = None,
        pedantic: bool = False,
        log: Log = _log,
        observe: Observer | None = None,
    ) -> None:
        self.stream = stream
        self.extensions = Extensions()
        """What the server announced last."""
        self.starttls_announced = False
        """In the clear; what it announces under TLS has no STARTTLS."""
        self.tls_results: tuple[CheckResult, ...] = ()
        """What the policy's checks said, those that are only observed too; empty without TLS."""
        self.tls_verified = False
        """All checks of the policy passed, and there was one."""
        self.mechanism = ""
        """By which it was logged in."""
        self.transactions = 0
        self._hello = hello
        self._policy = tls
        self._pedantic = pedantic
        self._channel = Channel(stream, timeouts or Timeouts(), log, observe)
        self._log = log

    @property
    def tls(self) -> TLSState | None:
        """What was agreed in the handshake; None without TLS."""
        return self.stream.tls

    @property
    def usable(self) -> bool:
        """Whether another delivery can be tried over this connection."""
        mail_max = self.extensions.limits.mail_max
        return (
            not self._channel.botched
            and not self.stream.ended
            and not self.stream.buffered  # it has said something unasked: that it closes the connection, likely
            and (mail_max is None or self.transactions < mail_max)  # RFC 9422 section 4.1
        )

    async def start(self, credentials: Credentials | None = None) -> None:
        """Get ready for deliveries. Raises SMTPError, after which the connection is gone."""
        try:
            await self._start(credentials)
        except SMTPError as exc:
            exc.remote_ip, exc.local_ip = self.stream.remote_ip, self.stream.local_ip
            await self.quit()
            raise
        except BaseException:
            self.abort()
            raise

    async def deliver(
        self,
        mail_from: Path,
        recipients: Sequence[Path],
        content: Readable,
        *,
        has_8bit: bool,
        smtputf8: bool = False,
        require_tls: bool = False,
        hooks: Hooks | None = None,
    ) -> Delivery:
        """Hand over one message, in as many transactions as the server wants.

        ``content`` has CRLF line ends and is read in blocks, on the event loop; ``has_8bit``: it has bytes beyond
        ASCII; ``smtputf8``: its header or an address does; ``require_tls``: RFC 8689. Each recipient gets a result of
        its own: what the server, the network or the message is to blame for is never raised. What the hooks and the
        reading of the content raise is, and from then on nothing more is sent.
        """
        message = Message(mail_from, as_source(content), has_8bit=has_8bit, smtputf8=smtputf8, require_tls=require_tls)
        transmission = Transmission(
            self._channel,
            self.extensions,
            message,
            recipients,
            tls_verified=self.tls_verified,
            pedantic=self._pedantic,
            hooks=hooks,
            transactions=self.transactions,
        )
        try:
            return await transmission.deliver()
        except BaseException:
            self.abort()
            raise
        finally:
            self.transactions = transmission.transactions
            if self._channel.botched:
                self.abort()

    async def quit(self) -> None:
        """End the session in good form where it has one; never raises SMTPError."""
        channel = self._channel
        if not channel.botched:
            try:
                channel.command("QUIT")
                channel.send("quit")
                await channel.reply("quit", limit=channel.timeouts.quit)
            except SMTPError as exc:
                self._log.debug("quit failed", extra={"err": str(exc)})
        if not channel.botched:
            self.stream.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(channel.timeouts.quit):
                    await self.stream.wait_closed()
        self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._channel.abort()

    async def _start(self, credentials: Credentials | None) -> None:
        if self._policy.mode is TLSMode.IMMEDIATE:
            await self._handshake()
        greeting = await self._reply_after_tls("greeting")
        if greeting.code != READY:
            raise self._channel.refusal("greeting", greeting)
        await self._ehlo(allow_helo=True)
        self.starttls_announced = self.extensions.starttls
        if self._policy.mode is TLSMode.REQUIRED or (
            self._policy.mode is TLSMode.OPPORTUNISTIC and self.extensions.starttls
        ):
            await self._starttls()
            await self._ehlo(allow_helo=False)  # nothing that was said before TLS counts (RFC 3207 section 4.2)
        if credentials is not None:
            self.mechanism = await authenticate(self._channel, credentials, self.extensions.auth)

    async def _ehlo(self, *, allow_helo: bool) -> None:
        name = self._hello_name()
        self._channel.command(f"EHLO {name}")
        await self._channel.flush("ehlo")
        reply = await self._reply_after_tls("ehlo")
        if reply.ok:
            self.extensions = parse_extensions(reply)
            return
        if not allow_helo or reply.code not in HELO_AFTER:
            raise self._channel.refusal("ehlo", reply)
        reply = await self._channel.exchange(f"HELO {name}")
        if not reply.ok:
            raise self._channel.refusal("helo", reply)

    async def _starttls(self) -> None:
        reply = await self._channel.exchange("STARTTLS")
        if reply.code != READY:
            problem = starttls_problem(reply.code, announced=self.starttls_announced)
            raise TLSFailure(problem, code=reply.code, lines=reply.error("starttls").lines)
        if self.stream.buffered:
            # Put there by someone on the way, to be taken for what comes under TLS.
            text = "server sent data between STARTTLS and the handshake"
            raise self._tls_failed(TLSProblem("validation-failure", "data-before-tls-handshake", text))
        await self._handshake()

    async def _handshake(self) -> None:
        try:
            await self.stream.start_tls(
                unverified_context(),
                self._channel.timeouts.tls_handshake,
                server_side=False,
                server_hostname=self._policy.sni or None,
            )
        except TLSFailed as exc:
            raise self._tls_failed(handshake_problem(exc.reason)) from exc
        assert self.stream.tls is not None
        chain = peer_chain(self.stream.tls.ssl_object)
        required = tuple(CheckResult(check.name, check.problem(chain)) for check in self._policy.checks)
        observed = tuple(CheckResult(check.name, check.problem(chain)) for check in self._policy.observed)
        self.tls_results = required + observed
        for result in required:
            if result.problem is not None:
                raise self._tls_failed(result.problem)
        self.tls_verified = bool(required)

    def _tls_failed(self, problem: TLSProblem) -> TLSFailure:
        self._channel.botched = True
        return TLSFailure(problem, results=self.tls_results)

    async def _reply_after_tls(self, command: str) -> Reply:
        """A reply, perhaps the first under TLS: in TLS 1.3 a server's alert about the handshake can stand for it."""
        try:
            return await self._channel.reply(command)
        except SMTPError as exc:
            if self.stream.tls is not None and isinstance(self.stream.lost_with, ssl.SSLError):
                raise self._tls_failed(handshake_problem(self.stream.lost_with.reason or "eof")) from exc
            raise

    def _hello_name(self) -> str:
        if self._hello.ip is not None:
            return address_literal(self._hello.ip)
        assert self._hello.domain is not None, "a client says its name or its address"
        return self._hello.domain.ascii
