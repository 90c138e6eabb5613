"""Mail programs and libraries of others, used as their users use them."""

from __future__ import annotations

import imaplib
import os
import pty
import re
import select as os_select
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path

import imapclient
import pytest

from tests.system.imap.conftest import User, tls_context
from tests.system.imap.transcript import messages, simple

pytestmark = pytest.mark.database


def needs(program: str, package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is missing (Debian package {package})")


def run(*arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(arguments, capture_output=True, timeout=90, env={**os.environ, **(environment or {})})
    output = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert done.returncode == 0, f"{arguments[0]} failed with {done.returncode}:\n{output}"
    return output


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


# mbsync.


def varied(count: int) -> list[bytes]:
    """Messages of many shapes: parts, attachments, 8-bit, long lines, no body, no header."""
    made: list[bytes] = []
    files = sorted(path.name for path in (Path(__file__).parent / "messages").glob("*.eml"))
    for number in range(count):
        match number % 6:
            case 0:
                made.append(simple("simple", number))
            case 1:
                original = messages(files[number // 6 % len(files)])[0]
                made.append(f"X-Number: {number}\r\n".encode() + original)
            case 2:
                message = EmailMessage()
                message["Subject"] = f"Grüße {number} 日本語"
                message["From"] = "Ünïcode <u@example.org>"
                message.set_content("Text mit Umlauten: äöü\n" * 20)
                message.add_attachment(bytes(range(256)) * 8, "application", "x-test", filename=f"datei {number}.bin")
                made.append(message.as_bytes().replace(b"\n", b"\r\n"))
            case 3:
                made.append(b"Subject: long %d\r\n\r\n" % number + b"z" * 5000 + b"\r\n" + b"." * 70 + b"\r\n.\r\n")
            case 4:
                made.append(b"Subject: 8-bit \xe4 %d\r\n\r\nraw \xff\xfe bytes\r\n" % number)
            case _:
                made.append(b"Subject: no body %d\r\n\r\n" % number)
    return made


class Mbsync:
    """A Maildir that mbsync keeps equal to an account."""

    def __init__(self, user: User, directory: Path) -> None:
        self.maildir = directory / "mail"
        self.maildir.mkdir()
        self._config = directory / "mbsyncrc"
        self._config.write_text(f"""
IMAPAccount mox
Host {user.server.ip}
Port {user.server.imap_port}
User {user.address}
Pass {user.password}
SSLType None
AuthMechs LOGIN

IMAPStore far
Account mox

MaildirStore near
Path {self.maildir}/
Inbox {self.maildir}/INBOX
SubFolders Verbatim

Channel all
Far :far:
Near :near:
Patterns *
Create Both
Expunge Both
SyncState *
""")

    def sync(self) -> tuple[int, ...]:
        """Run it; gives how many messages were added, changed and removed on the far and on the near side."""
        output = in_terminal(["mbsync", "-c", str(self._config), "all"], {})  # it counts for a terminal only
        found = re.findall(r"[FN]: \+\d+/(\d+) \*\d+/(\d+) #\d+/(\d+)", output)
        assert len(found) >= 2, output
        assert "error" not in output.lower(), output
        return tuple(int(number) for side in found[-2:] for number in side)

    def paths(self, name: str) -> list[Path]:
        return [path for part in ("cur", "new") for path in (self.maildir / name / part).glob("*")]

    def contents(self, name: str) -> list[bytes]:
        return sorted(without_tuid(path.read_bytes()) for path in self.paths(name))


def without_tuid(message: bytes) -> bytes:
    """A message with LF, and without the header that mbsync adds to recognise what it uploaded."""
    return re.sub(rb"^X-TUID: .*\n", b"", message.replace(b"\r\n", b"\n"), flags=re.MULTILINE)


@needs("mbsync", "isync")
def test_mbsync_keeps_a_maildir_equal_both_ways(imap_user: User, tmp_path: Path) -> None:
    mails = varied(200)
    wire = imap_user.session()
    for number, mail in enumerate(mails[:100]):
        flags = "(\\Seen \\Flagged)" if number % 3 == 0 else ""
        wire.ok(f"APPEND Inbox {flags}".rstrip(), mail, nonsync=True)
    sync = Mbsync(imap_user, tmp_path)
    sync.sync()
    assert sync.contents("INBOX") == sorted(without_tuid(mail) for mail in mails[:100])
    assert sum(path.name.endswith("FS") for path in sync.paths("INBOX")) == 34

    for part in ("cur", "new", "tmp"):
        (sync.maildir / "local" / part).mkdir(parents=True)
    for number, mail in enumerate(mails[100:]):
        suffix = ":2,RS" if number % 4 == 0 else ":2,"
        path = sync.maildir / "local" / "cur" / f"1700000000.{number}_1.test{suffix}"
        path.write_bytes(mail.replace(b"\r\n", b"\n"))
    assert sync.sync() == (100, 0, 0, 0, 0, 0)
    assert sync.sync() == (0, 0, 0, 0, 0, 0)
    wire.ok("SELECT local")
    items = wire.ok("FETCH 1:* (FLAGS BODY.PEEK[])").fetched()
    assert sorted(without_tuid(item["BODY[]"]) for item in items.values()) == sorted(map(without_tuid, mails[100:]))
    assert sum(set(item["FLAGS"]) == {"\\Answered", "\\Seen"} for item in items.values()) == 25

    # Changes on both sides.
    wire.ok("STORE 1:3 +FLAGS.SILENT (\\Flagged)")
    wire.ok("STORE 4:5 +FLAGS.SILENT (\\Deleted)")
    wire.ok("CLOSE")
    seen = next(path for path in sync.paths("INBOX") if path.name.endswith(":2,"))
    seen.rename(seen.with_name(seen.name + "S"))
    next(path for path in sync.paths("INBOX") if path.name.endswith("FS")).unlink()
    assert sync.sync() == (0, 2, 0, 0, 5, 0)  # removals are counted as flags set
    assert sync.sync() == (0, 0, 0, 0, 0, 0)
    assert wire.ok("STATUS Inbox (MESSAGES)").one("STATUS").data[1] == ["MESSAGES", "99"]


# mutt.


def in_terminal(arguments: Sequence[str], environment: dict[str, str], timeout: float = 30) -> str:
    """Run a program of a terminal to its end; gives what it wrote."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        arguments, stdin=child, stdout=child, stderr=child, env={**os.environ, **environment}, start_new_session=True
    )
    os.close(child)
    written = b""
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            ready, _, _ = os_select.select([parent], [], [], 0.2)
            if ready:
                try:
                    block = os.read(parent, 65536)
                except OSError:  # the terminal's other end is closed
                    break
                written += block
            elif process.poll() is not None:
                break
        process.wait(max(deadline - time.monotonic(), 0.1))
    finally:
        process.kill()
        os.close(parent)
    return written.decode("utf-8", "replace")


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
