"""COMPRESS=DEFLATE over real connections, friendly and hostile ones; and UNAUTHENTICATE, which ends it."""

from __future__ import annotations

import os
import resource
import ssl
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.test_capabilities import LOGGED_IN, PLAIN_START, announced
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Closed, Wire
from tests.system.servers import Server

pytestmark = pytest.mark.database


def test_all_goes_on_compressed(imap_user: User) -> None:
    wire = imap_user.session()
    wire.compress()
    big = b"Subject: big\r\n\r\n" + (b"line of text " * 5 + b"\r\n") * 20_000 + os.urandom(200_000).hex().encode()
    wire.ok("APPEND Inbox", big)
    wire.ok("APPEND Inbox", simple("next", 1), nonsync=True)
    wire.ok("SELECT Inbox")
    fetched = wire.ok("FETCH 1:2 BODY.PEEK[]").fetched()
    assert fetched[1]["BODY[]"] == big
    assert fetched[2]["BODY[]"] == simple("next", 1)
    tag = wire.idle()
    imap_user.session().ok("APPEND Inbox", simple("next", 2), nonsync=True)
    assert wire.wait_for("EXISTS", 5).number == 3
    wire.done(tag)
    wire.no("COMPRESS DEFLATE", code="COMPRESSIONACTIVE")
    wire.bad("COMPRESS")
    assert wire.ok("LOGOUT").one("BYE")


def test_news_between_commands_come_compressed(imap_user: User) -> None:
    wire = imap_user.session("Inbox")
    wire.compress()
    wire.ok("NOTIFY SET (SELECTED (MessageNew MessageExpunge))")
    imap_user.session().ok("APPEND Inbox", simple("news", 1), nonsync=True)
    assert wire.wait_for("EXISTS", 5).number == 1
    wire.ok("UNAUTHENTICATE")
    wire.end_deflate()
    imap_user.session().ok("APPEND Inbox", simple("news", 2), nonsync=True)
    assert wire.ok("NOOP").untagged == []  # nobody's news are told to nobody


def test_under_tls_too(imap_user: User) -> None:
    wire = imap_user.connect_tls(ssl.TLSVersion.TLSv1_3)
    wire.login(imap_user.address, imap_user.password)
    wire.compress()
    wire.ok("SELECT Inbox")


def test_other_algorithms_and_other_states_are_refused(imap_user: User) -> None:
    wire = imap_user.connect()
    wire.bad("COMPRESS DEFLATE")
    wire.login(imap_user.address, imap_user.password)
    wire.no("COMPRESS LZ4")
    wire.bad("COMPRESS DEFLATE GZIP")
    wire.ok("NOOP")


def test_what_comes_along_with_the_command_is_compressed_already(imap_user: User) -> None:
    wire = imap_user.session()
    packer = zlib.compressobj(wbits=-15)
    early = packer.compress(b"y SELECT Inbox\r\nz NOOP\r\n") + packer.flush(zlib.Z_PARTIAL_FLUSH)
    wire.send_raw(b"x COMPRESS DEFLATE\r\n" + early)
    assert wire.answer("x").status == "OK"
    wire.start_deflate()
    assert wire.answer("y").status == "OK"
    assert wire.answer("z").status == "OK"


def memory(server: Server) -> int:
    """Bytes that the process that serves mail has in memory."""
    pid = server.child_pid("mail-1")
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def bomb(_: Wire) -> bytes:
    packer = zlib.compressobj(9, wbits=-15)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(60)) + packer.flush(zlib.Z_SYNC_FLUSH)


def line_bomb(wire: Wire) -> bytes:
    return wire.packed(b"x" * (20 << 20))


def garbage(_: Wire) -> bytes:
    return b"\xff" * 1000


def plain_text(_: Wire) -> bytes:
    return b"a NOOP\r\nb NOOP\r\n"


def zlib_header(_: Wire) -> bytes:
    return zlib.compress(b"a NOOP\r\n")


@pytest.mark.parametrize("attack", [bomb, line_bomb, garbage, plain_text, zlib_header])
def test_bombs_and_what_is_no_deflate_end_the_connection(imap_user: User, attack: Callable[[Wire], bytes]) -> None:
    server = imap_user.server
    wire = imap_user.session()
    wire.compress()
    before = memory(server)
    try:
        wire.send_raw(attack(wire))
        wire.expect_closed()
    except (Closed, ConnectionError):
        pass
    assert memory(server) - before < 30 << 20
    imap_user.session().ok("NOOP")


def test_a_bomb_in_a_literal_is_a_literal_that_is_too_big(imap_user: User) -> None:
    wire = imap_user.session()
    wire.compress()
    wire.send(b"x APPEND absent {900000+}\r\n" + bytes(900_000) + b"\r\n")
    assert wire.answer("x").code == ["TRYCREATE"]
    wire.send(b"x APPEND absent {200000000+}\r\n")
    assert any(str(response).startswith("* BYE [ALERT]") for response in wire.expect_closed())


# UNAUTHENTICATE.


def test_after_unauthenticate_the_connection_is_as_new(imap_user: User, new_imap_user: Callable[[], User]) -> None:
    wire = imap_user.session()
    wire.ok("ENABLE IMAP4rev2 QRESYNC")
    wire.utf8 = True
    wire.ok("APPEND Inbox (\\Deleted)", simple("kept", 1))
    wire.ok("SELECT Inbox")
    wire.ok("SEARCH RETURN (SAVE) ALL")
    answer = wire.ok("UNAUTHENTICATE")
    assert answer.untagged == []
    wire.utf8 = False
    wire.bad("NOOP x")
    wire.bad("FETCH 1 FLAGS")
    wire.bad("UNAUTHENTICATE")
    assert announced(wire) == f"* CAPABILITY {PLAIN_START}\r\n".encode()
    other = new_imap_user()
    assert wire.login(other.address, other.password).code == ["CAPABILITY", *LOGGED_IN.split()]
    opened = wire.ok("SELECT Inbox")
    assert opened.one("EXISTS").number == 0
    assert opened.named("RECENT")  # IMAP4rev1 again
    assert opened.status_code("HIGHESTMODSEQ") is None
    wire.bad("SELECT Inbox (QRESYNC (1 1))")
    wire.ok("UNAUTHENTICATE")
    wire.login(imap_user.address, imap_user.password)
    assert wire.ok("SELECT Inbox").one("EXISTS").number == 1  # nothing was expunged


def test_unauthenticate_ends_compression_after_its_answer(imap_user: User) -> None:
    wire = imap_user.session()
    for _ in range(2):
        wire.compress()
        wire.ok("SELECT Inbox")
        login = f"l LOGIN {imap_user.address} {imap_user.password}\r\n".encode()
        wire.send_raw(wire.packed(b"u UNAUTHENTICATE\r\n") + login)  # pipelined, as RFC 8437 3 lets clients do
        assert wire.answer("u").status == "OK"
        wire.end_deflate()
        assert wire.answer("l").status == "OK"
    assert announced(wire) == f"* CAPABILITY {LOGGED_IN}\r\n".encode()
