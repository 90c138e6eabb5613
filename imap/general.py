"""Commands about the connection itself: CAPABILITY, NOOP, LOGOUT, ID, STARTTLS, ENABLE, NAMESPACE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from accounts.login import login_service
from server.version import VERSION

from . import answers
from .answers import Bad, Done
from .capabilities import is_disabled
from .session import Session
from .syntax import Parser

ID_PAIRS_MAX: Final = 30  # RFC 2971 3.3, as the next two
ID_NAME_MAX: Final = 30  # bytes
ID_VALUE_MAX: Final = 1024  # bytes
ENABLE_MAX: Final = 100  # words


class ConnectionDropped(Exception):
    """The connection is closed at once, without an answer."""


def parse_nothing(parser: Parser) -> None:
    """A command without arguments."""
    parser.end()


async def capability(session: Session, _: None) -> Done:
    session.send(b"* CAPABILITY %b\r\n" % session.capabilities())
    return Done()


async def noop(_session: Session, _: None) -> Done:
    return Done()


async def logout(session: Session, _: None) -> Done:
    session.send(b"* BYE thanks\r\n")
    session.logged_out = True
    return Done()


async def namespace(session: Session, _: None) -> Done:
    session.send(b'* NAMESPACE (("" "/")) NIL NIL\r\n')
    return Done()


# ID (RFC 2971).


def parse_id(parser: Parser) -> dict[str, str | None]:
    """Names (lower case) and values."""
    parser.space()
    pairs: dict[str, str | None] = {}
    if parser.take(b"NIL"):
        parser.end()
        return pairs
    parser.expect(b"(")
    while not parser.take(b")"):
        if pairs:
            parser.space()
        name = parser.string().decode("utf-8", "replace").lower()
        parser.space()
        value = parser.nstring()
        if name in pairs:
            raise parser.fail(f"no name twice ({name[:ID_NAME_MAX]!r})")
        if len(name) > ID_NAME_MAX or (value is not None and len(value) > ID_VALUE_MAX) or len(pairs) >= ID_PAIRS_MAX:
            raise parser.fail(
                f"at most {ID_PAIRS_MAX} pairs, names of {ID_NAME_MAX} and values of {ID_VALUE_MAX} bytes"
            )
        pairs[name] = None if value is None else value.decode("utf-8", "replace")
    parser.end()
    return pairs


async def id_(session: Session, pairs: dict[str, str | None]) -> Done:
    known = [f"{name}={value}" for name in ("name", "version", "os", "vendor") if (value := pairs.get(name))]
    session.client_id = answers.one_line(" ".join(known))
    if session.login_attempt is not None and session.client_id:
        # Most clients say who they are after the login; the list of logins shows it all the same.
        session.login_attempt = login_service().identify(session.login_attempt, session.client_id)
    session.log.info("imap client id", extra={"client": session.client_id})
    version = b' "version" %b' % answers.string(VERSION.encode()) if session.account is not None else b""
    session.send(b'* ID ("name" "mox"%b)\r\n' % version)
    return Done()


# STARTTLS (RFC 9051 6.2.1).


async def starttls(session: Session, _: None) -> Done:
    if session.stream.tls is not None:
        raise Bad("tls is active already")
    if not session.can_start_tls:
        raise Bad("no tls on this port")
    if session.stream.buffered:
        # What follows the command in the clear could be somebody else's commands, run as if they came encrypted.
        raise ConnectionDropped("data after STARTTLS")

    async def handshake() -> None:
        await session.connection.start_tls()
        session.client_id = ""  # nothing that was said in the clear counts (RFC 9051 6.2.1)

    return Done(text=b"begin TLS negotiation, connection %x" % session.connection.cid, afterwards=handshake)


# ENABLE (RFC 5161).


@dataclass(frozen=True, slots=True)
class EnableArguments:
    words: list[bytes]


def parse_enable(parser: Parser) -> EnableArguments:
    words: list[bytes] = []
    while not words or not parser.at_end():
        parser.space()
        words.append(parser.atom("capability"))
        if len(words) > ENABLE_MAX:
            raise parser.fail(f"at most {ENABLE_MAX} capabilities")
    parser.end()
    return EnableArguments(words)


async def enable(session: Session, arguments: EnableArguments) -> Done:
    assert session.account is not None  # the table of commands says so
    enabled: dict[str, bytes] = {}
    for word in arguments.words:
        name = word.decode("ascii").upper()
        if name in enabled or is_disabled(name, session.account.disabled):
            continue
        match name:
            case "IMAP4REV2":
                session.rev2 = True
            case "UTF8=ACCEPT":
                session.utf8_accept = True
            case "CONDSTORE":
                session.enable_condstore()
            case "QRESYNC":
                session.enable_condstore()
                session.qresync = True
            case "UIDONLY":
                session.start_uidonly()
            case "METADATA":
                session.metadata = True
            case _:
                continue
        enabled[name] = word
    if "QRESYNC" in enabled:  # which turns both on (RFC 7162 3.2.3)
        enabled.setdefault("CONDSTORE", b"CONDSTORE")
    session.send(b"* ENABLED%b\r\n" % b"".join(b" " + word for word in enabled.values()))
    return Done()
