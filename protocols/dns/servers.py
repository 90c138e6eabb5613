"""Which name servers to ask, and whether to believe them when they say that DNSSEC verified an answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

from .records import IPAddress

PORT: Final = 53
RESOLV_CONF: Final = Path("/etc/resolv.conf")
MAX_SERVERS: Final = 3  # of resolv.conf, as in the C library
MAX_FILE: Final = 64 * 1024  # bytes of resolv.conf that are read
LOOK_AGAIN: Final = 5.0  # seconds: how soon a changed resolv.conf is noticed


@dataclass(frozen=True, slots=True)
class NameServer:
    """A recursive name server."""

    ip: IPAddress
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if isinstance(self.ip, IPv6Address) else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers in the order in which they are asked, at least one. ``trust_ad``: somebody said to trust them."""

    servers: tuple[NameServer, ...]
    trust_ad: bool = False

    @property
    def is_trusted(self) -> bool:
        """Whether their AD bit counts: nobody on the way could have set it, or the administrator vouches for that."""
        return self.trust_ad or all(server.ip.is_loopback for server in self.servers)


class SystemServers:
    """Those of resolv.conf, as it is now: a laptop or a DHCP client has others after a while."""

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self._path = path
        self._looked = float("-inf")
        self._signature: tuple[int, ...] = ()
        self._servers = Servers(())

    def __call__(self) -> Servers:
        now = time.monotonic()
        if now - self._looked >= LOOK_AGAIN:
            self._looked = now
            signature = self._sign()
            if signature != self._signature or not self._servers.servers:
                self._servers, self._signature = read_resolv_conf(self._path), signature
        return self._servers

    def _sign(self) -> tuple[int, ...]:
        try:
            status = self._path.stat()
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_size, status.st_ino)


def read_resolv_conf(path: Path = RESOLV_CONF) -> Servers:
    """What the file says; the server of this machine when there is no file."""
    try:
        with path.open("rb") as file:
            return parse_resolv_conf(file.read(MAX_FILE).decode("utf-8", "replace"))
    except OSError:
        return parse_resolv_conf("")


def parse_resolv_conf(text: str) -> Servers:
    """The name servers and ``options trust-ad`` of resolv.conf(5). What makes no sense is skipped, as in the C library.

    Without a name server, the one of this machine. There is no search list: names here are absolute.
    """
    servers: list[NameServer] = []
    trust_ad = False
    for line in text.split("\n"):
        keyword, *values = line.split() or [""]
        if not line.startswith(keyword):  # the keyword must start the line
            continue
        if keyword == "nameserver" and values and len(servers) < MAX_SERVERS:
            try:
                servers.append(NameServer(ip_address(values[0])))
            except ValueError:
                continue
        elif keyword == "options":
            trust_ad = trust_ad or "trust-ad" in values
    return Servers(tuple(servers) or (NameServer(ip_address("127.0.0.1")),), trust_ad)


def parse_servers(text: str) -> tuple[NameServer, ...]:
    """Name servers as ``ip`` or ``ip:port``, with commas or white space between: ``127.0.0.1:5353, [::1]:53, ::1``.

    Raises ValueError with the remedy.
    """
    return tuple(map(_parse_server, text.replace(",", " ").split()))


def _parse_server(text: str) -> NameServer:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
    elif text.count(":") == 1:
        host, bracket, rest = text.partition(":")
        rest = f":{rest}"
    else:
        host, bracket, rest = text, "]", ""
    try:
        if not bracket or (rest and not rest.startswith(":")) or rest == ":":
            raise ValueError("not ip or ip:port")
        ip = ip_address(host)
    except ValueError as error:
        raise ValueError(_REMEDY.format(text)) from error
    port = rest.removeprefix(":") or str(PORT)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    return NameServer(ip, int(port))


_REMEDY: Final = "{0!r} is no name server: use an ip address or ip:port, with brackets around IPv6: [::1]:53"
