"""Connections to a relay: one host, known by name or address, as a transport says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import ip_address

from protocols.smtpclient import SMTPError, connect

from .carrier import HostFailed, Line, counted, observe_command
from .leases import Claimed
from .outcomes import Connection
from .plans import IPAddress, Plan


class RelayConnector:
    """Connects as a plan says."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    @property
    def terms(self) -> object:
        return self._plan

    async def hosts(self) -> Sequence[str]:
        return (self._plan.host,)

    async def connect(self, host: str, members: Sequence[Claimed]) -> Line:  # one host for all messages
        plan = self._plan
        over = Connection(transport=plan.transport, remote_host=plan.host, tls_mode=plan.tls.mode.value)
        try:
            with counted(host):
                session = await connect(
                    plan.addresses or await self._addresses(),
                    plan.port,
                    hello=plan.hello,
                    tls=plan.tls,
                    credentials=plan.credentials,
                    timeouts=plan.timeouts,
                    observe=observe_command,
                )
        except SMTPError as exc:
            raise HostFailed(exc, over.between(exc.remote_ip, exc.local_ip)) from exc
        over = over.between(session.stream.remote_ip, session.stream.local_ip)
        return Line(session, over.secured(session.tls), recipients_max=plan.recipients_max)

    def reuse(self, line: Line, members: Sequence[Claimed]) -> None:
        """Nothing is to be remembered of a relay."""

    async def _addresses(self) -> tuple[IPAddress, ...]:
        """Raises SMTPError."""
        host, port = self._plan.host, self._plan.port
        try:
            async with asyncio.timeout(self._plan.timeouts.connect):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, proto=6)
        except (OSError, TimeoutError) as exc:
            raise SMTPError(f"address of {host} cannot be found: {exc}", enhanced="4.4.3") from exc
        return tuple(dict.fromkeys(ip_address(entry[4][0]) for entry in found))
