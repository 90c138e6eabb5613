"""Rulesets: the first one of an address that matches a message chooses its mailbox (junk.md section 6).

ruleset = first_match(of_address(address_id), Facts(mail_from="a@list.example", ...))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from accounts.models import Ruleset, RulesetHeader
from protocols.message.headers import iter_headers
from protocols.names import BadDomain, parse_domain
from server.regexps import BadRegexp, compiled
from server.statements import ModelStatement

HEADERS_MAX: Final = 1000  # fields that expressions are tried on


@dataclass(frozen=True, slots=True)
class Facts:
    """What rulesets look at. ``verified``: domains (A-labels) of the envelope that SPF, and others that DKIM vouch for.

    ``msg_from`` is "" without a single From address. ``fields``: name and value, unfolded and in lower case.
    """

    mail_from: str = ""
    msg_from: str = ""
    verified: frozenset[str] = frozenset()
    vouched: frozenset[str] = frozenset()
    """As ``verified``, without the EHLO domain: what may vouch for a mailing list."""
    fields: Sequence[tuple[str, str]] = field(default=())


_of_address: Final = ModelStatement(
    Ruleset, lambda address_id: Ruleset.objects.filter(address_id=address_id).order_by("position", "pk")
)


def of_address(address_id: int) -> Sequence[Ruleset]:
    """The rulesets of an address, in their order."""
    return _of_address.rows(address_id)


def first_match(rulesets: Sequence[Ruleset], facts: Facts) -> Ruleset | None:
    """The ruleset, of those of an address in their order, that decides about a message."""
    headers: dict[int, list[RulesetHeader]] = {}
    for header in RulesetHeader.objects.filter(ruleset__in=[ruleset.pk for ruleset in rulesets]).order_by(
        "position", "pk"
    ):
        headers.setdefault(header.ruleset_id, []).append(header)
    return next((each for each in rulesets if matches(each, headers.get(each.pk, ()), facts)), None)


def matches(ruleset: Ruleset, headers: Sequence[RulesetHeader], facts: Facts) -> bool:
    """Whether all conditions hold; one without conditions, or with an expression that does not compile, never does."""
    if not (ruleset.smtp_mail_from_regexp or ruleset.msg_from_regexp or ruleset.verified_domain or headers):
        return False
    try:
        return (
            (not ruleset.smtp_mail_from_regexp or _found(ruleset.smtp_mail_from_regexp, facts.mail_from))
            and (
                not ruleset.msg_from_regexp
                or (bool(facts.msg_from) and _found(ruleset.msg_from_regexp, facts.msg_from))
            )
            and (not ruleset.verified_domain or is_below(facts.verified, ruleset.verified_domain))
            and all(_has_header(header, facts.fields) for header in headers)
        )
    except BadRegexp:
        return False


def allows_list(ruleset: Ruleset, facts: Facts) -> bool:
    """Whether the mailing list of a ruleset was verified as the sender."""
    return bool(ruleset.list_allow_domain) and ascii_of(ruleset.list_allow_domain) in facts.vouched


def is_below(domains: Iterable[str], parent: str) -> bool:
    """Whether one of the domains is this one, or below it."""
    wanted = ascii_of(parent)
    return any(domain == wanted or domain.endswith(f".{wanted}") for domain in domains)


def ascii_of(domain: str) -> str:
    """A domain's A-labels; what is no domain matches none."""
    try:
        return parse_domain(domain).ascii
    except BadDomain:
        return ""


def fields_of(section: bytes) -> list[tuple[str, str]]:
    """The fields of a header section as expressions see them."""
    found = []
    for header in iter_headers(section):
        found.append((header.name.lower(), header.text().strip().lower()))
        if len(found) == HEADERS_MAX:
            break
    return found


def _found(pattern: str, text: str) -> bool:
    return compiled(pattern).search(text)


def _has_header(header: RulesetHeader, fields: Sequence[tuple[str, str]]) -> bool:
    return any(_found(header.name_regexp, name) and _found(header.value_regexp, value) for name, value in fields)
