"""SMTP servers that take what the queue sends them, or answer as a test wants: aiosmtpd in a thread."""

from __future__ import annotations

import asyncio
import itertools
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests import installation
from tests.unit.smtp_sink import Script
from tests.unit.smtp_sink import Sink as ScriptedSink

PORT = 2525
SECONDS = 30.0  # for the end of a scripted server: far more than it takes

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
    is_encrypted: bool = False
    options: tuple[str, ...] = ()
    """Parameters of MAIL."""
    hello: str = ""
    """What the client called itself."""

    @property
    def text(self) -> str:
        return self.content.decode("utf-8", "replace")


@dataclass(slots=True)
class Sink:
    """A server on an address of its own. Each of the answers may be changed at any time."""

    mail: Answer = lambda address: ""
    rcpt: Answer = lambda address: ""
    data: Answer = lambda address: ""
    extensions: tuple[str, ...] = ()
    """Further lines of the reply to EHLO."""
    without: tuple[str, ...] = ()
    """Keywords that are not announced."""
    received: list[Received] = field(default_factory=list)
    host: str = ""
    port: int = 0
    arrived: threading.Condition = field(default_factory=lambda: threading.Condition(threading.RLock()))

    # What aiosmtpd calls.

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        announced = [line for line in responses if line[4:].partition(" ")[0] not in self.without]
        return [*announced[:-1], *(f"250-{line}" for line in self.extensions), announced[-1]]

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.mail(address)
        if answer:
            return answer
        envelope.mail_from = address
        envelope.mail_options = options
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
            self.received.append(
                Received(
                    envelope.mail_from,
                    tuple(envelope.rcpt_tos),
                    content,
                    str(session.peer),
                    is_encrypted=session.ssl is not None,
                    options=tuple(map(str, envelope.mail_options)),
                    hello=str(session.host_name or ""),
                )
            )
            self.arrived.notify_all()
        return "250 2.0.0 taken"

    def wait_for(self, count: int, *, seconds: float = 30) -> list[Received]:
        """What was received, once that is ``count`` messages or more. Raises TimeoutError."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: len(self.received) >= count, seconds):
                raise TimeoutError(f"{len(self.received)} of {count} messages arrived at the sink")
            return list(self.received)


class _Server(SMTP):
    async def smtp_MAIL(self, arg: str | None) -> None:
        # A parameter that aiosmtpd does not know; the handler gets to see the others.
        words = (arg or "").split(" ")
        require_tls = "REQUIRETLS" in words
        await super().smtp_MAIL(" ".join(word for word in words if word != "REQUIRETLS"))
        if require_tls and self.envelope is not None and self.envelope.mail_from is not None:
            self.envelope.mail_options = [*self.envelope.mail_options, "REQUIRETLS"]


class _Controller(Controller):
    def factory(self) -> SMTP:
        return _Server(
            self.handler,
            enable_SMTPUTF8=True,
            decode_data=False,
            hostname="sink.example",
            ident="sink",
            tls_context=self.tls_context,
        )

    tls_context: ssl.SSLContext | None = None


def free_host() -> str:
    """An address on loopback that no other server of this process has."""
    number = next(_hosts)
    return f"127.{100 + installation.worker_number()}.{number // 250}.{number % 250 + 1}"


@contextmanager
def sink(host: str = "", tls: ssl.SSLContext | None = None) -> Iterator[Sink]:
    """A running sink, on an address that no other of this process has; with a context it has STARTTLS."""
    started = Sink(host=host or free_host(), port=PORT)
    controller = _Controller(started, hostname=started.host, port=PORT)
    controller.tls_context = tls
    controller.start()
    try:
        yield started
    finally:
        controller.stop()


@contextmanager
def scripted(*scripts: Script, host: str = "", tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that plays a script for each connection, as tests of the SMTP client have them; gives its address.

    What differs from a script, and scripts that were not played, fail the test at the end.
    """
    host = host or free_host()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="scripted-server")
    server = ScriptedSink(scripts, tls)
    thread.start()

    def run(coroutine: Coroutine[Any, Any, object]) -> object:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(SECONDS)

    try:
        run(server.start(host, PORT))
        yield host
        run(server.finish())
    finally:
        run(server.stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
