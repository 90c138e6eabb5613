"""How to connect for a message: to which host, secured how, logged in as whom. No network is used here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from django.conf import settings as environment

from accounts.models import Transport
from accounts.transport_rules import proxy_of
from protocols.names import Domain as DomainName
from protocols.names import IPDomain, own_hostname, parse_domain
from protocols.pkix import Roots, ServerName
from protocols.smtpclient import PKIX, Credentials, Dialer, Timeouts, TLSMode, TLSPolicy, dial
from protocols.smtpclient.authentication import DEFAULT_MECHANISMS
from protocols.smtpclient.proxied import Proxied
from server.models import Listener, ServerSettings
from server.statements import Statement

from . import network
from .leases import Group
from .models import MessageKind, QueueMessage
from .outcomes import Outcome, Status
from .paths import path_of
from .routing import UnknownTransport

PORTS: Final = {Transport.Kind.SMTP: 25, Transport.Kind.SUBMISSION: 587, Transport.Kind.SUBMISSIONS: 465}
SECONDS_PER_MIB: Final = 1.0  # that a relay may take longer for a message
RELAY_TIMEOUTS: Final = Timeouts(setup=60.0, delivery=60.0, delivery_per_mib=SECONDS_PER_MIB)
LOCAL_TIMEOUTS: Final = Timeouts(setup=60.0, delivery=60.0, end_of_data=60.0)  # the server is this very machine
LOCALHOST: Final = DomainName("localhost")
LOCAL_PORT: Final = 1025  # where no listener says another

IPAddress = IPv4Address | IPv6Address


class Impossible(Exception):
    """The attempt ends here, without a connection."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.error)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Plan:
    """Messages with equal plans can share a connection."""

    host: str
    """As it is named in errors and DSNs, and looked up where there are no ``addresses``."""
    port: int
    hello: IPDomain
    tls: TLSPolicy
    timeouts: Timeouts
    transport: str = ""
    addresses: tuple[IPAddress, ...] = ()
    credentials: Credentials | None = None
    recipients_max: int = 0
    """In one transaction; 0: as many as the server takes."""


@dataclass(frozen=True, slots=True)
class DirectPlan:
    """How to deliver to the hosts of a recipient's domain. Messages with equal plans can share a connection."""

    domain: IPDomain
    """Of the recipients, as the message has it."""
    hello: IPDomain
    roots: Roots
    require_tls: bool | None = None
    """As `QueueMessage` has it."""
    plaintext_retry: bool = True
    """Whether a message may go out in the clear where TLS was tried and failed."""
    transport: str = ""
    ipv4: bool = True
    ipv6: bool = True
    local_addresses: tuple[IPAddress, ...] = ()
    """What connections come from, at most one of each family."""
    dialer: Dialer = dial
    pedantic: bool = False


def plan(group: Group, settings: ServerSettings) -> Plan | DirectPlan:
    """How to deliver a group. Raises Impossible."""
    if isinstance(group.way, UnknownTransport):
        raise Impossible(Outcome(Status.TEMPORARY, str(group.way), secode="3.5"))
    transport = group.way.transport
    if transport is None or transport.kind == Transport.Kind.DIRECT:
        if settings.localserve:
            return _to_ourselves(transport.name if transport is not None else "")
        return _direct(group.first, transport, settings)
    if transport.kind == Transport.Kind.FAIL:
        status = Status.PERMANENT if transport.fail_code >= 500 else Status.TEMPORARY
        text = transport.fail_message or "delivery refused by the configuration"
        raise Impossible(Outcome(status, text, code=transport.fail_code, secode="7.0"))
    if transport.kind == Transport.Kind.SOCKS:
        return _through_proxy(_direct(group.first, transport, settings), transport)
    relay = _to_relay(transport, settings)
    if group.first.require_tls and not relay.tls.checks:
        text = f"message requires verified TLS, which transport {transport.name} does not use"
        raise Impossible(Outcome(Status.PERMANENT, text, code=554, secode="7.30"))  # RFC 8689 section 4.2.1
    return relay


def _direct(message: QueueMessage, transport: Transport | None, settings: ServerSettings) -> DirectPlan:
    return DirectPlan(
        domain=path_of(message.rcpt_localpart, message.rcpt_domain).domain,
        hello=IPDomain(domain=own_hostname(settings.hostname)),
        roots=network.roots(settings),
        require_tls=message.require_tls,
        plaintext_retry=message.kind != MessageKind.DMARC_REPORT,
        transport=transport.name if transport is not None else "",
        ipv4=transport is None or not transport.disable_ipv4,
        ipv6=transport is None or not transport.disable_ipv6,
        local_addresses=_source_addresses(),
        pedantic=settings.pedantic,
    )


def _through_proxy(plan: DirectPlan, transport: Transport) -> DirectPlan:
    """The same through a SOCKS proxy, under the name that its address has. Raises Impossible."""
    try:
        proxy = proxy_of(transport)
    except ValueError as exc:
        text = f"transport {transport.name} has a bad SOCKS proxy: {exc}"
        raise Impossible(Outcome(Status.TEMPORARY, text, secode="3.5")) from exc
    hello = plan.hello
    if transport.socks_remote_hostname:
        hello = IPDomain(domain=own_hostname(transport.socks_remote_hostname))
    return replace(plan, hello=hello, local_addresses=(), dialer=Proxied(proxy))


_listening: Final = Statement(lambda: Listener.objects.filter(smtp_enabled=True).values_list("node", "ips"))


def _source_addresses() -> tuple[IPAddress, ...]:
    """The addresses that SMTP listeners name, of each family the one if it is one: the DNS knows this server by it."""
    here = ("*", environment.MOX.node)
    named = {ip_address(ip) for node, ips in _listening.rows() if node in here for ip in ips}
    by_family = ([ip for ip in named if ip.version == version] for version in (4, 6))
    return tuple(ips[0] for ips in by_family if len(ips) == 1 and not ips[0].is_unspecified)


def _to_ourselves(transport: str) -> Plan:
    """localserve delivers to its own SMTP port whatever goes out directly."""
    listener = Listener.objects.filter(smtp_enabled=True).order_by("pk").first()
    ip = ip_address(listener.ips[0]) if listener is not None and listener.ips else IPv4Address("127.0.0.1")
    if ip.is_unspecified:
        ip = IPv4Address("127.0.0.1") if ip.version == 4 else IPv6Address("::1")
    return Plan(
        host=LOCALHOST.ascii,
        port=listener.smtp_port if listener is not None else LOCAL_PORT,
        hello=IPDomain(domain=LOCALHOST),
        tls=TLSPolicy(TLSMode.OPPORTUNISTIC),
        timeouts=LOCAL_TIMEOUTS,
        transport=transport,
        addresses=(ip,),
        recipients_max=1,  # one reply for several would not tell for which of them the message failed
    )


def _to_relay(transport: Transport, settings: ServerSettings) -> Plan:
    kind = Transport.Kind(transport.kind)
    if kind is Transport.Kind.SUBMISSIONS:
        mode = TLSMode.IMMEDIATE
    else:
        mode = TLSMode.SKIP if transport.no_starttls else TLSMode.REQUIRED
    addresses: tuple[IPAddress, ...] = ()
    server_name: ServerName
    try:
        addresses = (ip_address(transport.host.strip("[]")),)
        sni, server_name = "", addresses[0]
    except ValueError:
        sni, server_name = transport.host, parse_domain(transport.host)
    checks: tuple[PKIX, ...] = ()
    if mode is not TLSMode.SKIP and not transport.starttls_insecure_skip_verify:
        checks = (PKIX(server_name, network.roots(settings)),)
    credentials = None
    if transport.username:
        credentials = Credentials(
            transport.username,
            transport.password.decode("utf-8", "replace"),
            tuple(transport.mechanisms) or DEFAULT_MECHANISMS,
        )
    return Plan(
        host=transport.host,
        port=transport.port or PORTS[kind],
        hello=IPDomain(domain=own_hostname(settings.hostname)),
        tls=TLSPolicy(mode, sni, checks),
        timeouts=RELAY_TIMEOUTS,
        transport=transport.name,
        addresses=addresses,
        credentials=credentials,
    )
