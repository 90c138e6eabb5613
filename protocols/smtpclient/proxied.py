"""Dialing through a SOCKS proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from protocols.socks import Proxy, SocksError, open_stream
from protocols.stream import Stream

from .errors import ConnectFailed


@dataclass(frozen=True, slots=True)
class Proxied:
    """A `Dialer` that has a proxy connect. The proxy chooses the source address: ``local_addresses`` have no use."""

    proxy: Proxy

    async def __call__(
        self,
        addresses: Sequence[IPv4Address | IPv6Address],
        port: int,
        *,
        timeout: float,  # noqa: ASYNC109 # shared out among the addresses
        local_addresses: Sequence[IPv4Address | IPv6Address] = (),
    ) -> Stream:
        """As `dial`. The error names the proxy, also where it is the other side that could not be reached."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        attempts: list[tuple[str, str]] = []
        for index, address in enumerate(addresses):
            try:
                return await open_stream(self.proxy, address, port, (deadline - loop.time()) / (len(addresses) - index))
            except SocksError as exc:
                attempts.append((f"{address} through SOCKS proxy {self.proxy}", str(exc)))
        raise ConnectFailed(tuple(attempts))
