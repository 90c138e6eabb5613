"""Whether an address is of the public network: what strangers name is not looked for in the networks behind it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Final

_TRANSLATED: Final = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


def is_public(ip: IPv4Address | IPv6Address) -> bool:
    """Whether any host of the internet can be meant: not one of this machine, of a private network, or of a group."""
    if isinstance(ip, IPv6Address):
        within = IPv4Address(ip.packed[-4:]) if ip in _TRANSLATED else ip.ipv4_mapped or ip.sixtofour
        if within is not None:
            return is_public(within)
    return ip.is_global and not ip.is_multicast
