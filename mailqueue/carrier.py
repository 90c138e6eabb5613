"""Handing messages to the servers for them: host after host, over the open connection where it will do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from prometheus_client import Counter, Histogram

from protocols.smtpclient import Delivery, ExtensionMissing, RecipientResult, Session, SMTPError
from protocols.smtpsyntax import Path

from .interruptions import Interruptions
from .leases import Claimed
from .outcomes import NO_CONNECTION, UNKNOWN_OUTCOME, Connection, Outcome, Status, without_class
from .paths import path_of
from .plans import Impossible

log = logging.getLogger(__name__)

MESSAGES_PER_CONNECTION: Final = 100

LABELS_MAX: Final = 300  # combinations that the metric of replies has: codes are what other servers make up
_seen_labels: set[tuple[str, str, str]] = set()

connections = Counter("mox_queue_connection", "Connections made for delivery.", ["result"])
command_duration = Histogram(
    "mox_smtpclient_command_duration_seconds",
    "Seconds from a command to its reply.",
    ["cmd", "code", "secode"],
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 20, 30, 60, 120),
)


class HostFailed(Exception):
    """There is no connection to a host, or it greets with a refusal."""

    def __init__(self, error: SMTPError, over: Connection, *, dual_stack: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.over = over
        self.dual_stack = dual_stack


@dataclass(slots=True)
class Line:
    """An open connection."""

    session: Session
    over: Connection
    dual_stack: bool = False
    """The host has addresses of both families, and another attempt may use the other."""
    recipients_max: int = 0
    """In one transaction; 0: as many as the server takes."""
    messages: int = 0


class Connector(Protocol):
    """How the servers for a group are reached."""

    @property
    def terms(self) -> object:
        """Messages with equal terms can share a connection."""

    async def hosts(self) -> Sequence[str]:
        """The names of the hosts to try, in order; at least one. Raises Impossible."""

    async def connect(self, host: str, members: Sequence[Claimed]) -> Line:
        """A connection ready for these messages. Raises HostFailed."""

    def reuse(self, line: Line, members: Sequence[Claimed]) -> None:
        """These messages go over a connection that was open already."""


class Journey(Protocol):
    """What the drain does around the moment after which a message may have been delivered."""

    async def before_dot(self, members: Sequence[Claimed]) -> None:
        """The end of the data goes out after this. Raise to send none."""

    async def after_reply(self, settled: Sequence[tuple[Claimed, Outcome]]) -> None:
        """The end of the data was answered, and these have their outcome."""


class Carrier:
    """The open connection of a drain, and what goes over it."""

    def __init__(self, interruptions: Interruptions) -> None:
        self._interruptions = interruptions
        self._line: Line | None = None
        self._host = ""
        self._terms: object = None

    async def deliver(self, members: Sequence[Claimed], connector: Connector, journey: Journey) -> dict[int, Outcome]:
        """The outcome for each message, by id. Raises Interrupted, and what the journey does."""
        attempt = _Attempt()
        left = list(members)
        if self._keeps_line_for(connector, members):
            left = await self._at_host(self._host, left, connector, attempt, journey)
        if left:
            await self.disconnect()
            left = await self._at_hosts(left, connector, attempt, journey)
        attempt.give_up(left)
        return attempt.outcomes

    async def disconnect(self) -> None:
        line = self._forget()
        if line is not None:
            await line.session.quit()

    def abort(self) -> None:
        line = self._forget()
        if line is not None:
            line.session.abort()

    def _forget(self) -> Line | None:
        line, self._line = self._line, None
        return line

    def _keeps_line_for(self, connector: Connector, members: Sequence[Claimed]) -> bool:
        """Whether there is an open connection that will do for these messages."""
        if self._line is None or self._terms != connector.terms:
            return False
        if self._line.messages >= MESSAGES_PER_CONNECTION:
            return False
        connector.reuse(self._line, members)
        return True

    async def _at_hosts(
        self, left: list[Claimed], connector: Connector, attempt: _Attempt, journey: Journey
    ) -> list[Claimed]:
        """Try hosts in their order; gives the messages that none has taken."""
        try:
            with self._interruptions.allowed():
                hosts = await connector.hosts()
        except Impossible as exc:
            attempt.impossible(left, exc.outcome)
            return []
        for host in hosts:
            if left and host not in attempt.tried:
                left = await self._at_host(host, left, connector, attempt, journey)
                if left:
                    await self.disconnect()
        return left

    async def _at_host(
        self, host: str, left: list[Claimed], connector: Connector, attempt: _Attempt, journey: Journey
    ) -> list[Claimed]:
        """Do at one host what can be done there; gives the messages that another host may take."""
        attempt.tried.add(host)
        elsewhere: list[Claimed] = []
        while left:
            if self._line is not None and self._line.messages >= MESSAGES_PER_CONNECTION:
                await self.disconnect()
            if self._line is None:
                try:
                    self._line = await self._connected(host, left, connector)
                except HostFailed as exc:
                    return elsewhere + attempt.failed(left, exc)
            line = self._line
            batch = left[: line.recipients_max or None]
            sending = _Sending(batch, line, attempt, journey, self._interruptions)
            delivery = await self._transmit(line, batch, sending)
            elsewhere += sending.elsewhere(delivery)
            untried = dict.fromkeys(delivery.untried)
            left = [member for member in batch if _recipient(member) in untried] + left[len(batch) :]
            if untried:
                # The server takes no more over this connection, or it was at its end when we came back to it.
                await self.disconnect()
        return elsewhere

    async def _connected(self, host: str, members: Sequence[Claimed], connector: Connector) -> Line:
        with self._interruptions.allowed():
            line = await connector.connect(host, members)
        self._host, self._terms = host, connector.terms
        return line

    async def _transmit(self, line: Line, members: Sequence[Claimed], sending: _Sending) -> Delivery:
        message = members[0].message
        extensions = line.session.extensions
        other_form = extensions.smtputf8 and extensions.eight_bit_mime and message.dsn_utf8 is not None
        with message.reader(smtputf8=other_form) as content, self._interruptions.allowed():
            delivery = await line.session.deliver(
                path_of(message.sender_localpart, message.sender_domain),
                [_recipient(member) for member in members],
                content,
                has_8bit=message.has_8bit or other_form,
                smtputf8=message.smtputf8 or other_form,
                require_tls=bool(message.require_tls),
                hooks=sending,
            )
        line.messages += 1
        if not line.session.usable:
            await self.disconnect()
        return delivery


class _Attempt:
    """What has come of the messages so far, at the hosts tried so far."""

    def __init__(self) -> None:
        self.outcomes: dict[int, Outcome] = {}
        """Those that stand."""
        self.tried: set[str] = set()
        self._last: dict[int, Outcome] = {}  # at the host tried last, by message
        self._lacking: set[str] = set()  # hosts that cannot be given the messages as they are

    def failed(self, members: Sequence[Claimed], failure: HostFailed) -> list[Claimed]:
        """No connection to a host; gives the messages that another one may take."""
        return [
            member
            for member in members
            if not self.settle(member, failure.error, failure.over, dual_stack=failure.dual_stack)
        ]

    def settle(self, member: Claimed, error: SMTPError, over: Connection, *, dual_stack: bool) -> bool:
        """Whether what went wrong is the outcome of this attempt, and no other host is to be tried."""
        outcome = outcome_of_error(error, over)
        message = member.message
        if isinstance(error, ExtensionMissing):
            self._lacking.add(over.remote_host)
        if outcome.status is Status.PERMANENT and message.attempts == 1 and dual_stack and is_policy(outcome):
            # It may be this server's address that is not liked: the next attempt comes from the other family's.
            outcome = outcome.as_temporary()
        elif outcome.status is Status.TEMPORARY and not error.sent:
            self._last[message.pk] = outcome
            return False
        self.outcomes[message.pk] = outcome
        return True

    def impossible(self, members: Sequence[Claimed], outcome: Outcome) -> None:
        """There are no hosts to try."""
        for member in members:
            self.outcomes[member.message.pk] = self._last.get(member.message.pk, outcome)

    def accept(self, member: Claimed, result: RecipientResult, over: Connection) -> None:
        assert result.accepted is not None, "a result is one of the two"
        reply = result.accepted
        self.outcomes[member.message.pk] = Outcome(
            Status.DELIVERED,
            code=reply.code,
            secode=without_class(reply.enhanced),
            lines=reply.lines,
            connection=over,
            by_remote=True,
        )

    def give_up(self, members: Sequence[Claimed]) -> None:
        """There are no more hosts: what was met at the last one is the outcome."""
        for member in members:
            outcome = self._last[member.message.pk]
            if self._lacking == self.tried:
                # RFC 6531 section 3.2, RFC 8689 section 4.2.1: none of the domain's servers can take the message.
                outcome = outcome.as_permanent()
            self.outcomes[member.message.pk] = outcome


class _Sending:
    """The hooks of the SMTP client for one message over one connection."""

    def __init__(
        self,
        members: Sequence[Claimed],
        line: Line,
        attempt: _Attempt,
        journey: Journey,
        interruptions: Interruptions,
    ) -> None:
        self._by_path = {_recipient(member): member for member in members}
        self._line = line
        self._attempt = attempt
        self._journey = journey
        self._interruptions = interruptions
        self._elsewhere: dict[Path, Claimed] = {}

    async def before_dot(self, recipients: Sequence[Path]) -> None:
        self._interruptions.forbid()
        await self._journey.before_dot([self._by_path[path] for path in recipients])

    async def after_reply(self, results: Sequence[RecipientResult]) -> None:
        settled = [member for result in results if (member := self._settle(result)) is not None]
        if settled:
            outcomes = self._attempt.outcomes
            await self._journey.after_reply([(member, outcomes[member.message.pk]) for member in settled])

    def elsewhere(self, delivery: Delivery) -> list[Claimed]:
        """The messages that another host may take, once the client has done what it can."""
        for result in delivery.results:
            if self._by_path[result.recipient].message.pk not in self._attempt.outcomes:
                self._settle(result)
        return list(self._elsewhere.values())

    def _settle(self, result: RecipientResult) -> Claimed | None:
        """The message whose outcome this is; None where another host may take it."""
        member = self._by_path[result.recipient]
        if result.error is None:
            self._attempt.accept(member, result, self._line.over)
        elif not self._attempt.settle(member, result.error, self._line.over, dual_stack=self._line.dual_stack):
            self._elsewhere[result.recipient] = member
            return None
        return member


def outcome_of_error(error: SMTPError, over: Connection = NO_CONNECTION) -> Outcome:
    text = f"{UNKNOWN_OUTCOME}: {error}" if error.sent else str(error)
    return Outcome(
        Status.PERMANENT if error.permanent else Status.TEMPORARY,
        text,
        code=error.code,
        secode=without_class(error.enhanced),
        lines=error.lines,
        connection=over,
        by_remote=bool(error.lines),
    )


def is_policy(outcome: Outcome) -> bool:
    """Whether the other server refused for its security or its policy (RFC 3463 section 3.8)."""
    return outcome.by_remote and outcome.secode.startswith("7.")


@contextmanager
def counted(host: str) -> Iterator[None]:
    """Count the connection that is made in here."""
    result = "error"
    try:
        yield
        result = "ok"
    except SMTPError as exc:
        result = "timeout" if "timeout" in str(exc) else "error"
        log.info("no connection for delivery", extra={"remote": host, "err": str(exc)})
        raise
    except asyncio.CancelledError:
        result = "canceled"
        raise
    finally:
        connections.labels(result).inc()


def observe_command(command: str, code: int, enhanced: str, seconds: float) -> None:
    """Count a reply."""
    labels = (command, str(code), enhanced)
    if labels not in _seen_labels:
        if len(_seen_labels) >= LABELS_MAX:
            labels = (command, "other", "")
        _seen_labels.add(labels)
    command_duration.labels(*labels).observe(seconds)


def _recipient(member: Claimed) -> Path:
    return path_of(member.message.rcpt_localpart, member.message.rcpt_domain)
