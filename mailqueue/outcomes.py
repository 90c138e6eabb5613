"""What came of trying to deliver to one recipient."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from protocols.mtasts import Mode
from protocols.smtpclient import TLSMode
from protocols.stream import TLSState

UNKNOWN_OUTCOME: Final = "outcome unknown"  # the end of the data was sent, and what was answered is not known
ENHANCED_PARTS: Final = 3  # class, subject, detail (RFC 3463)


class Status(enum.Enum):
    DELIVERED = "delivered"
    TEMPORARY = "temporary"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class Connection:
    """Over which connection; texts are "" where there was none. ``tls_version`` as OpenSSL writes it."""

    transport: str = ""
    remote_host: str = ""
    remote_ip: str = ""
    local_ip: str = ""
    tls_mode: str = ""
    tls_version: str = ""
    dane: bool = False
    mtasts_mode: str = ""

    @property
    def tls_label(self) -> str:
        """How it was secured, as metrics have it: ``requiredstarttls+dane``."""
        mode = "requiredstarttls" if self.tls_mode == TLSMode.REQUIRED else self.tls_mode
        return mode + "+mtasts" * (self.mtasts_mode == Mode.ENFORCE) + "+dane" * self.dane

    def between(self, remote_ip: str, local_ip: str) -> Connection:
        return replace(self, remote_ip=remote_ip, local_ip=local_ip)

    def secured(self, tls: TLSState | None) -> Connection:
        return replace(self, tls_version=tls.version if tls is not None else "")


NO_CONNECTION: Final = Connection()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an attempt. ``secode``: the enhanced code without its class ("7.1"); ``lines``: the whole reply."""

    status: Status
    error: str = ""
    code: int = 0
    secode: str = ""
    lines: tuple[str, ...] = ()
    connection: Connection = NO_CONNECTION
    by_remote: bool = False
    """Whether the other server said so, and not this one."""
    suppressed: bool = False
    """Nothing was sent: the recipient is on the account's list of suppressed addresses."""

    def as_temporary(self) -> Outcome:
        return replace(self, status=Status.TEMPORARY)

    def as_permanent(self) -> Outcome:
        return replace(self, status=Status.PERMANENT)

    @property
    def enhanced(self) -> str:
        """The enhanced code, "" where none is known: the class follows from the status."""
        if not self.secode:
            return ""
        digit = {Status.DELIVERED: 2, Status.TEMPORARY: 4, Status.PERMANENT: 5}[self.status]
        return f"{digit}.{self.secode}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "status": self.status.value}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Outcome:
        """Raises TypeError, ValueError or KeyError for what ``to_json`` did not write."""
        return cls(
            **{
                **values,
                "status": Status(values["status"]),
                "lines": tuple(values["lines"]),
                "connection": Connection(**values["connection"]),
            }
        )


def suppressed(recipient: str) -> Outcome:
    """The outcome for a recipient that must not be sent to."""
    return Outcome(Status.PERMANENT, f"address is on suppression list: {recipient}", suppressed=True)


def without_class(enhanced: str) -> str:
    """``7.1`` of ``5.7.1``; "" for what is no enhanced code."""
    parts = enhanced.split(".")
    return ".".join(parts[1:]) if len(parts) == ENHANCED_PARTS else ""
