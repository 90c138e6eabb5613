"""The services of this package for the server that accepts connections."""

from __future__ import annotations

from protocols.dns import Resolver
from protocols.smtpreply import Reply
from server import ratelimit
from server.cids import received_id
from server.connections import Connection, Service
from server.ratelimit import Refusal
from store.bridge import Bridge

from .reception import Reception
from .resolvers import Resolvers
from .session import SHUTTING_DOWN
from .submission import Submission

_REASONS = {
    Refusal.CONNECTION_RATE: "too many new connections from your network, try again later",
    Refusal.FAILED_LOGINS: "too many failed logins from your network, try again later",
    Refusal.OPEN_CONNECTIONS: "too many open connections from your network, try again later",
}


def services(bridge: Bridge, resolver: Resolver) -> list[Service]:
    """Mail from other servers, on port 25; from our users, with STARTTLS and with TLS from the start (RFC 8314)."""
    resolvers = Resolvers(bridge, resolver)

    async def receive(connection: Connection) -> None:
        await Reception(connection, bridge, resolvers).run()

    async def submit(connection: Connection) -> None:
        await Submission(connection, bridge).run()

    return [
        Service(
            name="smtp",
            kind=ratelimit.Service.SMTP,
            implicit_tls=False,
            refuse_failed_logins=False,
            handler=receive,
            refusal=refusal,
            session_tickets=False,
        ),
        *(
            Service(
                name=name,
                kind=ratelimit.Service.SUBMISSION,
                implicit_tls=implicit_tls,
                refuse_failed_logins=True,
                handler=submit,
                refusal=refusal,
            )
            for name, implicit_tls in (("submission", False), ("submissions", True))
        ),
    ]


def refusal(reason: Refusal | None, connection: Connection) -> bytes:
    """The line that refuses a connection: for a limit, or because the server is stopping."""
    reply = SHUTTING_DOWN if reason is None else Reply(421, "4.7.0", _REASONS[reason])
    return reply.encode(received_id(connection.cid))
