"""What is different in localserve: any address takes mail, and some fail as their name says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocols.names import Domain
from protocols.smtpreply import Reply

CATCHALL_LOCALPART: Final = "mox"  # gets mail for any address that does not exist
CATCHALL_DOMAIN: Final = Domain("localhost")
HOUR: Final = 3600.0  # seconds that a "timeout" address is silent for
MAIL_PREFIX: Final = "mailfrom"
RCPT_PREFIX: Final = "rcptto"
QUEUE_PREFIX: Final = "queue"

_ENDING: Final = re.compile(r"(temperror|permerror|timeout|[45][0-9][0-9])\Z")
_REPLIES: Final = {"temperror": (451, "4.0.0"), "permerror": (550, "5.0.0"), "timeout": (451, "4.0.0")}


@dataclass(frozen=True, slots=True)
class SpecialFailure:
    """How an address fails: with this reply, after so many seconds of silence."""

    reply: Reply
    silence: float = 0.0


def special_failure(localpart: str) -> SpecialFailure | None:
    """The failure that the end of a localpart asks for, if any."""
    match = _ENDING.search(localpart.lower())
    if match is None:
        return None
    ending = match[1]
    code, enhanced = _REPLIES.get(ending) or (int(ending), f"{ending[0]}.0.0")
    text = f"failure with code {code} because of the special localpart"
    return SpecialFailure(Reply(code, enhanced, text, close=code == 421), HOUR if ending == "timeout" else 0.0)
