"""What one connection knows: its stream, its account, what it enabled, what it selected, and its way to the store."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from server.connections import Connection
from server.logs import TRACE, TRACEDATA
from store import changes
from store.bridge import Bridge
from store.changes import MailboxChanges
from store.db import AccountTx
from store.models import Mailbox

from . import announce, capabilities
from .answers import Bad, Refused
from .selected import Selected

WRITE_TIMEOUT_BEFORE_LOGIN: Final = 30.0  # seconds for the peer to take what we sent (imap.md 1)
WRITE_TIMEOUT: Final = 300.0
FLUSH_AT: Final = 64 * 1024  # bytes collected before they go out in the middle of an answer
TRACED_MAX: Final = 500  # bytes of one output that a trace shows below the level for data

P = ParamSpec("P")
T = TypeVar("T")


class State(enum.Enum):
    NOT_AUTHENTICATED = "not authenticated"
    AUTHENTICATED = "authenticated"
    SELECTED = "selected"


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The account of a session, as it was at login."""

    account_id: int
    name: str
    login_address: str
    position: int  # in the account's change feed
    disabled: frozenset[str]  # capabilities that its clients are not shown


class Session:
    """One connection's state. Its methods belong to the connection's task."""

    def __init__(self, connection: Connection, bridge: Bridge) -> None:
        self.connection = connection
        self.stream = connection.stream
        self.bridge = bridge
        self.log = connection.log
        self.account: LoggedIn | None = None
        self.selected: Selected | None = None
        self.feed_position = 0  # in the change feed, for what is not a message
        self.rev2 = False  # IMAP4rev2 was enabled; so were the others
        self.condstore = False
        self.qresync = False
        self.login_failures = 0
        self.client_id = ""
        self.logged_out = False

    @property
    def state(self) -> State:
        if self.account is None:
            return State.NOT_AUTHENTICATED
        return State.AUTHENTICATED if self.selected is None else State.SELECTED

    @property
    def utf8(self) -> bool:
        """Whether mailbox names are UTF-8, in both directions (RFC 9051 5.1, 6.3.1)."""
        return self.rev2

    @property
    def account_id(self) -> int:
        assert self.account is not None  # the table of commands says which need a login
        return self.account.account_id

    def the_selected(self) -> Selected:
        assert self.selected is not None  # as above
        return self.selected

    # Talking to the client.

    def send(self, data: bytes) -> None:
        """Collect output; flush() sends it."""
        if self.log.isEnabledFor(TRACE):
            shown = data if self.log.isEnabledFor(TRACEDATA) else data[:TRACED_MAX]
            self.log.log(
                TRACE, "imap out", extra={"data": shown.decode("ascii", "backslashreplace"), "size": len(data)}
            )
        self.stream.write(data)

    def send_lines(self, lines: Iterable[bytes]) -> None:
        data = b"".join(lines)
        if data:
            self.send(data)

    async def flush(self) -> None:
        """Send what was collected, and wait until the client took most of it. Raises TimeoutError, StreamClosed."""
        await self.stream.flush(WRITE_TIMEOUT if self.account is not None else WRITE_TIMEOUT_BEFORE_LOGIN)

    async def flush_if_much(self) -> None:
        if self.stream.pending >= FLUSH_AT:
            await self.flush()

    def capabilities(self) -> bytes:
        if self.account is not None:
            return capabilities.after_login(self.account.disabled)
        return capabilities.before_login(
            tls_version=self.tls_version,
            can_start_tls=self.can_start_tls,
            cleartext_allowed=self.connection.listener.imap_no_require_starttls,
        )

    @property
    def tls_version(self) -> str | None:
        return self.stream.tls.version if self.stream.tls is not None else None

    @property
    def can_start_tls(self) -> bool:
        return self.stream.tls is None and self.connection.has_tls

    def enable_condstore(self) -> None:
        """From now on modification sequences are told (RFC 7162 3.1)."""
        if self.condstore:
            return
        self.condstore = True
        if self.selected is not None:
            self.send(b"* OK [HIGHESTMODSEQ %d] modseq\r\n" % self.selected.highest_modseq)

    # The way to the store.

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that reads the database, in a thread."""
        return await self.bridge.call(function, *args, **kwargs)

    async def change_account(self, job: Callable[[AccountTx], T]) -> T:
        """Commit a change that makes events of its own; what others did before it is told first."""
        account_id, since = self.account_id, self.feed_position

        def with_events(tx: AccountTx) -> tuple[changes.Events | None, T, int]:
            before = changes.events(account_id, since) if tx.state.last_modseq > since else None
            outcome = job(tx)
            return before, outcome, tx.state.last_modseq

        before, outcome, position = await self.bridge.write(
            [account_id], lambda tx: with_events(tx.account(account_id))
        )
        if before is not None:
            await announce.send_events(self, before)
        self.feed_position = position
        return outcome

    async def change_mailbox(self, job: Callable[[AccountTx, Mailbox], T]) -> T:
        """Commit a change to the selected mailbox; what others did to it before is taken in, to be told later.

        Raises Refused where it is open read-only.
        """
        selected = self.the_selected()
        if selected.read_only:
            raise Refused("mailbox is open read-only")

        def with_changes(tx: AccountTx) -> tuple[MailboxChanges | None, T, int, list[str]]:
            mailbox = tx.mailbox(selected.mailbox_id)
            before = changes_before(tx, selected)
            outcome = job(tx, mailbox)
            return before, outcome, tx.state.last_modseq, list(mailbox.keywords)

        account_id = self.account_id
        before, outcome, modseq, keywords = await self.bridge.write(
            [account_id], lambda tx: with_changes(tx.account(account_id))
        )
        if before is not None:
            selected.take(before)
        selected.changed_by_us(modseq, keywords)
        return outcome

    async def tell_pending(self) -> None:
        """Tell at once what is taken in already: before this session's own change, say."""
        await announce.tell_pending(self)

    # What several commands check.

    def require_tls_for_password(self) -> None:
        if self.stream.tls is None and not self.connection.listener.imap_no_require_starttls:
            raise Refused("tls required for login", "PRIVACYREQUIRED")

    def require_qresync(self, what: str) -> None:
        if not self.qresync:
            raise Bad(f"{what} needs ENABLE QRESYNC first")


def changes_before(tx: AccountTx, selected: Selected) -> MailboxChanges | None:
    """What others committed to a mailbox since the session's position, inside a transaction of its own."""
    if tx.state.last_modseq <= selected.position:
        return None
    return changes.mailbox_changes(selected.mailbox_id, selected.position)
