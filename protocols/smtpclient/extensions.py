"""What a server announces in its reply to EHLO, and the limits among it (RFC 5321 4.1.1.1, RFC 9422)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .replies import Reply

MAX_SIZE_DIGITS: Final = 20  # RFC 1870 section 3

_LIMIT_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_LIMIT_VALUE: Final = re.compile(r"[1-9][0-9]{0,5}")  # RFC 9422 section 4: 1 to 999999


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that a server announces; None: not announced."""

    mail_max: int | None = None
    """Transactions of a connection."""
    rcpt_max: int | None = None
    """Recipients of a transaction."""
    rcpt_domain_max: int | None = None
    """Domains among the recipients of a transaction."""


@dataclass(frozen=True, slots=True)
class Extensions:
    """What a server can do. After HELO, nothing."""

    pipelining: bool = False
    starttls: bool = False
    eight_bit_mime: bool = False
    smtputf8: bool = False
    require_tls: bool = False
    enhanced_status_codes: bool = False
    size: int | None = None
    """Most bytes of a message, 0: no fixed limit; None: the keyword was not announced."""
    auth: tuple[str, ...] = ()
    """SASL mechanisms in upper case."""
    limits: Limits = Limits()


def parse_extensions(reply: Reply) -> Extensions:
    """The extensions in a reply to EHLO. Never fails: what cannot be read was not announced."""
    arguments: dict[str, str] = {}
    mechanisms: list[str] = []
    for line in reply.lines[1:]:
        keyword, _, argument = line[4:].strip().partition(" ")
        keyword = keyword.upper()
        if keyword.startswith("AUTH="):  # the form of servers older than RFC 2554
            keyword, _, first = keyword.partition("=")
            argument = f"{first} {argument}"
        if keyword == "AUTH":
            mechanisms += [name.upper() for name in argument.split()]
        else:
            arguments.setdefault(keyword, argument.strip())
    return Extensions(
        pipelining="PIPELINING" in arguments,
        starttls="STARTTLS" in arguments,
        eight_bit_mime="8BITMIME" in arguments,
        smtputf8="SMTPUTF8" in arguments,
        require_tls="REQUIRETLS" in arguments,
        enhanced_status_codes="ENHANCEDSTATUSCODES" in arguments,
        size=_size(arguments["SIZE"]) if "SIZE" in arguments else None,
        auth=tuple(dict.fromkeys(mechanisms)),
        limits=_limits(arguments.get("LIMITS", "")),
    )


def _size(argument: str) -> int:
    number = argument.partition(" ")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) <= MAX_SIZE_DIGITS else 0


def _limits(argument: str) -> Limits:
    values: dict[str, int] = {}
    for word in argument.split():
        name, equals, value = word.partition("=")
        if not equals or _LIMIT_NAME.fullmatch(name) is None:
            return Limits()  # RFC 9422 section 4: a syntax error makes the whole keyword one that was not sent
        if name.upper() in ("MAILMAX", "RCPTMAX", "RCPTDOMAINMAX"):
            if _LIMIT_VALUE.fullmatch(value) is None:
                return Limits()
            values.setdefault(name.upper(), int(value))
    return Limits(values.get("MAILMAX"), values.get("RCPTMAX"), values.get("RCPTDOMAINMAX"))
