"""Sessions without message numbers: after ENABLE UIDONLY there are only UIDs (RFC 9586)."""

from __future__ import annotations

import random

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.mirror import Mirror, UidMirror
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Wire

pytestmark = pytest.mark.database


@pytest.fixture
def actor(imap_user: User) -> Wire:
    """A session with message numbers; Inbox has messages 2, 3 and 5."""
    wire = imap_user.session()
    for number in range(1, 6):
        wire.ok("APPEND Inbox", simple("mail", number), nonsync=True)
    wire.ok("SELECT Inbox")
    wire.ok("STORE 1,4 +FLAGS.SILENT (\\Deleted)")
    wire.ok("EXPUNGE")
    return wire


def test_message_numbers_are_refused(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session("Inbox", enable="UIDONLY")
    for command in (
        "FETCH 1 FLAGS",
        "STORE 1 +FLAGS (\\Seen)",
        "SEARCH ALL",
        "COPY 1 Archive",
        "MOVE 1 Archive",
        "UID SEARCH 1:2",
        "UID SEARCH NOT (OR SEEN 1)",
        "UID SEARCH RETURN (COUNT) *",
    ):
        wire.bad(command, code="UIDREQUIRED")
    wire.ok("ENABLE QRESYNC")
    wire.bad("SELECT Inbox (QRESYNC (1 1 1:5 (1 2)))", code="UIDREQUIRED")


def test_answers_have_uids_only(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session(enable="UIDONLY")
    answer = wire.ok("SELECT Inbox")
    assert answer.one("EXISTS").number == 3
    assert answer.status_code("UNSEEN") is None
    assert [str(r) for r in wire.ok("UID FETCH 1:* FLAGS").untagged] == [
        "* 2 UIDFETCH (FLAGS ())",
        "* 3 UIDFETCH (FLAGS ())",
        "* 5 UIDFETCH (FLAGS ())",
    ]
    assert [str(r) for r in wire.ok("UID FETCH 4:6 (UID BODY.PEEK[HEADER.FIELDS (Subject)])").untagged] == [
        "* 5 UIDFETCH (UID 5 BODY[HEADER.FIELDS (Subject)] {19}\r\nSubject: mail 5\r\n\r\n)"
    ]
    assert wire.ok("UID FETCH 3 BODY[TEXT]").uid_fetched()[3]["FLAGS"] == ["\\Seen"]
    assert [str(r) for r in wire.ok("UID STORE * +FLAGS (\\Flagged)").untagged] == ["* 5 UIDFETCH (FLAGS (\\Flagged))"]
    assert wire.ok("UID SEARCH RETURN (SAVE ALL) FLAGGED").numbers() == [5]
    answer = wire.ok("UID MOVE $ Archive")
    assert [str(r) for r in answer.untagged][1:] == ["* VANISHED 5"]
    answer = wire.ok("APPEND Inbox", simple("own", 1))
    assert [str(r) for r in answer.untagged] == ["* 3 EXISTS"]
    wire.ok("UID STORE 2,3,6 +FLAGS.SILENT (\\Deleted)")
    assert [str(r) for r in wire.ok("UID EXPUNGE 3:10").untagged] == ["* VANISHED 3,6"]
    assert [str(r) for r in wire.ok("EXPUNGE").untagged] == ["* VANISHED 2"]
    assert wire.ok("SELECT Inbox").one("EXISTS").number == 0
    assert wire.ok("UID FETCH 1:* FLAGS").untagged == []
    assert wire.ok("UID STORE 1:* +FLAGS (\\Seen)").untagged == []


def test_it_can_be_enabled_with_a_mailbox_open(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session("Inbox")
    actor.ok("APPEND Inbox", simple("new", 1))
    assert wire.ok("ENABLE UIDONLY CONDSTORE").one("ENABLED").data == ("UIDONLY", "CONDSTORE")
    wire.ok("NOOP")
    actor.ok("UID STORE 2 +FLAGS.SILENT (\\Deleted)")
    actor.ok("EXPUNGE")
    tag = wire.idle()
    assert str(wire.take()) == "* VANISHED 2"
    actor.ok("APPEND Inbox (\\Flagged)", simple("new", 2))
    assert str(wire.take()) == "* 4 EXISTS"
    told = wire.take()
    assert (told.name, told.number, told.items["FLAGS"]) == ("UIDFETCH", 7, ["\\Flagged"])
    assert "MODSEQ" in told.items
    wire.done(tag)


def test_quick_resynchronisation_needs_no_numbers(imap_user: User, actor: Wire) -> None:
    wire = imap_user.session(enable="UIDONLY QRESYNC")
    answer = wire.ok("SELECT Inbox")
    uidvalidity, modseq = answer.status_code("UIDVALIDITY"), answer.status_code("HIGHESTMODSEQ")
    assert uidvalidity is not None
    assert modseq is not None
    wire.ok("UNSELECT")
    actor.ok("UID STORE 2 +FLAGS.SILENT (\\Deleted)")
    actor.ok("UID STORE 3 +FLAGS.SILENT (\\Seen)")
    actor.ok("EXPUNGE")
    answer = wire.ok(f"SELECT Inbox (QRESYNC ({uidvalidity[0]} {modseq[0]} 1:5))")
    assert answer.one("VANISHED").raw == b"* VANISHED (EARLIER) 2\r\n"
    assert answer.uid_fetched()[3]["FLAGS"] == ["\\Seen"]
    answer = wire.ok(f"UID FETCH 1:* (FLAGS) (CHANGEDSINCE {modseq[0]} VANISHED)")
    assert answer.one("VANISHED").raw == b"* VANISHED (EARLIER) 2\r\n"
    assert list(answer.uid_fetched()) == [3]


@pytest.mark.parametrize("seed", range(3))
def test_it_is_told_what_a_session_with_numbers_is_told(imap_user: User, seed: int) -> None:
    """Random changes by three sessions, one of them with UIDONLY: each knows the same in the end."""
    choose = random.Random(seed)
    plain, uidonly = Mirror(imap_user.session()), UidMirror(imap_user.session(enable="UIDONLY"))
    third = imap_user.session("Inbox")
    plain.select("Inbox")
    uidonly.select("Inbox")
    for number in range(60):
        uids = f"{choose.randint(1, 12)}:{choose.randint(1, 40)}"
        flag = choose.choice(["\\Seen", "\\Flagged", "\\Deleted", "todo"])
        sign = choose.choice(["+FLAGS", "-FLAGS", "FLAGS", "+FLAGS.SILENT"])
        commands = [f"UID STORE {uids} {sign} ({flag})", "EXPUNGE", f"UID MOVE {uids} Inbox", "NOOP", "UID SEARCH SEEN"]
        match choose.randint(0, 3):
            case 0:
                third.ok("APPEND Inbox", simple("mail", number), nonsync=True)
            case 1:
                third.ok(choose.choice(commands))
            case 2:
                plain.run(choose.choice(commands).replace(".SILENT", ""))
            case 3:
                uidonly.run(choose.choice(commands).replace(".SILENT", ""))
    for mirror in (plain, uidonly):
        mirror.run("NOOP")
        # A session's own new messages are told by EXISTS alone.
        mirror.run("UID FETCH 1:* (UID FLAGS)")
    fresh = imap_user.session("Inbox").ok("UID FETCH 1:* FLAGS")
    expected = {uid: frozenset(str(f).lower() for f in items["FLAGS"]) for uid, items in fresh.by_uid().items()}
    assert plain.state() == uidonly.state() == expected
