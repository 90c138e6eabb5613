"""SORT, THREAD, ESORT, PARTIAL and object ids, as a client asks for them over a connection."""

from __future__ import annotations

import re

import pytest

from store import index, text
from store.models import Mailbox
from tests.system.imap.conftest import User
from tests.system.imap.wire import Answer, Value, Wire, expand

pytestmark = pytest.mark.database

# From, To, Cc, Subject, Date, and what more there is in the header; INTERNALDATE; lines of the body.
MESSAGES = (
    ("zoe@example.org", "b@x", "", "Re: plans", "Mon, 5 Feb 2024 10:00:00 +0000", "References: <1@x>", 20, 1),
    ("Adam <x@example.org>", "c@x", "d@x", "[list] Apples", "Mon, 5 Feb 2024 10:30:00 +0200", "", 19, 4),
    ("Émile <emile@example.org>", "a@x", "e@x", "plans", "Sun, 4 Feb 2024 10:00:00 +0000", "", 18, 2),
    ("bob@example.org", "A@x", "", "", "no date", "References: <9@x> <2@x>", 17, 3),
    ("Bob@example.org", "", "", "zebra", "Tue, 6 Feb 2024 10:00:00 +0000", "In-Reply-To: <2@x>", 16, 9),
)


def filled(user: User) -> Wire:
    wire = user.session()
    for number, (sender, to, cc, subject, date, more, day, size) in enumerate(MESSAGES, 1):
        fields = {"From": sender, "To": to, "Cc": cc, "Subject": subject, "Date": date, "Message-ID": f"<{number}@x>"}
        header = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
        header += f"{more}\r\n" if more else ""
        body = "line\r\n" * size * 100
        wire.ok(f'APPEND Inbox "{day}-Mar-2024 10:00:00 +0000"', f"{header}\r\n{body}".encode(), nonsync=True)
    wire.ok("SELECT Inbox")
    return wire


def order(answer: Answer) -> list[int]:
    return [int(number) for number in answer.one("SORT").data]


def esearch(answer: Answer) -> dict[str, Value]:
    """The results of an ESEARCH line by name."""
    words = list(answer.one("ESEARCH").data[1:])
    if words[:1] == ["UID"]:
        words = words[1:]
    return {str(name): value for name, value in zip(words[::2], words[1::2], strict=True)}


ORDERS = (
    ("ARRIVAL", [5, 4, 3, 2, 1]),
    ("REVERSE ARRIVAL", [1, 2, 3, 4, 5]),
    ("SIZE", [1, 3, 4, 2, 5]),
    ("DATE", [3, 2, 1, 5, 4]),  # the fourth has none: its INTERNALDATE counts
    ("SUBJECT", [4, 2, 1, 3, 5]),
    ("REVERSE SUBJECT", [5, 1, 3, 2, 4]),  # equals stay as they are
    ("SUBJECT REVERSE DATE", [4, 2, 1, 3, 5]),
    ("FROM", [4, 5, 3, 2, 1]),
    ("TO", [5, 3, 4, 1, 2]),
    ("CC ARRIVAL", [5, 4, 1, 2, 3]),
    ("DISPLAYFROM", [2, 4, 5, 3, 1]),
    ("DISPLAYTO", [5, 3, 4, 1, 2]),
)


def test_it_sorts(imap_user: User) -> None:
    wire = filled(imap_user)
    for criteria, expected in ORDERS:
        assert order(wire.ok(f"SORT ({criteria}) UTF-8 ALL")) == expected, criteria
    wire.ok("STORE 2 +FLAGS (\\Deleted)")
    wire.ok("EXPUNGE")
    for criteria, expected in ORDERS:
        left = [uid for uid in expected if uid != 2]
        assert order(wire.ok(f"UID SORT ({criteria}) US-ASCII ALL")) == left, criteria
        assert order(wire.ok(f"SORT ({criteria}) US-ASCII ALL")) == [uid - (uid > 2) for uid in left]


def test_it_sorts_what_a_search_finds(imap_user: User) -> None:
    wire = filled(imap_user)
    assert order(wire.ok("SORT (SUBJECT) UTF-8 FROM bob")) == [4, 5]
    assert order(wire.ok("SORT (REVERSE SUBJECT) UTF-8 FROM bob NOT 1:2")) == [5, 4]
    assert wire.ok("SORT (DATE) UTF-8 FROM nobody").one("SORT").data == ()
    wire.ok("ENABLE CONDSTORE")
    answer = wire.ok("SORT (REVERSE ARRIVAL) UTF-8 MODSEQ 1")
    assert answer.one("SORT").data[:5] == ("1", "2", "3", "4", "5")
    assert answer.one("SORT").data[5][0] == "MODSEQ"
    assert wire.no("SORT (DATE) KOI8-R ALL").code[0] == "BADCHARSET"
    for wrong in ("()", "(AGE)", "DATE", "(REVERSE)", "(DATE REVERSE)", "(DATE)"):
        wire.bad(f"SORT {wrong} UTF-8" + ("" if wrong == "(DATE)" else " ALL"))
    wire.bad("SORT RETURN (ALL PARTIAL 1:2) (DATE) UTF-8 ALL")


def test_esort_gives_results_in_order(imap_user: User) -> None:
    wire = filled(imap_user)
    answer = wire.ok("UID SORT RETURN (MIN MAX COUNT ALL) (DATE) UTF-8 ALL")
    assert answer.one("ESEARCH").raw.startswith(b"* ESEARCH (TAG ")
    assert esearch(answer) == {"MIN": "3", "MAX": "4", "COUNT": "5", "ALL": "3,2,1,5,4"}
    assert esearch(wire.ok("SORT RETURN () (REVERSE ARRIVAL) UTF-8 ALL")) == {"ALL": "1:5"}
    assert esearch(wire.ok("SORT RETURN (PARTIAL 2:3) (DATE) UTF-8 ALL")) == {"PARTIAL": ["2:3", "2,1"]}
    assert esearch(wire.ok("SORT RETURN (PARTIAL -2:-1) (DATE) UTF-8 ALL")) == {"PARTIAL": ["-2:-1", "5,4"]}
    assert esearch(wire.ok("SORT RETURN (COUNT MIN) (DATE) UTF-8 FROM nobody")) == {"COUNT": "0"}
    assert wire.ok("SORT RETURN (SAVE MAX) (DATE) UTF-8 ALL").named("SORT") == []
    assert wire.ok("SEARCH $").numbers() == [4]


def test_partial_gives_pages(imap_user: User) -> None:
    wire = filled(imap_user)
    for asked, expected in (
        ("1:2", "1:2"),
        ("2:1", "1:2"),
        ("4:10", "4:5"),
        ("6:9", None),
        ("-1:-2", "4:5"),
        ("-4:-100", "1:2"),
        ("-6:-9", None),
    ):
        assert esearch(wire.ok(f"SEARCH RETURN (PARTIAL {asked}) ALL")) == {"PARTIAL": [asked, expected]}
        answer = wire.ok(f"UID SEARCH RETURN (COUNT PARTIAL {asked}) ALL")
        assert esearch(answer) == {"COUNT": "5", "PARTIAL": [asked, expected]}
        uids = expand(expected) if expected else []
        assert sorted(wire.ok(f"UID FETCH 1:* (FLAGS) (PARTIAL {asked})").by_uid()) == uids
    assert esearch(wire.ok("UID SEARCH RETURN (PARTIAL -1:-1) OR SUBJECT plans SUBJECT apples")) == {
        "PARTIAL": ["-1:-1", "3"]
    }
    wire.ok("SEARCH RETURN (SAVE PARTIAL 2:3) ALL")
    assert wire.ok("SEARCH $").numbers() == [2, 3]
    wire.ok("SEARCH RETURN (SAVE MAX PARTIAL 2:3) ALL")
    assert wire.ok("SEARCH $").numbers() == [2, 3, 5]
    wire.ok("SEARCH RETURN (SAVE COUNT PARTIAL 2:3) ALL")
    assert wire.ok("SEARCH $").numbers() == [1, 2, 3, 4, 5]
    wire.ok("STORE 2,4 +FLAGS (\\Seen)")
    since = min(int(items["MODSEQ"][0]) for items in wire.ok("FETCH 2,4 (MODSEQ)").by_uid().values()) - 1
    changed = wire.ok(f"UID FETCH 1:* (FLAGS) (PARTIAL -1:-1 CHANGEDSINCE {since})")
    assert sorted(changed.by_uid()) == [4], "of those that changed"
    for wrong in ("PARTIAL", "PARTIAL 0:1", "PARTIAL 1", "PARTIAL -1:2", "PARTIAL 1:*", "PARTIAL 1:2 PARTIAL 1:2"):
        wire.bad(f"SEARCH RETURN ({wrong}) ALL")
        wire.bad(f"UID FETCH 1:* (FLAGS) ({wrong})")


def test_it_threads(imap_user: User) -> None:
    wire = filled(imap_user)
    expected = b"* THREAD (3 1)(2 (5)(4))\r\n"
    assert wire.ok("THREAD REFERENCES UTF-8 ALL").one("THREAD").raw == expected
    while text.make_due():  # where References are read from
        pass
    assert wire.ok("UID THREAD REFERENCES UTF-8 ALL").one("THREAD").raw == expected
    assert wire.ok("THREAD ORDEREDSUBJECT UTF-8 ALL").one("THREAD").raw == b"* THREAD (3 1)(2)(5)(4)\r\n"
    assert wire.ok("THREAD REFERENCES US-ASCII NOT 2").one("THREAD").raw == b"* THREAD (3 1)((5)(4))\r\n"
    assert wire.ok("THREAD REFERENCES US-ASCII FROM nobody").one("THREAD").raw == b"* THREAD\r\n"
    assert wire.no("THREAD REFERENCES KOI8-R ALL").code[0] == "BADCHARSET"
    wire.bad("THREAD REFS UTF-8 ALL")
    wire.bad("THREAD REFERENCES ALL")


def test_object_ids_stay(imap_user: User) -> None:
    wire = filled(imap_user)
    inbox = wire.ok("SELECT Inbox").status_code("MAILBOXID")
    created = wire.ok("CREATE Folder").status_code("MAILBOXID")
    assert created is not None
    assert inbox != created
    wire.ok("RENAME Folder Other/Name")
    assert wire.ok("STATUS Other/Name (MAILBOXID MESSAGES)").one("STATUS").data[1][:2] == ["MAILBOXID", created[0]]
    before = wire.ok("FETCH 1:5 (EMAILID THREADID)").by_uid()
    assert len({tuple(items["EMAILID"]) for items in before.values()}) == 5
    for items in before.values():
        for name in ("EMAILID", "THREADID"):
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,255}", items[name][0])
    wire.ok("COPY 3 Other/Name")
    wire.ok("MOVE 1 Other/Name")
    wire.ok("SELECT Other/Name")
    after = wire.ok("UID FETCH 1:* (EMAILID THREADID)").by_uid()
    assert [after[1][name] for name in ("EMAILID", "THREADID")] == [before[3][n] for n in ("EMAILID", "THREADID")]
    assert [after[2][name] for name in ("EMAILID", "THREADID")] == [before[1][n] for n in ("EMAILID", "THREADID")]
    email, thread = before[1]["EMAILID"][0], before[1]["THREADID"][0]
    assert wire.ok(f"SEARCH EMAILID {email}").numbers() == [2]
    assert 2 in wire.ok(f"SEARCH THREADID {thread}").numbers()
    assert wire.ok(f"SEARCH NOT EMAILID {email}").numbers() == [1]
    for absent in ("M999999999", f"{email}-0123456789abcdef", "X1", email.lower()):
        assert wire.ok(f"SEARCH EMAILID {absent}").numbers() == []
    assert wire.ok("SEARCH THREADID T999999999").numbers() == []
    wire.bad("SEARCH EMAILID (x)")
    wire.bad("FETCH 1 (MAILBOXID)")


def test_a_search_of_an_indexed_mailbox_finds_what_one_without_index_found(imap_user: User) -> None:
    wire = imap_user.session()
    for number in range(101):
        body = f"From: a{number % 3}@x\r\nSubject: number {number}\r\n\r\nneedle{number % 50} in the text\r\n"
        wire.ok("APPEND Inbox", body.encode(), nonsync=True)
    wire.ok("SELECT Inbox")
    asked = ("BODY needle17", "SUBJECT 'number 9'", "FROM a2@x", "TEXT needle4 NOT SUBJECT 44", "HEADER subject er")
    without = [wire.ok(f"SEARCH {key}".replace("'", '"')).numbers() for key in asked]
    while text.make_due():
        pass
    assert index.build_segment(imap_user.account.pk, least=1) == 101
    assert [wire.ok(f"SEARCH {key}".replace("'", '"')).numbers() for key in asked] == without
    assert without[0] == [18, 68]
    assert Mailbox.objects.get(account=imap_user.account, name="Inbox").total == 101


def test_without_message_numbers_there_are_uids(imap_user: User) -> None:
    filled(imap_user).close()
    wire = imap_user.session(enable="UIDONLY", select="Inbox")
    assert order(wire.ok("UID SORT (DATE) UTF-8 ALL")) == [3, 2, 1, 5, 4]
    assert wire.ok("UID THREAD REFERENCES UTF-8 ALL").one("THREAD").raw == b"* THREAD (3 1)(2 (5)(4))\r\n"
    assert esearch(wire.ok("UID SEARCH RETURN (PARTIAL -1:-2) ALL")) == {"PARTIAL": ["-1:-2", "4:5"]}
    for command in ("SORT (DATE) UTF-8 ALL", "THREAD REFERENCES UTF-8 ALL", "UID SORT (DATE) UTF-8 1:2"):
        assert wire.bad(command).code[0] == "UIDREQUIRED"
