"""Whether DNS blocklists have the addresses that mail goes out from: asked now and then, and after much of it.

`monitor` runs every five minutes, on any node; `count_connection` is told of each direct connection, `flush` brings
those of a process together with the others'. What was found is in rows, of which the gauge is made: so it is the same
from all processes, and says nothing of addresses or lists that are no longer there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

from django.db import DatabaseError
from django.db.models import F
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from accounts.models import Transport
from protocols.dns import Resolver
from protocols.dnsbl import DnsblStatus, dnsbl_lookup
from protocols.names import BadDomain, Domain, parse_domain
from protocols.publicaddress import is_public
from server import db
from server.models import Listener, ServerSettings

from . import network
from .models import OwnIPMonitor, OwnIPStatus

log = logging.getLogger(__name__)

CONNECTIONS: Final = 100  # direct ones, after which the lists are asked again
INTERVAL: Final = timedelta(hours=3)  # after which they are anyhow
PAUSE: Final = 1.0  # seconds between questions: lists refuse who asks much
AT_ONCE: Final = 10  # questions of somebody who waits for the answers
EXPLANATION_MAX: Final = 500  # characters
# Where nothing is sent to: which address of its own the system would use for it is all that is asked (RFC 5737, 3849).
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

IPAddress: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Status:
    """What one list says of one address; ``ip`` is None where the own addresses are not known."""

    zone: str
    ip: IPAddress | None
    status: OwnIPStatus.Status
    explanation: str = ""
    """The list's own words, or why it could not be asked."""


# The monitor.


def monitor(resolver: Resolver | None = None, *, pause: float = PAUSE) -> bool:
    """Ask the lists if it is time to. Whether they were asked."""
    if ServerSettings.current().localserve:
        return False
    ips: list[IPAddress | None] = [*own_ips()] or [None]
    wanted = [(zone, ip) for zone in monitored_zones() for ip in ips]
    if not _begin(wanted):
        return False
    for status in asyncio.run(_ask_slowly(wanted, resolver or network.resolver(), pause)):
        _store(status)
        if status.status is OwnIPStatus.Status.FAIL:
            extra = {"zone": status.zone, "ip": str(status.ip), "explanation": status.explanation}
            log.warning("own address is on a dns blocklist", extra=extra)
    return True


def _begin(wanted: Sequence[tuple[Domain, IPAddress | None]]) -> bool:
    """Drop what is no longer wanted; whether it is time to ask, which then nobody else does."""
    keys = {(zone.ascii, _text(ip)) for zone, ip in wanted}
    with db.write():
        OwnIPMonitor.objects.bulk_create([OwnIPMonitor(pk=1)], ignore_conflicts=True)
        state = OwnIPMonitor.objects.get(pk=1)
        rows = {(row.zone, row.ip): row.pk for row in OwnIPStatus.objects.all()}
        OwnIPStatus.objects.filter(pk__in=[pk for key, pk in rows.items() if key not in keys]).delete()
        now = db.now()
        is_time = (
            state.checked is None
            or state.connections >= CONNECTIONS
            or now - state.checked >= INTERVAL
            or bool(keys - rows.keys())
        )
        if not keys or not is_time:
            return False
        # Another node may be here too: it finds another time.
        mine = OwnIPMonitor.objects.filter(pk=1, checked=state.checked)
        return bool(mine.update(checked=now, connections=0))


async def _ask_slowly(
    wanted: Iterable[tuple[Domain, IPAddress | None]], resolver: Resolver, pause: float
) -> list[Status]:
    found = []
    for number, (zone, ip) in enumerate(wanted):
        if number:
            await asyncio.sleep(pause)
        found.append(await _ask(zone, ip, resolver))
    return found


def _store(status: Status) -> None:
    values = {"status": status.status, "explanation": status.explanation, "checked": db.now()}
    with db.write():
        OwnIPStatus.objects.update_or_create(zone=status.zone, ip=_text(status.ip), defaults=values)


# What pages call.


def ask_now(resolver: Resolver | None = None) -> list[Status]:
    """What all lists say now, by address and list; takes seconds. Nothing is kept of it."""

    ips: list[IPAddress | None] = [*own_ips()] or [None]
    zones = monitored_zones()

    async def run() -> list[Status]:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(zone: Domain, ip: IPAddress | None) -> Status:
            async with places:
                return await _ask(zone, ip, resolver or network.resolver())

        return await asyncio.gather(*(one(zone, ip) for ip in ips for zone in zones))

    return asyncio.run(run())


async def _ask(zone: Domain, ip: IPAddress | None, resolver: Resolver) -> Status:
    if ip is None:
        text = "name the public addresses in the SMTP listener (nat_ips)"
        return Status(zone.ascii, None, OwnIPStatus.Status.UNKNOWN, text)
    result = await dnsbl_lookup(resolver, zone, ip)
    status = {
        DnsblStatus.PASS: OwnIPStatus.Status.PASS,
        DnsblStatus.FAIL: OwnIPStatus.Status.FAIL,
        DnsblStatus.TEMPERROR: OwnIPStatus.Status.TEMPERROR,
    }[result.status]
    return Status(zone.ascii, ip, status, (result.explanation or result.error)[:EXPLANATION_MAX])


# What is asked about, and whom.


def monitored_zones() -> list[Domain]:
    """The lists that listeners use for incoming mail, and those that are for this alone."""
    names = [zone for listener in _listeners() for zone in listener.smtp_dnsbls]
    zones = []
    for name in (*names, *ServerSettings.current().monitor_dnsbls):
        try:
            zones.append(parse_domain(name))
        except BadDomain as exc:
            log.warning("dns blocklist has a bad name", extra={"zone": name, "err": str(exc)})
    return list(dict.fromkeys(zones))


def own_ips() -> list[IPAddress]:
    """The public addresses that mail may come from; none where they are not known."""
    found: list[IPAddress] = []
    for listener in _listeners():
        if listener.ips_nated:
            continue
        for text in listener.nat_ips or listener.ips:
            ip = ip_address(text)
            found += _system_addresses(ip.version) if ip.is_unspecified else [ip]
    for ips in Transport.objects.filter(kind=Transport.Kind.SOCKS).values_list("socks_remote_ips", flat=True):
        found += [ip_address(text) for text in ips]
    return [ip for ip in dict.fromkeys(found) if is_public(ip)]


def _listeners() -> list[Listener]:
    return list(Listener.objects.filter(smtp_enabled=True).order_by("pk"))


def _system_addresses(version: int) -> list[IPAddress]:
    """What the system uses towards the internet; of a listener on :: that is both families."""
    found: list[IPAddress] = []
    for family, elsewhere in _ELSEWHERE:
        if version == 4 and family == socket.AF_INET6:
            continue
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((elsewhere, 9))
            except OSError:
                continue
            found.append(ip_address(probe.getsockname()[0]))
    return found


def _text(ip: IPAddress | None) -> str:
    return str(ip) if ip is not None else ""


# How much goes out.

_counting = threading.Lock()
_connections = 0


def count_connection() -> None:
    """A direct connection was made. Quick, on any thread; counts for others after `flush`."""
    global _connections  # noqa: PLW0603 # a count of this process
    with _counting:
        _connections += 1


def flush() -> None:
    """Add what this process has counted to what all have."""
    global _connections
    with _counting:
        counted, _connections = _connections, 0
    if counted:
        with db.write():
            OwnIPMonitor.objects.bulk_create([OwnIPMonitor(pk=1)], ignore_conflicts=True)
            OwnIPMonitor.objects.filter(pk=1).update(connections=F("connections") + counted)


class Gauge(Collector):
    """The gauge, made of the rows."""

    VALUES: Final = {OwnIPStatus.Status.PASS: 1, OwnIPStatus.Status.UNKNOWN: -1}

    def describe(self) -> Iterable[GaugeMetricFamily]:
        text = "1: the blocklist does not have the address. 0: it does, or could not be asked. -1: addresses unknown."
        return [GaugeMetricFamily("mox_dnsbl_ips_success", text, labels=["zone", "ip"])]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        (family,) = self.describe()
        try:
            for row in OwnIPStatus.objects.order_by("zone", "ip"):
                family.add_metric([row.zone, row.ip], self.VALUES.get(OwnIPStatus.Status(row.status), 0))
        except DatabaseError as exc:
            log.warning("status of own addresses cannot be read", extra={"err": str(exc)})
        return [family]
