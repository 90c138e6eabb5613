"""What the listeners ask for, as sockets: opened once, before the fork, and inherited by every process."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from ipaddress import ip_address

from server.models import EndpointKind, Listener

from .mailserver import MailSocket

BACKLOG = 512
METRICS = "metrics"


class BindError(Exception):
    """An address cannot be listened on; the text names it, the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class Binding:
    """An address and what is served on it: the name of a mail service, or the kind of an HTTP endpoint."""

    service: str
    ip: str
    port: int
    listener_id: int


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
        services += [
            (METRICS, endpoint.enabled, endpoint.port)
            for endpoint in listener.endpoints.all()
            if endpoint.kind == EndpointKind.METRICS
        ]
        for service, enabled, port in services:
            if enabled:
                for ip in listener.ips:
                    yield Binding(service, ip, port, listener.pk)


def dumps(found: Iterable[Binding]) -> str:
    """Bindings as JSON, to be handed from the process that reads the database to the one that opens sockets."""
    return json.dumps([asdict(binding) for binding in found])


def loads(text: str) -> list[Binding]:
    return [Binding(**values) for values in json.loads(text)]


def open_sockets(found: Iterable[Binding], *, skip_unavailable_ipv6: bool) -> list[tuple[Binding, socket.socket]]:
    """Bound and listening sockets. Raises BindError.

    ``skip_unavailable_ipv6``: leave out ``::1`` on a machine without IPv6, as localserve does.
    """
    opened = []
    for binding in found:
        try:
            opened.append((binding, _open(binding)))
        except OSError as exc:
            if skip_unavailable_ipv6 and binding.ip == "::1" and exc.errno != errno.EADDRINUSE:
                continue
            for _, sock in opened:
                sock.close()
            raise BindError(_explained(binding, exc)) from exc
    return opened


def mail_sockets(opened: Iterable[tuple[Binding, socket.socket]]) -> list[MailSocket]:
    return [
        MailSocket(sock, binding.service, binding.listener_id) for binding, sock in opened if binding.service != METRICS
    ]


def http_sockets(opened: Iterable[tuple[Binding, socket.socket]]) -> list[socket.socket]:
    return [sock for binding, sock in opened if binding.service == METRICS]


def _open(binding: Binding) -> socket.socket:
    family = socket.AF_INET6 if ip_address(binding.ip).version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((binding.ip, binding.port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _explained(binding: Binding, exc: OSError) -> str:
    where = f"cannot bind {binding.ip}:{binding.port} for {binding.service}"
    if exc.errno == errno.EACCES:
        return f"{where}: permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    if exc.errno == errno.EADDRINUSE:
        return f"{where}: another process listens there; stop it, or choose another address"
    if exc.errno == errno.EADDRNOTAVAIL:
        return f"{where}: this machine has no such address; change the addresses of the listener"
    return f"{where}: {exc.strerror}"
