"""Mail of our users, from their programs: after a login, to anybody, by way of the queue (RFC 6409)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import ClassVar, Final

from accounts.addresses import Destination, may_send_as
from accounts.dialogue import Cancelled, Dialogue, NotBase64
from accounts.login import LoginOutcome
from protocols.names import IPDomain, own_hostname
from protocols.sasl import UnknownMechanism
from protocols.smtpreply import Reply
from protocols.smtpsyntax import NO_DOMAIN, Command, Mail, Path, SyntaxProblem, parse_auth, parse_hello, parse_mail
from server.connections import Connection
from store.bridge import Bridge
from store.notify import ENDING_TEXTS, Ending

from . import auth
from .content import Content
from .errors import SMTPError
from .handover import Submitted, hand_over
from .recipients import resolve_submitted
from .session import Session
from .transaction import Done, Transaction

HOLD_MAX: Final = timedelta(days=60)  # how far ahead a message can be submitted (RFC 4865)
RESPONSE_MAX: Final = 12_288  # bytes of a line in a SASL exchange; RFC 4954 section 4
QUOTED_MAX: Final = 100  # characters of what a client sent that are repeated to it


class Submission(Session):
    """A connection of a user's mail program."""

    kind: ClassVar = "submit"

    def __init__(self, connection: Connection, bridge: Bridge) -> None:
        super().__init__(connection, bridge)
        self._dialogue = Dialogue(
            connection, bridge.call, "submission", b"334 ", line_max=RESPONSE_MAX, timeout=self._idle_timeout
        )
        self._login: LoginOutcome | None = None
        self._unwatch: Callable[[], None] | None = None

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            if self._unwatch is not None:
                self._unwatch()

    # Before mail.

    def _check_line(self, command: Command) -> None:
        super()._check_line(command)
        text = command.argument.rstrip()
        if text != command.argument:
            raise SyntaxProblem("white space at the end of a command", rest=command.argument[len(text) :])

    def _explained(self, problem: SyntaxProblem) -> str:
        """With what could not be read: its user is somebody who looks for the mistake."""
        return f"{problem}, at {problem.rest[:QUOTED_MAX]!r}" if problem.rest else str(problem)

    def _hello_name(self, argument: str, *, literal: bool) -> IPDomain:
        if self._rules.pedantic:
            return parse_hello(argument, literal=literal, strict=True, untagged_ipv6=True)
        return IPDomain(ip=ip_address(self._stream.remote_ip))  # programs send anything

    def _starttls_allowed(self) -> bool:
        return True

    def _requiretls_allowed(self) -> bool:
        return True

    def _more_extensions(self) -> list[str]:
        tls = self._stream.tls
        mechanisms = auth.offered(tls.version if tls is not None else None, needs_tls=self._needs_tls)
        latest = datetime.now(UTC) + HOLD_MAX
        return [
            f"AUTH {' '.join(mechanisms)}",
            f"FUTURERELEASE {HOLD_MAX.total_seconds():.0f} {latest:%Y-%m-%dT%H:%M:%SZ}",
        ]

    async def _starttls(self, argument: str) -> Reply:
        if self._login is not None:
            raise SMTPError(503, "5.5.1", "STARTTLS comes before logging in")
        return await super()._starttls(argument)

    async def _auth(self, argument: str) -> Reply:
        self._need_hello()
        if self._login is not None:  # and so never within a transaction, which needs a login
            raise SMTPError(503, "5.5.1", "logged in already")
        asked = parse_auth(argument, strict=self._rules.pedantic)
        auth.check_encryption(asked.mechanism, has_tls=self._stream.tls is not None, needs_tls=self._needs_tls)
        try:
            outcome = await self._dialogue.exchange(asked.mechanism, asked.initial)
        except UnknownMechanism as exc:
            raise SMTPError(504, "5.5.4", "mechanism is not supported") from exc
        except Cancelled as exc:
            raise SMTPError(501, "5.5.0", "login cancelled") from exc
        except NotBase64 as exc:
            raise SMTPError(501, "5.5.2", "response is not base64") from exc
        finally:
            self._slow = self._dialogue.slow
        if not outcome.ok:
            raise auth.refusal(outcome)
        self._login = outcome
        self._unwatch = self._bridge.hub.watch_endings(self._account_id, self._end)
        return Reply(235, "2.7.0", "logged in")

    def _end(self, why: Ending) -> None:
        if why is Ending.REMOVED:
            self._connection.end(ENDING_TEXTS[why])

    @property
    def _needs_tls(self) -> bool:
        """Whether neither a password nor mail may come in the clear."""
        return not self._connection.listener.submission_no_require_starttls

    # A transaction.

    def _check_may_send(self) -> None:
        super()._check_may_send()
        if self._stream.tls is None and self._needs_tls:
            raise SMTPError(530, "5.7.0", "STARTTLS is needed first")  # RFC 3207 section 4
        if self._login is None:
            raise SMTPError(530, "5.7.0", "log in first")  # RFC 4954 section 6

    def _parse_mail(self, argument: str) -> Mail:
        mail = parse_mail(argument, strict=self._rules.pedantic, future_release=True)
        if mail.hold is not None:
            now = datetime.now(UTC)
            if not now <= mail.hold.release(now) <= now + HOLD_MAX:
                raise SMTPError(554, "5.5.4", f"messages are held for at most {HOLD_MAX.days} days from now")
        return mail

    async def _check_sender(self, mail: Mail) -> None:
        path = mail.reverse_path
        if path.is_null:
            return
        if not await self._bridge.call(may_send_as, self._account_id, path.localpart, path.domain.domain):
            raise SMTPError(550, "5.7.1", "sender is not an address of your account")

    @property
    def _account_id(self) -> int:
        assert self._login is not None  # MAIL needs a login
        assert self._login.account_id is not None
        return self._login.account_id

    async def _check_recipient(self, transaction: Transaction, path: Path) -> None:
        self._check_count(transaction)

    async def _resolve(self, transaction: Transaction, path: Path) -> Destination | None:
        return await self._bridge.call(resolve_submitted, path, in_localserve=self._rules.localserve)

    async def _take(self, transaction: Transaction, content: Content) -> Done:
        assert self._login is not None
        submitted = Submitted(
            peer=self._peer(),
            account_id=self._account_id,
            login_address=self._login.login_address,
            mail=transaction.mail,
            recipients=list(dict.fromkeys(map(self._with_domain, transaction.recipients))),
            content=content,
            received=datetime.now(UTC),
        )
        return await hand_over(self._bridge, submitted, self._rules)

    def _with_domain(self, path: Path) -> Path:
        """The bare <postmaster> is the one of this server: once queued, an address needs its domain."""
        if path.domain != NO_DOMAIN:
            return path
        return Path(path.localpart, IPDomain(domain=own_hostname(self._connection.settings.hostname)))
