"""UTF8=ACCEPT: names and strings in UTF-8 for who enabled it, modified UTF-7 and literals for everybody else."""

from __future__ import annotations

import pytest

from accounts.models import Account
from tests.system.imap.conftest import User
from tests.system.imap.wire import Wire

pytestmark = pytest.mark.database


def message(text: str) -> bytes:
    head = "Subject: Grüße\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    return f"{head}{text}\r\n".encode()


def listed(wire: Wire) -> list[bytes]:
    return [response.raw for response in wire.ok('LIST "" B*').named("LIST")]


def test_names_are_utf8_after_enabling_and_utf7_before(imap_user: User) -> None:
    plain = imap_user.session()
    assert plain.ok("ENABLE UTF8=ACCEPT").one("ENABLED").raw == b"* ENABLED UTF8=ACCEPT\r\n"
    plain.utf8 = True
    made = plain.ok('CREATE "Bücher & mehr"')
    assert [response.raw for response in made.named("LIST")] == ['* LIST () "/" "Bücher & mehr"\r\n'.encode()]
    assert listed(plain) == ['* LIST () "/" "Bücher & mehr"\r\n'.encode()]
    other = imap_user.session()
    assert listed(other) == [b'* LIST () "/" "B&APw-cher &- mehr"\r\n']
    other.ok('RENAME "B&APw-cher &- mehr" "B&APY-"')
    news = plain.ok("NOOP")
    # Without IMAP4rev2 nobody asked for old names.
    assert news.one("LIST").raw == '* LIST () "/" "Bö"\r\n'.encode()
    assert plain.ok('STATUS "Bö" (MESSAGES)').one("STATUS").raw == '* STATUS "Bö" (MESSAGES 0)\r\n'.encode()
    plain.no("SELECT B&APY-", code="NONEXISTENT")  # a raw & is itself now


def test_previews_are_quoted_for_who_takes_utf8(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.ok("APPEND Inbox", message("Schöne Grüße"))
    assert "PREVIEW {15}\r\nSchöne Grüße".encode() in wire.ok("FETCH 1 PREVIEW").one("FETCH").raw
    wire.ok("ENABLE UTF8=ACCEPT")
    wire.utf8 = True
    assert 'PREVIEW "Schöne Grüße"'.encode() in wire.ok("FETCH 1 PREVIEW").one("FETCH").raw
    assert wire.ok('SEARCH SUBJECT "grüß" BODY "schöne"').numbers() == [1]
    wire.no("SEARCH CHARSET ISO-8859-1 ALL", code="BADCHARSET")


def test_utf8_accept_can_be_hidden(imap_user: User) -> None:
    hidden = ["UTF8=ACCEPT", "PREVIEW", "QUOTA"]
    Account.objects.filter(pk=imap_user.account.pk).update(imap_capabilities_disabled=hidden)
    wire = imap_user.session()
    words = wire.ok("CAPABILITY").one("CAPABILITY").data
    assert not {"UTF8=ACCEPT", "PREVIEW", "QUOTA", "QUOTA=RES-STORAGE"} & set(words)
    assert wire.ok("ENABLE UTF8=ACCEPT").one("ENABLED").raw == b"* ENABLED\r\n"
    made = wire.ok("CREATE B&APw-cher")
    assert made.one("LIST").raw == b'* LIST () "/" B&APw-cher\r\n'
