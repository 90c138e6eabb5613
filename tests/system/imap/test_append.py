"""Several messages in one APPEND, all or none, and REPLACE of one by another: what is stored, told, and left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from accounts.models import Account
from tests.system.imap.conftest import User
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Answer, Wire

pytestmark = pytest.mark.database

BIG = b"Subject: big\r\n\r\n" + b"x" * 100_000 + b"\r\n"  # stored as a file


def counts(wire: Wire, mailbox: str = "Inbox") -> list[str]:
    return list(wire.ok(f"STATUS {mailbox} (MESSAGES UIDNEXT)").one("STATUS").data[1][1::2])


def multiappend(wire: Wire, mailbox: str, messages: list[bytes], *, flags: str = "") -> Answer:
    """All messages at once, in literals that nobody asked for."""
    parts = b"".join(b" %b{%d+}\r\n%b" % (flags.encode(), len(message), message) for message in messages)
    wire.send(b"m APPEND " + mailbox.encode() + parts + b"\r\n")
    return wire.answer("m")


def files(user: User) -> set[Path]:
    return {path for path in (user.server.directory / "msg").rglob("*") if path.is_file()}


@pytest.fixture
def nothing_left(imap_user: User) -> Iterator[None]:
    """No content is left in files after what was refused."""
    before = files(imap_user)
    yield
    assert files(imap_user) <= before


# MULTIAPPEND.


def test_several_messages_are_stored_in_order_with_their_flags_and_dates(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    answer = wire.ok(
        "APPEND Inbox (\\Seen todo)", simple("many", 1), ' " 1-Feb-2004 10:20:30 +0100"', BIG, " (\\Flagged)", b"x\r\n"
    )
    assert answer.one("EXISTS").number == 3
    assert answer.code[0] == "APPENDUID"
    assert answer.code[2] == "1:3"
    fetched = wire.ok("FETCH 1:3 (FLAGS INTERNALDATE BODY.PEEK[])").fetched()
    assert set(fetched[1]["FLAGS"]) == {"\\Seen", "todo"}
    assert fetched[2]["INTERNALDATE"] == b"01-Feb-2004 10:20:30 +0100"
    assert fetched[3]["FLAGS"] == ["\\Flagged"]
    assert [fetched[number]["BODY[]"] for number in (1, 2, 3)] == [simple("many", 1), BIG, b"\r\nx\r\n"]
    assert multiappend(wire, "Archive", [simple("many", n) for n in range(40)]).code[2] == "1:40"
    wire.ok("APPEND Inbox", simple("many", 4), " ", simple("many", 5), nonsync=True)


def test_another_session_sees_them_together(imap_user: User) -> None:
    watcher = imap_user.session("Inbox")
    tag = watcher.idle()
    multiappend(imap_user.session(), "Inbox", [simple("many", n) for n in range(5)])
    assert watcher.wait_for("EXISTS", 5).number == 5
    watcher.done(tag)


@pytest.mark.usefixtures("nothing_left")
def test_a_refused_message_in_the_middle_refuses_them_all(imap_user: User) -> None:
    Account.objects.filter(pk=imap_user.account.pk).update(quota_message_size=300_000)
    wire = imap_user.session("Inbox")
    # The third does not fit beside the others: its client is told before it sends it.
    refused = wire.command("APPEND Inbox", BIG, " ", BIG, " ", BIG)
    assert (refused.status, refused.code) == ("NO", ["OVERQUOTA"])
    assert counts(wire) == ["0", "1"]
    # Or, where it comes anyway, after it; the connection goes on.
    assert multiappend(wire, "Inbox", [BIG, BIG, BIG, b"small\r\n"]).code == ["OVERQUOTA"]
    assert multiappend(wire, "Inbox", [simple("one", 1), b"", BIG]).status == "NO"
    assert multiappend(wire, "Inbox", [BIG, b"Subject: x\r\n\r\na\0b"]).status == "BAD"
    assert counts(wire) == ["0", "1"]
    # A message too large to be read for nothing ends it.
    wire.send(b"x APPEND Inbox {%d+}\r\n%b {50000000+}\r\n" % (len(BIG), BIG))
    assert any(str(response).startswith("* BYE [ALERT]") for response in wire.expect_closed())
    wire = imap_user.session()
    assert counts(wire) == ["0", "1"]
    assert multiappend(wire, "Inbox", [simple("one", 1), simple("one", 2)]).status == "OK"


@pytest.mark.usefixtures("nothing_left")
def test_broken_syntax_after_a_message_refuses_them_all(imap_user: User) -> None:
    wire = imap_user.session()
    for rest in (b" (\\Seen", b" x", b" {5", b"(\\Seen) {1}", b" (\\Bogus) {1}", b" UTF8 {1}", b" \0 {1}", b")"):
        wire.send(b"x APPEND Inbox {%d+}\r\n%b%b\r\n" % (len(BIG), BIG, rest))
        assert wire.answer("x").status == "BAD", rest
    wire.send(b"x APPEND Inbox {%d+}\r\n%b (\\Bogus) {14+}\r\ny CREATE evil\r\nz NOOP\r\n" % (len(BIG), BIG))
    words = [str(response) for response in wire.expect_closed()]
    assert words[0].startswith("x BAD")
    assert len(words) == 1
    wire = imap_user.session()
    assert counts(wire) == ["0", "1"]
    assert wire.ok('LIST "" evil').untagged == []


def test_a_client_that_vanishes_between_messages_leaves_nothing(imap_user: User) -> None:
    wire = imap_user.session()
    wire.send(b"x APPEND Inbox {%d+}\r\n%b {100+}\r\nhalf" % (len(BIG), BIG))
    wire.close()
    assert counts(imap_user.session()) == ["0", "1"]


def test_an_append_has_five_hundred_messages_at_most(imap_user: User) -> None:
    wire = imap_user.session()
    assert multiappend(wire, "Inbox", [b"x"] * 501).code == ["LIMIT"]
    assert counts(wire) == ["0", "1"]


def test_a_missing_mailbox_refuses_before_or_after_the_message(imap_user: User) -> None:
    wire = imap_user.session()
    wire.no("APPEND absent", BIG, code="TRYCREATE")
    assert multiappend(wire, "absent", [BIG, BIG]).code == ["TRYCREATE"]
    assert multiappend(wire, "&bad", [simple("one", 1)]).code == ["CANNOT"]
    # A mailbox that this session has open read-only can still be added to: APPEND is not about what is open.
    wire.ok("EXAMINE Inbox")
    assert wire.ok("APPEND Inbox", simple("one", 1)).one("EXISTS").number == 1


# UTF8 (RFC 6855 4).


def test_messages_in_the_form_for_utf8_are_taken_after_enabling(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    text = "Subject: Grüße\r\n\r\nhallo\r\n".encode()
    form = b"x APPEND Inbox (\\Seen) UTF8 (~{%d+}\r\n%b)\r\n" % (len(text), text)
    wire.send(form)
    assert wire.answer("x").status == "BAD"
    wire.ok("APPEND Inbox", text)
    wire.ok("ENABLE UTF8=ACCEPT")
    wire.utf8 = True
    wire.send(form)
    assert wire.answer("x").status == "OK"
    wire.send(form[:-2] + b" UTF8 (~{%d+}\r\n%b) {3+}\r\nabc\r\n" % (len(text), text))
    assert wire.answer("x").status == "OK"
    assert wire.ok("FETCH 1:* BODY.PEEK[]").fetched()[4]["BODY[]"] == text
    wire.bad("APPEND Inbox UTF8 ({5}")
    wire.send(b"x APPEND Inbox UTF8 (~{%d+}\r\n%b\r\n" % (len(text), text))
    assert wire.answer("x").status == "BAD"
    assert counts(wire) == ["5", "6"]


# REPLACE.


def test_a_draft_is_replaced_by_its_next_version(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    multiappend(wire, "Inbox", [simple("draft", n) for n in (1, 2, 3)])
    answer = wire.ok('REPLACE 2 inbox (\\Draft $new) " 1-Feb-2004 10:20:30 +0100"', simple("draft", 4))
    told = [str(response) for response in answer.untagged if response.name not in ("FLAGS",)]
    assert told[0].startswith("* OK [PERMANENTFLAGS") or told[0].startswith("* OK [APPENDUID")
    assert [response.name for response in answer.untagged if response.name in ("EXISTS", "EXPUNGE")] == [
        "EXISTS",
        "EXPUNGE",
    ]
    assert (answer.one("EXISTS").number, answer.one("EXPUNGE").number) == (4, 2)
    uidvalidity = wire.ok("STATUS Inbox (UIDVALIDITY)").one("STATUS").data[1][1]
    assert answer.status_code("APPENDUID") == [uidvalidity, "4"]
    assert sorted(wire.ok("FETCH 1:* FLAGS").by_uid()) == [1, 3, 4]
    assert set(wire.ok("UID FETCH 4 FLAGS").by_uid()[4]["FLAGS"]) == {"\\Draft", "$new"}
    # To another mailbox, by UID; `*` is the last.
    moved = wire.ok("UID REPLACE 3 Drafts", simple("draft", 5))
    assert [response.name for response in moved.untagged] == ["OK", "EXPUNGE"]
    assert counts(wire, "Drafts") == ["1", "2"]
    wire.ok("REPLACE * Inbox", simple("draft", 6), nonsync=True)
    assert sorted(wire.ok("FETCH 1:* FLAGS").by_uid()) == [1, 5]


def test_with_qresync_the_old_one_vanishes(imap_user: User) -> None:
    wire = imap_user.session("Inbox", enable="QRESYNC")
    wire.ok("APPEND Inbox", simple("draft", 1))
    answer = wire.ok("UID REPLACE 1 Inbox", simple("draft", 2))
    assert answer.one("VANISHED").data == ("1",)
    assert answer.code[0] == "HIGHESTMODSEQ"
    assert answer.code[1] == wire.ok("STATUS Inbox (HIGHESTMODSEQ)").one("STATUS").data[1][1]


@pytest.mark.usefixtures("nothing_left")
def test_nothing_is_added_where_the_old_one_is_gone(imap_user: User) -> None:
    wire, other = imap_user.session("Inbox"), imap_user.session("Inbox")
    multiappend(wire, "Inbox", [simple("draft", n) for n in (1, 2)])
    other.ok("NOOP")
    # Between the announcement and the message.
    wire.send(b"x UID REPLACE 1 Drafts {%d}\r\n" % len(BIG))
    assert wire.read().tag == "+"
    other.ok("UID STORE 1 +FLAGS.SILENT (\\Deleted)")
    other.ok("EXPUNGE")
    wire.send(BIG + b"\r\n")
    refused = wire.answer("x")
    assert refused.status == "NO"
    assert refused.one("EXPUNGE").number == 1
    assert counts(wire, "Drafts") == ["0", "1"]
    # Before it.
    other.ok("UID STORE 2 +FLAGS.SILENT (\\Deleted)")
    other.ok("EXPUNGE")
    wire.no("UID REPLACE 2 Drafts", BIG)
    assert wire.command("UID REPLACE 99 Drafts", BIG, nonsync=True).status == "NO"
    wire.bad("REPLACE 99 Drafts {5}")
    assert counts(wire, "Drafts") == ["0", "1"]


def test_replace_keeps_its_hands_off_what_is_read_only_or_missing(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.ok("APPEND Inbox", simple("draft", 1))
    wire.no("REPLACE 1 absent", simple("draft", 2), code="TRYCREATE")
    for broken in ("REPLACE 1:2 Inbox {5}", "REPLACE $ Inbox {5}", "REPLACE 0 Inbox {5}", "REPLACE 1 Inbox", "REPLACE"):
        wire.bad(broken)
    wire.send(b"x REPLACE 1 Inbox {1+}\r\na {1}\r\n")  # one message only
    assert wire.answer("x").status == "BAD"
    Account.objects.filter(pk=imap_user.account.pk).update(quota_message_size=1000)
    wire.ok("REPLACE 1 Inbox", b"x" * 900)  # room is what the old one leaves
    wire.ok("REPLACE 1 Inbox", b"y" * 900)
    wire.no("REPLACE 1 Inbox", b"y" * 1100, code="OVERQUOTA")
    wire.ok("EXAMINE Inbox")
    wire.no("REPLACE 1 Inbox", b"z")
    assert counts(wire) == ["1", "4"]


def test_with_uidonly_messages_are_replaced_by_uid_alone(imap_user: User) -> None:
    wire = imap_user.session("Inbox", enable="UIDONLY")
    multiappend(wire, "Inbox", [simple("draft", n) for n in (1, 2)])
    wire.bad("REPLACE 1 Inbox {5}", code="UIDREQUIRED")
    answer = wire.ok("UID REPLACE 1 Inbox", simple("draft", 3))
    assert answer.one("EXISTS").number == 3
    assert answer.one("VANISHED").data == ("1",)
    wire.ok("UID REPLACE * Inbox", simple("draft", 4))
    wire.no("UID REPLACE 3 Inbox {5}")
    assert counts(wire) == ["2", "5"]


# Binary content (RFC 3516).


def append_binary(wire: Wire, content: bytes) -> Answer:
    wire.send(b"x APPEND Inbox ~{%d+}\r\n%b\r\n" % (len(content), content))
    return wire.answer("x")


def test_binary_parts_come_back_byte_for_byte(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    everything = bytes(range(256)) * 300  # NUL, bare CR and LF
    without_nul = b"\x01\n\x02\r\x03\r\n" * 10_000
    part = b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n\r\n"
    content = (
        b'Subject: mixed\r\nContent-Type: multipart/mixed; boundary="b"\r\n\r\n'
        b"--b\r\nContent-Transfer-Encoding: binary\r\n\r\nunix\ntext\r\n"
        b"--b\r\n" + part + everything + b"\r\n--b\r\n" + part + without_nul + b"\r\n--b--\r\n"
    )
    assert append_binary(wire, content).status == "OK"
    items = wire.ok("FETCH 1 (BINARY.PEEK[1] BINARY.PEEK[2] BINARY.PEEK[3] BODY.PEEK[] BINARY.SIZE[3])").fetched()[1]
    assert items["BINARY[1]"] == b"unix\r\ntext"
    assert items["BINARY[2]"] == everything
    assert items["BINARY[3]"] == without_nul
    assert items["BINARY.SIZE[3]"] == str(len(without_nul))
    assert items["BODY[]"].count(b"base64") == 2
    assert b"\0" not in items["BODY[]"]


def test_nul_where_it_may_not_be_is_refused(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    for content in (b"Subject: a\0b\r\n\r\ntext\r\n", b"Subject: x\r\n\r\na\0b\r\n"):
        assert append_binary(wire, content).code == ["UNKNOWN-CTE"]
    assert counts(wire) == ["0", "1"]
