"""What one session does, another hears: at once in IDLE, at the next command otherwise, and never where it may not."""

from __future__ import annotations

import contextlib
import os
import smtplib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mox_project import localserve
from tests.system.imap.conftest import User, tls_context
from tests.system.imap.mirror import Mirror
from tests.system.imap.test_capabilities import BASE
from tests.system.imap.transcript import simple
from tests.system.imap.wire import Response, Wire
from tests.system.servers import PROJECT, Server, running

SOON = 1.0  # seconds within which IDLE tells (imap.md 4.8)
CONNECTIONS_TRIED = 60  # until each mail process has accepted one


@pytest.fixture
def pair(imap_user: User) -> tuple[Wire, Wire]:
    """Two sessions of an account with three messages in Inbox, both with it selected."""
    first = imap_user.session()
    for number in range(1, 4):
        first.ok("APPEND Inbox", simple("mail", number), nonsync=True)
    first.ok("SELECT Inbox")
    return first, imap_user.session("Inbox")


def heard(wire: Wire, count: int, timeout: float = SOON) -> list[Response]:
    """So many responses of an idling session, that come soon after what caused them."""
    deadline = time.monotonic() + timeout
    return [wire.take(max(deadline - time.monotonic(), 0.01)) for _ in range(count)]


@pytest.mark.database
def test_idle_tells_within_a_second(pair: tuple[Wire, Wire]) -> None:
    actor, idler = pair
    tag = idler.idle()
    actor.ok("APPEND Inbox (\\Flagged)", simple("new", 4))
    exists, fetch = heard(idler, 2)
    assert (exists.name, exists.number) == ("EXISTS", 4)
    assert (fetch.number, fetch.items) == (4, {"UID": "4", "FLAGS": ["\\Flagged"]})
    actor.ok("STORE 2 +FLAGS (\\Seen)")
    (fetch,) = heard(idler, 1)
    assert (fetch.number, fetch.items) == (2, {"UID": "2", "FLAGS": ["\\Seen"]})
    actor.ok("STORE 1,3 +FLAGS.SILENT (\\Deleted)")
    heard(idler, 2)
    actor.ok("EXPUNGE")
    assert [(r.name, r.number) for r in heard(idler, 2)] == [("EXPUNGE", 1), ("EXPUNGE", 2)]
    actor.ok("UID MOVE 2 Archive")
    assert [(r.name, r.number) for r in heard(idler, 1)] == [("EXPUNGE", 1)]
    answer = idler.done(tag)
    assert answer.status == "OK"
    assert not answer.untagged


@pytest.mark.database
def test_idle_tells_a_new_keyword_before_it_is_used(pair: tuple[Wire, Wire]) -> None:
    actor, idler = pair
    tag = idler.idle()
    actor.ok("STORE 1 +FLAGS (brandnew)")
    flags, permanent, fetch = heard(idler, 3)
    assert "brandnew" in flags.data[0]
    assert permanent.code is not None
    assert "brandnew" in permanent.code[1]
    assert fetch.items["FLAGS"] == ["brandnew"]
    idler.done(tag)


@pytest.mark.database
def test_idle_first_tells_what_happened_before_it(pair: tuple[Wire, Wire]) -> None:
    actor, idler = pair
    actor.ok("STORE 1 +FLAGS (\\Seen)")
    tag = idler.idle()
    (fetch,) = heard(idler, 1)
    assert fetch.items["FLAGS"] == ["\\Seen"]
    idler.send(b"dOnE\r\n")
    assert idler.answer(tag).status == "OK"


@pytest.mark.database
def test_idle_ends_only_by_done(pair: tuple[Wire, Wire]) -> None:
    _, idler = pair
    idler.idle()
    idler.send(b"x NOOP\r\n")
    assert not any(str(r).startswith("x OK") for r in idler.expect_closed())


@pytest.mark.database
def test_idle_works_without_a_mailbox_and_tells_of_mailboxes(imap_user: User) -> None:
    actor, idler = imap_user.session(), imap_user.session()
    tag = idler.idle()
    actor.ok("CREATE a/b")
    listed = heard(idler, 2)
    assert [r.data[2] for r in listed] == ["a", "a/b"]
    actor.ok("SUBSCRIBE a/b")
    (subscribed,) = heard(idler, 1)
    assert subscribed.data == (["\\Subscribed"], b"/", "a/b")
    actor.ok("RENAME a/b a/c")
    renamed = heard(idler, 1)[-1]
    assert renamed.data[2] == "a/c"
    idler.done(tag)


@pytest.mark.database
def test_imap4rev2_hears_old_names_and_removals(imap_user: User) -> None:
    actor = imap_user.session()
    actor.ok("CREATE one")
    rev2, rev1 = imap_user.session(enable="IMAP4rev2"), imap_user.session()
    actor.ok("RENAME one two")
    renamed = rev2.ok("NOOP").one("LIST")
    assert renamed.raw.replace(b'"', b"") == b"* LIST () / two (OLDNAME (one))\r\n"
    listed = rev1.ok("NOOP").one("LIST")
    assert listed.data == ([], b"/", "two")
    actor.ok("DELETE two")
    assert rev2.ok("NOOP").one("LIST").data == (["\\NonExistent"], b"/", "two")
    assert rev1.ok("NOOP").untagged == []


@pytest.mark.database
def test_nothing_is_told_during_fetch_store_and_search(pair: tuple[Wire, Wire]) -> None:
    """RFC 9051 7.5.1: sequence numbers that the client is using must not shift."""
    actor, other = pair
    actor.ok("APPEND Inbox", simple("new", 4))
    actor.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
    actor.ok("EXPUNGE")
    for command in (
        "FETCH 2:3 UID",
        "STORE 2 +FLAGS.SILENT (\\Seen)",
        "SEARCH 2:3",
        "FETCH 3 BODY.PEEK[TEXT]",
        "SEARCH RETURN (COUNT) ALL",
    ):
        answer = other.ok(command)
        assert not answer.named("EXPUNGE"), command
        assert not answer.named("EXISTS"), command
    answer = other.ok("NOOP")
    assert [(r.name, r.number) for r in answer.untagged if r.name in ("EXPUNGE", "EXISTS")] in (
        [("EXPUNGE", 1), ("EXISTS", 3)],
        [("EXISTS", 4), ("EXPUNGE", 1)],
    )


@pytest.mark.database
@pytest.mark.parametrize(
    "command",
    [
        "NOOP",
        "CHECK",
        "STATUS Archive (MESSAGES)",
        'LIST "" Archive',
        "UID FETCH 2 FLAGS",
        "UID STORE 2 +FLAGS (\\Draft)",
        "UID SEARCH ALL",
        "COPY 2 Archive",
        "UID COPY 2 Archive",
        "EXPUNGE",
        "CREATE somewhere",
        "SUBSCRIBE Archive",
        "NAMESPACE",
    ],
)
def test_other_commands_tell_before_they_end(pair: tuple[Wire, Wire], command: str) -> None:
    actor, other = pair
    mirror = Mirror(other)
    mirror.select("Inbox")
    actor.ok("APPEND Inbox", simple("new", 4))
    actor.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
    actor.ok("EXPUNGE")
    mirror.run(command)
    assert mirror.uids == [2, 3, 4]
    mirror.run("NOOP")
    assert set(mirror.state()) == {2, 3, 4}


@pytest.mark.database
def test_own_changes_are_not_told_again(pair: tuple[Wire, Wire]) -> None:
    wire, _ = pair
    wire.ok("STORE 1:2 +FLAGS.SILENT (\\Seen)")
    wire.ok("COPY 3 Archive")
    wire.ok("APPEND Inbox", simple("own", 4))
    wire.ok("STORE 4 +FLAGS.SILENT (\\Deleted)")
    wire.ok("EXPUNGE")
    assert wire.ok("NOOP").untagged == []


@pytest.mark.database
def test_own_changes_do_not_hide_what_others_did_before(pair: tuple[Wire, Wire]) -> None:
    actor, other = pair
    actor.ok("APPEND Inbox (\\Answered)", simple("foreign", 4))
    actor.ok("STORE 2 +FLAGS.SILENT (\\Flagged)")
    answer = other.ok("APPEND Inbox", simple("own", 5))
    mirror = Mirror(other)
    mirror.by_number, mirror.flags = [1, 2, 3], {uid: frozenset() for uid in (1, 2, 3)}
    mirror.take(answer)
    mirror.run("STORE 2 +FLAGS (\\Seen)")
    mirror.run("NOOP")
    mirror.run("FETCH 5 (UID FLAGS)")
    assert mirror.state() == {
        1: frozenset(),
        2: frozenset({"\\flagged", "\\seen"}),
        3: frozenset(),
        4: frozenset({"\\answered"}),
        5: frozenset(),
    }


@pytest.mark.database
def test_a_silent_store_still_hears_what_others_set(pair: tuple[Wire, Wire]) -> None:
    """The client knows its own change only: what another set on the same message before has to be told."""
    actor, other = pair
    actor.ok("STORE 1 +FLAGS.SILENT (\\Flagged)")
    answer = other.ok("STORE 1 +FLAGS.SILENT (\\Seen)")
    told = [*answer.named("FETCH"), *other.ok("NOOP").named("FETCH")]
    assert told, "the other session's flag was never told"
    assert set(told[-1].items["FLAGS"]) == {"\\Flagged", "\\Seen"}


@pytest.mark.database
def test_sessions_with_qresync_hear_vanished(pair: tuple[Wire, Wire], imap_user: User) -> None:
    actor, _ = pair
    wire = imap_user.session("Inbox", enable="QRESYNC")
    tag = wire.idle()
    actor.ok("STORE 1:2 +FLAGS.SILENT (\\Deleted)")
    assert all("MODSEQ" in r.items for r in heard(wire, 2))
    actor.ok("EXPUNGE")
    assert [r.raw for r in heard(wire, 1)] == [b"* VANISHED 1:2\r\n"]
    assert wire.done(tag).untagged == []


@pytest.mark.database
def test_a_removed_mailbox_can_be_read_to_the_end(imap_user: User) -> None:
    actor = imap_user.session()
    actor.ok("CREATE box")
    actor.ok("APPEND box", simple("kept", 1))
    reader = imap_user.session("box")
    actor.ok("DELETE box")
    assert reader.ok("FETCH 1 BODY.PEEK[TEXT]").fetched()[1]["BODY[TEXT]"] == b"Body of kept 1.\r\n"
    reader.no("STORE 1 +FLAGS (\\Seen)", code="NONEXISTENT")
    reader.ok("CLOSE")
    reader.no("SELECT box", code="NONEXISTENT")


@pytest.mark.database
def test_examine_changes_nothing_and_hears_everything(imap_user: User) -> None:
    writer = imap_user.session()
    writer.ok("APPEND Inbox", simple("mail", 1))
    writer.ok("SELECT Inbox")
    reader = imap_user.session()
    answer = reader.ok("EXAMINE Inbox")
    assert answer.tagged.code == ["READ-ONLY"]
    assert answer.status_code("PERMANENTFLAGS") == [[]]
    assert "FLAGS" not in reader.ok("FETCH 1 BODY[]").fetched()[1]
    assert reader.ok("FETCH 1 FLAGS").fetched()[1]["FLAGS"] == []
    for command in ("STORE 1 +FLAGS (\\Seen)", "UID STORE 1 FLAGS ()", "EXPUNGE", "MOVE 1 Archive", "UID EXPUNGE 1"):
        reader.no(command)
    reader.ok("COPY 1 Archive")
    writer.ok("STORE 1 +FLAGS (\\Deleted)")
    assert reader.ok("NOOP").fetched()[1]["FLAGS"] == ["\\Deleted"]
    reader.ok("CLOSE")
    assert writer.ok("NOOP").untagged == []


@pytest.mark.database
def test_messages_delivered_by_smtp_are_told(imap_user: User) -> None:
    idler = imap_user.session("Inbox")
    tag = idler.idle()
    with smtplib.SMTP(imap_user.server.ip, imap_user.server.smtp_port, timeout=20) as smtp:
        smtp.sendmail("sender@example.org", [imap_user.address], simple("delivered", 1))
    exists, fetch = heard(idler, 2)
    assert (exists.name, exists.number) == ("EXISTS", 1)
    assert fetch.items["UID"] == "1"
    idler.done(tag)
    body = idler.ok("FETCH 1 (BODY.PEEK[] ENVELOPE)").fetched()[1]
    assert body["BODY[]"].endswith(b"Body of delivered 1.\r\n")
    assert body["ENVELOPE"][1] == b"delivered 1"


# Two mail processes, and a listener that wants TLS.

SET_UP = """
import sys, django
from mox_project import localserve
from pathlib import Path
localserve.claim(Path(sys.argv[1]))
django.setup()
from server.models import Listener
localserve.set_up(Path(sys.argv[1]), sys.argv[2])
Listener.objects.update(imap_no_require_starttls=False)
"""


@pytest.fixture(scope="module")
def strict_server(directory: Path, server_ip: str) -> Iterator[Server]:
    """A server with two mail processes whose IMAP listener wants TLS before a login."""
    if os.environ.get("MOX_DATABASE_URL"):
        pytest.skip("needs a database of its own, this run is on PostgreSQL")
    ip = server_ip.rsplit(".", 1)[0] + ".200"
    own = Server(directory / "imap-strict", ip)
    environment = {**os.environ, "MOX_DATA_DIR": str(own.directory), "DJANGO_SETTINGS_MODULE": "mox_project.settings"}
    subprocess.run(
        [sys.executable, "-c", SET_UP, str(own.directory), ip], cwd=PROJECT, env=environment, check=True, timeout=60
    )
    with running(own, env={"MOX_MAIL_WORKERS": "2"}):
        yield own


def process_of(server: Server, wire: Wire) -> int:
    """The mail process that holds the other end of a connection."""
    port = wire.socket.getsockname()[1]
    for number in (1, 2):
        pid = server.child_pid(f"mail-{number}")
        assert pid is not None
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.raddr and connection.raddr.port == port and connection.raddr.ip == wire.source:
                return pid
    raise AssertionError("no mail process holds the connection")


@pytest.fixture
def on_both(strict_server: Server) -> Iterator[Callable[[], tuple[Wire, Wire]]]:
    """Makes logged in sessions of mox@localhost on different mail processes."""
    with contextlib.ExitStack() as stack:

        def make() -> tuple[Wire, Wire]:
            found: dict[int, Wire] = {}
            for _ in range(CONNECTIONS_TRIED):
                context = tls_context(strict_server)
                wire = stack.enter_context(Wire(strict_server.ip, strict_server.imaps_port, tls=context))
                found[process_of(strict_server, wire)] = wire
                if len(found) == 2:
                    first, second = found.values()
                    first.login(f"mox@{localserve.DOMAIN}", localserve.PASSWORD)
                    second.login(f"mox@{localserve.DOMAIN}", localserve.PASSWORD)
                    return first, second
            raise AssertionError(f"{CONNECTIONS_TRIED} connections went to one process")

        yield make


def test_sessions_on_different_processes_hear_each_other(on_both: Callable[[], tuple[Wire, Wire]]) -> None:
    actor, idler = on_both()
    actor.ok("CREATE crossing")
    actor.ok("SELECT crossing")
    idler.ok("SELECT crossing")
    idler.ok("NOOP")  # hears of the new mailbox
    tag = idler.idle()
    actor.ok("APPEND crossing", simple("mail", 1))
    assert [r.name for r in heard(idler, 2)] == ["EXISTS", "FETCH"]
    actor.ok("STORE 1 +FLAGS (\\Deleted)")
    assert heard(idler, 1)[0].items["FLAGS"] == ["\\Deleted", "$NotJunk"]
    actor.ok("EXPUNGE")
    assert [r.name for r in heard(idler, 1)] == ["EXPUNGE"]
    idler.done(tag)
    idler.ok("APPEND crossing", simple("mail", 2))
    assert [r.name for r in actor.ok("NOOP").untagged] == ["EXISTS", "FETCH"]


def test_without_tls_nobody_logs_in_where_it_is_required(strict_server: Server) -> None:
    with Wire(strict_server.ip, strict_server.imap_port) as wire:
        words = f"{BASE} AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-1 AUTH=CRAM-MD5 STARTTLS LOGINDISABLED"
        assert wire.ok("CAPABILITY").one("CAPABILITY").raw == f"* CAPABILITY {words}\r\n".encode()
        wire.no(f"LOGIN mox@localhost {localserve.PASSWORD}", code="PRIVACYREQUIRED")
        wire.no("AUTHENTICATE PLAIN AGEAYg==", code="PRIVACYREQUIRED")
        wire.start_tls(tls_context(strict_server))
        wire.ok(f"LOGIN mox@localhost {localserve.PASSWORD}")


def test_at_shutdown_idling_sessions_are_told(strict_server: Server) -> None:
    """The last test of this server."""
    with Wire(strict_server.ip, strict_server.imaps_port, tls=tls_context(strict_server)) as wire:
        wire.login("mox@localhost", localserve.PASSWORD)
        wire.idle()
        started = time.monotonic()
        assert strict_server.stop() == 0, strict_server.tail()
        assert time.monotonic() - started < 10
        assert [str(r) for r in wire.expect_closed()][-1] == "* BYE shutting down"
