"""What one connection knows: its stream, its account, what it enabled, what it selected, and its way to the store."""

from __future__ import annotations

import asyncio
import enum
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

from accounts.dialogue import Dialogue
from server.connections import Connection
from server.login_attempts import Attempt
from server.logs import TRACE, TRACEAUTH, TRACEDATA
from store import changes, reading
from store.bridge import Bridge
from store.changes import Events, MailboxChanges
from store.db import AccountTx
from store.models import Mailbox
from store.notify import ENDING_TEXTS
from store.reading import MailboxView

from . import announce, capabilities
from .answers import Bad, Refused
from .selected import Selected
from .sets import NoSuchMessage, Range, SequenceSet
from .watching import Watching

WRITE_TIMEOUT_BEFORE_LOGIN: Final = 30.0  # seconds for the peer to take what we sent (imap.md 1)
WRITE_TIMEOUT: Final = 300.0
RESPONSE_TIMEOUT: Final = 30.0  # seconds for a line in a SASL exchange
RESPONSE_MAX: Final = 16_500  # bytes of a line in a SASL exchange: 12288 (RFC 4954 4) in base64
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


@dataclass(frozen=True, slots=True)
class Before:
    """What others committed before a change of ours."""

    events: Events | None
    messages: MailboxChanges | None
    views: list[MailboxView]
    own_views: list[MailboxView] = field(default_factory=list)  # the mailboxes that the change is about, after it


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
        self.pending_events: list[Events] = []  # taken in and not yet told
        self.pending_views: dict[int, MailboxView] = {}  # mailboxes with changes, as they are, for who watches others
        self.watching: Watching | None = None  # what it wants to hear (NOTIFY); None: what all sessions hear
        self.rev2 = False  # IMAP4rev2 was enabled; so were the others
        self.utf8_accept = False
        self.condstore = False
        self.qresync = False
        self.uidonly = False  # there are no message numbers (RFC 9586)
        self.metadata = False  # changes of annotations are told (RFC 5464 4.1)
        self.dialogue = Dialogue(
            connection, bridge.call, "imap", b"+ ", line_max=RESPONSE_MAX, timeout=RESPONSE_TIMEOUT
        )
        self.client_id = ""
        self.login_attempt: Attempt | None = None  # the successful one
        self.tag = b""  # of the command that is carried out
        self.told_at = 0.0  # time of the event loop at which it came, or the client was told something since
        self.fresh = False  # it made a change: what others did until then is taken in, and need not be asked for again
        self.logged_out = False
        self._unwatch: Callable[[], None] | None = None

    @property
    def state(self) -> State:
        if self.account is None:
            return State.NOT_AUTHENTICATED
        return State.AUTHENTICATED if self.selected is None else State.SELECTED

    @property
    def utf8(self) -> bool:
        """Whether names and strings are UTF-8, in both directions (RFC 9051 5.1, RFC 6855 3)."""
        return self.rev2 or self.utf8_accept

    @property
    def position(self) -> int:
        """Everything in the account's change feed up to here is taken in."""
        heard = self.heard_mailbox
        return self.feed_position if heard is None else min(self.feed_position, heard.position)

    @property
    def heard_mailbox(self) -> Selected | None:
        """The selected mailbox, if changes of its messages are taken in."""
        selected = self.selected
        return None if selected is None or selected.gone or selected.deaf else selected

    @property
    def hears_others(self) -> bool:
        """Whether it hears of messages in mailboxes that are not selected."""
        return self.watching is not None and self.watching.hears_others

    @property
    def account_id(self) -> int:
        assert self.account is not None  # the table of commands says which need a login
        return self.account.account_id

    def the_selected(self) -> Selected:
        assert self.selected is not None  # as above
        return self.selected

    # Talking to the client.

    def send(self, data: bytes, *, has_content: bool = False) -> None:
        """Collect output; flush() sends it. ``has_content``: of messages, which few traces are meant to show."""
        if self.log.isEnabledFor(TRACE):
            shown = data if self.log.isEnabledFor(TRACEDATA) else b"..." if has_content else data[:TRACED_MAX]
            self.log.log(
                TRACE, "imap out", extra={"data": shown.decode("ascii", "backslashreplace"), "size": len(data)}
            )
        self.stream.write(data)

    def trace_received(self, shown: bytes, whole: bytes = b"") -> None:
        """Have traces show a line that came; ``whole``: what only traces of secrets show, where that is more."""
        if self.log.isEnabledFor(TRACE):
            data = whole if whole and self.log.isEnabledFor(TRACEAUTH) else shown
            self.log.log(TRACE, "imap in", extra={"data": data.decode("ascii", "backslashreplace")})

    def send_lines(self, lines: Iterable[bytes]) -> None:
        data = b"".join(lines)
        if data:
            self.send(data)

    async def flush(self) -> None:
        """Send what was collected, and wait until the client took most of it. Raises TimeoutError, StreamClosed."""
        await self.stream.flush(WRITE_TIMEOUT if self.account is not None else WRITE_TIMEOUT_BEFORE_LOGIN)
        self.told_at = asyncio.get_running_loop().time()

    def begin(self, tag: bytes) -> None:
        """A command begins."""
        self.tag = tag
        self.told_at = asyncio.get_running_loop().time()
        self.fresh = False

    async def flush_if_much(self) -> None:
        if self.stream.pending >= FLUSH_AT:
            await self.flush()

    def capabilities(self) -> bytes:
        limit = self.connection.settings.imap_append_limit
        if self.account is not None:
            return capabilities.after_login(self.account.disabled, append_limit=limit, compressed=self.stream.deflated)
        return capabilities.before_login(
            append_limit=limit,
            tls_version=self.tls_version,
            can_start_tls=self.can_start_tls,
            cleartext_allowed=self.connection.listener.imap_no_require_starttls,
            shows_key=self.shows_key,
        )

    @property
    def shows_key(self) -> bool:
        """Whether the client gave a certificate: it may log in with the key, if that is somebody's."""
        return bool(self.connection.client_key)

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

    def start_uidonly(self) -> None:
        """From now on there are no message numbers (RFC 9586 3.1)."""
        if self.uidonly:
            return
        self.uidonly = True
        if self.selected is not None:
            self.selected.start_uidonly()

    def watch(self, watching: Watching | None) -> None:
        """From now on hear what this says."""
        self.watching = watching
        self.pending_views.clear()
        if self.selected is not None:
            self.selected.deaf = self.is_deaf

    @property
    def is_deaf(self) -> bool:
        """Whether messages of the selected mailbox, whichever it is, are not told."""
        return self.watching is not None and not self.watching.hears_selected

    def remember_login(self, account: LoggedIn) -> None:
        """From now on the session is that account's, until the account is removed."""
        self.account = account
        self.feed_position = account.position
        self._unwatch = self.bridge.hub.watch_endings(
            account.account_id, lambda why: self.connection.end(ENDING_TEXTS[why])
        )

    def close(self) -> None:
        """The connection is over."""
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None

    def forget_login(self) -> None:
        """Be as after the greeting: nothing of the account, nothing that was enabled (RFC 8437 3).

        What is known of the connection stays: TLS, the client's ID, how often it failed to log in.
        """
        self.close()
        self.account = None
        self.login_attempt = None
        self.selected = None
        self.feed_position = 0
        self.pending_events.clear()
        self.watch(None)
        self.rev2 = self.utf8_accept = self.condstore = self.qresync = self.uidonly = self.metadata = False

    # The way to the store.

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that reads the database, in a thread."""
        return await self.bridge.call(function, *args, **kwargs)

    async def change(self, job: Callable[[AccountTx], T]) -> T:
        """Commit a change of the account. What others committed before it is taken in, to be told later.

        Afterwards the session's positions in the change feed are its own change: nothing is lost, nothing of its own is
        told again.
        """
        account_id, selected, since = self.account_id, self.heard_mailbox, self.feed_position
        others = self.hears_others

        def with_what_came_before(tx: AccountTx) -> tuple[Before, T, int]:
            before = self._before(tx, selected, since, others=others)
            last = tx.state.last_modseq
            outcome = job(tx)
            if others:
                tx.flush()
                before.own_views.extend(reading.changed_mailboxes(account_id, last))
            return before, outcome, tx.state.last_modseq

        before, outcome, position = await self.bridge.write(
            [account_id], lambda tx: with_what_came_before(tx.account(account_id))
        )
        if before.events is not None:
            self.pending_events.append(before.events)
        self._take_views(before)
        self.feed_position = position
        if selected is not None:
            if before.messages is not None:
                selected.take(before.messages)
            selected.position = max(selected.position, position)
        self.fresh = True
        return outcome

    def _take_views(self, before: Before) -> None:
        """What others did to mailboxes is to be told, with what we did to the same ones; else ours is no news."""
        self.pending_views.update((view.id, view) for view in before.views)
        for view in before.own_views:
            if view.id in self.pending_views:
                self.pending_views[view.id] = view
            elif self.watching is not None:
                self.watching.pass_over(view)

    @staticmethod
    def _before(tx: AccountTx, selected: Selected | None, since: int, *, others: bool) -> Before:
        last = tx.state.last_modseq
        events = changes.events(tx.account_id, since) if last > since else None
        messages = None
        if selected is not None and last > selected.position:
            messages = changes.mailbox_changes(selected.mailbox_id, selected.position)
        views = reading.changed_mailboxes(tx.account_id, since) if others and last > since else []
        return Before(events, messages, views)

    async def change_mailbox(self, job: Callable[[AccountTx, Mailbox], T]) -> T:
        """Commit a change to the selected mailbox. Raises Refused where it is open read-only, MailboxGone."""
        selected = self.the_selected()
        if selected.read_only:
            raise Refused("mailbox is open read-only")
        return await self.change(lambda tx: job(tx, tx.mailbox(selected.mailbox_id)))

    async def tell_pending(self) -> None:
        """Tell at once what is taken in already: before this session's own change, say."""
        await announce.tell_pending(self)

    async def tell_arrived(self, mailbox_id: int, uids: Sequence[int], modseq: int, keywords: Sequence[str]) -> None:
        """Tell of messages that a change of ours put into a mailbox, if it is the selected one; first what waits."""
        await self.tell_pending()
        selected = self.heard_mailbox
        if selected is None or selected.mailbox_id != mailbox_id:
            return
        selected.changed_by_us(modseq, keywords)
        self.send_lines(selected.keyword_lines())
        selected.add(uids)
        self.send(selected.exists())

    # Which messages are meant.

    async def resolve(self, numbers: SequenceSet, *, is_uid: bool) -> array[int]:
        """The UIDs that a command's set means, ascending. Raises Bad for a message number that there is not."""
        selected = self.the_selected()
        if selected.uidonly and not numbers.saved:
            await self._load_uids(None if numbers.has_star else numbers.resolved(1))
        try:
            return selected.resolve(numbers, is_uid=is_uid)
        except NoSuchMessage as exc:
            raise Bad(str(exc)) from exc

    async def known_uids(self) -> array[int]:
        """The UIDs of all messages that the client knows, ascending."""
        selected = self.the_selected()
        if selected.uidonly:
            await self._load_uids(None)
        return selected.uids

    async def _load_uids(self, ranges: Sequence[Range] | None) -> None:
        """With UIDONLY: have those UIDs (None: all) that a command is about, until it is done."""
        selected = self.the_selected()
        selected.uids = await self.call(reading.uids, selected.mailbox_id, ranges, below=selected.uidnext)

    def forget_uids(self) -> None:
        """With UIDONLY: a command is done, and what it was about is kept no longer."""
        if self.selected is not None and self.selected.uidonly:
            self.selected.uids = array("I")

    # What several commands check.

    def require_tls_for_password(self) -> None:
        if self.stream.tls is None and not self.connection.listener.imap_no_require_starttls:
            raise Refused("tls required for login", "PRIVACYREQUIRED")

    def require_qresync(self, what: str) -> None:
        if not self.qresync:
            raise Bad(f"{what} needs ENABLE QRESYNC first")
