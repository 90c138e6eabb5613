"""Mailbox names beyond ASCII: modified UTF-7 before ENABLE IMAP4rev2, UTF-8 after; and the rules for names."""

from __future__ import annotations

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.wire import Wire, quote

pytestmark = pytest.mark.database

NAMES = {  # UTF-8 and modified UTF-7
    "Entwürfe": "Entw&APw-rfe",
    "台北/日本語": "&U,BTFw-/&ZeVnLIqe-",
    "Tom & Jerry": "Tom &- Jerry",
    "😀": "&2D3eAA-",
}


def listed(wire: Wire, pattern: str = "*") -> list[str]:
    names = [r.data[2] for r in wire.ok(f'LIST "" {quote(pattern).decode()}').named("LIST")]
    return [name.decode() if isinstance(name, bytes) else name for name in names]


@pytest.mark.parametrize("name", NAMES)
def test_each_form_names_the_same_mailbox(imap_user: User, name: str) -> None:
    old, new = imap_user.session(), imap_user.session(enable="IMAP4rev2")
    old.ok(f'CREATE "{NAMES[name]}"')
    assert name in listed(new)
    assert NAMES[name] in listed(old)
    new.ok(f'SELECT "{name}"')
    new.ok("SUBSCRIBE", name.encode())
    assert new.ok(f'STATUS "{name}" (MESSAGES)').one("STATUS").data[1] == ["MESSAGES", "0"]
    new.ok(f'APPEND "{name}"', b"Subject: x\r\n\r\n")
    assert old.ok(f'STATUS "{NAMES[name]}" (MESSAGES)').one("STATUS").data[1] == ["MESSAGES", "1"]
    old.ok(f'UNSUBSCRIBE "{NAMES[name]}"')


def test_after_enable_an_ampersand_is_itself(imap_user: User) -> None:
    new, old = imap_user.session(enable="IMAP4rev2"), imap_user.session()
    new.ok("CREATE R&D")
    new.ok('CREATE "&AOQ-"')
    assert {"R&D", "&AOQ-"} <= set(listed(new))
    assert {"R&-D", "&-AOQ-"} <= set(listed(old))


def test_before_enable_raw_utf8_is_no_name(imap_user: User) -> None:
    wire = imap_user.session()
    assert wire.command('CREATE "Entwürfe"').status in ("NO", "BAD")
    assert wire.command('LIST "" "Entw*"').untagged == []


@pytest.mark.parametrize(
    "name",
    ["", "/x", "x//y", "#x", "a/../b", "a/.", "x\u0001", "x\u007f", "x\u0085", "x\u2028y", "e\u0301", "x" * 1001],
)
def test_names_against_the_rules_are_refused(imap_user: User, name: str) -> None:
    wire = imap_user.session(enable="IMAP4rev2")
    answer = wire.command("CREATE", name.encode())
    assert answer.status == "NO", answer.tagged
    assert answer.code == ["CANNOT"], answer.tagged


def test_a_trailing_slash_is_removed_and_parents_are_made(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok("CREATE deep/er/mailbox/")
    assert listed(wire, "deep*") == ["deep", "deep/er", "deep/er/mailbox"]
    wire.no("CREATE deep/er", code="ALREADYEXISTS")
    wire.no("DELETE deep/er", code="HASCHILDREN")
    wire.ok("DELETE deep/er/mailbox")
    wire.ok("DELETE deep/er")
    wire.no("DELETE deep/er", code="NONEXISTENT")


def test_inbox_is_special(imap_user: User) -> None:
    wire = imap_user.session()
    wire.no("DELETE inbox", code="CANNOT")
    assert wire.no("CREATE INBOX").code in (["ALREADYEXISTS"], ["CANNOT"])
    wire.ok("CREATE inBox/child")
    assert listed(wire, "iNbOx*") == ["Inbox", "Inbox/child"]
    assert wire.ok("STATUS INBOX (MESSAGES)").one("STATUS").data[0] == "Inbox"


def test_status_knows_its_items(imap_user: User) -> None:
    wire = imap_user.session()
    message = b"Subject: x\r\n\r\n" + b"y" * 100
    wire.ok("APPEND Inbox (\\Seen)", message)
    wire.ok("APPEND Inbox (\\Deleted)", message)
    answer = wire.ok("STATUS Inbox (MESSAGES UIDNEXT UIDVALIDITY UNSEEN DELETED SIZE RECENT)").one("STATUS")
    items = dict(zip(answer.data[1][::2], answer.data[1][1::2], strict=True))
    assert int(items.pop("UIDVALIDITY")) > 0
    assert items == {"MESSAGES": "2", "UIDNEXT": "3", "UNSEEN": "1", "DELETED": "1", "SIZE": "228", "RECENT": "0"}
    wire.bad("STATUS Inbox (NOSUCH)")
    wire.bad("STATUS Inbox ()")
    wire.bad("STATUS Inbox MESSAGES")
    wire.no("STATUS absent (MESSAGES)", code="NONEXISTENT")


def test_search_takes_utf8_after_enable_without_charset(imap_user: User) -> None:
    wire = imap_user.session("Inbox", enable="IMAP4rev2")
    wire.ok("APPEND Inbox", "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nstraße\r\n".encode())
    assert wire.ok('SEARCH SUBJECT "grüße"').numbers() == [1]
    assert wire.ok("SEARCH SUBJECT", "GRÜSSE".encode()).numbers() == [1]
    found = wire.ok("SEARCH ALL")
    assert found.named("SEARCH") == []
    assert found.one("ESEARCH").data[-2:] == ("ALL", "1")


def test_a_mailbox_can_be_made_for_a_use(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok("CREATE Work/Papers (USE (\\Archive \\Trash))")
    uses = {response.data[2]: response.data[0] for response in wire.ok('LIST "" *').named("LIST")}
    assert uses["Work/Papers"] == ["\\Archive", "\\Trash"]
    assert uses["Work"] == []
    assert uses["Archive"] == uses["Trash"] == []  # a use has one mailbox
    for use in ("\\All", "\\Flagged", "\\Important", "Sent", "\\Inbox"):
        wire.no(f"CREATE Other (USE (\\Sent {use}))", code="USEATTR")
    assert "Other" not in [response.data[2] for response in wire.ok('LIST "" *').named("LIST")]
    wire.no("CREATE Work/Papers (USE (\\Sent))", code="ALREADYEXISTS")
    wire.ok("CREATE Other (use ())")
    for broken in ("()", "(USE)", "(USE \\Sent)", "(USE (\\Sent) USE (\\Junk))", "(SIZE (1))", "(USE (\\Sent)"):
        wire.bad(f"CREATE Broken {broken}")
