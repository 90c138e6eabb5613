"""Metrics of the SMTP server."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Histogram

connections = Counter("mox_smtpserver_connection", "Connections that were admitted.", ["kind"])
deliveries = Counter("mox_smtpserver_delivery", "Incoming messages, for each recipient.", ["result", "reason"])
submissions = Counter("mox_smtpserver_submission", "Submitted messages.", ["result"])
errors = Counter("mox_smtpserver_errors", "Failures that did not stop a message.", ["error"])

_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 60, 120)
_commands = Histogram(
    "mox_smtpserver_command_duration_seconds",
    "Seconds from a command line to its reply.",
    ["kind", "cmd", "code", "ecode"],
    buckets=_BUCKETS,
)
_children: dict[tuple[str, str, int, str], Histogram] = {}


def observe_command(kind: str, command: str, code: int, enhanced: str, seconds: float) -> None:
    """Count a command. ``command`` is one that we know, so that the labels stay bounded."""
    key = (kind, command, code, enhanced)
    child = _children.get(key)
    if child is None:
        child = _children[key] = _commands.labels(kind, command, str(code), enhanced)
    child.observe(seconds)
