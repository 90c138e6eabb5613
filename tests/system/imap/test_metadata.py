"""GETMETADATA, SETMETADATA, LIST RETURN (METADATA ...): what clients keep with mailboxes (RFC 5464, RFC 9590)."""

from __future__ import annotations

import pytest

from store.models import Annotation
from tests.system.imap.conftest import User

pytestmark = pytest.mark.database


def test_entries_are_kept_with_a_mailbox_and_with_the_account(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok('SETMETADATA Inbox (/private/comment "mine" /Shared/Comment', b"two\r\nlines", ")")
    wire.ok('SETMETADATA "" (/private/vendor/example/color "\\"red\\"")')
    answer = wire.ok("GETMETADATA INBOX (/SHARED/comment /private/comment)")
    assert answer.one("METADATA").data == ("Inbox", ["/shared/comment", b"two\r\nlines", "/private/comment", b"mine"])
    other = imap_user.session(enable="IMAP4rev2")
    assert other.ok('GETMETADATA "" /private/vendor/example/color').one("METADATA").raw == (
        b'* METADATA "" (/private/vendor/example/color "\\"red\\"")\r\n'
    )
    wire.ok("SETMETADATA Inbox (/private/comment NIL)")
    assert wire.ok("GETMETADATA Inbox /private/comment").one("METADATA").data == ("Inbox", ["/private/comment", None])
    wire.ok('SETMETADATA Inbox (/private/comment "again")')
    assert Annotation.objects.filter(account=imap_user.account, key="/private/comment").count() == 1


def test_bytes_come_back_as_they_were(imap_user: User) -> None:
    wire = imap_user.session()
    wire.send(b"x SETMETADATA Inbox (/private/icon ~{4+}\r\n\0\xff\r\n)\r\n")
    assert wire.answer("x").status == "OK"
    assert wire.ok("GETMETADATA Inbox /private/icon").one("METADATA").raw == (
        b"* METADATA Inbox (/private/icon ~{4}\r\n\0\xff\r\n)\r\n"
    )
    wire.bad("SETMETADATA Inbox (/private/icon", b"a\0b", ")")


def test_depth_and_size(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok(
        'SETMETADATA Inbox (/private/f/v/small "12" /private/f/v/boss "1234" /private/f/v/boss/x "1" /private/f "")'
    )
    found = {}
    for depth in ("0", "1", "infinity"):
        answer = wire.ok(f"GETMETADATA (DEPTH {depth} MAXSIZE 10) Inbox (/private/f/v)")
        found[depth] = answer.one("METADATA").data[1][::2]
    assert found == {
        "0": ["/private/f/v"],
        "1": ["/private/f/v", "/private/f/v/boss", "/private/f/v/small"],
        "infinity": ["/private/f/v", "/private/f/v/boss", "/private/f/v/boss/x", "/private/f/v/small"],
    }
    # With the options where the examples of the RFC have them.
    answer = wire.ok("GETMETADATA Inbox (MAXSIZE 3) (/private/f/v/small /private/f/v/boss)")
    assert answer.one("METADATA").data == ("Inbox", ["/private/f/v/small", b"12"])
    assert answer.code == ["METADATA", "LONGENTRIES", "4"]
    answer = wire.ok("GETMETADATA (DEPTH infinity) Inbox /")
    assert len(answer.one("METADATA").data[1]) == 2 * 5


def test_wrong_names_and_places_are_refused(imap_user: User) -> None:
    wire = imap_user.session()
    for key in ("/private/a*", "/private//a", "/private/a/", "private/a", '"/private/\t"', "/private/" + "a" * 250):
        wire.bad(f'SETMETADATA Inbox ({key} "x")')
        wire.bad(f"GETMETADATA Inbox {key}")
    for key in ("/private", "/other/comment", "/private/vendor", "/shared/vendor/example"):
        wire.no(f'SETMETADATA Inbox ({key} "x")')
    wire.no('SETMETADATA nowhere (/private/comment "x")', code="NONEXISTENT")
    wire.no("GETMETADATA nowhere /private/comment", code="NONEXISTENT")
    wire.bad("GETMETADATA (DEPTH 2) Inbox /private/comment")
    wire.bad("GETMETADATA (MAXSIZE 1 MAXSIZE 1) Inbox /private/comment")
    wire.bad("GETMETADATA (DEPTH 1) Inbox (DEPTH 1) /private/comment")
    wire.bad("SETMETADATA Inbox ()")
    assert not Annotation.objects.filter(account=imap_user.account).exists()


def test_limits_are_those_of_the_account_and_nothing_is_set_in_part(imap_user: User) -> None:
    wire = imap_user.session()
    for mailbox, start in (("Inbox", 0), ('""', 500)):
        keys = " ".join(f'/private/{number} "x"' for number in range(start, start + 500))
        wire.ok(f"SETMETADATA {mailbox} ({keys})")
    answer = wire.no('SETMETADATA Inbox (/private/0 "changed" /private/more "x")', code="METADATA")
    assert answer.code == ["METADATA", "TOOMANY"]
    assert wire.ok("GETMETADATA Inbox /private/0").one("METADATA").data[1] == ["/private/0", b"x"]
    wire.ok('SETMETADATA Inbox (/private/0 NIL /private/more "x")')
    wire.ok("SETMETADATA Inbox (" + " ".join(f"/private/{number} NIL" for number in range(500)) + ")")
    for start in (1000, 2000):  # names that come and go leave no more than so many rows
        for value in ('"x"', "NIL"):
            keys = " ".join(f"/private/{number} {value}" for number in range(start, start + 400))
            wire.ok(f"SETMETADATA Inbox ({keys})")
    assert Annotation.objects.filter(account=imap_user.account, expunged=True).count() == 1000
    large = b"x" * 99_999
    for number in range(9):
        wire.ok(f"SETMETADATA Archive (/private/l{number}", large, ")", nonsync=True)
    answer = wire.no("SETMETADATA Archive (/private/l9", large, ")", code="METADATA")
    assert answer.code == ["METADATA", "MAXSIZE", "1000000"]


def test_annotations_follow_their_mailbox(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok("CREATE a/b")
    wire.ok('SETMETADATA a/b (/private/comment "kept")')
    wire.ok("RENAME a c")
    assert wire.ok("GETMETADATA c/b /private/comment").one("METADATA").data[1] == ["/private/comment", b"kept"]
    wire.ok("DELETE c/b")
    wire.ok("CREATE c/b")
    assert wire.ok("GETMETADATA c/b /private/comment").one("METADATA").data[1] == ["/private/comment", None]
    wire.ok('SETMETADATA Inbox (/private/comment "inbox")')
    wire.ok("RENAME Inbox old")
    for name in ("Inbox", "old"):
        assert wire.ok(f"GETMETADATA {name} /private/comment").one("METADATA").data[1] == ["/private/comment", b"inbox"]


def test_list_shows_entries(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok('SETMETADATA Archive (/shared/vendor/example/color "#b71c1c")')
    answer = wire.ok('LIST "" (Archive Drafts nothing) RETURN (METADATA ("/shared/vendor/example/color") CHILDREN)')
    assert [str(response) for response in answer.untagged] == [
        '* LIST (\\HasNoChildren \\Archive) "/" Archive',
        '* METADATA Archive (/shared/vendor/example/color "#b71c1c")',
        '* LIST (\\HasNoChildren \\Drafts) "/" Drafts',
        "* METADATA Drafts (/shared/vendor/example/color NIL)",
    ]
    wire.bad('LIST "" * RETURN (METADATA)')
    wire.bad('LIST "" * RETURN (METADATA ())')
    wire.bad(f'LIST "" * RETURN (METADATA ({" ".join(f"/private/{number}" for number in range(21))}))')


def test_changes_are_told_to_who_enabled_it(imap_user: User) -> None:
    actor, quiet, other = imap_user.session(), imap_user.session(), imap_user.session(enable="METADATA")
    other.ok("SELECT Inbox")
    actor.ok('SETMETADATA Inbox (/private/comment "x")')
    actor.ok('SETMETADATA "" (/private/comment "x" /shared/y "z")')
    actor.ok('SETMETADATA "" (/private/comment "x")')  # which is there already
    actor.ok('SETMETADATA "" (/shared/y NIL)')
    assert [str(response) for response in other.ok("NOOP").untagged] == [
        "* METADATA Inbox /private/comment",
        '* METADATA "" /private/comment',
        '* METADATA "" /shared/y',
        '* METADATA "" /shared/y',
    ]
    assert quiet.ok("NOOP").untagged == []
    assert actor.ok("NOOP").untagged == []
