"""The services of this package, for the mail process to listen for."""

from __future__ import annotations

from typing import Final

from accounts import tlskeys
from server import ratelimit
from server.connections import Connection, Service
from server.ratelimit import Refusal
from store.bridge import Bridge

from .connection import serve
from .login import read_account

_REFUSALS: Final = {
    Refusal.CONNECTION_RATE: "connection rate from your ip or network too high, slow down please",
    Refusal.FAILED_LOGINS: "too many auth failures",
    Refusal.OPEN_CONNECTIONS: "too many open connections from your ip or network",
}


def services(bridge: Bridge) -> list[Service]:
    """IMAP on plain connections with STARTTLS, and with TLS from the start (RFC 8314)."""

    async def handler(connection: Connection) -> None:
        await serve(connection, bridge)

    return [
        Service(name, ratelimit.Service.IMAP, implicit_tls, True, handler, _refusal, wants_client_keys=tlskeys.any_key)
        for name, implicit_tls in (("imap", False), ("imaps", True))
    ]


async def serve_logged_in(connection: Connection, bridge: Bridge, account_id: int, login_address: str) -> None:
    """A session for who is known already; nothing if the account was removed."""
    account = await bridge.call(read_account, account_id, login_address)
    if account is not None:
        await serve(connection, bridge, account)


def _refusal(refusal: Refusal | None, _connection: Connection) -> bytes:
    text = "mox shutting down" if refusal is None else _REFUSALS[refusal]
    return f"* BYE {text}\r\n".encode("ascii")
