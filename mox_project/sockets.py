"""What the listeners ask for, as sockets: opened once, before the fork, and inherited by every process."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from django.conf import settings

from server.models import EndpointKind, Listener, ListenerEndpoint
from web.listeners import HTTPSocket

from . import portholders, tcp
from .mailserver import MailSocket

MAIL_SERVICES: Final = frozenset({"smtp", "submission", "submissions", "imap", "imaps"})
HTTP: Final = "http"
HTTPS: Final = "https"
METRICS: Final = "metrics"  # HTTP for machines that watch a server, and nothing else


class BindError(Exception):
    """An address cannot be listened on; the text names it, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Binding:
    """An address and what is served on it: a mail service, ``http``, ``https`` or ``metrics``."""

    service: str
    ip: str
    port: int
    listener_id: int

    @property
    def is_mail(self) -> bool:
        return self.service in MAIL_SERVICES

    @property
    def is_ipv6(self) -> bool:
        return ip_address(self.ip).version == 6

    @property
    def where(self) -> str:
        return tcp.join_address(self.ip, self.port)


def bindings(node: str) -> Iterator[Binding]:
    """What the listeners of this node, and those of all nodes, want to listen on."""
    for listener in Listener.objects.filter(node__in=("*", node)).order_by("pk").prefetch_related("endpoints"):
        services = [
            ("smtp", listener.smtp_enabled, listener.smtp_port),
            ("submission", listener.submission_enabled, listener.submission_port),
            ("submissions", listener.submissions_enabled, listener.submissions_port),
            ("imap", listener.imap_enabled, listener.imap_port),
            ("imaps", listener.imaps_enabled, listener.imaps_port),
        ]
        # Endpoints that share a port share its socket; who answers what there is looked up for each request.
        for (port, _), on_port in itertools.groupby(
            sorted((e for e in listener.endpoints.all() if e.enabled), key=_port_and_tls), key=_port_and_tls
        ):
            services.append((_http_service(on_port), True, port))
        for service, enabled, port in services:
            if enabled:
                for ip in listener.ips:
                    yield Binding(service, ip, port, listener.pk)


def _port_and_tls(endpoint: ListenerEndpoint) -> tuple[int, bool]:
    return endpoint.port, endpoint.tls


def _http_service(endpoints: Iterable[ListenerEndpoint]) -> str:
    """The service of a port with these endpoints."""
    kinds = {(endpoint.kind, endpoint.tls) for endpoint in endpoints}
    if kinds == {(EndpointKind.METRICS, False)}:
        return METRICS
    return HTTPS if any(tls for _, tls in kinds) else HTTP


def check(found: Iterable[Binding]) -> None:
    """Raises BindError when two of them exclude each other."""
    seen: dict[tuple[str, int], Binding] = {}
    for binding in found:
        other = seen.get((binding.ip, binding.port))
        if other is not None:
            raise BindError(
                f"{binding.where} is wanted for both {other.service} and {binding.service}: "
                "give one of the listeners another port or address"
            )
        seen[binding.ip, binding.port] = binding
    for binding in seen.values():
        every = "::" if binding.is_ipv6 else "0.0.0.0"  # noqa: S104 # compared, not bound
        if binding.ip != every and (every, binding.port) in seen:
            raise BindError(
                f"port {binding.port} is wanted on {every}, which is all addresses, and on {binding.ip} as well: "
                "let the listeners name explicit addresses"
            )


def open_sockets(
    found: Iterable[Binding],
    inherited: Mapping[tuple[str, int], socket.socket] | None = None,
    *,
    skip_unavailable_ipv6: bool = False,
) -> list[tuple[Binding, socket.socket]]:
    """Bound and listening sockets: those that were inherited, else new ones. Raises BindError.

    ``skip_unavailable_ipv6``: leave out ``::1`` on a machine without IPv6, as localserve does.
    """
    found = list(found)
    check(found)
    opened: list[tuple[Binding, socket.socket]] = []
    for binding in found:
        try:
            given = (inherited or {}).get((binding.ip, binding.port))
            opened.append((binding, tcp.listen(binding.ip, binding.port) if given is None else given))
        except OSError as exc:
            if skip_unavailable_ipv6 and binding.ip == "::1" and exc.errno != errno.EADDRINUSE:
                sys.stderr.write("::1 cannot be used on this machine, it is left out\n")
                continue
            for _, sock in opened:
                sock.close()
            raise BindError(_explained(binding, exc)) from exc
    for _, sock in opened:
        sock.listen(tcp.BACKLOG)
        sock.setblocking(False)
    return opened


def inherited_sockets(names: str) -> dict[tuple[str, int], socket.socket]:
    """The sockets that the launcher opened (``names``: MOX_SOCKETS, ``ip:port,...``), or systemd did. Raises BindError.

    They are descriptors from 3 on; whatever runs in this process's stead later does not get them.
    """
    if names:
        count = names.count(",") + 1
    elif os.environ.get("LISTEN_PID") == str(os.getpid()):
        count = int(os.environ.get("LISTEN_FDS", "0"))
    else:
        return {}
    given = {}
    for descriptor in range(tcp.FIRST_DESCRIPTOR, tcp.FIRST_DESCRIPTOR + count):
        try:
            os.set_inheritable(descriptor, False)
            sock = socket.socket(fileno=descriptor)
            ip, port = sock.getsockname()[:2]
        except (OSError, ValueError) as exc:
            raise BindError(f"descriptor {descriptor} was handed over as a socket and is none: {exc}") from exc
        given[str(ip_address(ip)), port] = sock
    missing = set(names.split(",")) - {tcp.join_address(*address) for address in given} if names else set()
    if missing:
        raise BindError(f"MOX_SOCKETS={names!r} names {', '.join(sorted(missing))}, which no descriptor is bound to")
    return given


def mail_sockets(opened: Iterable[tuple[Binding, socket.socket]]) -> list[MailSocket]:
    return [MailSocket(sock, binding.service, binding.listener_id) for binding, sock in opened if binding.is_mail]


def http_sockets(opened: Iterable[tuple[Binding, socket.socket]]) -> list[HTTPSocket]:
    return [
        HTTPSocket(sock, binding.listener_id, binding.port, binding.service == HTTPS)
        for binding, sock in opened
        if not binding.is_mail
    ]


def _explained(binding: Binding, exc: OSError) -> str:
    where = f"cannot bind {binding.where} for {binding.service}"
    if exc.errno == errno.EACCES:
        way = "the container as root" if settings.MOX.in_container else "as root"
        return f"{where}: permission denied; start {way}, privileges are dropped after binding"
    if exc.errno == errno.EADDRINUSE:
        return (
            f"{where}: {portholders.holder(binding.port) or 'another process'} listens there; "
            "stop it, or choose another address"
        )
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine has no such address; change the addresses of the listener"
    return f"{where}: {exc.strerror}"
