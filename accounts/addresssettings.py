"""What an address says about the mail that comes to it, with the rules that this must keep (account.md section 4).

change_address(find_address("info@example.org"), default_mailbox="Sales", full_name="Sales")
"""

from __future__ import annotations

import re
from typing import Final

from django.db.models import F

from protocols.mailboxnames import BadMailboxName, canonical_name

from .accounts import ConfigurationError, changing
from .models import Address

FULL_NAME_MAX: Final = 256  # characters
ERROR_MAX: Final = 256  # characters of a text for clients, so that it stays within a line

_SMTP_ERROR: Final = re.compile(r"(421|550)(?: (.*))?\Z")
_REFUSALS: Final = {"421": (451, "4.3.0", "error processing"), "550": (550, "5.1.1", "no such user(s)")}


def refusal(smtp_error: str) -> tuple[int, str, str]:
    """Code, enhanced code and text with which an address refuses all mail; temporary for a setting of no meaning."""
    match = _SMTP_ERROR.match(smtp_error)
    code, enhanced, text = _REFUSALS[match[1] if match else "421"]
    return code, enhanced, (match[2].strip() if match and match[2] else "") or text


def change_address(
    address: Address,
    *,
    default_mailbox: str | None = None,
    full_name: str | None = None,
    smtp_error: str | None = None,
    message_auth_required_error: str | None = None,
) -> Address:
    """Change settings; None leaves one as it is. Gives the address as it is then. Raises ConfigurationError.

    ``default_mailbox``: "" is Inbox.
    """
    given = {
        "default_mailbox": default_mailbox,
        "full_name": full_name,
        "smtp_error": smtp_error,
        "message_auth_required_error": message_auth_required_error,
    }
    with changing():
        fresh = Address.objects.select_related("domain", "account").get(pk=address.pk)
        changed = {name: value for name, value in given.items() if value is not None}
        if default_mailbox:
            changed["default_mailbox"] = checked_mailbox(default_mailbox)
        for name, value in changed.items():
            setattr(fresh, name, value)
        _check(fresh)
        Address.objects.filter(pk=fresh.pk).update(version=F("version") + 1, **changed)
    return fresh


def checked_mailbox(name: str) -> str:
    """The name of a mailbox as it is stored. Raises ConfigurationError."""
    try:
        return canonical_name(name)
    except BadMailboxName as exc:
        raise ConfigurationError(f'mailbox "{name}" cannot be used: {exc}') from exc


def _check(address: Address) -> None:
    if len(address.full_name) > FULL_NAME_MAX or not address.full_name.isprintable():
        raise ConfigurationError(
            f"full name of {address}: use one line of at most {FULL_NAME_MAX} characters, without control characters"
        )
    for what, text in (
        ("SMTP error", address.smtp_error),
        ("error for messages that are not authenticated", address.message_auth_required_error),
    ):
        if len(text) > ERROR_MAX or not (text.isascii() and text.isprintable()):
            raise ConfigurationError(f"{what} of {address}: use at most {ERROR_MAX} printable ASCII characters")
    if not address.smtp_error:
        return
    if _SMTP_ERROR.match(address.smtp_error) is None:
        raise ConfigurationError(
            f'SMTP error "{address.smtp_error}" of {address}: start with 421, so that senders try again, or with 550, '
            "and a space before a text"
        )
    if address.default_mailbox or address.rulesets.exists():
        raise ConfigurationError(
            f"{address} cannot refuse all mail and have a default mailbox or rulesets: remove those first"
        )
