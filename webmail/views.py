"""The pages of the webmail: for now one, that shows which mail there is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from store import reading
from store.reading import MailboxView, MessageHead
from web.login import cookie_path, login_page
from web.middleware import APP_POLICY
from web.sessions import session_for_page

from .interface import INTERFACE

NEWEST: Final = 50  # messages that are listed
_ORDER: Final = ("\\Drafts", "\\Sent", "\\Archive", "\\Trash", "\\Junk")
_ICONS: Final = {
    "\\Drafts": "draft",
    "\\Sent": "sent",
    "\\Archive": "archive",
    "\\Trash": "trash",
    "\\Junk": "junk",
}
_DISGUISES: Final = frozenset("<>@")  # a display name with one of them poses as an address


@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    """Mailboxes with their counts, and the newest messages of one; without a session, the login."""
    session = session_for_page(request, INTERFACE) if request.GET.get("login") != "again" else None
    if session is None or session.account_id is None:
        response = login_page(request, INTERFACE)
    else:
        context = _overview(session.account_id, request.GET.get("mailbox", ""))
        context |= {
            "login_address": session.login_address,
            "interface": INTERFACE,
            "base": cookie_path(request),
            "title": _title(context["selected"], session.login_address),
        }
        response = render(request, "webmail/overview.html", context)
    response["Content-Security-Policy"] = APP_POLICY
    return response


def _overview(account_id: int, wanted: str) -> dict[str, Any]:
    views = sorted(reading.mailboxes(account_id).views, key=_position)
    selected = next((view for view in views if str(view.id) == wanted), views[0])
    now = datetime.now(UTC)
    names = {view.name for view in views}
    return {
        "mailboxes": [_mailbox_row(view, names) for view in views],
        "selected": selected,
        "messages": [_message_row(head, now) for head in reading.newest(account_id, selected.id, NEWEST)],
        "newest": NEWEST,
    }


def _title(selected: MailboxView, login_address: str) -> str:
    unread = f"({selected.unread}) " if selected.unread else ""
    return f"{unread}{selected.name} - {login_address} - Mox Webmail"


def _position(view: MailboxView) -> tuple[int, list[str]]:
    """Inbox, then what has a use, then the rest by name, element by element (webmail.md 5)."""
    if view.name == "Inbox":
        return 0, []
    uses = [_ORDER.index(use) for use in view.special_uses if use in _ORDER]
    return (1 + min(uses) if uses else 1 + len(_ORDER)), view.name.split("/")


def _mailbox_row(view: MailboxView, names: set[str]) -> dict[str, Any]:
    elements = view.name.split("/")
    depth = sum("/".join(elements[:count]) in names for count in range(1, len(elements)))
    icon = next((_ICONS[use] for use in view.special_uses if use in _ICONS), "folder")
    return {
        "view": view,
        "shown": elements[-1] if depth else view.name,
        "depth": min(depth, 3),
        "icon": "inbox" if view.name == "Inbox" else icon,
    }


def _message_row(head: MessageHead, now: datetime) -> dict[str, Any]:
    senders = [_shown_sender(a.name, f"{a.user}@{a.host}", head.junk) for a in head.envelope.from_ if a.is_mailbox()]
    return {
        "head": head,
        "senders": ", ".join(senders) or "(no sender)",
        "addresses": ", ".join(f"{a.user}@{a.host}" for a in head.envelope.from_ if a.is_mailbox()),
        "subject": head.envelope.subject.strip() or "(no subject)",
        "age": age(head.received, now),
    }


def _shown_sender(name: str, address: str, junk: bool) -> str:
    """The name, unless it could be taken for an address, or a junk message gave it."""
    name = name.strip()
    return address if junk or not name or _DISGUISES & set(name) else name


def age(received: datetime, now: datetime) -> str:
    """``8min``, ``3h``, ``2d``, ``5w``."""
    seconds = max(0, int((now - received).total_seconds()))
    for unit, size in (("y", 365 * 86400), ("w", 7 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return "now"
