"""What a session knows: who is connected, and the transaction between MAIL and the reply to DATA."""

from __future__ import annotations

from dataclasses import dataclass, field

from accounts.addresses import Destination
from protocols.names import Domain, IPDomain
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Mail, Path


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for this server and run."""

    localserve: bool
    pedantic: bool


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


@dataclass(slots=True)
class Transaction:
    """From MAIL on. A recipient that is named twice gets the message once.

    With each is where it leads. On port 25 None stands for an unknown localpart of a hosted domain, which is refused
    after DATA; on submission it leads out of here, or into an account by way of the queue.
    """

    mail: Mail
    recipients: dict[Path, Destination | None] = field(default_factory=dict)
    accepted: int = 0  # RCPTs that were answered with 250
    copies: int = 0  # of the message that they ask for: one for each member of an alias
    is_full: bool = False  # a recipient was too much, and no more are taken


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a message: its reply, after a pause, or a silence that a special address asked for (seconds)."""

    reply: Reply
    pause: float = 0.0
    silence: float = 0.0
