"""A SOCKS client (RFC 1928, RFC 1929): TCP connections through a proxy, to addresses.

    proxy = Proxy("proxy.example", 1080, "user", "password")
    stream = await open_stream(proxy, ip_address("192.0.2.1"), 25, 30)

Names are for the caller to resolve: what a name means, DNSSEC and all, is not left to the proxy.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

from .errors import ProtocolError
from .stream import Stream, StreamClosed

CREDENTIAL_MAX: Final = 255  # bytes of a user name or a password, RFC 1929 section 2
STEP: Final = 600.0  # seconds without progress; the deadline of the caller is what counts
VERSION: Final = 5
AUTHENTICATION_VERSION: Final = 1
NO_AUTHENTICATION, PASSWORD, NONE_ACCEPTABLE = 0, 2, 0xFF  # methods, RFC 1928 section 3
CONNECT: Final = 1
IPV4, NAME, IPV6 = 1, 3, 4  # types of addresses, RFC 1928 section 5

# RFC 1928 section 6.
_REFUSALS: Final = {
    1: "general failure",
    2: "connection not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "it does not connect",
    8: "addresses of this kind not supported",
}

IPAddress: TypeAlias = IPv4Address | IPv6Address


class SocksError(ProtocolError):
    """There is no connection. ``by_proxy``: the proxy works, it is the other side that it could not connect to."""

    def __init__(self, text: str, *, by_proxy: bool = False) -> None:
        super().__init__(text)
        self.by_proxy = by_proxy


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and how to log in to it; without user name, not at all. Raises ValueError."""

    host: str
    """A name or an address."""
    port: int
    username: str = ""
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        for what, value in (("user name", self.username), ("password", self.password)):
            if len(value.encode()) > CREDENTIAL_MAX:
                raise ValueError(f"{what} for the SOCKS proxy is longer than {CREDENTIAL_MAX} bytes")
        if self.username and not self.password:
            raise ValueError("a user name for the SOCKS proxy needs a password")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


async def open_stream(
    proxy: Proxy,
    address: IPAddress,
    port: int,
    timeout: float,  # noqa: ASYNC109 # it ends in an error of its own
) -> Stream:
    """A connection to ``address``, which is its ``remote_ip``; ``timeout`` in seconds, for all of it.

    Its ``local_ip`` is where the proxy says that it connects from, "" where it does not tell. Raises SocksError.
    """
    try:
        async with asyncio.timeout(timeout):
            return await _open(proxy, address, port)
    except TimeoutError:
        raise SocksError("timeout") from None


async def _open(proxy: Proxy, address: IPAddress, port: int) -> Stream:
    try:
        _, stream = await asyncio.get_running_loop().create_connection(Stream, proxy.host, proxy.port)
    except OSError as exc:
        # asyncio's own text repeats the address.
        raise SocksError((os.strerror(exc.errno) if exc.errno and exc.errno > 0 else str(exc)).lower()) from exc
    try:
        await _log_in(stream, proxy)
        bound = await _connect(stream, address, port)
    except StreamClosed as exc:
        stream.abort()
        raise SocksError("connection closed by the proxy") from exc
    except BaseException:
        stream.abort()
        raise
    stream.remote_ip, stream.remote_port = str(address), port
    stream.local_ip = str(bound) if bound is not None and not bound.is_unspecified else ""
    return stream


async def _log_in(stream: Stream, proxy: Proxy) -> None:
    methods = bytes([NO_AUTHENTICATION, PASSWORD] if proxy.username else [NO_AUTHENTICATION])
    version, method = await _exchange(stream, bytes([VERSION, len(methods)]) + methods, 2)
    if version != VERSION:
        raise SocksError(f"not a SOCKS 5 proxy: answers with version {version}")
    if method == NONE_ACCEPTABLE:
        wanted = "user name and password are not what it wants" if proxy.username else "it wants a login"
        raise SocksError(f"the proxy refuses: {wanted}")
    if method not in methods:
        raise SocksError(f"bad answer of the proxy: login method {method} was not offered")
    if method == PASSWORD:
        username, password = proxy.username.encode(), proxy.password.encode()
        request = bytes([AUTHENTICATION_VERSION, len(username)]) + username + bytes([len(password)]) + password
        version, status = await _exchange(stream, request, 2)
        if version != AUTHENTICATION_VERSION:
            raise SocksError(f"bad answer of the proxy to the login: version {version}")
        if status != 0:
            raise SocksError("the proxy refuses user name and password")


async def _connect(stream: Stream, address: IPAddress, port: int) -> IPAddress | None:
    """Ask for the connection; the address that it comes from, where the proxy tells."""
    kind = IPV4 if address.version == 4 else IPV6
    request = bytes([VERSION, CONNECT, 0, kind]) + address.packed + port.to_bytes(2, "big")
    version, status, reserved, kind = await _exchange(stream, request, 4)
    if version != VERSION or reserved != 0:
        raise SocksError(f"bad answer of the proxy: version {version}, reserved byte {reserved}")
    if status != 0:
        # An address comes with it; of no use, and the connection ends here.
        raise SocksError(_REFUSALS.get(status, f"unknown failure {status}"), by_proxy=True)
    if kind not in (IPV4, NAME, IPV6):
        raise SocksError(f"bad answer of the proxy: address of type {kind}")
    length = {IPV4: 4, IPV6: 16}.get(kind) or (await _read(stream, 1))[0]
    bound = await _read(stream, length + 2)
    return None if kind == NAME else ip_address(bound[:length])


async def _exchange(stream: Stream, request: bytes, size: int) -> bytes:
    stream.write(request)
    stream.send()
    return await _read(stream, size)


async def _read(stream: Stream, size: int) -> bytes:
    # And no byte more: whatever comes after an answer is the other side's.
    return await stream.read_exactly(size, STEP)
