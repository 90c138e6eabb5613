"""What an account's own mail says about a sender: who was welcome stays so, who was not does not come back.

reputation = judge(sender, mailbox_id, now)
reputation.junk, reputation.conclusive, reputation.method

The steps go from the sender's exact address to the networks around its IP address; the first that knows anything ends
the search, even if what it knows decides nothing. Only messages count that were delivered to the mailbox in question,
and that their user has called junk or no junk; and, wherever it is, mail that the user sent to the sender.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from django.db.models import Q, QuerySet
from django.db.models.expressions import RawSQL

from server.statements import Statement
from store.models import JUDGED, Message, MessageDKIMDomain, Recipient

YEAR: Final = timedelta(days=365)
ADDRESS_WINDOW: Final = 3 * YEAR
DOMAIN_WINDOW: Final = 2 * YEAR
IDENTITY_WINDOW: Final = YEAR / 2
NETWORK_WINDOW: Final = YEAR / 4

ADDRESS_ROWS: Final = 2
DOMAIN_ROWS: Final = 20
IDENTITY_ROWS: Final = 50
NETWORK_ROWS: Final = 50

DOMAIN_HAM_PERCENT: Final = 80  # more of a domain's mail than this is no junk: its other senders are welcome too
DOMAIN_JUNK_LOCALPARTS: Final = 3  # so many senders of a domain sent only junk: one alone may be a user of a provider
IDENTITY_HAM, IDENTITY_JUNK = 0.1, 0.9  # shares of junk below and above which a verified identity tells something
NETWORK_HAM, NETWORK_JUNK = 0.25, 0.75
NETWORK_SURE_HAM, NETWORK_SURE_JUNK = 0.1, 0.9
NETWORK_SURE_ROWS: Final = (2, 5, 10)  # the wider the network, the more mail it takes


class Method(enum.StrEnum):
    """How the reputation was found; the value is the reason that users read."""

    ADDRESS = "msgfromfull"
    WROTE_TO_ADDRESS = "msgtofull"
    DOMAIN = "msgfromdomain"
    WROTE_TO_DOMAIN = "msgtodomain"
    ORG_DOMAIN = "msgfromorgdomain"
    WROTE_TO_ORG_DOMAIN = "msgtoorgdomain"
    IDENTITY = "dkimspf"
    NETWORK1 = "ip1"
    NETWORK2 = "ip2"
    NETWORK3 = "ip3"
    NONE = "none"

    @property
    def is_weak(self) -> bool:
        """Whether nothing is known of the From address and its domain."""
        return self in (Method.IDENTITY, Method.NETWORK1, Method.NETWORK2, Method.NETWORK3, Method.NONE)


@dataclass(frozen=True, slots=True)
class Reputation:
    """``junk`` None: unknown. Only a conclusive one decides by itself."""

    junk: bool | None
    conclusive: bool
    method: Method


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent a message, as far as it was verified; texts as in the columns of Message, "" where there is none.

    ``ascii_domain`` and ``ascii_org_domain``: those of the From address in A-labels.
    """

    account_id: int
    msg_from_localpart: str = ""
    msg_from_domain: str = ""
    msg_from_org_domain: str = ""
    ascii_domain: str = ""
    ascii_org_domain: str = ""
    msg_from_validated: bool = False
    mail_from_localpart: str = ""
    mail_from_domain: str = ""
    mail_from_validated: bool = False
    ehlo_domain: str = ""
    ehlo_validated: bool = False
    dkim_domains: tuple[str, ...] = field(default=())
    networks: tuple[str, str, str] = ("", "", "")
    """The masked addresses, narrow to wide."""


_Row: TypeAlias = "tuple[bool, datetime, str]"  # junk, received, localpart of From

_Query: TypeAlias = "Statement[_Row]"

_EMPTY: Final = RawSQL("''", ())  # written out, not a parameter: the plan is made before parameters are known


def _known(rows: int, *columns: str, **literal: bool) -> _Query:
    """The newest messages of an account and a mailbox that have these values; parameters in this order.

    The first column is that of the index.
    """

    def make(account_id: int, mailbox_id: int, *values: Any) -> QuerySet[Message, Any]:
        wanted = dict(zip(columns, values, strict=True))
        query = Message.objects.filter(
            JUDGED, account_id=account_id, mailbox_orig_id=mailbox_id, expunged=False, **wanted, **literal
        )
        # The index has only rows with something in its column, and the database must be told that none else is meant.
        query = query.exclude(**{columns[0]: _EMPTY})
        return query.order_by("-received").values_list("junk", "received", "msg_from_localpart")[:rows]

    return Statement(make)


def _by_validation(rows: int, *columns: str) -> dict[bool, _Query]:
    return {state: _known(rows, *columns, msg_from_validated=state) for state in (True, False)}


_of_address: Final = _by_validation(ADDRESS_ROWS, "msg_from_localpart", "msg_from_domain")
_of_domain: Final = _by_validation(DOMAIN_ROWS, "msg_from_domain")
_of_org_domain: Final = _by_validation(DOMAIN_ROWS, "msg_from_org_domain")
_of_mail_from: Final = _known(IDENTITY_ROWS, "mail_from_domain", "mail_from_localpart", mail_from_validated=True)
_of_mail_from_domain: Final = _known(IDENTITY_ROWS, "mail_from_domain", mail_from_validated=True)
_of_ehlo: Final = _known(IDENTITY_ROWS, "ehlo_domain", ehlo_validated=True)
_of_networks: Final = tuple(_known(NETWORK_ROWS, f"remote_ip_masked{width}") for width in (1, 2, 3))


def _of_signature(account_id: int, mailbox_id: int, domain: str) -> QuerySet[MessageDKIMDomain, Any]:
    decided = Q(message__junk=True, message__notjunk=False) | Q(message__junk=False, message__notjunk=True)
    query = MessageDKIMDomain.objects.filter(
        decided,
        domain=domain,
        message__account_id=account_id,
        message__mailbox_orig_id=mailbox_id,
        message__expunged=False,
    )
    return query.order_by("-received").values_list("message__junk", "received", "message__msg_from_localpart")[
        :IDENTITY_ROWS
    ]


_of_dkim_domain: Final[_Query] = Statement(_of_signature)

_wrote_to: Final[dict[Method, Statement[tuple[datetime]]]] = {
    Method.WROTE_TO_ADDRESS: Statement(
        lambda account_id, domain, localpart: (
            Recipient.objects.filter(account_id=account_id, domain=domain, localpart=localpart)
            .order_by("-sent")
            .values_list("sent")[:1]
        )
    ),
    Method.WROTE_TO_DOMAIN: Statement(
        lambda account_id, domain: (
            Recipient.objects.filter(account_id=account_id, domain=domain).order_by("-sent").values_list("sent")[:1]
        )
    ),
    Method.WROTE_TO_ORG_DOMAIN: Statement(
        lambda account_id, domain: (
            Recipient.objects.filter(account_id=account_id, org_domain=domain).order_by("-sent").values_list("sent")[:1]
        )
    ),
}


def judge(sender: Sender, mailbox_id: int | None, now: datetime) -> Reputation:
    """The reputation of a sender with an account, for a mailbox; None for one that is not there yet."""
    search = _Search(sender, mailbox_id, now)
    if sender.msg_from_domain:
        found = search.by_author()
        if found is not None:
            return found
    return search.by_identities() or search.by_networks() or Reputation(None, conclusive=False, method=Method.NONE)


class _Search:
    """The steps for one message."""

    def __init__(self, sender: Sender, mailbox_id: int | None, now: datetime) -> None:
        self._sender = sender
        self._mailbox_id = mailbox_id
        self._now = now

    def by_author(self) -> Reputation | None:
        sender = self._sender
        full = (sender.msg_from_localpart, sender.msg_from_domain)
        steps: tuple[Callable[[], Reputation | None], ...] = (
            lambda: self._by_address(full),
            lambda: self._by_validated(_of_address, full, ADDRESS_WINDOW, Method.ADDRESS),
            lambda: self._by_mail_sent(
                Method.WROTE_TO_ADDRESS, ADDRESS_WINDOW, sender.ascii_domain, sender.msg_from_localpart
            ),
            lambda: self._by_domain(_of_domain, sender.msg_from_domain, Method.DOMAIN),
            lambda: self._by_validated(_of_domain, (sender.msg_from_domain,), DOMAIN_WINDOW, Method.DOMAIN),
            lambda: self._by_mail_sent(Method.WROTE_TO_DOMAIN, DOMAIN_WINDOW, sender.ascii_domain),
            lambda: self._by_domain(_of_org_domain, sender.msg_from_org_domain, Method.ORG_DOMAIN),
            lambda: self._by_validated(_of_org_domain, (sender.msg_from_org_domain,), DOMAIN_WINDOW, Method.ORG_DOMAIN),
            lambda: self._by_mail_sent(Method.WROTE_TO_ORG_DOMAIN, DOMAIN_WINDOW, sender.ascii_org_domain),
        )
        return next((found for step in steps if (found := step()) is not None), None)

    def _by_address(self, full: tuple[str, str]) -> Reputation | None:
        validated = self._sender.msg_from_validated
        rows = self._rows(_of_address[validated], ADDRESS_WINDOW, *full)
        if not rows:
            return None
        return Reputation(_junk_by_the_last_two(rows), conclusive=validated, method=Method.ADDRESS)

    def _by_validated(
        self, query: dict[bool, _Query], values: tuple[str, ...], window: timedelta, method: Method
    ) -> Reputation | None:
        """A message that was not verified, and claims to be of somebody whose mail is."""
        if self._sender.msg_from_validated or not all(values[-1:]):
            return None
        rows = self._rows(query[True], window, *values)[:ADDRESS_ROWS]
        if not rows:
            return None
        return Reputation(True, conclusive=_junk_by_the_last_two(rows), method=method)

    def _by_domain(self, query: dict[bool, _Query], domain: str, method: Method) -> Reputation | None:
        if not domain:
            return None
        rows = self._rows(query[self._sender.msg_from_validated], DOMAIN_WINDOW, domain)
        if not rows:
            return None
        hams = sum(not junk for junk, _, _ in rows)
        if 100 * hams // len(rows) > DOMAIN_HAM_PERCENT:
            return Reputation(False, conclusive=True, method=method)
        if not hams:
            localparts = {localpart for _, _, localpart in rows}
            return Reputation(True, conclusive=len(localparts) >= DOMAIN_JUNK_LOCALPARTS, method=method)
        return Reputation(None, conclusive=False, method=method)

    def _by_mail_sent(self, method: Method, window: timedelta, *values: str) -> Reputation | None:
        if not values[0]:
            return None
        last = _wrote_to[method].row(self._sender.account_id, *values)
        if last is None or last[0] <= self._now - window:
            return None
        return Reputation(False, conclusive=True, method=method)

    def by_identities(self) -> Reputation | None:
        """What signatures and SPF vouch for: each with a history of its own is a signal."""
        sender = self._sender
        histories = [self._rows(_of_dkim_domain, IDENTITY_WINDOW, domain) for domain in sender.dkim_domains]
        histories.append(self._by_spf())
        signals = [rows for rows in histories if rows]
        if not signals:
            return None
        shares = [_junk_share(rows) for rows in signals]
        ham = any(share < IDENTITY_HAM for share in shares)
        spam = any(share > IDENTITY_JUNK for share in shares)
        if ham and not spam:
            return Reputation(False, conclusive=True, method=Method.IDENTITY)
        if spam and not ham:
            sure = any(len(rows) > 1 for rows in signals)
            return Reputation(True, conclusive=sure, method=Method.IDENTITY)
        return Reputation(None, conclusive=False, method=Method.IDENTITY)

    def _by_spf(self) -> Sequence[_Row]:
        sender = self._sender
        if sender.mail_from_validated and sender.mail_from_domain:
            return self._rows(
                _of_mail_from, IDENTITY_WINDOW, sender.mail_from_domain, sender.mail_from_localpart
            ) or self._rows(_of_mail_from_domain, IDENTITY_WINDOW, sender.mail_from_domain)
        if sender.ehlo_validated and sender.ehlo_domain:
            return self._rows(_of_ehlo, IDENTITY_WINDOW, sender.ehlo_domain)
        return ()

    def by_networks(self) -> Reputation | None:
        methods = (Method.NETWORK1, Method.NETWORK2, Method.NETWORK3)
        for method, query, network, enough in zip(
            methods, _of_networks, self._sender.networks, NETWORK_SURE_ROWS, strict=True
        ):
            rows = self._rows(query, NETWORK_WINDOW, network) if network else ()
            if rows:
                share = _junk_share(rows)
                junk = False if share < NETWORK_HAM else True if share > NETWORK_JUNK else None
                sure = (share <= NETWORK_SURE_HAM or share >= NETWORK_SURE_JUNK) and len(rows) >= enough
                return Reputation(junk, conclusive=sure, method=method)
        return None

    def _rows(self, query: _Query, window: timedelta, *values: str) -> Sequence[_Row]:
        """Newest first, those within the window: what is older than one that is too old is too old as well."""
        if self._mailbox_id is None:
            return ()
        since = self._now - window
        return [row for row in query.rows(self._sender.account_id, self._mailbox_id, *values) if row[1] > since]


def _junk_by_the_last_two(rows: Iterable[_Row]) -> bool:
    """One accidental mark does not block a sender with an older good message."""
    return all(junk for junk, _, _ in rows)


def _junk_share(rows: Sequence[_Row]) -> float:
    return sum(junk for junk, _, _ in rows) / len(rows)
