"""LOGIN and AUTHENTICATE: what a client sends to prove who it is, and what it is answered (imap.md 4.1)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from dataclasses import dataclass
from typing import Final

from django.conf import settings

from accounts.login import LoginContext, LoginExchange, LoginOutcome, login_service
from accounts.models import Account
from protocols.sasl import Challenge, Failure, UnknownMechanism
from server.logs import TRACE, TRACEAUTH
from server.models import LoginResult
from store.models import AccountState

from . import capabilities
from .answers import Bad, Done, Refused, one_line
from .session import LoggedIn, Session
from .syntax import Parser

RESPONSE_MAX: Final = 16_500  # bytes of a line in an exchange: 12288 of SASL (RFC 4954 4) in base64
RESPONSE_TIMEOUT: Final = 30.0  # seconds
SLOW_AFTER: Final = 3  # failed logins on a connection, after which it is slow, and further ones wait (imap.md 1)

MECHANISMS: Final = frozenset(
    {"PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"}
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_MECHANISM_MAX: Final = 20  # characters (RFC 4422 3.1)


@dataclass(frozen=True, slots=True)
class LoginArguments:
    user: bytes
    password: bytes


@dataclass(frozen=True, slots=True)
class AuthenticateArguments:
    """``initial`` is the decoded initial response, None where there is none."""

    mechanism: str
    initial: bytes | None


def parse_login(parser: Parser) -> LoginArguments:
    parser.space()
    user = parser.astring()
    parser.space()
    password = parser.astring()
    parser.end()
    return LoginArguments(user, password)


def parse_authenticate(parser: Parser) -> AuthenticateArguments:
    parser.space()
    mechanism = parser.atom("mechanism").decode("ascii").upper()
    initial = None
    if parser.take(b" "):
        if parser.take(b"="):  # an empty one (RFC 4959 3)
            initial = b""
        elif text := parser.rest():  # mutt sends the space alone where a mechanism has no initial response
            initial = _decode(text)
            if initial is None:
                raise parser.fail("initial response in base64")
    parser.end()
    return AuthenticateArguments(mechanism, initial)


async def login(session: Session, arguments: LoginArguments) -> Done:
    session.require_tls_for_password()
    try:
        user, password = arguments.user.decode(), arguments.password.decode()
    except UnicodeDecodeError:
        raise Bad("user name and password must be UTF-8") from None
    await _wait_after_failures(session)
    outcome = await session.call(login_service().login_plain, user, "", password, _context(session, "login"))
    return await _finished(session, outcome)


async def authenticate(session: Session, arguments: AuthenticateArguments) -> Done:
    mechanism = arguments.mechanism
    if mechanism == "PLAIN":
        session.require_tls_for_password()
    if mechanism not in MECHANISMS:
        with contextlib.suppress(UnknownMechanism):  # the attempt is recorded
            await session.call(login_service().exchange, mechanism, _context(session, mechanism.lower()))
        raise Refused(f"mechanism {mechanism[:_MECHANISM_MAX]} is not supported")
    await _wait_after_failures(session)
    channel = None
    if mechanism.startswith("SCRAM-"):
        channel = await session.call(session.connection.channel_binding)
    exchange = login_service().exchange(
        mechanism,
        _context(session, mechanism.lower()),
        channel=channel,
        plus_announced=capabilities.plus_announced(session.tls_version),
        hostname=session.connection.hostname,
    )
    try:
        outcome = await _converse(session, exchange, arguments.initial)
    except BaseException:
        await session.call(exchange.abort)
        raise
    return await _finished(session, outcome)


async def _converse(session: Session, exchange: LoginExchange, initial: bytes | None) -> LoginOutcome:
    """Challenges and responses until the exchange has an outcome. Raises Bad where the client cancels."""
    step = await session.call(exchange.start, initial)
    while isinstance(step, Challenge):
        session.send(b"+ %b\r\n" % base64.b64encode(step.data))
        await session.flush()
        stream = session.stream
        line = await session.connection.until_stopping(stream.read_line(RESPONSE_MAX, RESPONSE_TIMEOUT))
        line = line.rstrip(b"\r\n")
        _trace(session, line)
        if line == b"*":
            raise Bad("aborted")
        response = _decode(line)
        if response is None:
            raise Bad("response is not base64")
        step = await session.call(exchange.respond, response)
    return step


def _decode(data: bytes) -> bytes | None:
    if _BASE64.fullmatch(data) is None:
        return None
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        return None


async def _wait_after_failures(session: Session) -> None:
    delay = settings.MOX.smtp_auth_fail_delay.total_seconds() * max(0, session.login_failures - SLOW_AFTER)
    await session.connection.pause(delay)


def _context(session: Session, mechanism: str) -> LoginContext:
    tls = session.stream.tls
    return LoginContext(
        protocol="imap",
        mechanism=mechanism,
        remote_ip=session.stream.remote_ip,
        local_ip=session.stream.local_ip,
        tls=f"{tls.version} {tls.cipher}" if tls is not None else "",
        user_agent=session.client_id,
    )


async def _finished(session: Session, outcome: LoginOutcome) -> Done:
    if outcome.is_failed_login:
        session.login_failures += 1
        if session.login_failures >= SLOW_AFTER:
            session.slow = settings.MOX.smtp_bad_client_delay.total_seconds()
    match outcome.result:
        case LoginResult.OK if outcome.account_id is not None:
            session.account = await session.call(_read_account, outcome.account_id, outcome.login_address)
            session.feed_position = session.account.position
            session.slow = session.stream.slow = 0.0
            return Done(code=b"CAPABILITY %b" % session.capabilities())
        case LoginResult.LOGINDISABLED:
            raise Refused(f"login disabled: {one_line(outcome.disabled_text)}")
        case LoginResult.RATELIMITED:
            raise Refused("too many failed logins, try again later", "UNAVAILABLE")
    match outcome.failure:
        case Failure.UNAVAILABLE:
            raise Refused("try again", "UNAVAILABLE")
        case Failure.AUTHORIZATION:
            raise Refused("cannot assume role", "AUTHORIZATIONFAILED")
        case Failure.MALFORMED | Failure.MALFORMED_FIRST | Failure.MALFORMED_FINAL:
            raise Bad("malformed response")
    raise Refused("bad credentials", "AUTHENTICATIONFAILED")


def _read_account(account_id: int, login_address: str) -> LoggedIn:
    account = Account.objects.get(pk=account_id)
    position = AccountState.objects.values_list("last_modseq", flat=True).get(pk=account_id)
    disabled = frozenset(str(name).upper() for name in account.imap_capabilities_disabled)
    return LoggedIn(account_id, account.name, login_address, position, disabled)


def _trace(session: Session, line: bytes) -> None:
    if session.log.isEnabledFor(TRACE):
        shown = line if session.log.isEnabledFor(TRACEAUTH) else b"***"
        session.log.log(TRACE, "imap in", extra={"data": shown.decode("ascii", "backslashreplace")})
