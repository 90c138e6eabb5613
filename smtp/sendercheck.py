"""Whether the names that a client gives exist, and can get mail: what cannot be answered is not taken."""

from __future__ import annotations

import asyncio
from typing import Final

from protocols.dns import DNSError, Resolver, absolute
from protocols.names import Domain

from .errors import SMTPError

TIMEOUT: Final = 60.0  # seconds for all lookups about a name
NULL_MX: Final = "."  # RFC 7505 section 3: the domain takes no mail


async def check_hello(resolver: Resolver, name: Domain) -> None:
    """Raises SMTPError for a name of which DNS says that it has no address. Trouble with DNS is not the client's."""
    try:
        async with asyncio.timeout(TIMEOUT):
            await resolver.ip(absolute(name))
    except TimeoutError:
        return
    except DNSError as exc:
        if exc.is_not_found:
            raise SMTPError(550, "5.5.0", "your hello name does not exist in DNS, use the name of your server") from exc


async def check_sender_domain(resolver: Resolver, domain: Domain) -> None:
    """Raises SMTPError for a domain that takes no mail: a bounce could not go back (RFC 7505 section 4.2)."""
    try:
        async with asyncio.timeout(TIMEOUT):
            takes_mail = await _takes_mail(resolver, domain)
    except TimeoutError as exc:
        raise SMTPError(451, "4.4.0", "your sender domain cannot be looked up, try again later") from exc
    except DNSError as exc:
        raise SMTPError(
            451, "4.4.0", "your sender domain cannot be looked up, try again later", cause=str(exc)
        ) from exc
    if not takes_mail:
        raise SMTPError(550, "5.7.27", f"your sender domain {domain.name()} does not take mail")


async def _takes_mail(resolver: Resolver, domain: Domain) -> bool:
    """Whether there is a server for it. Raises DNSError for what is not known."""
    try:
        hosts = [mx.host for mx in (await resolver.mx(absolute(domain))).records]
    except DNSError as exc:
        if not exc.is_not_found:
            raise
        hosts = [absolute(domain)]  # RFC 5321 section 5.1: then the domain itself is the host
    unknown: DNSError | None = None
    for host in hosts:
        if host == NULL_MX:
            continue
        try:
            await resolver.ip(host)
            return True
        except DNSError as exc:
            if not exc.is_not_found:
                unknown = exc
    if unknown is not None:
        raise unknown
    return False
