"""What a session knows: who is connected, and the transaction between MAIL and the reply to DATA."""

from __future__ import annotations

from dataclasses import dataclass, field

from accounts.addresses import Resolved
from protocols.names import Domain, IPDomain
from protocols.smtpsyntax import Mail, Path


@dataclass(frozen=True, slots=True)
class Hello:
    """What the client called itself, and with which command."""

    name: IPDomain
    extended: bool  # EHLO


@dataclass(frozen=True, slots=True)
class Peer:
    """The connection that a message came over, as it was during DATA. TLS texts are "" without TLS."""

    cid: int
    remote_ip: str
    local_ip: str
    hostname: Domain
    hello: Hello
    tls_version: str  # as OpenSSL writes it: "TLSv1.3"
    tls_cipher: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """An accepted RCPT. ``resolved`` is None for an unknown localpart of a hosted domain: refused after DATA."""

    path: Path
    resolved: Resolved | None


@dataclass(slots=True)
class Transaction:
    """From MAIL on."""

    mail: Mail
    recipients: dict[Path, Recipient] = field(default_factory=dict)  # named twice, the message comes once
    accepted: int = 0  # RCPTs that were answered with 250
