"""COMPRESS: deflate in both directions from here on (RFC 4978)."""

from __future__ import annotations

from typing import Final

from .answers import Done, Refused
from .capabilities import COMPRESS, is_disabled
from .session import Session
from .syntax import Parser

_NAME_MAX: Final = 40  # characters of an unknown algorithm that are repeated


def parse(parser: Parser) -> str:
    """The algorithm's name."""
    parser.space()
    algorithm = parser.atom("algorithm").decode("ascii").upper()
    parser.end()
    return algorithm


async def compress(session: Session, algorithm: str) -> Done:
    assert session.account is not None  # the table of commands says so
    if session.stream.deflated:
        raise Refused("compression is active already", "COMPRESSIONACTIVE")
    if algorithm != "DEFLATE":
        raise Refused(f"algorithm {algorithm[:_NAME_MAX]} is not known")
    if is_disabled(COMPRESS, session.account.disabled):
        raise Refused("compression is disabled for this account")

    async def start() -> None:
        session.stream.start_deflate()

    return Done(text=b"compression is active", afterwards=start)
