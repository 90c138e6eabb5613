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

from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL

from server.statements import Statement, together
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

_TRUE: Final = RawSQL("TRUE", (), output_field=BooleanField())
_FALSE: Final = RawSQL("FALSE", (), output_field=BooleanField())
_EMPTY: Final = RawSQL("''", ())  # written out, not a parameter: the plan is made before parameters are known


def _known(rows: int, *columns: str, validated: bool | None = None, **literal: bool) -> _Query:
    """The newest messages for a mailbox (which is of one account) that have these values; parameters in this order.

    The first column is that of the index.
    """

    def make(mailbox_id: int, *values: Any) -> QuerySet[Message, Any]:
        wanted = dict(zip(columns, values, strict=True))
        if validated is not None:  # compared, since SQLite finds nothing by a column that stands alone
            wanted["msg_from_validated"] = _TRUE if validated else _FALSE
        query = Message.objects.filter(JUDGED, mailbox_orig_id=mailbox_id, expunged=False, **wanted, **literal)
        # The index has only rows with something in its column, and the database must be told that none else is meant.
        query = query.exclude(**{columns[0]: _EMPTY})
        return query.order_by("-received").values_list("junk", "received", "msg_from_localpart")[:rows]

    return Statement(make)


def _by_validation(rows: int, *columns: str) -> dict[bool, _Query]:
    return {state: _known(rows, *columns, validated=state) for state in (True, False)}


_of_address: Final = _by_validation(ADDRESS_ROWS, "msg_from_localpart", "msg_from_domain")
_of_domain: Final = _by_validation(DOMAIN_ROWS, "msg_from_domain")
_of_org_domain: Final = _by_validation(DOMAIN_ROWS, "msg_from_org_domain")
_of_mail_from: Final = _known(IDENTITY_ROWS, "mail_from_localpart", "mail_from_domain", mail_from_validated=True)
_of_mail_from_domain: Final = _known(IDENTITY_ROWS, "mail_from_domain", mail_from_validated=True)
_of_ehlo: Final = _known(IDENTITY_ROWS, "ehlo_domain", ehlo_validated=True)
_of_networks: Final = tuple(_known(NETWORK_ROWS, f"remote_ip_masked{width}") for width in (1, 2, 3))


def _of_signature(mailbox_id: int, domain: str) -> QuerySet[MessageDKIMDomain, Any]:
    query = MessageDKIMDomain.objects.filter(mailbox_orig_id=mailbox_id, domain=domain, junk__isnull=False)
    return query.order_by("-received").values_list("junk", "received", "domain")[:IDENTITY_ROWS]


_of_dkim_domain: Final[_Query] = Statement(_of_signature)


def _sent(*columns: str) -> _Query:
    """The last message that the account sent to these, as a row that says it was no junk."""

    def make(account_id: int, *values: Any) -> QuerySet[Recipient, Any]:
        query = Recipient.objects.filter(account_id=account_id, **dict(zip(columns, values, strict=True)))
        return query.order_by("-sent").values_list(_FALSE, "sent", "localpart")[:1]

    return Statement(make)


_wrote_to: Final[dict[Method, _Query]] = {
    Method.WROTE_TO_ADDRESS: _sent("domain", "localpart"),
    Method.WROTE_TO_DOMAIN: _sent("domain"),
    Method.WROTE_TO_ORG_DOMAIN: _sent("org_domain"),
}

_Question: TypeAlias = "tuple[_Query, timedelta, tuple[str, ...]]"  # the query, how far back, and its values


def judge(sender: Sender, mailbox_id: int | None, now: datetime) -> Reputation:
    """The reputation of a sender with an account, for a mailbox; None for one that is not there yet."""
    search = _Search(sender, mailbox_id, now)
    steps: list[Callable[[], Reputation | None]] = [search.by_identities, search.by_networks]
    if sender.msg_from_domain:
        steps = [search.by_address, search.by_domains, *steps]
    nothing = Reputation(None, conclusive=False, method=Method.NONE)
    return next((found for step in steps if (found := step()) is not None), nothing)


class _Search:
    """The steps for one message: what is asked together is looked at one after the other."""

    def __init__(self, sender: Sender, mailbox_id: int | None, now: datetime) -> None:
        self._sender = sender
        self._mailbox_id = mailbox_id
        self._now = now

    def by_address(self) -> Reputation | None:
        sender = self._sender
        full = (sender.msg_from_localpart, sender.msg_from_domain)
        own, validated, sent = self._ask(
            (_of_address[sender.msg_from_validated], ADDRESS_WINDOW, full),
            self._if_forged(_of_address, full, ADDRESS_WINDOW),
            self._mail_sent(Method.WROTE_TO_ADDRESS, ADDRESS_WINDOW, sender.ascii_domain, sender.msg_from_localpart),
        )
        if own:
            return Reputation(_all_junk(own), conclusive=sender.msg_from_validated, method=Method.ADDRESS)
        return _claimed(validated, Method.ADDRESS) or _welcome(sent, Method.WROTE_TO_ADDRESS)

    def by_domains(self) -> Reputation | None:
        sender = self._sender
        domain, org_domain = sender.msg_from_domain, sender.msg_from_org_domain
        found = self._ask(
            *self._domain(_of_domain, domain),
            self._mail_sent(Method.WROTE_TO_DOMAIN, DOMAIN_WINDOW, sender.ascii_domain),
            *self._domain(_of_org_domain, org_domain),
            self._mail_sent(Method.WROTE_TO_ORG_DOMAIN, DOMAIN_WINDOW, sender.ascii_org_domain),
        )
        return (
            _by_others(found[0], Method.DOMAIN)
            or _claimed(found[1], Method.DOMAIN)
            or _welcome(found[2], Method.WROTE_TO_DOMAIN)
            or _by_others(found[3], Method.ORG_DOMAIN)
            or _claimed(found[4], Method.ORG_DOMAIN)
            or _welcome(found[5], Method.WROTE_TO_ORG_DOMAIN)
        )

    def _domain(self, query: dict[bool, _Query], domain: str) -> tuple[_Question | None, _Question | None]:
        if not domain:
            return None, None
        own = (query[self._sender.msg_from_validated], DOMAIN_WINDOW, (domain,))
        return own, self._if_forged(query, (domain,), DOMAIN_WINDOW)

    def _if_forged(self, query: dict[bool, _Query], values: tuple[str, ...], window: timedelta) -> _Question | None:
        """For a message that was not verified: whether it claims to be of somebody whose mail is."""
        return None if self._sender.msg_from_validated or not values[-1] else (query[True], window, values)

    def _mail_sent(self, method: Method, window: timedelta, *values: str) -> _Question | None:
        return (_wrote_to[method], window, values) if values[0] else None

    def by_identities(self) -> Reputation | None:
        """What signatures and SPF vouch for: each with a history of its own is a signal."""
        sender = self._sender
        signed: list[_Question] = [(_of_dkim_domain, IDENTITY_WINDOW, (domain,)) for domain in sender.dkim_domains]
        address = domain = hello = None
        if sender.mail_from_validated and sender.mail_from_domain:
            address = (_of_mail_from, IDENTITY_WINDOW, (sender.mail_from_localpart, sender.mail_from_domain))
            domain = (_of_mail_from_domain, IDENTITY_WINDOW, (sender.mail_from_domain,))
        elif sender.ehlo_validated and sender.ehlo_domain:
            hello = (_of_ehlo, IDENTITY_WINDOW, (sender.ehlo_domain,))
        *histories, of_address, of_domain, of_hello = self._ask(*signed, address, domain, hello)
        signals = [rows for rows in (*histories, of_address or of_domain, of_hello) if rows]
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

    def by_networks(self) -> Reputation | None:
        methods = (Method.NETWORK1, Method.NETWORK2, Method.NETWORK3)
        found = self._ask(
            *(
                (query, NETWORK_WINDOW, (network,)) if network else None
                for query, network in zip(_of_networks, self._sender.networks, strict=True)
            )
        )
        for method, rows, enough in zip(methods, found, NETWORK_SURE_ROWS, strict=True):
            if rows:
                share = _junk_share(rows)
                junk = False if share < NETWORK_HAM else True if share > NETWORK_JUNK else None
                sure = (share <= NETWORK_SURE_HAM or share >= NETWORK_SURE_JUNK) and len(rows) >= enough
                return Reputation(junk, conclusive=sure, method=method)
        return None

    def _ask(self, *questions: _Question | None) -> list[Sequence[_Row]]:
        """For each question the rows within its window; none for what is not asked, and of a mailbox not there."""
        asked: list[tuple[int, tuple[_Query, tuple[Any, ...]]]] = []
        for number, question in enumerate(questions):
            if question is None:
                continue
            query, _, values = question
            key = self._sender.account_id if query in _wrote_to.values() else self._mailbox_id
            if key is not None:
                asked.append((number, (query, (key, *values))))
        answers: list[Sequence[_Row]] = [()] * len(questions)
        for (number, _), rows in zip(asked, together([each for _, each in asked]), strict=True):
            question = questions[number]
            assert question is not None
            since = self._now - question[1]
            answers[number] = [row for row in rows if row[1] > since]
        return answers


def _claimed(rows: Sequence[_Row], method: Method) -> Reputation | None:
    """A message that was not verified, and claims to be of somebody whose mail is."""
    if not rows:
        return None
    newest = sorted(rows, key=lambda row: row[1], reverse=True)[:ADDRESS_ROWS]
    return Reputation(True, conclusive=_all_junk(newest), method=method)


def _welcome(rows: Sequence[_Row], method: Method) -> Reputation | None:
    return Reputation(False, conclusive=True, method=method) if rows else None


def _by_others(rows: Sequence[_Row], method: Method) -> Reputation | None:
    """What a domain's senders together are worth."""
    if not rows:
        return None
    hams = sum(not junk for junk, _, _ in rows)
    if 100 * hams // len(rows) > DOMAIN_HAM_PERCENT:
        return Reputation(False, conclusive=True, method=method)
    if not hams:
        localparts = {localpart for _, _, localpart in rows}
        return Reputation(True, conclusive=len(localparts) >= DOMAIN_JUNK_LOCALPARTS, method=method)
    return Reputation(None, conclusive=False, method=method)


def _all_junk(rows: Iterable[_Row]) -> bool:
    """Of the last two: one accidental mark does not block a sender with an older good message."""
    return all(junk for junk, _, _ in rows)


def _junk_share(rows: Sequence[_Row]) -> float:
    return sum(junk for junk, _, _ in rows) / len(rows)
