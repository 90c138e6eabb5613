"""What a listener may listen on: rules over addresses, ports and endpoints that no single field can check.

    problems = listener_problems(listener, endpoints)        # as they would be saved; all problems, not the first only

Field names are those of Listener; an endpoint is named by its position in ``endpoints``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .models import Listener, ListenerEndpoint

_MAIL_SERVICES: Final = (
    ("SMTP", "smtp"),
    ("submission", "submission"),
    ("submissions", "submissions"),
    ("IMAP", "imap"),
    ("IMAPS", "imaps"),
)
INTERNAL_KINDS: Final = frozenset({"metrics", "profiling"})  # of no use to strangers, and they tell much


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: a field of the listener, or the endpoint at a position, or neither."""

    text: str
    field: str | None = None
    endpoint: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """An address and port that a listener wants, and for what."""

    node: str
    ip: IPv4Address | IPv6Address
    port: int
    service: str
    field: str | None = None
    endpoint: int | None = None

    def conflicts_with(self, other: Claim) -> bool:
        """Whether both cannot be bound on one machine. IPv6 sockets take no IPv4 connections here."""
        if self.port != other.port or self.ip.version != other.ip.version:
            return False
        if "*" not in (self.node, other.node) and self.node != other.node:
            return False
        return self.ip == other.ip or self.ip.is_unspecified or other.ip.is_unspecified


def address_problems(listener: Listener) -> Iterator[Problem]:
    """Rules of the address fields by themselves."""
    if not listener.ips:
        yield Problem(f"listener {listener.name} has no address: name one, or 0.0.0.0 or :: for all", "ips")
    for field in ("ips", "nat_ips"):
        texts = getattr(listener, field)
        for text in texts:
            address = _parsed(text)
            if address is None:
                yield Problem(f"{text!r} is not an IP address", field)
            elif field == "nat_ips" and (address.is_loopback or address.is_unspecified):
                yield Problem(f"{text} cannot be a public address: name those that the NAT has outside", field)
        if len(set(map(str, texts))) != len(texts):
            yield Problem("an address is named twice", field)
    if listener.nat_ips and listener.ips_nated:
        yield Problem("the public addresses are either named in nat_ips or unknown (ips_nated), not both", "ips_nated")
    addresses = list(_addresses(listener))
    for wide in (a for a in addresses if a.is_unspecified):
        if specific := [str(a) for a in addresses if a.version == wide.version and a != wide]:
            yield Problem(f"{wide} covers {', '.join(specific)} already: address in use; name either", "ips")


def tls_problems(listener: Listener, endpoints: Sequence[ListenerEndpoint]) -> Iterator[Problem]:
    """What needs TLS on a listener that has none."""
    if listener.tls_mode != "none":
        return
    needing = [
        name for name, on in (("IMAPS", listener.imaps_enabled), ("submissions", listener.submissions_enabled)) if on
    ]
    needing += [f"{endpoint.kind} HTTPS" for endpoint in endpoints if endpoint.enabled and endpoint.tls]
    if needing:
        yield Problem(
            f"listener {listener.name} needs TLS for {', '.join(needing)}: choose an ACME provider or certificates",
            "tls_mode",
        )
    if listener.smtp_require_starttls:
        yield Problem(f"listener {listener.name} requires STARTTLS for SMTP but has no TLS: set tls_mode", "tls_mode")


def listener_problems(
    listener: Listener,
    endpoints: Sequence[ListenerEndpoint],
    others: Iterable[tuple[Listener, Sequence[ListenerEndpoint]]] = (),
) -> list[Problem]:
    """Everything that keeps these settings from being served, alone and beside the other listeners."""
    problems = [*address_problems(listener), *tls_problems(listener, endpoints)]
    for position, endpoint in enumerate(endpoints):
        problems += [Problem(text, endpoint=position) for text in endpoint_problems(listener, endpoint)]
    problems += _shared_port_problems(endpoints)
    own = claims(listener, endpoints)
    seen: set[tuple[int, str, str]] = set()
    for first, second in itertools.combinations(own, 2):
        if first.ip == second.ip and first.port == second.port and first.service != second.service:
            key = (first.port, first.service, second.service)
            if key not in seen:
                seen.add(key)
                text = f"port {second.port} is for both {first.service} and {second.service}: choose another for one"
                problems.append(Problem(text, second.field, second.endpoint))
    for other, other_endpoints in others:
        for claim, theirs in itertools.product(own, claims(other, other_endpoints)):
            if claim.conflicts_with(theirs):
                text = (
                    f"{_shown(claim)} for {claim.service}: listener {other.name} has {_shown(theirs)} for "
                    f"{theirs.service}; choose another address or port"
                )
                problems.append(Problem(text, claim.field, claim.endpoint))
    return problems


def stored_problems() -> Iterator[tuple[Listener, str]]:
    """What is wrong with the listeners as they are stored: somebody may have changed them by hand."""
    from .models import Listener  # which uses these rules itself

    found = [(listener, list(listener.endpoints.all())) for listener in Listener.objects.prefetch_related("endpoints")]
    for listener, endpoints in found:
        others = [pair for pair in found if pair[0] is not listener]
        for problem in listener_problems(listener, endpoints, others):
            yield listener, problem.text


def endpoint_problems(listener: Listener, endpoint: ListenerEndpoint) -> Iterator[str]:
    """Rules of one endpoint on its listener."""
    if not endpoint.path.startswith("/"):
        yield f"path {endpoint.path!r} does not start with a slash"
    elif "//" in endpoint.path or {".", ".."} & set(endpoint.path.split("/")) or not endpoint.path.isprintable():
        yield f"path {endpoint.path!r} has an empty or dotted part, or a control character"
    public = [str(a) for a in _addresses(listener) if a.is_unspecified or a.is_global]
    if endpoint.kind in INTERNAL_KINDS and endpoint.enabled and public and not endpoint.allow_public:
        yield (
            f"{endpoint.kind} would be served to everybody on {', '.join(public)}: use a listener on loopback or "
            "private addresses, or allow it (allow_public)"
        )


def claims(listener: Listener, endpoints: Sequence[ListenerEndpoint]) -> list[Claim]:
    """What a listener wants to listen on. Endpoints of one port are one claim each: they may share it."""
    wanted: list[tuple[str, int, str | None, int | None]] = [
        (name, getattr(listener, f"{prefix}_port"), f"{prefix}_port", None)
        for name, prefix in _MAIL_SERVICES
        if getattr(listener, f"{prefix}_enabled")
    ]
    wanted += [
        ("HTTPS" if endpoint.tls else "HTTP", endpoint.port, None, position)
        for position, endpoint in enumerate(endpoints)
        if endpoint.enabled
    ]
    return [
        Claim(listener.node, ip, port, service, field, position)
        for ip in _addresses(listener)
        for service, port, field, position in wanted
    ]


def _shared_port_problems(endpoints: Sequence[ListenerEndpoint]) -> Iterator[Problem]:
    enabled = [(position, endpoint) for position, endpoint in enumerate(endpoints) if endpoint.enabled]
    for (_, first), (position, second) in itertools.combinations(enabled, 2):
        if first.port == second.port and first.tls == second.tls and _as_prefix(first.path) == _as_prefix(second.path):
            text = f"{second.kind} and {first.kind} have the same path {second.path} on port {second.port}"
            yield Problem(text, endpoint=position)


def _as_prefix(path: str) -> str:
    return path if path.endswith("/") else f"{path}/"


def _addresses(listener: Listener) -> Iterator[IPv4Address | IPv6Address]:
    return (address for text in listener.ips if (address := _parsed(text)) is not None)


def _parsed(text: object) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(str(text))
    except ValueError:
        return None


def _shown(claim: Claim) -> str:
    return f"[{claim.ip}]:{claim.port}" if claim.ip.version == 6 else f"{claim.ip}:{claim.port}"
