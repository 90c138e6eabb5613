"""Connections to the hosts of a recipient's domain, found by MX, secured as domain and sender want it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final, TypeGuard

from django.conf import settings
from prometheus_client import Counter

from protocols.dane import TlsaLookup, gather_tlsa
from protocols.destinations import Destination, DestinationError, HostAddresses, find_addresses, find_hosts
from protocols.dns import DNSError, Resolver, is_dnssec_error
from protocols.mtasts import Mode
from protocols.names import Domain, IPDomain
from protocols.smtpclient import (
    ExtensionMissing,
    Session,
    SMTPError,
    Timeouts,
    TLSFailure,
    TLSMode,
    TLSPolicy,
)
from protocols.tlsrpt import MX_MISMATCH, TLSA_UNUSABLE, failure, tlsa_failure
from store.pool import Threads

from . import mtastscache, network, ownips, tlsresults
from .carrier import HostFailed, Line, counted, observe_command
from .leases import Claimed
from .mtastscache import Found
from .outcomes import Connection, Outcome, Status, without_class
from .plans import DirectPlan, Impossible, IPAddress
from .tlsdemands import DANE_NAME, Demands, Tally, count_session, demands
from .tlsresults import Observation

log = logging.getLogger(__name__)

DIAL_SECONDS_MIN: Final = 1.0  # left for connecting where looking up the addresses took nearly all of the time

destinations = Counter("mox_queue_destinations", "Destinations looked up for direct delivery.")
destinations_authentic = Counter(
    "mox_queue_destinations_authentic", "Destinations of which DNSSEC vouches for the way to the hosts."
)
dane_required = Counter("mox_queue_destination_dane_required", "Hosts with TLSA records that can be used.")
dane_unverified = Counter(
    "mox_queue_destination_dane_starttlsunverified", "Hosts with TLSA records, none of which can be used."
)
dane_errors = Counter("mox_queue_destination_dane_gathertlsa_errors", "Failed lookups of TLSA records.")
ignored_by_sender = Counter(
    "mox_queue_tlsrequiredno_ignored", "Failures of policies that did not count for TLS-Required: No.", ["ignored"]
)
checks_ignored = Counter(
    "mox_smtpclient_tlsrequiredno_ignored", "Failed checks of certificates that did not count.", ["ignored"]
)
requiretls_unsupported = Counter(
    "mox_queue_requiretls_unsupported", "Hosts that cannot be given a message with REQUIRETLS.", ["reason"]
)
plaintext_fallbacks = Counter("mox_queue_plaintext_fallback", "Connections made anew without TLS, which had failed.")


@dataclass(frozen=True, slots=True)
class Network:
    """Where names are looked up, and how connections are made. ``port`` is another than 25 in tests alone."""

    resolver: Resolver
    port: int = 25
    timeouts: Timeouts = field(default_factory=Timeouts)

    @classmethod
    def of_server(cls) -> Network:
        """As the environment says."""
        environment = settings.MOX
        timeouts = replace(Timeouts(), **environment.smtp_client_timeouts)
        return cls(network.resolver(), environment.smtp_client_port, timeouts)


@dataclass(frozen=True, slots=True)
class Hint:
    """What a domain's server offered, for those who write to it."""

    domain: str
    starttls: bool
    requiretls: bool


class DirectConnector:
    """The way to the hosts for the messages of one group; made for each attempt."""

    def __init__(self, plan: DirectPlan, net: Network, database: Threads, kind: str) -> None:
        self._hints: list[Hint] = []
        self._plan = plan
        self._network = net
        self._database = database
        self._kind = kind
        self._destination: Destination | None = None
        self._found = Found()
        self._named: dict[str, IPDomain] = {}
        recipient = plan.domain.domain
        self._of_domain = Tally(tlsresults.sts_policy(recipient.ascii if recipient is not None else "", Found()))
        self._of_hosts: list[Tally] = []

    @property
    def terms(self) -> object:
        return self._plan

    async def hosts(self) -> Sequence[str]:
        return list((await self._allowed()).keys())

    async def connect(self, host: str, members: Sequence[Claimed]) -> Line:
        target = (await self._allowed())[host]
        over = Connection(transport=self._plan.transport, remote_host=host)
        began = asyncio.get_running_loop().time()
        addresses = await self._addresses(host, target, over)
        spent = asyncio.get_running_loop().time() - began
        tlsa = await self._tlsa(target, addresses, over)
        wanted = self._demands(target, addresses, tlsa)
        mtasts_mode = wanted.mtasts.value if wanted.mtasts is not None else ""
        over = replace(over, tls_mode=wanted.tls.mode.value, dane=wanted.dane, mtasts_mode=mtasts_mode)
        if self._plan.require_tls and not wanted.tls.checks:
            requiretls_unsupported.labels("nopolicy").inc()
            text = f"message requires TLS, and {host} has no policy by which its certificate could be verified"
            raise HostFailed(ExtensionMissing("STARTTLS", text, code=554, enhanced="5.7.30"), over)
        ordered = in_order(addresses.addresses, members[0].message.dialed_ips.get(_key(host), ()))
        of_host = self._host_tally(host, tlsa)
        usable = tlsa is None or not tlsa.dane or bool(tlsa.records)
        if not usable:
            of_host.failed(TLSA_UNUSABLE, host=host)
        call = _Call(
            self._plan,
            self._network,
            host,
            members,
            wanted,
            over,
            dual_stack=addresses.dual_stack,
            of_domain=self._of_domain,
            of_host=of_host,
            counts_for_host=usable,
        )
        timeouts = self._network.timeouts
        line = await call.connect(ordered, max(DIAL_SECONDS_MIN, timeouts.connect - spent))
        self._hint(line.session)
        return line

    def reuse(self, line: Line, members: Sequence[Claimed]) -> None:
        remember_dialed(members, line.over.remote_host, line.over.remote_ip)

    def observations(self) -> list[Observation]:
        """What was seen of TLS since they were asked for last."""
        domain = self._plan.domain.domain
        if domain is None:
            return []
        tallies = [(self._of_domain, False), *((tally, True) for tally in self._of_hosts)]
        seen = [(tally.result(), is_host) for tally, is_host in tallies if not tally.is_empty]
        self._of_domain = Tally(self._of_domain.policy)
        self._of_hosts = []
        send_report = tlsresults.is_reason_for_report(self._kind, [result for result, _ in seen])
        return [Observation(domain.ascii, result, is_host, send_report) for result, is_host in seen]

    def take_hints(self) -> list[Hint]:
        """What the domain's servers offered, since that was asked for last."""
        taken, self._hints = self._hints, []
        return taken

    # The hosts.

    async def _allowed(self) -> dict[str, IPDomain]:
        """The hosts by name, those that a policy rules out left out. Raises Impossible."""
        if self._destination is None:
            domain = self._plan.domain.domain
            destination = await self._looked_up()
            if domain is not None:
                self._found = await self._sts(domain)
            self._named = self._hosts_allowed(destination)
            self._destination = destination
        return self._named

    async def _looked_up(self) -> Destination:
        try:
            destination = await find_hosts(self._network.resolver, self._plan.domain, pedantic=self._plan.pedantic)
        except DestinationError as exc:
            if _is_dnssec(exc.cause):
                self._of_domain.failed(failure(exc.cause))
            status = Status.PERMANENT if exc.permanent else Status.TEMPORARY
            raise Impossible(Outcome(status, str(exc), secode=without_class(exc.enhanced))) from exc
        if self._plan.domain.domain is not None:
            destinations.inc()
            if destination.original_authentic and destination.authentic:
                destinations_authentic.inc()
        return destination

    async def _sts(self, domain: Domain) -> Found:
        """The MTA-STS policy of the domain as the message has it. Raises Impossible."""
        found = await mtastscache.find(domain, self._network.resolver, self._plan.roots, self._database)
        self._of_domain = Tally(tlsresults.sts_policy(domain.ascii, found))
        if found.failure[0]:
            self._of_domain.failed(found.failure)
        if found.error:
            if self._plan.require_tls is not False:
                raise Impossible(Outcome(Status.TEMPORARY, found.error, secode="7.5"))
            ignored_by_sender.labels("mtastspolicy").inc()
        return found

    def _hosts_allowed(self, destination: Destination) -> dict[str, IPDomain]:
        named = {_name(host): host for host in destination.hosts}
        policy = self._found.policy
        if policy is None or policy.mode is Mode.NONE:
            return named
        refused = {name for name, host in named.items() if host.domain is not None and not policy.matches(host.domain)}
        for name in refused:
            self._of_domain.failed(MX_MISMATCH, host=name)
        if policy.mode is not Mode.ENFORCE:
            return named
        if self._plan.require_tls is False:
            if refused:
                ignored_by_sender.labels("mtastsmx").inc()
            return named
        allowed = {name: host for name, host in named.items() if name not in refused}
        if not allowed:
            text = f"no host of the domain is in its mta-sts policy, which is enforced: {', '.join(sorted(refused))}"
            raise Impossible(Outcome(Status.TEMPORARY, text, secode="7.5"))
        return allowed

    # One host.

    async def _addresses(self, host: str, target: IPDomain, over: Connection) -> HostAddresses:
        plan, net = self._plan, self._network
        try:
            async with asyncio.timeout(net.timeouts.connect):
                return await find_addresses(net.resolver, target, ipv4=plan.ipv4, ipv6=plan.ipv6)
        except DestinationError as exc:
            if _is_dnssec(exc.cause):
                self._host_tally(host).failed(failure(exc.cause), host=host)
            error = SMTPError(str(exc), enhanced=exc.enhanced, command="connect")
            raise HostFailed(error, over) from exc
        except TimeoutError:
            error = SMTPError(f"timeout looking up the addresses of {host}", enhanced="4.4.3", command="connect")
            raise HostFailed(error, over) from None

    async def _tlsa(self, target: IPDomain, addresses: HostAddresses, over: Connection) -> TlsaLookup | None:
        """What DNS says of a host's certificates; None where DNSSEC does not vouch for the way there. (RFC 7672 2.2)"""
        known = self._destination
        assert known is not None, "hosts are known before they are connected to"
        if target.domain is None or addresses.expanded is None:
            return None
        if not (known.original_authentic and known.authentic and addresses.authentic):
            return None
        tlsa = await gather_tlsa(
            self._network.resolver, target.domain, addresses.expanded, addresses.expanded_authentic
        )
        if tlsa.error is None:
            if tlsa.dane:
                (dane_required if tlsa.records else dane_unverified).inc()
            return tlsa
        dane_errors.inc()
        self._host_tally(_name(target), tlsa).failed(tlsa_failure(tlsa.error), host=_name(target))
        if self._plan.require_tls is not False:
            # RFC 7672 section 2.1.1: who can keep the records away must not be able to turn TLS off.
            error = SMTPError(f"tlsa records cannot be had: {tlsa.error}", enhanced="4.7.5", command="connect")
            raise HostFailed(error, replace(over, dane=True))
        ignored_by_sender.labels("badtlsa").inc()
        return None

    def _demands(self, target: IPDomain, addresses: HostAddresses, tlsa: TlsaLookup | None) -> Demands:
        known, recipient = self._destination, self._plan.domain.domain
        names: dict[Domain, None] = {}
        if target.domain is not None and known is not None:
            # RFC 7672 section 3.2.2, the first is also asked for.
            candidates = [tlsa.base_domain if tlsa is not None and tlsa.dane else None, target.domain]
            candidates += [recipient, known.expanded] if known.has_mx else []
            names = dict.fromkeys(name for name in candidates if name is not None)
        return demands(
            target, list(names), tlsa, self._found.policy, self._plan.roots, require_tls=self._plan.require_tls
        )

    def _hint(self, session: Session) -> None:
        recipient = self._plan.domain.domain
        if recipient is not None:
            starttls = session.starttls_announced or session.tls is not None
            self._hints.append(Hint(recipient.name(), starttls, session.extensions.require_tls))

    def _host_tally(self, host: str, tlsa: TlsaLookup | None = None) -> Tally:
        base = tlsa.base_domain.ascii if tlsa is not None and tlsa.dane else host
        tally = Tally(tlsresults.tlsa_policy(base, host, tlsa.found if tlsa is not None else ()))
        self._of_hosts.append(tally)
        return tally


@dataclass(slots=True)
class _Call:
    """One host, connected to once, or once more without TLS."""

    plan: DirectPlan
    network: Network
    host: str
    members: Sequence[Claimed]
    wanted: Demands
    over: Connection
    dual_stack: bool
    of_domain: Tally
    of_host: Tally
    counts_for_host: bool
    """A session that succeeds does so under the host's policy, too."""

    async def connect(self, addresses: Sequence[IPAddress], seconds: float) -> Line:
        """A session that is ready, in at most so many seconds for dialing. Raises HostFailed."""
        try:
            with counted(self.host):
                try:
                    session = await self._session(addresses, seconds)
                except SMTPError as exc:
                    if not self._may_fall_back(exc):
                        raise
                    session = await self._in_the_clear(exc, seconds)
                if self.plan.require_tls:
                    await self._check_requiretls(session)
        except SMTPError as exc:
            over = self.over.between(exc.remote_ip, exc.local_ip)
            raise HostFailed(exc, over, dual_stack=self.dual_stack) from exc
        over = self.over.between(session.stream.remote_ip, session.stream.local_ip).secured(session.tls)
        return Line(session, over, dual_stack=self.dual_stack)

    async def _session(self, addresses: Sequence[IPAddress], seconds: float) -> Session:
        """Raises SMTPError."""
        session = await self._dialed(addresses, seconds, self.wanted.tls)
        remember_dialed(self.members, self.host, session.stream.remote_ip)
        ownips.count_connection()
        error: SMTPError | None = None
        try:
            await session.start()
        except SMTPError as exc:
            error = exc
        count_session(
            session, error, self.of_domain, self.of_host, host=self.host, counts_for_host=self.counts_for_host
        )
        if error is None and any(result.name == DANE_NAME and result.problem for result in session.tls_results):
            checks_ignored.labels("daneverification").inc()
        if error is not None:
            raise error
        return session

    async def _dialed(self, addresses: Sequence[IPAddress], seconds: float, tls: TLSPolicy) -> Session:
        stream = await self.plan.dialer(
            addresses, self.network.port, timeout=seconds, local_addresses=self.plan.local_addresses
        )
        return Session(
            stream,
            hello=self.plan.hello,
            tls=tls,
            timeouts=self.network.timeouts,
            pedantic=self.plan.pedantic,
            observe=observe_command,
        )

    def _may_fall_back(self, error: SMTPError) -> bool:
        failed_in_tls = isinstance(error, TLSFailure) or error.command == "starttls"
        return failed_in_tls and self.wanted.falls_back and self.plan.plaintext_retry

    async def _in_the_clear(self, error: SMTPError, seconds: float) -> Session:
        """The same address again. What TLS reports say of it was said already. Raises SMTPError."""
        plaintext_fallbacks.inc()
        if self.wanted.dane or self.wanted.mtasts is Mode.ENFORCE:
            ignored_by_sender.labels("badtls").inc()
        log.info("tls failed, once more without", extra={"remote": self.host, "err": str(error)})
        self.over = replace(self.over, tls_mode=TLSMode.SKIP.value)
        session = await self._dialed([ip_address(error.remote_ip)], seconds, TLSPolicy(TLSMode.SKIP))
        await session.start()
        return session

    async def _check_requiretls(self, session: Session) -> None:
        """Raises ExtensionMissing for a server that would not pass the demand on (RFC 8689 section 4.2.1)."""
        if session.extensions.require_tls:
            return
        requiretls_unsupported.labels("norequiretls").inc()
        await session.quit()
        error = ExtensionMissing("REQUIRETLS", "server does not support REQUIRETLS", code=554, enhanced="5.7.30")
        error.remote_ip, error.local_ip = session.stream.remote_ip, session.stream.local_ip
        raise error


def in_order(addresses: Sequence[IPAddress], dialed: Sequence[str]) -> list[IPAddress]:
    """The addresses of a host in the order in which to dial them, by those that were dialed for the message before.

    The other family than last comes first: this server's address there may be liked better. Within a family, where one
    address was dialed once, it comes first: greylisting remembers it. Else the order stays that of DNS.
    """
    before = [ip_address(text) for text in dialed]
    if not before:
        return list(addresses)

    def place(address: IPAddress) -> tuple[bool, bool]:
        of_family = [ip for ip in before if ip.version == address.version]
        return address.version == before[-1].version, of_family != [address]

    return sorted(addresses, key=place)


def remember_dialed(members: Sequence[Claimed], host: str, ip: str) -> None:
    """Note for each message where it was tried; stored with the result of the attempt."""
    for member in members:
        dialed = member.message.dialed_ips
        member.message.dialed_ips = {**dialed, _key(host): [*dialed.get(_key(host), ()), ip]}


def _key(host: str) -> str:
    return f"{host}."


def _name(host: IPDomain) -> str:
    return host.domain.ascii if host.domain is not None else str(host.ip)


def _is_dnssec(error: DNSError | None) -> TypeGuard[DNSError]:
    return error is not None and is_dnssec_error(error.ede)
