"""What an attempt to send can end in: refused by the server, lost on the way, not possible with this server."""

from __future__ import annotations

from protocols.errors import ProtocolError
from protocols.pkix import TLSProblem

from .tlspolicy import CheckResult


class SMTPError(ProtocolError):
    """Mail could not be handed over. Carries what a queue decides by and a DSN reports.

    ``permanent``: the same attempt will fail again. ``code`` and ``enhanced`` ("5.1.1"): of the server, or what stands
    for a reason of our own; 0 and "" where there is none. ``command``: what was under way: "connect", "greeting", a
    command in lower case, "end-of-data". ``lines``: the server's reply. ``sent``: the end of the data went out, so the
    server may have the message all the same. The text is one line that can be printed, whoever wrote it.
    """

    def __init__(
        self,
        text: str,
        *,
        permanent: bool = False,
        code: int = 0,
        enhanced: str = "",
        command: str = "",
        lines: tuple[str, ...] = (),
    ) -> None:
        super().__init__(printable(text))
        self.permanent = permanent
        self.code = code
        self.enhanced = enhanced
        self.command = command
        self.lines = lines
        self.sent = False
        self.remote_ip = self.local_ip = ""
        """The ends of the connection, when there was one; set by what made it."""


class ConnectFailed(SMTPError):
    """No address of the host could be reached. ``attempts``: for each address tried, why not."""

    def __init__(self, attempts: tuple[tuple[str, str], ...]) -> None:
        tried = "; ".join(f"{ip}: {reason}" for ip, reason in attempts) or "no addresses"
        super().__init__(f"could not connect: {tried}", command="connect", enhanced="4.4.1")
        self.attempts = attempts


class TLSFailure(SMTPError):
    """TLS was refused, its handshake failed, or the certificate is not acceptable. Never a reason to give up.

    ``results``: what each check of the policy said, if it came to that.
    """

    def __init__(
        self,
        problem: TLSProblem,
        *,
        code: int = 0,
        lines: tuple[str, ...] = (),
        results: tuple[CheckResult, ...] = (),
    ) -> None:
        super().__init__(problem.text, command="starttls", code=code, enhanced="4.7.5", lines=lines)
        self.problem = problem
        self.results = results


class ExtensionMissing(SMTPError):
    """The server lacks what the message needs; another server of the domain may have it."""

    def __init__(self, extension: str, text: str, *, code: int = 0, enhanced: str) -> None:
        super().__init__(text, code=code, enhanced=enhanced, command="mail")
        self.extension = extension


def printable(text: str) -> str:
    """Spaces for whatever would end a line or move a cursor: the text may be a peer's, and goes into logs and DSNs."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
