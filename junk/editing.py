"""Changing the rulesets of an address, with every rule that they must keep (account.md section 4).

add(address, Conditions(msg_from_regexp="@shop\\.example$"), mailbox="Shop")
remove(address, 1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from accounts.accounts import changing
from accounts.models import Address, Ruleset, RulesetHeader
from protocols.names import BadDomain, parse_domain
from server import db
from server.regexps import BadRegexp, compiled
from store import mailboxes
from store.errors import MailboxError

RULESETS_MAX: Final = 200  # of an address


class BadRuleset(Exception):
    """A ruleset that breaks a rule; the text names the value and the remedy."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """When a ruleset matches: all that is given must hold. ``headers``: expressions for name and value of a field."""

    smtp_mail_from_regexp: str = ""
    msg_from_regexp: str = ""
    verified_domain: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Effects:
    """What a ruleset does besides choosing a mailbox."""

    is_forward: bool = False
    list_allow_domain: str = ""
    accept_rejects_to_mailbox: str = ""


def add(
    address: Address,
    conditions: Conditions,
    mailbox: str,
    effects: Effects = Effects(),  # frozen
    comment: str = "",
) -> Ruleset:
    """Add a ruleset behind the others of an address. Raises BadRuleset."""
    _check_conditions(conditions)
    _check_effects(conditions, effects)
    with changing():
        if Address.objects.filter(pk=address.pk).exclude(smtp_error="").exists():
            raise BadRuleset(f"address {address} refuses all mail with an SMTP error: remove that first")
        others = Ruleset.objects.filter(address=address)
        if others.count() >= RULESETS_MAX:
            raise BadRuleset(f"address {address} has {RULESETS_MAX} rulesets already, remove some first")
        last = others.order_by("-position").values_list("position", flat=True).first()
        added = Ruleset.objects.create(
            address=address,
            position=0 if last is None else last + 1,
            smtp_mail_from_regexp=conditions.smtp_mail_from_regexp,
            msg_from_regexp=conditions.msg_from_regexp,
            verified_domain=_domain(conditions.verified_domain),
            mailbox=_mailbox(mailbox),
            is_forward=effects.is_forward,
            list_allow_domain=_domain(effects.list_allow_domain),
            accept_rejects_to_mailbox=_rejects_mailbox(effects.accept_rejects_to_mailbox),
            comment=comment,
        )
        RulesetHeader.objects.bulk_create(
            RulesetHeader(ruleset=added, position=number, name_regexp=name, value_regexp=value)
            for number, (name, value) in enumerate(conditions.headers)
        )
    return added


def remove(address: Address, number: int) -> None:
    """Remove the ruleset of an address with this number, from 1 in their order. Raises BadRuleset."""
    with db.write():
        rulesets = list(Ruleset.objects.filter(address=address))
        if not 1 <= number <= len(rulesets):
            raise BadRuleset(f"address {address} has no ruleset {number}: it has {len(rulesets)}")
        rulesets[number - 1].delete()


def _check_conditions(conditions: Conditions) -> None:
    if conditions == Conditions():
        raise BadRuleset("ruleset must have at least one rule")
    _check_regexp("SMTPMailFrom", conditions.smtp_mail_from_regexp)
    _check_regexp("MsgFrom", conditions.msg_from_regexp)
    for name, value in conditions.headers:
        for pattern in (name, value):
            _check_regexp("header", pattern)
            if pattern != pattern.lower():
                raise BadRuleset(f'header field "{pattern}" must only have lower case characters')
        if not name:
            raise BadRuleset("header field without a name: give an expression for it, such as ^list-id$")


def _check_effects(conditions: Conditions, effects: Effects) -> None:
    if effects.is_forward and effects.list_allow_domain:
        raise BadRuleset("ruleset cannot have both IsForward and ListAllowDomain")
    if effects.is_forward and not (conditions.smtp_mail_from_regexp and conditions.verified_domain):
        raise BadRuleset("ruleset with IsForward must have both SMTPMailFromRegexp and VerifiedDomain too")


def _check_regexp(name: str, pattern: str) -> None:
    try:
        compiled(pattern)
    except BadRegexp as exc:
        raise BadRuleset(f"invalid {name} regular expression: {exc}") from exc


def _domain(text: str) -> str:
    """The A-labels of a domain, "" for none."""
    if not text:
        return ""
    try:
        return parse_domain(text).ascii
    except BadDomain as exc:
        raise BadRuleset(f'"{text}" is not a domain name: {exc}') from exc


def _mailbox(name: str) -> str:
    try:
        return mailboxes.canonical_name(name)
    except MailboxError as exc:
        raise BadRuleset(f'mailbox "{name}" cannot be used: {exc}') from exc


def _rejects_mailbox(name: str) -> str:
    if not name:
        return ""
    if _mailbox(name) == mailboxes.INBOX:
        raise BadRuleset("AcceptRejectsToMailbox cannot be set to Inbox")
    return _mailbox(name)
