"""Logging in over a connection: challenges and responses as lines of base64, and waiting after failures.

    dialogue = Dialogue(connection, bridge.call, "imap", b"+ ", line_max=16_500, timeout=30)
    outcome = await dialogue.exchange("PLAIN", initial)

What SMTP's AUTH and IMAP's AUTHENTICATE have in common; how commands and outcomes are worded is theirs.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any, Final

from django.conf import settings

from protocols.sasl import Challenge, decode_response, plus_announced
from server.connections import Connection
from server.logs import TRACE, TRACEAUTH

from .login import LoginContext, LoginExchange, LoginOutcome, login_service

SLOW_AFTER: Final = 3  # failed logins on a connection, after which it is slow, and further ones wait


class Cancelled(Exception):
    """The client does not go on with an exchange: it sent ``*``."""


class NotBase64(Exception):
    """A response cannot be decoded. The exchange is over."""


class Dialogue:
    """The logins of one connection. ``call`` runs a function that uses the database in a thread.

    ``prompt`` stands before challenges; ``line_max`` is the bytes of a response with its line end, ``timeout`` the
    seconds for one, and for the peer to take a challenge.
    """

    def __init__(
        self,
        connection: Connection,
        call: Callable[..., Awaitable[Any]],
        protocol: str,
        prompt: bytes,
        *,
        line_max: int,
        timeout: float,
    ) -> None:
        self._connection = connection
        self._stream = connection.stream
        self._call = call
        self._protocol = protocol
        self._prompt = prompt
        self._line_max = line_max
        self._timeout = timeout
        self._failures = 0
        self.slow = 0.0
        """Seconds per step of the stream's slow mode, from the next read on."""

    async def password(self, user: str, password: str, mechanism: str, user_agent: str = "") -> LoginOutcome:
        """A login with a password that the client gave in a command."""
        await self._wait_after_failures()
        context = self._context(mechanism, user_agent)
        return self._ended(await self._call(login_service().login_plain, user, "", password, context))

    async def client_key(self) -> LoginOutcome:
        """A login with the key that the client showed in the TLS handshake, without a word of it."""
        return self._ended(await self._call(login_service().login_with_key, "", self._context("external", "")))

    async def exchange(self, mechanism: str, initial: bytes | None, user_agent: str = "") -> LoginOutcome:
        """A SASL exchange, from the decoded initial response (None: there was none) to its outcome.

        Raises UnknownMechanism, Cancelled, NotBase64, and what reading a line does.
        """
        await self._wait_after_failures()
        channel = await self._call(self._connection.channel_binding) if mechanism.startswith("SCRAM-") else None
        tls = self._stream.tls
        exchange = login_service().exchange(
            mechanism,
            self._context(mechanism.lower(), user_agent),
            channel=channel,
            plus_announced=plus_announced(tls.version if tls is not None else None),
            hostname=self._connection.hostname,
        )
        try:
            outcome = await self._converse(exchange, initial)
        except BaseException:
            self._ended(exchange.abort())  # a failed login, where the client had learnt of that already
            raise
        return self._ended(outcome)

    async def _converse(self, exchange: LoginExchange, initial: bytes | None) -> LoginOutcome:
        step = await self._call(exchange.start, initial)
        while isinstance(step, Challenge):
            self._trace("out", step.data)
            self._stream.write(b"%b%b\r\n" % (self._prompt, base64.b64encode(step.data)))
            await self._stream.flush(self._timeout)
            reading = self._stream.read_line(self._line_max, self._timeout)
            line = (await self._connection.until_stopping(reading)).rstrip(b"\r\n")
            self._trace("in", line)
            if line == b"*":
                raise Cancelled
            response = decode_response(line)
            if response is None:
                raise NotBase64
            step = await self._call(exchange.respond, response)
        outcome: LoginOutcome = step
        return outcome

    async def _wait_after_failures(self) -> None:
        delay: float = settings.MOX.smtp_auth_fail_delay.total_seconds()
        await self._connection.pause(delay * max(0, self._failures - SLOW_AFTER))

    def _ended(self, outcome: LoginOutcome) -> LoginOutcome:
        if outcome.is_failed_login:
            self._failures += 1
            if self._failures >= SLOW_AFTER:
                self.slow = settings.MOX.smtp_bad_client_delay.total_seconds()
        elif outcome.ok:
            self.slow = self._stream.slow = 0.0
        return outcome

    def _context(self, mechanism: str, user_agent: str) -> LoginContext:
        tls = self._stream.tls
        return LoginContext(
            protocol=self._protocol,
            mechanism=mechanism,
            remote_ip=self._stream.remote_ip,
            local_ip=self._stream.local_ip,
            tls=f"{tls.version} {tls.cipher}" if tls is not None else "",
            user_agent=user_agent,
            client_key_fingerprint=self._connection.client_key,
        )

    def _trace(self, direction: str, data: bytes) -> None:
        log = self._connection.log
        if log.isEnabledFor(TRACE):
            shown = data.decode("ascii", "backslashreplace") if log.isEnabledFor(TRACEAUTH) else "***"
            log.log(TRACE, "%s %s", self._protocol, direction, extra={"data": shown})
