"""Libraries of others and curl, used as their users use them; and many connections at once."""

from __future__ import annotations

import asyncio
import imaplib
import ssl
import threading
import time
from pathlib import Path

import aioimaplib
import imap_tools
import imapclient
import pytest

from tests.system.imap.conftest import User, tls_context
from tests.system.imap.programs import needs, run
from tests.system.imap.transcript import simple

pytestmark = pytest.mark.database


# Python libraries.


def test_imaplib_reads_and_writes(imap_user: User) -> None:
    client = imaplib.IMAP4_SSL(
        imap_user.server.ip, imap_user.server.imaps_port, ssl_context=tls_context(imap_user.server), timeout=20
    )
    client.login(imap_user.address, imap_user.password)
    assert client.create("work")[0] == "OK"
    date = imaplib.Time2Internaldate(1_700_000_000)
    typ, data = client.append("work", "(\\Seen)", date, simple("mail", 1))
    assert typ == "OK"
    assert b"APPENDUID" in data[0]
    assert client.select("work") == ("OK", [b"1"])
    typ, found = client.search(None, "SUBJECT", '"mail 1"')
    assert (typ, found) == ("OK", [b"1"])
    typ, fetched = client.fetch("1", "(RFC822 FLAGS)")
    assert isinstance(fetched[0], tuple)
    assert fetched[0][1] == simple("mail", 1)
    assert client.copy("1", "Archive")[0] == "OK"
    assert client.store("1", "+FLAGS", "\\Deleted")[0] == "OK"
    assert client.expunge() == ("OK", [b"1"])
    assert client.close()[0] == "OK"
    assert client.status("Archive", "(MESSAGES)")[1] == [b"Archive (MESSAGES 1)"]
    typ, listed = client.list()
    assert any(line and line.endswith(b"work") for line in listed if isinstance(line, bytes))
    assert client.logout()[0] == "BYE"


def test_imapclient_reads_writes_and_idles(imap_user: User) -> None:
    with imapclient.IMAPClient(
        imap_user.server.ip, imap_user.server.imaps_port, ssl_context=tls_context(imap_user.server), timeout=20
    ) as client:
        client.login(imap_user.address, imap_user.password)
        assert client.find_special_folder(b"\\Sent") == "Sent"
        client.create_folder("Entwürfe & mehr")
        assert client.folder_exists("Entwürfe & mehr")
        client.append("INBOX", simple("mail", 1), [imapclient.SEEN])
        client.append("INBOX", simple("mail", 2))
        assert client.select_folder("INBOX")[b"EXISTS"] == 2
        assert client.search(["UNSEEN"]) == [2]
        assert client.search(["SUBJECT", "mail 1"]) == [1]
        fetched = client.fetch([1, 2], ["ENVELOPE", "BODYSTRUCTURE", "INTERNALDATE", "RFC822.SIZE"])
        assert fetched[2][b"ENVELOPE"].subject == b"mail 2"
        assert not fetched[2][b"BODYSTRUCTURE"].is_multipart
        client.add_flags(2, ["todo", imapclient.FLAGGED])
        assert set(client.get_flags([2])[2]) == {b"todo", imapclient.FLAGGED}
        client.idle()
        imap_user.session().ok("APPEND Inbox", simple("mail", 3))
        assert (3, b"EXISTS") in client.idle_check(timeout=5)
        client.idle_done()
        client.move([1, 3], "Archive")
        assert client.search() == [2]
        client.delete_messages([2])
        client.uid_expunge([2])
        assert client.folder_status("INBOX", ["MESSAGES"]) == {b"MESSAGES": 0}
        client.rename_folder("Entwürfe & mehr", "Archive/Entwürfe")
        client.unsubscribe_folder("Archive")
        assert "Archive/Entwürfe" in [name for _, _, name in client.list_folders()]
        client.delete_folder("Archive/Entwürfe")


def test_imap_tools_reads_writes_and_waits(imap_user: User) -> None:
    box = imap_tools.MailBox(
        imap_user.server.ip, imap_user.server.imaps_port, ssl_context=tls_context(imap_user.server), timeout=20
    )
    with box.login(imap_user.address, imap_user.password) as client:
        assert {folder.name for folder in client.folder.list()} >= {"Inbox", "Sent", "Trash"}
        client.folder.create("Grüße/2024")
        client.append(simple("mail", 1), "Inbox", flag_set=[imap_tools.MailMessageFlags.FLAGGED])
        client.append(simple("mail", 2), "Inbox")
        (flagged,) = client.fetch(imap_tools.AND(flagged=True), mark_seen=False)
        assert (flagged.subject, flagged.from_, flagged.uid) == ("mail 1", "mail@example.org", "1")
        assert client.uids(imap_tools.AND(subject="mail", seen=False)) == ["1", "2"]
        client.flag("2", ["todo", imap_tools.MailMessageFlags.SEEN], True)
        client.move("1", "Grüße/2024")
        assert client.folder.status("Grüße/2024")["MESSAGES"] == 1
        with client.idle as idle:
            imap_user.session().ok("APPEND Inbox", simple("mail", 3))
            assert any(b"EXISTS" in line for line in idle.poll(timeout=5))
        client.delete("2")
        assert client.uids() == ["3"]


def test_aioimaplib_reads_writes_and_idles(imap_user: User) -> None:
    async def work() -> None:
        client = aioimaplib.IMAP4_SSL(
            imap_user.server.ip, imap_user.server.imaps_port, timeout=20, ssl_context=tls_context(imap_user.server)
        )
        await client.wait_hello_from_server()
        assert (await client.login(imap_user.address, imap_user.password)).result == "OK"
        assert (await client.append(simple("mail", 1), "Inbox", "\\Flagged")).result == "OK"
        assert (await client.select("Inbox")).result == "OK"
        assert (await client.uid_search("FLAGGED")).lines[0] == b"1"
        fetched = await client.uid("fetch", "1", "(FLAGS BODY.PEEK[])")
        assert simple("mail", 1) in fetched.lines
        waiting = await client.idle_start(timeout=30)
        imap_user.session().ok("APPEND Inbox", simple("mail", 2))
        assert b"2 EXISTS" in await client.wait_server_push()
        client.idle_done()
        await asyncio.wait_for(waiting, 10)
        assert (await client.uid("store", "1", "+FLAGS", "(\\Deleted)")).result == "OK"
        assert (await client.uid("move", "2", "Archive")).result == "OK"
        assert (await client.expunge()).result == "OK"
        assert (await client.uid_search("ALL")).lines[0] == b""
        await client.logout()

    asyncio.run(work())


# curl.


@needs("curl", "curl")
def test_curl_searches_uploads_and_reads(imap_user: User, tmp_path: Path) -> None:
    upload = tmp_path / "mail.eml"
    upload.write_bytes(simple("curl", 1))
    base = f"imap://{imap_user.server.ip}:{imap_user.server.imap_port}"
    login = ("--user", f"{imap_user.address}:{imap_user.password}", "--silent", "--show-error")
    run("curl", *login, f"{base}/Inbox", "--upload-file", str(upload))
    assert "* SEARCH 1" in run("curl", *login, f"{base}/Inbox", "-X", "SEARCH SEEN")  # so curl appends
    assert run("curl", *login, f"{base}/Inbox;UID=1/;SECTION=TEXT") == "Body of curl 1.\r\n"
    tls = ("--cacert", str(imap_user.server.certificate), "--ssl-reqd")
    assert run("curl", *login, *tls, f"{base}/Inbox;UID=1").encode() == simple("curl", 1)
    secure = f"imaps://{imap_user.server.ip}:{imap_user.server.imaps_port}"
    assert '"/" Archive' in run("curl", *login, *tls, f"{secure}/")


# Many at once.


def test_connections_of_many_clients_do_not_disturb_each_other(imap_user: User) -> None:
    wires = [imap_user.session("Inbox") for _ in range(40)]
    tags = [wire.idle() for wire in wires]
    sender = imap_user.session()
    sender.ok("APPEND Inbox", simple("all", 1))
    for wire, tag in zip(wires, tags, strict=True):
        assert wire.wait_for("EXISTS", 5).number == 1
        assert wire.wait_for("FETCH", 5).items["UID"] == "1"
        wire.done(tag)


def test_a_search_in_text_does_not_hold_up_others(imap_user: User) -> None:
    big = b"Subject: big\r\nContent-Type: text/plain\r\n\r\n" + b"word " * 400_000 + b"\r\n"
    searcher, other = imap_user.session("Inbox"), imap_user.session("Inbox")
    for _ in range(3):
        searcher.ok("APPEND Inbox", big, nonsync=True)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.extend(searcher.ok("SEARCH BODY absent-everywhere").numbers()))
    thread.start()
    started = time.monotonic()
    other.ok("NOOP")
    waited = time.monotonic() - started
    thread.join()
    assert found == []
    assert waited < 2


def test_tls_versions_both_work(imap_user: User) -> None:
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        wire = imap_user.connect_tls(version)
        wire.login(imap_user.address, imap_user.password)
        wire.ok("APPEND Inbox", simple("tls", 1) + b"x" * 300_000)
        wire.ok("SELECT Inbox")
        assert len(wire.ok("FETCH 1 BODY.PEEK[]").fetched()[1]["BODY[]"]) > 300_000
