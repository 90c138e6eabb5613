"""Rulesets suggested to a user who moves a message: the next one like it is to be put there at once (junk.md 6.1).

    suggestion = suggest(message_id, source, destination)    # None where there is nothing to suggest
    accept(suggestion)                                       # or never_again(suggestion), never_for(account_id, ...)

A moved message of a mailing list suggests a ruleset only if SPF or DKIM vouch for the list: anyone can write a List-Id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from accounts.addresses import canonical_address
from accounts.models import Address, Ruleset, RulesetNoListID, RulesetNoMailbox, RulesetNoMsgFrom
from accounts.models import Domain as HostedDomain
from protocols.message import header_section, iter_headers
from protocols.names import Address as MailAddress
from protocols.names import BadDomain, parse_domain
from server import db
from store import content, mailboxes
from store.models import Mailbox, Message

from . import editing
from .editing import BadRuleset, Conditions, Effects
from .rulesets import ascii_of

LIST_ID_FIELD: Final = "^list-id$"
HEADER_MAX: Final = 256 * 1024  # bytes of a header that are looked at

_LIST_ID: Final = re.compile(r"<\s*([^<>\s]+)\s*>\s*\Z")


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A ruleset to add, or (``is_remove``) the one to remove, for mail to an address.

    One of ``list_id`` and ``msg_from`` is "". ``to_inbox``: the message was moved to the mailbox of the address.
    """

    account_id: int
    rcpt_to: str
    """Canonical."""
    list_id: str
    msg_from: str
    is_remove: bool
    conditions: Conditions
    effects: Effects
    mailbox: str

    @property
    def to_inbox(self) -> bool:
        return self.is_remove


def suggest(message_id: int, source: Mailbox, destination: Mailbox) -> Suggestion | None:
    """What to suggest after one message was moved between two mailboxes of its account; None for nothing."""
    message = Message.objects.filter(pk=message_id, account_id=source.account_id, expunged=False).first()
    if message is None or not message.rcpt_to_domain or destination.account_id != source.account_id:
        return None
    canonical = _canonical(message)
    catchall = f"@{canonical.rpartition('@')[2]}"
    addresses = Address.objects.filter(canonical__in=(canonical, catchall), account_id=source.account_id)
    address = addresses.order_by("-localpart").first()  # its own, else the catchall
    own = mailboxes.canonical_name((address.default_mailbox if address else "") or mailboxes.INBOX)
    is_remove = destination.name == own
    other = source if is_remove else destination
    if source.name == destination.name or own not in (source.name, destination.name) or _is_special(other):
        return None
    if _is_never_for(source, destination):
        return None
    ids = _list_ids(message)
    if len(ids) > 1:
        return None
    found = _of_list(message, ids[0]) if ids else _of_sender(message)
    if found is None:
        return None
    list_id, msg_from, conditions, effects = found
    suggestion = Suggestion(source.account_id, canonical, list_id, msg_from, is_remove, conditions, effects, other.name)
    if _is_unwanted(suggestion) or bool(_rulesets_like(suggestion)) is not is_remove:
        return None
    return suggestion


def accept(suggestion: Suggestion) -> None:
    """Add, or remove, the ruleset. Raises BadRuleset: for mail that only a catchall took, among others."""
    with db.write():
        address = Address.objects.filter(canonical=suggestion.rcpt_to, account_id=suggestion.account_id).first()
        if address is None:
            raise BadRuleset(
                f"address {suggestion.rcpt_to} only matches a catchall: have it configured as an address first"
            )
        if not suggestion.is_remove:
            comment = f"by webmail on {datetime.now(UTC):%Y-%m-%d}"
            editing.add(address, suggestion.conditions, suggestion.mailbox, suggestion.effects, comment)
            return
        like = _rulesets_like(suggestion)
        if len(like) != 1:
            raise BadRuleset(f"affected {len(like)} configured rulesets, expected 1")
        like[0].delete()


def never_again(suggestion: Suggestion) -> None:
    """Nothing is to be suggested for this list or sender any more, for moves in this direction."""
    key: dict[str, Any] = {
        "account_id": suggestion.account_id,
        "rcpt_to": suggestion.rcpt_to,
        "to_inbox": suggestion.to_inbox,
    }
    with db.write():
        if suggestion.list_id:
            RulesetNoListID.objects.get_or_create(**key, list_id=suggestion.list_id)
        else:
            RulesetNoMsgFrom.objects.get_or_create(**key, msg_from=suggestion.msg_from)


def never_for(mailbox: Mailbox, *, to_mailbox: bool) -> None:
    """Nothing is to be suggested for moves to this mailbox any more, or from it."""
    with db.write():
        RulesetNoMailbox.objects.get_or_create(
            account_id=mailbox.account_id, mailbox_id=mailbox.pk, to_mailbox=to_mailbox
        )


def ask_again(account_id: int) -> int:
    """Forget all answers never to suggest something; gives how many there were."""
    with db.write():
        return sum(
            model.objects.filter(account_id=account_id).delete()[0]
            for model in (RulesetNoListID, RulesetNoMsgFrom, RulesetNoMailbox)
        )


def _canonical(message: Message) -> str:
    """The address that a message came for, as addresses are compared."""
    ascii_domain = ascii_of(message.rcpt_to_domain)
    hosted = HostedDomain.objects.filter(name=ascii_domain).first()
    if hosted is None:
        return f"{message.rcpt_to_localpart}@{ascii_domain}"
    return canonical_address(message.rcpt_to_localpart, hosted)


def _is_special(mailbox: Mailbox) -> bool:
    rejects = mailbox.account.rejects_mailbox
    return bool(mailbox.special_uses()) or (bool(rejects) and mailbox.name == mailboxes.canonical_name(rejects))


def _list_ids(message: Message) -> list[str]:
    """The values of the List-Id fields (RFC 2919)."""
    with content.message_reader(message.pk) as reader:
        section, _ = header_section(reader, HEADER_MAX)
    return [field.text() for field in iter_headers(section) if field.name.lower() == "list-id"]


def _of_list(message: Message, text: str) -> tuple[str, str, Conditions, Effects] | None:
    match = _LIST_ID.search(text)
    if match is None:
        return None
    try:
        list_domain = parse_domain(match[1])
    except BadDomain:
        return None
    list_id = match[1].lower()
    vouched = {ascii_of(domain) for domain in message.dkim_domains.values_list("domain", flat=True)}
    if message.mail_from_validated:
        vouched.add(ascii_of(message.mail_from_domain))
    above = [d for d in vouched if d and (list_domain.ascii == d or list_domain.ascii.endswith(f".{d}"))]
    if not above:
        return None
    conditions = Conditions(headers=((LIST_ID_FIELD, f"{re.escape(f'<{list_id}>')}$"),))
    return list_id, "", conditions, Effects(list_allow_domain=min(above, key=lambda d: (len(d), d)))


def _of_sender(message: Message) -> tuple[str, str, Conditions, Effects] | None:
    if not message.msg_from_domain:
        return None
    try:
        address = str(MailAddress(message.msg_from_localpart, parse_domain(message.msg_from_domain)))
    except BadDomain:
        return None
    return "", address, Conditions(msg_from_regexp=f"^{re.escape(address)}$"), Effects()


def _is_never_for(source: Mailbox, destination: Mailbox) -> bool:
    answers = RulesetNoMailbox.objects.filter(account_id=source.account_id)
    return (
        answers.filter(mailbox_id=source.pk, to_mailbox=False).exists()
        or answers.filter(mailbox_id=destination.pk, to_mailbox=True).exists()
    )


def _is_unwanted(suggestion: Suggestion) -> bool:
    key: dict[str, Any] = {
        "account_id": suggestion.account_id,
        "rcpt_to": suggestion.rcpt_to,
        "to_inbox": suggestion.to_inbox,
    }
    if suggestion.list_id:
        return RulesetNoListID.objects.filter(**key, list_id=suggestion.list_id).exists()
    return RulesetNoMsgFrom.objects.filter(**key, msg_from=suggestion.msg_from).exists()


def _rulesets_like(suggestion: Suggestion) -> list[Ruleset]:
    """Those of the address with just these conditions: to this mailbox, or, for one to be added, to any."""
    rulesets = Ruleset.objects.filter(
        address__canonical=suggestion.rcpt_to,
        address__account_id=suggestion.account_id,
        smtp_mail_from_regexp="",
        msg_from_regexp=suggestion.conditions.msg_from_regexp,
        verified_domain="",
        is_forward=False,
    ).prefetch_related("headers")
    if suggestion.is_remove:
        rulesets = rulesets.filter(mailbox=suggestion.mailbox)
    wanted = suggestion.conditions.headers
    return [
        ruleset
        for ruleset in rulesets
        if tuple((header.name_regexp, header.value_regexp) for header in ruleset.headers.all()) == wanted
    ]
