"""GETQUOTA, GETQUOTAROOT and SETQUOTA: one quota root for the whole account, with one resource (RFC 9208)."""

from __future__ import annotations

from typing import Final

from store import reading

from .answers import Done, Refused, mailbox_name, read_mailbox_name
from .session import Session
from .syntax import NUMBER64_MAX, Parser

ROOT: Final = b""  # the name of the only root
UNIT: Final = 1024  # bytes that STORAGE counts in (RFC 9208 5.1)
RESOURCES_MAX: Final = 100  # of one SETQUOTA


def in_units(size: int) -> int:
    """Bytes in the unit of STORAGE, rounded up."""
    return -(-size // UNIT)


def parse(parser: Parser) -> bytes:
    """The name of a quota root, or of a mailbox."""
    parser.space()
    name = parser.astring()
    parser.end()
    return name


def parse_setquota(parser: Parser) -> None:
    parser.space()
    parser.astring()
    parser.space()
    parser.expect(b"(")
    count = 0
    while not parser.take(b")"):
        if count:
            parser.space()
        parser.atom("resource name")
        parser.space()
        parser.number("limit", most=NUMBER64_MAX)
        count += 1
        if count > RESOURCES_MAX:
            raise parser.fail(f"at most {RESOURCES_MAX} resources")
    parser.end()


async def getquota(session: Session, root: bytes) -> Done:
    if root != ROOT:
        raise Refused("unknown quota root", "NONEXISTENT")
    await _send_quota(session)
    return Done()


async def getquotaroot(session: Session, given: bytes) -> Done:
    # The mailbox need not exist: it would have this root (RFC 9208 4.1.2).
    name = read_mailbox_name(given, utf8=session.utf8)
    session.send(b'* QUOTAROOT %b ""\r\n' % mailbox_name(name, utf8=session.utf8))
    await _send_quota(session)
    return Done()


async def setquota(_session: Session, _: None) -> Done:
    raise Refused("quotas are set by the administrator", "NOPERM")


async def _send_quota(session: Session) -> None:
    """What is used and what may be, if there is a limit: a list of resources is not empty (RFC 9208 7)."""
    quota = await session.call(reading.quota, session.account_id)
    if quota.limit:
        session.send(b'* QUOTA "" (STORAGE %d %d)\r\n' % (in_units(quota.used), in_units(quota.limit)))
