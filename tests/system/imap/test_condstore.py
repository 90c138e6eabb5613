"""CONDSTORE and QRESYNC (RFC 7162): what a client is told when it comes back, and when others write."""

from __future__ import annotations

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.mirror import Mirror, uidvalidity
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Answer, Wire, expand

pytestmark = pytest.mark.database


def fill(user: User, count: int, name: str = "Inbox", flags: str = "") -> Wire:
    wire = user.session()
    for number in range(1, count + 1):
        wire.ok(f"APPEND {name} {flags}".rstrip(), simple("mail", number), nonsync=True)
    return wire


def modseqs(answer: Answer) -> dict[int, int]:
    return {uid: int(items["MODSEQ"][0]) for uid, items in answer.by_uid().items()}


def highest(answer: Answer) -> int:
    value = answer.status_code("HIGHESTMODSEQ")
    assert value is not None, answer
    return int(value[0])


def vanished(answer: Answer, *, earlier: bool) -> list[int]:
    found: list[int] = []
    for response in answer.named("VANISHED"):
        assert (response.data[0] == ["EARLIER"]) == earlier, response
        found += expand(response.data[-1])
    assert found == sorted(set(found)), found
    return found


def test_without_condstore_no_modseq_is_told(imap_user: User) -> None:
    fill(imap_user, 2)
    wire = imap_user.session()
    answers = [
        wire.ok("SELECT Inbox"),
        wire.ok("STORE 1 +FLAGS (\\Seen)"),
        wire.ok("FETCH 1 FLAGS"),
        wire.ok("STORE 1 +FLAGS (\\Deleted)"),
        wire.ok("EXPUNGE"),
    ]
    for answer in answers:
        for response in (*answer.untagged, answer.tagged):
            assert b"MODSEQ" not in response.raw, response


@pytest.mark.parametrize(
    "command",
    [
        "ENABLE CONDSTORE",
        "ENABLE QRESYNC",
        "STATUS Archive (HIGHESTMODSEQ)",
        "FETCH 1 (MODSEQ)",
        "FETCH 1 (FLAGS) (CHANGEDSINCE 1)",
        "STORE 1 (UNCHANGEDSINCE 100000) +FLAGS (\\Seen)",
        "SEARCH MODSEQ 1",
    ],
)
def test_each_way_of_asking_for_modseqs_enables_them(imap_user: User, command: str) -> None:
    fill(imap_user, 1)
    wire = imap_user.session("Inbox")
    other = imap_user.session("Inbox")
    assert highest(wire.ok(command)) > 1
    other.ok("STORE 1 +FLAGS (\\Flagged)")
    told = wire.ok("NOOP").fetched()[1]
    assert "MODSEQ" in told
    assert "\\Flagged" in told["FLAGS"]


def test_select_with_condstore_tells_the_modseq(imap_user: User) -> None:
    fill(imap_user, 1)
    wire = imap_user.session()
    first = highest(wire.ok("SELECT Inbox (CONDSTORE)"))
    stored = wire.ok("STORE 1 +FLAGS (\\Seen)")
    modseq = modseqs(stored)[1]
    assert modseq > first
    assert wire.ok("STATUS Inbox (HIGHESTMODSEQ)").one("STATUS").data[1] == ["HIGHESTMODSEQ", str(modseq)]
    silent = wire.ok("STORE 1 +FLAGS.SILENT (\\Flagged)").fetched()[1]
    assert "FLAGS" not in silent
    assert int(silent["MODSEQ"][0]) > modseq
    wire.bad("SELECT Inbox (CONDSTORE CONDSTORE)")
    wire.bad("SELECT Inbox (QRESYNC (1 1))")  # not enabled


def test_setting_what_is_set_changes_no_modseq(imap_user: User) -> None:
    fill(imap_user, 1, flags="(\\Seen)")
    wire = imap_user.session()
    first = highest(wire.ok("SELECT Inbox (CONDSTORE)"))
    assert modseqs(wire.ok("STORE 1 +FLAGS (\\Seen)"))[1] <= first
    wire.ok("FETCH 1 BODY[]")
    assert highest(wire.ok("SELECT Inbox (CONDSTORE)")) == first


def test_a_conditional_store_leaves_what_others_changed(imap_user: User) -> None:
    """RFC 7162 3.1.3."""
    fill(imap_user, 4)
    wire, other = imap_user.session(), imap_user.session("Inbox")
    base = highest(wire.ok("SELECT Inbox (CONDSTORE)"))
    other.ok("STORE 2,4 +FLAGS (\\Flagged)")
    answer = wire.ok(f"STORE 1:4 (UNCHANGEDSINCE {base}) +FLAGS (\\Seen)")
    assert answer.status_code("MODIFIED") == ["2,4"]
    told = answer.fetched()
    assert {n: told[n]["FLAGS"] for n in told} == {
        1: ["\\Seen"],
        2: ["\\Flagged"],
        3: ["\\Seen"],
        4: ["\\Flagged"],
    }
    assert all("MODSEQ" in items for items in told.values())
    by_uid = wire.ok(f"UID STORE 2 (UNCHANGEDSINCE {base}) +FLAGS.SILENT (\\Seen)")
    assert by_uid.status_code("MODIFIED") == ["2"]
    assert by_uid.fetched()[2]["FLAGS"] == ["\\Flagged"]
    assert wire.ok("STORE 1 (UNCHANGEDSINCE 0) +FLAGS (\\Draft)").status_code("MODIFIED") == ["1"]
    now = modseqs(wire.ok("FETCH 2 MODSEQ"))[2]
    assert wire.ok(f"STORE 2 (UNCHANGEDSINCE {now}) +FLAGS (\\Seen)").status_code("MODIFIED") is None
    wire.bad("STORE 1 (UNCHANGEDSINCE x) +FLAGS (\\Seen)")
    wire.bad("STORE 1 (UNCHANGEDSINCE 9223372036854775808) +FLAGS (\\Seen)")
    assert wire.ok("STORE 1 (UNCHANGEDSINCE 9223372036854775807) +FLAGS (\\Seen)").code[:1] != ["MODIFIED"]


def test_fetch_changedsince_gives_only_what_changed(imap_user: User) -> None:
    fill(imap_user, 4)
    wire = imap_user.session()
    base = highest(wire.ok("SELECT Inbox (CONDSTORE)"))
    wire.ok("STORE 2,3 +FLAGS.SILENT (\\Seen)")
    changed = wire.ok(f"FETCH 1:* (FLAGS) (CHANGEDSINCE {base})").fetched()
    assert set(changed) == {2, 3}
    assert all("MODSEQ" in items for items in changed.values())
    assert set(wire.ok("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 0)").by_uid()) == {1, 2, 3, 4}
    assert wire.ok("FETCH 1:* (FLAGS) (CHANGEDSINCE 9223372036854775807)").fetched() == {}
    wire.bad("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 1 VANISHED)")  # needs QRESYNC
    wire.bad("FETCH 1:* (FLAGS) (CHANGEDSINCE 9223372036854775808)")
    wire.bad("FETCH 1:* (FLAGS) (CHANGEDSINCE)")


def test_reading_sets_seen_with_its_modseq(imap_user: User) -> None:
    fill(imap_user, 2)
    wire = imap_user.session()
    base = highest(wire.ok("SELECT Inbox (CONDSTORE)"))
    items = wire.ok("FETCH 1 (BODY[TEXT] MODSEQ)").fetched()[1]
    assert items["FLAGS"] == ["\\Seen"]
    assert int(items["MODSEQ"][0]) > base
    assert set(wire.ok(f"FETCH 1:* (UID) (CHANGEDSINCE {base})").fetched()) == {1}


def test_expunge_and_move_tell_vanished_uids_and_the_modseq(imap_user: User) -> None:
    fill(imap_user, 6)
    wire = imap_user.session(enable="QRESYNC")
    base = highest(wire.ok("SELECT Inbox"))
    wire.ok("STORE 2,4 +FLAGS.SILENT (\\Deleted)")
    answer = wire.ok("EXPUNGE")
    assert vanished(answer, earlier=False) == [2, 4]
    assert not answer.named("EXPUNGE")
    after = highest(answer)
    assert answer.tagged.code is not None
    assert answer.tagged.code[0] == "HIGHESTMODSEQ"
    assert after > base
    moved = wire.ok("UID MOVE 1,6 Archive")
    assert moved.untagged[0].code is not None
    assert moved.untagged[0].code[0] == "COPYUID"
    assert vanished(moved, earlier=False) == [1, 6]
    assert highest(moved) > after
    uid_expunge = wire.ok("UID STORE 5 +FLAGS.SILENT (\\Deleted)") and wire.ok("UID EXPUNGE 1:5")
    assert vanished(uid_expunge, earlier=False) == [5]


def test_the_example_of_the_specification(imap_user: User) -> None:
    """A session with QRESYNC from ENABLE to LIST-STATUS."""
    wire = fill(imap_user, 8)
    wire.ok("CREATE Archive/2024")
    wire = imap_user.session(enable="QRESYNC")
    first = wire.ok("SELECT Inbox")
    validity, base = uidvalidity(first), highest(first)
    other = imap_user.session("Inbox")
    other.ok("STORE 5 +FLAGS (\\Seen todo)")
    other.ok("UID STORE 6:7 +FLAGS (\\Deleted)")
    other.ok("EXPUNGE")
    wire.ok("UNSELECT")
    answer = wire.ok(f"SELECT Inbox (QRESYNC ({validity} {base} 1:8 (1:3 1:3)))")
    assert answer.tagged.code == ["READ-WRITE"]
    assert vanished(answer, earlier=True) == [6, 7]
    (number, items), *rest = answer.fetched().items()
    assert (number, items["UID"], set(items["FLAGS"]), rest) == (5, "5", {"\\Seen", "todo"}, [])
    names = [response.name for response in answer.untagged]
    assert names.index("FETCH") < names.index("VANISHED")
    stale = wire.ok(f"UID STORE 5 (UNCHANGEDSINCE {base}) +FLAGS.SILENT (\\Flagged)")
    assert stale.status_code("MODIFIED") == ["5"]
    assert set(stale.by_uid()[5]["FLAGS"]) == {"\\Seen", "todo"}
    found = wire.ok("UID SEARCH RETURN (MIN SAVE) UNSEEN").one("ESEARCH")
    assert found.data[1:] == ("UID", "MIN", "1")
    moved = wire.ok("UID MOVE $ Archive/2024")
    copyuid = moved.status_code("COPYUID")
    assert copyuid is not None
    assert copyuid[1:] == ["1", "1"]
    assert vanished(moved, earlier=False) == [1]
    listed = wire.ok('LIST (SUBSCRIBED) "" Inbox RETURN (STATUS (MESSAGES UNSEEN))')
    assert listed.one("LIST").data == (["\\Subscribed"], b"/", "Inbox")
    assert listed.one("STATUS").data == ("Inbox", ["MESSAGES", "5", "UNSEEN", "4"])


def test_qresync_with_another_uidvalidity_is_a_plain_select(imap_user: User) -> None:
    fill(imap_user, 2)
    wire = imap_user.session(enable="QRESYNC")
    validity = uidvalidity(wire.ok("SELECT Inbox"))
    answer = wire.ok(f"SELECT Inbox (QRESYNC ({validity + 1} 1 1:100))")
    assert answer.one("EXISTS").number == 2
    assert not answer.named("VANISHED")
    assert not answer.named("FETCH")


def test_qresync_is_limited_to_known_uids(imap_user: User) -> None:
    fill(imap_user, 6)
    wire = imap_user.session(enable="QRESYNC")
    first = wire.ok("SELECT Inbox")
    validity, base = uidvalidity(first), highest(first)
    wire.ok("STORE 1,3 +FLAGS.SILENT (\\Seen)")
    wire.ok("STORE 2,5 +FLAGS.SILENT (\\Deleted)")
    wire.ok("EXPUNGE")
    answer = wire.ok(f"SELECT Inbox (QRESYNC ({validity} {base} 1:2))")
    assert set(answer.by_uid()) == {1}
    assert vanished(answer, earlier=True) == [2]
    all_of_it = wire.ok(f"SELECT Inbox (QRESYNC ({validity} {base}))")
    assert set(all_of_it.by_uid()) == {1, 3}
    assert vanished(all_of_it, earlier=True) == [2, 5]


def test_sequence_match_data_narrows_what_is_reported(imap_user: User) -> None:
    """RFC 7162 3.2.5.2: pairs that still fit raise the lowest UID that is reported as vanished."""
    fill(imap_user, 10)
    wire = imap_user.session(enable="QRESYNC")
    first = wire.ok("SELECT Inbox")
    validity, base = uidvalidity(first), highest(first)
    wire.ok("STORE 8 +FLAGS.SILENT (\\Deleted)")
    wire.ok("EXPUNGE")
    answer = wire.ok(f"SELECT Inbox (QRESYNC ({validity} {base} 1:10 (1,5,7,10 1,5,7,10)))")
    assert vanished(answer, earlier=True) == [8]
    for data in ("(1:3 1:2)", "(3,1 1:2)", "(1:2 2,1)", "(1 0)", "()"):
        wire.bad(f"SELECT Inbox (QRESYNC ({validity} {base} 1:10 {data}))")
    wire.bad(f"SELECT Inbox (QRESYNC ({validity}))")
    wire.bad(f"SELECT Inbox (QRESYNC ({validity} 0))")
    wire.bad("SELECT Inbox (QRESYNC)")


def test_uid_fetch_vanished(imap_user: User) -> None:
    fill(imap_user, 6)
    wire = imap_user.session(enable="QRESYNC")
    base = highest(wire.ok("SELECT Inbox"))
    wire.ok("STORE 2,5 +FLAGS.SILENT (\\Deleted)")
    wire.ok("EXPUNGE")
    wire.ok("STORE 1 +FLAGS.SILENT (\\Seen)")
    answer = wire.ok(f"UID FETCH 1:4 (FLAGS) (CHANGEDSINCE {base} VANISHED)")
    assert vanished(answer, earlier=True) == [2]
    assert set(answer.by_uid()) == {1}
    names = [response.name for response in answer.untagged]
    assert names.index("VANISHED") < names.index("FETCH"), "RFC 7162 3.2.6: VANISHED comes before FETCH"
    wire.bad("UID FETCH 1:4 (FLAGS) (VANISHED)")
    wire.bad(f"FETCH 1:4 (FLAGS) (CHANGEDSINCE {base} VANISHED)")


def test_vanished_lines_are_bounded(imap_user: User) -> None:
    """Many single UIDs come in lines of at most 4 kB."""
    wire = imap_user.session(enable="QRESYNC")
    first = wire.ok("SELECT Inbox")
    validity, base = uidvalidity(first), highest(first)
    for number in range(10):
        wire.ok("APPEND Inbox", simple("mail", number), nonsync=True)
    for _ in range(8):  # a copy of everything doubles it
        wire.ok("COPY 1:* Inbox")
    count = 2560
    odd = ",".join(str(uid) for uid in range(1, count, 2))
    wire.ok(f"UID STORE {odd} +FLAGS.SILENT (\\Deleted)")
    answer = wire.ok("EXPUNGE")
    assert vanished(answer, earlier=False) == list(range(1, count, 2))
    assert all(len(response.raw) <= 4200 for response in answer.named("VANISHED"))
    again = wire.ok(f"SELECT Inbox (QRESYNC ({validity} {base} 1:{count}))")
    assert vanished(again, earlier=True) == list(range(1, count, 2))
    assert len(again.named("VANISHED")) > 1
    assert all(len(response.raw) <= 4200 for response in again.named("VANISHED"))


def test_a_client_that_was_away_resynchronises_to_the_state_of_a_fresh_one(imap_user: User) -> None:
    """What Thunderbird does at every start."""
    fill(imap_user, 30)
    away = Mirror(imap_user.session(enable="QRESYNC"))
    away.select("Inbox")
    away.wire.ok("UNSELECT")
    other = imap_user.session("Inbox")
    for round_ in range(3):
        other.ok(f"STORE {round_ + 1},{round_ + 7} +FLAGS.SILENT (\\Seen kw{round_})")
        other.ok(f"STORE {round_ + 4}:{round_ + 6} +FLAGS.SILENT (\\Deleted)")
        other.ok("EXPUNGE")
        other.ok(f"MOVE {round_ + 9} Archive")
        other.ok("APPEND Inbox (\\Flagged)", simple("later", round_))
        other.ok("COPY 1 Inbox")
        away.reopen()
        fresh = Mirror(imap_user.session())
        fresh.select("Inbox")
        assert away.state() == fresh.state()
        away.wire.ok("UNSELECT")


def test_a_mailbox_made_anew_is_noticed(imap_user: User) -> None:
    wire = imap_user.session(enable="QRESYNC")
    wire.ok("CREATE box")
    wire.ok("APPEND box", simple("old", 1))
    mirror = Mirror(wire)
    mirror.select("box")
    wire.ok("UNSELECT")
    other = imap_user.session()
    other.ok("DELETE box")
    other.ok("CREATE box")
    other.ok("APPEND box (\\Answered)", simple("new", 1))
    mirror.reopen()
    assert mirror.state() == {1: frozenset({"\\answered"})}
