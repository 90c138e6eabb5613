"""Listening on an address, for launcher and supervisor alike: standard library only."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Final

BACKLOG: Final = 512  # connections that wait to be accepted
FIRST_DESCRIPTOR: Final = 3  # of sockets that are handed over to another program (sd_listen_fds(3))


def listen(ip: str, port: int) -> socket.socket:
    """A listening socket; one for IPv6 takes no IPv4 connections. Raises OSError."""
    is_ipv6 = ip_address(ip).version == 6
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((ip, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def join_address(ip: str, port: int) -> str:
    """``ip:port``, with brackets where the address has colons itself."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
