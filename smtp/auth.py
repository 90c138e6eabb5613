"""AUTH as a client sees it: which mechanisms it is offered, and how a login that failed is answered (RFC 4954)."""

from __future__ import annotations

from typing import Final

from accounts.login import LoginOutcome
from protocols.sasl import SERVER_MECHANISMS, Failure, plus_announced
from server.models import LoginResult

from .errors import SMTPError

CLEARTEXT: Final = frozenset({"PLAIN", "LOGIN"})  # the password itself goes over the wire

_BY_FAILURE: Final = {
    Failure.MALFORMED: (501, "5.5.4", "malformed response"),
    Failure.MALFORMED_FIRST: (501, "5.7.0", "malformed first message"),
    Failure.MALFORMED_FINAL: (535, "5.7.0", "malformed final message"),
    Failure.AUTHORIZATION: (535, "5.7.8", "cannot act as somebody else"),
    Failure.CREDENTIALS: (535, "5.7.8", "bad user name or password"),
    Failure.CHANNEL_BINDING: (535, "5.7.7", "channel bindings do not match: possibly a man in the middle"),
    Failure.NO_SECRETS: (454, "4.3.0", "mechanism cannot be used until a new password is set, choose another"),
    Failure.UNAVAILABLE: (454, "4.3.0", "temporary failure, try again later"),
}


def offered(tls_version: str | None, *, needs_tls: bool) -> list[str]:
    """The mechanisms that EHLO lists, none where ``needs_tls`` and there is no TLS."""
    if tls_version is None and needs_tls:
        return []
    plus = plus_announced(tls_version)
    return [name for name in SERVER_MECHANISMS if plus or not name.endswith("-PLUS")]


def check_encryption(mechanism: str, *, has_tls: bool, needs_tls: bool) -> None:
    """Raises SMTPError for a mechanism that needs TLS and has none."""
    if has_tls:
        return
    if mechanism.endswith("-PLUS"):
        raise SMTPError(538, "5.7.11", "channel binding needs TLS")
    if mechanism in CLEARTEXT and needs_tls:
        raise SMTPError(538, "5.7.11", "TLS is needed before a password is sent")


def refusal(outcome: LoginOutcome) -> SMTPError:
    """The answer to a login that failed: the same for an unknown user and a wrong password."""
    match outcome.result:
        case LoginResult.LOGINDISABLED:
            return SMTPError(525, "5.7.13", f"login disabled: {outcome.disabled_text}", cause=outcome.reason)
        case LoginResult.RATELIMITED:
            text = "too many failed logins from your network, try again later"
            return SMTPError(454, "4.7.0", text, cause=outcome.reason)
    code, enhanced, text = _BY_FAILURE[outcome.failure or Failure.UNAVAILABLE]
    return SMTPError(code, enhanced, text, cause=outcome.reason)
