"""What becomes of a message for each of its recipients, and the one reply that says so."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from accounts.addresses import Destination
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Path


class Result(enum.Enum):
    """What became of a message for one recipient, as the metric names it."""

    DELIVERED = "delivered"
    REJECT = "reject"
    HIGH_RATE = "highrate"
    UNKNOWN_USER = "unknownuser"
    ACCOUNT_ERROR = "accounterror"
    DELIVERY_ERROR = "delivererror"


@dataclass(frozen=True, slots=True)
class Recipient:
    """An accepted RCPT. ``resolved`` is None for an unknown localpart of a hosted domain: refused after DATA."""

    path: Path
    resolved: Destination | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for one recipient. ``reply`` is None where the message was stored, or withheld because of others."""

    recipient: Recipient
    result: Result
    reply: Reply | None = None
    silence: float = 0.0  # seconds to wait before the reply
    reason: str = ""
    """Of the verdict."""
    kept: bool = False
    """It was rejected, and a copy is where its recipient finds it; of an alias, some member."""
    accounts: tuple[str, ...] = ()
    """Those that it was stored for: one, or some of an alias."""


def final_reply(outcomes: Sequence[Outcome]) -> Reply:
    """The reply to DATA that sums up the outcomes."""
    if any(outcome.result is Result.DELIVERED for outcome in outcomes):
        return Reply(250, "2.2.0", "message is stored")
    failed = [(outcome, outcome.reply) for outcome in outcomes if outcome.reply is not None]
    withheld = len(failed) < len(outcomes)
    if len({(reply.code, reply.enhanced) for _, reply in failed}) == 1:
        first = failed[0][1]
        code, enhanced, close = first.code, first.enhanced, first.close
        lines = [f"<{o.recipient.path}>: {reply.text}" if withheld else reply.text for o, reply in failed]
    else:
        code, enhanced = (554, "5.3.0") if any(reply.code >= 500 for _, reply in failed) else (451, "4.3.0")
        close = False
        lines = [f"<{o.recipient.path}>: {reply.code} {reply.enhanced} {reply.text}" for o, reply in failed]
    if withheld:
        lines.append("the other recipients did not get the message either")
    return Reply(code, enhanced, "\n".join(dict.fromkeys(lines)), close)
