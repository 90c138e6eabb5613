"""Logging in at a relay (RFC 4954): the choice of a mechanism and its exchange."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass, field
from typing import Final

from protocols.pkix import peer_chain
from protocols.sasl import ChannelBinding, ScramHash, channel_binding
from protocols.sasl.client import ClientMechanism, SaslClientError, Scram, binding_name, client_mechanism
from protocols.stream import TLSState

from .channel import REFUSED_FROM, Channel
from .errors import SMTPError
from .replies import Reply

DEFAULT_MECHANISMS: Final = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "CRAM-MD5")
MAX_STEPS: Final = 10  # challenges of one exchange: no mechanism here has more than three
MAX_COMMAND: Final = 510  # bytes without CRLF, RFC 5321 4.5.3.1.4
CONTINUE: Final = 334

_CLEARTEXT: Final = frozenset({"PLAIN", "LOGIN"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who to log in as. Of ``mechanisms``, in this order, the first that the server offers is used."""

    username: str
    password: str = field(repr=False)
    mechanisms: tuple[str, ...] = DEFAULT_MECHANISMS
    allow_cleartext: bool = False
    """Let PLAIN and LOGIN send the password over a connection without TLS."""


async def authenticate(channel: Channel, credentials: Credentials, offered: tuple[str, ...]) -> str:
    """Log in; gives the mechanism used. Raises SMTPError: refused, no mechanism in common, a server that cheats."""
    try:
        mechanism = choose(channel.stream.tls, credentials, offered)
        step = mechanism.next(None)
    except SaslClientError as exc:
        raise SMTPError(str(exc), permanent=True, enhanced="5.7.9", command="auth") from exc
    command = f"AUTH {mechanism.name}"
    postponed = False
    if step.data is None:
        reply = await channel.exchange(command)
    elif len(line := f"{command} {_encoded(step.data) or '='}") <= MAX_COMMAND:
        reply = await channel.exchange(line, shown=f"{command} ***")
    else:
        # Too long for the command's line: the server asks for it with an empty challenge (RFC 4954 section 4).
        postponed = True
        reply = await channel.exchange(command)
    for _ in range(MAX_STEPS):
        if reply.code != CONTINUE:
            break
        if not postponed:
            challenge = b""
            try:
                if step.last:
                    raise SaslClientError("server asks for more than the mechanism has")
                challenge = _challenge(reply)
                step = mechanism.next(challenge)
            except (SaslClientError, ValueError) as exc:
                raise await _end(channel, challenge, f"authentication with {mechanism.name}: {exc}") from exc
        postponed = False
        reply = await _answer(channel, _encoded(step.data or b""))
    if not reply.ok:
        raise channel.refusal("auth", reply)
    if not step.last:
        # It has not proved that it knows the password.
        channel.botched = True
        raise SMTPError(f"server ended authentication with {mechanism.name} early", command="auth")
    return mechanism.name


def choose(tls: TLSState | None, credentials: Credentials, offered: tuple[str, ...]) -> ClientMechanism:
    """The first mechanism wanted that the server offers and this connection allows. Raises SaslClientError."""
    binding = _binding(tls)
    wanted = [name.upper() for name in credentials.mechanisms]
    username, password = credentials.username, credentials.password
    for name in wanted:
        if name not in offered or (name.endswith("-PLUS") and binding is None):
            continue
        if name in _CLEARTEXT and tls is None and not credentials.allow_cleartext:
            continue
        if name.startswith("SCRAM-") and not name.endswith("-PLUS"):
            # We could bind and would: a server that can too sees by this that someone took -PLUS off its list.
            would_bind = binding is not None and any(other.endswith("-PLUS") for other in wanted)
            flag = "y" if would_bind and not any(other.endswith("-PLUS") for other in offered) else "n"
            return Scram(ScramHash(name.removeprefix("SCRAM-")), username, password, flag=flag)
        return client_mechanism(name, username, password, binding)
    raise SaslClientError(
        f"no mechanism in common: server offers {' '.join(offered) or 'none'}, configured are {' '.join(wanted)}"
    )


def _binding(tls: TLSState | None) -> ChannelBinding | None:
    """What a SCRAM exchange over this connection can be bound to."""
    if tls is None:
        return None
    binding = channel_binding(tls.ssl_object, next(iter(peer_chain(tls.ssl_object)), None))
    return binding if binding_name(binding) is not None else None


def _challenge(reply: Reply) -> bytes:
    """What the server says in base64. Raises ValueError."""
    return base64.b64decode(reply.lines[0][4:].strip(), validate=True)


def _encoded(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


async def _answer(channel: Channel, line: str) -> Reply:
    channel.command(line, shown="***")
    await channel.flush("auth")
    return await channel.reply("auth")


async def _end(channel: Channel, challenge: bytes, text: str) -> SMTPError:
    """End an exchange that this side cannot go on with; gives the error that it ends in."""
    with contextlib.suppress(SMTPError):  # what led here is told
        if challenge.startswith(b"e="):
            # A SCRAM server that refuses says why ahead of its reply, which has the code (RFC 5802 section 7).
            reply = await _answer(channel, "")
            if reply.code >= REFUSED_FROM:
                error = reply.error("auth")
                return SMTPError(
                    f"{error} ({text})",
                    permanent=error.permanent,
                    code=error.code,
                    enhanced=error.enhanced,
                    command="auth",
                    lines=error.lines,
                )
        await _answer(channel, "*")
    return SMTPError(text, command="auth")
