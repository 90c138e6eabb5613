"""SMTP servers that take what the queue sends them, or answer as a test wants: aiosmtpd in a thread."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests import installation

PORT = 2525

_hosts = itertools.count(1)

Answer = Callable[[str], str]
"""From an address to a reply; "" stands for acceptance."""


@dataclass(frozen=True, slots=True)
class Received:
    """One transaction that the sink took."""

    mail_from: str
    recipients: tuple[str, ...]
    content: bytes
    peer: str
    """The connection it came over."""

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


@dataclass(slots=True)
class Sink:
    """A server on an address of its own. Each of the answers may be changed at any time."""

    mail: Answer = lambda address: ""
    rcpt: Answer = lambda address: ""
    data: Answer = lambda address: ""
    received: list[Received] = field(default_factory=list)
    host: str = ""
    port: int = 0
    arrived: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))

    # What aiosmtpd calls.

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.mail(address)
        if answer:
            return answer
        envelope.mail_from = address
        return "250 2.1.0 sender ok"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.rcpt(address)
        if answer:
            return answer
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = self.data(envelope.rcpt_tos[0])
        if answer:
            return answer
        assert envelope.mail_from is not None
        content = envelope.original_content
        assert content is not None
        with self.arrived:
            self.received.append(Received(envelope.mail_from, tuple(envelope.rcpt_tos), content, str(session.peer)))
            self.arrived.notify_all()
        return "250 2.0.0 taken"

    def wait_for(self, count: int, *, seconds: float = 30) -> list[Received]:
        """What was received, once that is ``count`` messages or more. Raises TimeoutError."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: len(self.received) >= count, seconds):
                raise TimeoutError(f"{len(self.received)} of {count} messages arrived at the sink")
            return list(self.received)


class _Controller(Controller):
    def factory(self) -> SMTP:
        return SMTP(self.handler, enable_SMTPUTF8=True, decode_data=False, hostname="sink.example", ident="sink")


@contextmanager
def sink() -> Iterator[Sink]:
    """A running sink, on an address that no other of this process has."""
    number = next(_hosts)
    started = Sink(host=f"127.{100 + installation.worker_number()}.{number // 250}.{number % 250 + 1}", port=PORT)
    controller = _Controller(started, hostname=started.host, port=PORT)
    controller.start()
    try:
        yield started
    finally:
        controller.stop()
