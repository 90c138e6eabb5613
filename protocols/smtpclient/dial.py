"""Opening a connection to the first of several addresses that can be reached."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from protocols.stream import Stream

from .errors import ConnectFailed


class Dialer(Protocol):
    """What opens connections as `dial` does, perhaps through a proxy: by keyword, with the same errors.

    The ``remote_ip`` of the stream is the server's, not that of the proxy.
    """

    async def __call__(
        self,
        addresses: Sequence[IPv4Address | IPv6Address],
        port: int,
        *,
        timeout: float,  # noqa: ASYNC109 # shared out among the addresses
        local_addresses: Sequence[IPv4Address | IPv6Address] = (),
    ) -> Stream: ...


async def dial(
    addresses: Sequence[IPv4Address | IPv6Address],
    port: int,
    *,
    timeout: float,  # noqa: ASYNC109 # shared out among the addresses
    local_addresses: Sequence[IPv4Address | IPv6Address] = (),
) -> Stream:
    """A connection to one of the addresses, tried in their order; its ``remote_ip`` says to which.

    ``timeout``, in seconds, is for all of them: each gets an even share of what is left. ``local_addresses``: the
    connection comes from the first one of the right family, if there is one; from a loopback address only to another.
    Raises ConnectFailed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    attempts: list[tuple[str, str]] = []
    for index, address in enumerate(addresses):
        local = next((str(ip) for ip in local_addresses if _leads_to(ip, address)), None)
        try:
            async with asyncio.timeout((deadline - loop.time()) / (len(addresses) - index)):
                _, stream = await loop.create_connection(
                    Stream, str(address), port, local_addr=(local, 0) if local else None
                )
            return stream
        except TimeoutError:
            attempts.append((str(address), "timeout"))
        except OSError as exc:
            attempts.append((str(address), _reason(exc)))
    raise ConnectFailed(tuple(attempts))


def _leads_to(local: IPv4Address | IPv6Address, address: IPv4Address | IPv6Address) -> bool:
    return local.version == address.version and (address.is_loopback or not local.is_loopback)


def _reason(exc: OSError) -> str:
    # asyncio's own text repeats the address.
    return (os.strerror(exc.errno) if exc.errno else str(exc)).lower()
