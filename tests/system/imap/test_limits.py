"""Hostile and broken input: each gets a clear answer, and nobody else notices."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from accounts.models import Account
from tests.system.imap.conftest import User, tls_context
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Closed, Response, Wire

pytestmark = pytest.mark.database

LITERAL_MAX = 100_000


def raw_answer(wire: Wire, line: bytes) -> Response:
    wire.send(line)
    return wire.read()


def last_words(wire: Wire) -> list[str]:
    return [str(response) for response in wire.expect_closed()]


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/1.1\r\n", b"EHLO example.org\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n", b"\r\n"]
)
def test_who_speaks_no_imap_at_first_is_told_so(imap_user: User, line: bytes) -> None:
    wire = imap_user.connect()
    wire.send(line)
    assert last_words(wire)[-1] == "* BYE please try again speaking imap"


def test_commands_sent_along_with_starttls_are_an_attack(imap_user: User) -> None:
    wire = imap_user.connect()
    injected = f"a STARTTLS\r\nb LOGIN {imap_user.address} {imap_user.password}\r\n".encode()
    wire.send(injected)
    assert b"b OK" not in wire.read_to_end()


def test_login_before_starttls_does_not_survive_it(imap_user: User) -> None:
    wire = imap_user.connect()
    wire.no(f"LOGIN {imap_user.address} wrong-password")
    wire.start_tls(tls_context(imap_user.server))
    wire.bad("SELECT Inbox")


def test_a_line_may_have_64_kb_and_no_more(imap_user: User) -> None:
    wire = imap_user.session()
    name = "x" * 60_000
    wire.no(f"SELECT {name}")
    wire.send(b"b NOOP " + b"x" * 66_000)
    words = last_words(wire)
    assert words[-1].startswith("* BYE [ALERT] line too long"), words


def test_lines_may_end_in_a_bare_lf(imap_user: User) -> None:
    wire = imap_user.session()
    assert raw_answer(wire, b"x NOOP\n").raw.startswith(b"x OK")


def test_nul_and_unparsable_tags_are_bad(imap_user: User) -> None:
    wire = imap_user.session()
    assert raw_answer(wire, b"t\xe9g NOOP\r\n").raw.startswith(b"* BAD")
    assert raw_answer(wire, b"t+g NOOP\r\n").raw.startswith(b"* BAD")
    assert raw_answer(wire, b"(a) NOOP\r\n").raw.startswith(b"* BAD")
    assert raw_answer(wire, b"\r\n").raw.startswith(b"* BAD")
    assert raw_answer(wire, b"x\r\n").name == "BAD"
    assert raw_answer(wire, b"x SELECT in\0box\r\n").name == "BAD"
    assert raw_answer(wire, b'x SELECT "in\0box"\r\n').name == "BAD"
    wire.send(b"x SELECT {6+}\r\nin\0box\r\n")
    assert wire.read().name in ("BAD", "NO")
    wire.ok("NOOP")


def test_eight_bit_text_in_quoted_strings_is_refused_or_taken_as_a_name_but_harms_nothing(imap_user: User) -> None:
    wire = imap_user.session()
    assert raw_answer(wire, b'x SELECT "\xff\xfe"\r\n').name in ("BAD", "NO")
    assert raw_answer(wire, b'x LOGIN "\xff\xfe" x\r\n').name == "BAD"
    wire.ok("NOOP")


def test_a_huge_literal_is_refused_before_it_comes(imap_user: User) -> None:
    wire = imap_user.session()
    answer = raw_answer(wire, b"x SELECT {99999999999}\r\n")
    assert (answer.name, answer.code) == ("BAD", ["TOOBIG"])
    answer = raw_answer(wire, b"x SELECT {%d}\r\n" % (LITERAL_MAX + 1))
    assert (answer.name, answer.code) == ("BAD", ["TOOBIG"])
    wire.ok("NOOP")
    wire.no("SELECT", b"x" * LITERAL_MAX)
    answer = raw_answer(wire, b"x SELECT {99999999999999999999999999}\r\n")
    assert answer.name == "BAD"


def test_a_huge_literal_that_comes_unasked_ends_the_connection(imap_user: User) -> None:
    for wire, command in ((imap_user.connect(), b"LOGIN"), (imap_user.session(), b"SELECT")):
        wire.send(b"x %b {99999999999+}\r\n" % command)
        words = last_words(wire)
        assert words[0].startswith("* BYE [ALERT] literal too big"), words
        assert words[1].startswith("x BAD [TOOBIG]"), words


def test_before_login_literals_are_small(imap_user: User) -> None:
    wire = imap_user.connect()
    answer = raw_answer(wire, b"x LOGIN {16385}\r\n")
    assert (answer.name, answer.code) == ("BAD", ["TOOBIG"])
    wire.send(b"x LOGIN {10000+}\r\n" + b"u" * 10_000 + b" {10000+}\r\n" + b"p" * 10_000 + b"\r\n")
    words = last_words(wire)
    assert words[0].startswith("* BYE [ALERT] literal too big"), words


def test_a_command_has_a_thousand_literals_at_most(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.send(b"x SEARCH" + b" TEXT {1+}\r\nx" * 1000 + b"\r\n")
    assert wire.answer("x").status == "OK"
    wire.send(b"x SEARCH" + b" TEXT {1+}\r\nx" * 1000 + b" TEXT {1}\r\n")
    answer = wire.answer("x")
    assert (answer.status, answer.code) == ("BAD", ["TOOBIG"])
    wire.ok("NOOP")


def test_literals_together_have_a_megabyte_at_most(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    piece = b" TEXT {100000+}\r\n" + b"x" * LITERAL_MAX
    wire.send(b"x SEARCH" + piece * 9 + b" TEXT {100000}\r\n")
    response = wire.read()
    if response.tag == "+":
        wire.send(b"y" * LITERAL_MAX + b" TEXT {100000}\r\n")
        response = wire.read()
    assert (response.name, response.code) == ("BAD", ["TOOBIG"])


def test_after_a_syntax_error_a_literal_that_comes_anyway_ends_the_connection(imap_user: User) -> None:
    wire = imap_user.session()
    wire.send(b"x NOSUCHCOMMAND {14+}\r\ny CREATE evil\r\nz NOOP\r\n")
    words = last_words(wire)
    assert words[0].startswith("x BAD"), words
    assert not any(word.startswith(("y ", "z ")) for word in words), words
    assert imap_user.session().ok('LIST "" evil').untagged == []


def test_search_keys_nest_fifty_deep(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.ok("SEARCH " + "(" * 45 + "ALL" + ")" * 45)
    wire.bad("SEARCH " + "(" * 60 + "ALL" + ")" * 60)
    wire.bad("SEARCH " + "NOT " * 60 + "ALL")
    wire.bad("SEARCH " + "OR " * 60 + "ALL " * 61)
    wire.bad("SEARCH " + "(" * 20_000)
    wire.ok("SEARCH " + "ALL " * 9_000 + "ALL")
    wire.bad("SEARCH " + "ALL " * 10_001 + "ALL")


def test_numbers_of_four_billion_cost_nothing(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok("APPEND Inbox", simple("one", 1), nonsync=True)
    wire.ok("SELECT Inbox")
    started = time.monotonic()
    wire.bad("FETCH 1:4294967295 FLAGS")
    assert len(wire.ok("UID FETCH 1:4294967295 (FLAGS)").fetched()) == 1
    assert len(wire.ok("UID FETCH 4294967295:1,1:*,*:1 (FLAGS)").fetched()) == 1
    assert wire.ok("SEARCH UID 1:4294967295").numbers() == [1]
    assert wire.ok("SEARCH 1:4294967295").numbers() == [1]
    wire.ok("UID STORE 2:4294967295 +FLAGS (\\Seen)")
    wire.ok("UID EXPUNGE 1:4294967295")
    many = ",".join(f"{number}:4294967295" for number in range(1, 3000))
    assert len(wire.ok(f"UID FETCH {many} (FLAGS)").fetched()) == 1
    assert time.monotonic() - started < 10


def test_twenty_bad_commands_in_a_row_are_too_many(imap_user: User) -> None:
    wire = imap_user.session()
    for _ in range(2):
        for _ in range(15):
            wire.bad("NOSUCHCOMMAND")
        wire.ok("NOOP")
    with contextlib.suppress(Closed):
        for _ in range(25):
            wire.send(b"x NOSUCHCOMMAND\r\n")
            response = wire.read()
            if response.name == "BYE":
                break
    assert str(response) == "* BYE too many bad commands"
    wire.expect_closed()


def test_before_login_an_error_does_not_repeat_the_input(imap_user: User) -> None:
    wire = imap_user.connect()
    wire.ok("NOOP")
    assert b"sEcReT" not in wire.bad("LOGIN user sEcReT sEcReT").tagged.raw
    assert b"sEcReT" not in wire.bad("sEcReT").tagged.raw


def test_id_takes_thirty_pairs_and_a_line_of_32_kb(imap_user: User) -> None:
    wire = imap_user.connect()
    pairs = " ".join(f'"name{number}" "{"x" * 1024}"' for number in range(30))
    wire.ok(f"ID ({pairs})")
    wire.bad(f'ID ({pairs} "one-more" "x")')
    wire.bad(f'ID ("name" "{"x" * 1025}")')


@pytest.mark.parametrize(
    "begun",
    [
        b"x APPEND Inbox {1000}\r\n",
        b"x APPEND Inbox {1000+}\r\nSubject: half a mess",
        b"x APPEND Inbox {200000+}\r\n" + b"x" * 150_000,
        b"x SELECT {10+}\r\nInb",
        b"x APPEND Inbox {5+}\r\nhello",
        b"x SEARCH TEXT {4}\r\n",
        b"x IDLE\r\n",
        b"x FET",
    ],
    ids=["announced", "half", "spooled", "name", "no-line-end", "search", "idle", "command"],
)
def test_a_client_that_vanishes_in_the_middle_leaves_nothing(imap_user: User, begun: bytes) -> None:
    wire = imap_user.session("Inbox")
    wire.send(begun)
    wire.close()
    other = imap_user.session()
    status = other.ok("STATUS Inbox (MESSAGES UIDNEXT)").one("STATUS")
    assert status.data[1] == ["MESSAGES", "0", "UIDNEXT", "1"]


def test_a_client_that_does_not_read_hinders_nobody(imap_user: User) -> None:
    message = b"Subject: big\r\n\r\n" + b"0123456789" * 6 + b"\r\n"
    message += (b"x" * 70 + b"\r\n") * 60_000  # 4 MB
    loader = imap_user.session()
    loader.ok("APPEND Inbox", message, nonsync=True)
    stuck = imap_user.session("Inbox")
    stuck.send(b"x FETCH 1 (BODY.PEEK[])\r\n" * 50)
    assert stuck.socket.recv(1000)
    started = time.monotonic()
    loader.ok("SELECT Inbox")
    assert len(loader.ok("FETCH 1 BODY.PEEK[]").fetched()[1]["BODY[]"]) == len(message)
    loader.ok("STORE 1 +FLAGS (\\Seen)")
    loader.ok("APPEND Inbox", simple("next", 1))
    assert time.monotonic() - started < 10
    stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stuck.close()
    loader.ok("NOOP")


def test_quota_refuses_before_the_message_is_sent(imap_user: User) -> None:
    Account.objects.filter(pk=imap_user.account.pk).update(quota_message_size=1000)
    wire = imap_user.session("Inbox")
    answer = raw_answer(wire, b"x APPEND Inbox {2000}\r\n")
    assert (answer.name, answer.code) == ("NO", ["OVERQUOTA"])
    wire.ok("APPEND Inbox", b"Subject: x\r\n\r\n" + b"y" * 600)
    refused = wire.command("APPEND Inbox", b"z" * 600, nonsync=True)
    assert (refused.status, refused.code) == ("NO", ["OVERQUOTA"])
    wire.no("COPY 1 Archive", code="OVERQUOTA")
    wire.ok("MOVE 1 Archive")
    assert wire.ok("STATUS Archive (MESSAGES SIZE)").one("STATUS").data[1][1] == "1"


def test_a_large_unasked_literal_for_a_missing_mailbox_ends_the_connection(imap_user: User) -> None:
    wire = imap_user.session()
    small = b"Subject: lost\r\n\r\n" + b"x" * 500_000
    assert wire.command("APPEND absent", small, nonsync=True).code == ["TRYCREATE"]
    wire.ok("NOOP")
    wire.send(b"x APPEND absent {50000000+}\r\n")
    assert any(word.startswith("* BYE [ALERT]") for word in last_words(wire))


def test_messages_of_any_bytes_come_back_as_they_were_sent(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    bodies = [
        b"no header at all, just text\r\n",
        b"\r\nbody after an empty header\r\n",
        b"Subject: 8-bit \xff\xfe\r\n\r\nraw \x80\x81 bytes\r\n",
        b"Subject: long line\r\n\r\n" + b"y" * 200_000 + b"\r\n",
        b"Subject: no end of line",
        b": empty name\r\n =: \r\nX\r\n\r\nx\r\n",
        b'Content-Type: multipart/mixed; boundary="\r\n\r\n--\r\n',
    ]
    for number, body in enumerate(bodies, 1):
        wire.ok("APPEND Inbox", body)
        items = wire.ok(f"FETCH {number} (RFC822.SIZE BODY.PEEK[] BODYSTRUCTURE ENVELOPE)").fetched()[number]
        got = items["BODY[]"]
        assert got.endswith(body), (number, got[:100])
        assert len(got) == int(items["RFC822.SIZE"])
        assert got in (body, b"\r\n" + body)


def test_bare_line_feeds_become_line_ends(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.ok("APPEND Inbox", b"Subject: unix\n\nfirst\nsecond\r\nthird\n")
    items = wire.ok("FETCH 1 (RFC822.SIZE BODY.PEEK[])").fetched()[1]
    assert items["BODY[]"] == b"Subject: unix\r\n\r\nfirst\r\nsecond\r\nthird\r\n"
    assert int(items["RFC822.SIZE"]) == len(items["BODY[]"])


def test_nul_comes_with_literal8_only_and_never_out_of_body(imap_user: User) -> None:
    content = b"Subject: nul\r\nContent-Type: application/x\r\nContent-Transfer-Encoding: binary\r\n\r\nab\0cd"
    wire = imap_user.session("Inbox")
    refused = wire.command("APPEND Inbox", content, nonsync=True)
    assert refused.status in ("NO", "BAD")  # and what follows a literal that came unasked cannot be trusted
    wire = imap_user.session("Inbox")
    wire.send(b"x APPEND Inbox ~{%d+}\r\n%b\r\n" % (len(content), content))
    assert wire.answer("x").status == "OK"
    fetched = wire.ok(
        "FETCH 1:* (BODY.PEEK[] BINARY.PEEK[1] BINARY.SIZE[1])"
    ).fetched()  # the client refuses NUL in BODY
    items = fetched[max(fetched)]
    assert items["BINARY[1]"] == b"ab\0cd"
    assert items["BINARY.SIZE[1]"] == "5"
    assert b"base64" in items["BODY[]"]


def test_the_server_closes_after_tls_to_the_plain_port(imap_user: User) -> None:
    with imap_user.server.connect(imap_user.server.imap_port) as raw:
        raw.recv(1000)
        raw.sendall(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00" * 10)
        raw.shutdown(socket.SHUT_WR)
        rest = b""
        while block := raw.recv(1000):
            rest += block
    assert b"OK" not in rest
