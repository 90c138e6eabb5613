"""LOGIN, AUTHENTICATE, UNAUTHENTICATE: how a client proves who it is, and what it is answered (imap.md 4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.db import DatabaseError

from accounts import tlskeys
from accounts.dialogue import Cancelled, NotBase64
from accounts.login import LoginOutcome
from accounts.models import Account
from protocols.sasl import Failure, UnknownMechanism, decode_response
from server.db import DatabaseBusy
from server.models import LoginResult
from store import changes

from .answers import Bad, Bye, Done, Refused, one_line
from .session import LoggedIn, Session
from .syntax import Parser

MECHANISMS: Final = frozenset(
    {"PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"}
)
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
            initial = decode_response(text)
            if initial is None:
                raise parser.fail("initial response in base64")
    parser.end()
    return AuthenticateArguments(mechanism, initial)


async def preauthenticate(session: Session) -> None:
    """Log a client in that showed the key of an account, unless the key is not for this."""
    try:
        wanted = await session.call(_is_for_preauth, session.connection.client_key)
    except (DatabaseError, DatabaseBusy) as exc:
        session.log.warning("the client's key cannot be looked up", extra={"err": str(exc)})
        return
    if wanted:
        outcome = await session.dialogue.client_key()
        if outcome.ok:
            await _finished(session, outcome)


def _is_for_preauth(fingerprint: str) -> bool:
    key = tlskeys.find_key(fingerprint)
    return key is not None and not key.no_imap_preauth


async def login(session: Session, arguments: LoginArguments) -> Done:
    session.require_tls_for_password()
    try:
        user, password = arguments.user.decode(), arguments.password.decode()
    except UnicodeDecodeError:
        raise Bad("user name and password must be UTF-8") from None
    outcome = await session.dialogue.password(user, password, "login", session.client_id)
    return await _finished(session, outcome)


async def authenticate(session: Session, arguments: AuthenticateArguments) -> Done:
    mechanism = arguments.mechanism
    if mechanism == "PLAIN":
        session.require_tls_for_password()
    known = mechanism if mechanism in MECHANISMS or (mechanism == "EXTERNAL" and session.shows_key) else ""
    try:
        outcome = await session.dialogue.exchange(known, arguments.initial, session.client_id)
    except UnknownMechanism:
        raise Refused(f"mechanism {mechanism[:_MECHANISM_MAX]} is not supported") from None
    except Cancelled:
        raise Bad("aborted") from None
    except NotBase64:
        raise Bad("response is not base64") from None
    return await _finished(session, outcome)


async def _finished(session: Session, outcome: LoginOutcome) -> Done:
    match outcome.result:
        case LoginResult.OK if outcome.account_id is not None:
            account = await session.call(read_account, outcome.account_id, outcome.login_address)
            if account is None:
                raise Bye("account was removed")
            session.remember_login(account)
            session.login_attempt = outcome.attempt
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


async def unauthenticate(session: Session, _: None) -> Done:
    """Give up the login, for the next one on the same connection (RFC 8437)."""

    async def uncompress() -> None:
        session.stream.end_deflate()

    session.forget_login()
    # The answer is still compressed; what the client sends after the command is not.
    return Done(afterwards=uncompress)


def read_account(account_id: int, login_address: str) -> LoggedIn | None:
    """What a session knows of the account that it is logged in to; None if that was removed."""
    account = Account.objects.filter(pk=account_id).first()
    position = changes.last_modseq(account_id)
    if account is None or position is None:
        return None
    disabled = frozenset(str(name).upper() for name in account.imap_capabilities_disabled)
    return LoggedIn(account_id, account.name, login_address, position, disabled)
