"""Programs that take mail off an account, or keep a copy of it: offlineimap, fetchmail and getmail."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.programs import needs, run
from tests.system.imap.transcript import simple

pytestmark = pytest.mark.database


@pytest.fixture
def filled(imap_user: User) -> User:
    """An account with five messages, the first of them seen."""
    wire = imap_user.session()
    for number in range(1, 6):
        flags = "\\Seen" if number == 1 else ""
        wire.ok(f"APPEND Inbox ({flags})", simple("letter", number), nonsync=True)
    return imap_user


def maildir(path: Path) -> list[bytes]:
    return sorted(file.read_bytes() for part in ("cur", "new") for file in (path / part).glob("*"))


def lf(message: bytes) -> bytes:
    return message.replace(b"\r\n", b"\n")


@needs("offlineimap", "offlineimap3")
def test_offlineimap_keeps_a_maildir_equal_both_ways(filled: User, tmp_path: Path) -> None:
    rc = tmp_path / "offlineimaprc"
    rc.write_text(f"""
[general]
accounts = mox
metadata = {tmp_path}/metadata
[Account mox]
localrepository = near
remoterepository = far
[Repository near]
type = Maildir
localfolders = {tmp_path}/mail
[Repository far]
type = IMAP
remotehost = {filled.server.ip}
remoteport = {filled.server.imap_port}
remoteuser = {filled.address}
remotepass = {filled.password}
ssl = no
starttls = no
auth_mechanisms = PLAIN, LOGIN
""")

    def sync() -> str:
        return run("offlineimap", "-o", "-c", str(rc), "-u", "basic", environment={"HOME": str(tmp_path)})

    sync()
    inbox = tmp_path / "mail" / "Inbox"
    assert maildir(inbox) == sorted(lf(simple("letter", number)) for number in range(1, 6))
    assert sum(path.name.endswith("S") for path in (inbox / "cur").glob("*")) == 1

    # Changes on both sides.
    wire = filled.session("Inbox")
    wire.ok("STORE 1 +FLAGS.SILENT (\\Deleted)")
    wire.ok("EXPUNGE")
    changed = next(path for path in sorted((inbox / "new").glob("*")) if b"letter 2\n" in path.read_bytes())
    changed.rename(inbox / "cur" / (changed.name.removesuffix(":2,") + ":2,FS"))
    (inbox / "new" / "1700000000.1_1.test").write_bytes(lf(simple("upload", 1)))
    sync()
    assert len(maildir(inbox)) == 5
    wire.ok("NOOP")
    found = wire.ok("UID FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])").by_uid()
    assert set(found[2]["FLAGS"]) == {"\\Flagged", "\\Seen"}
    assert sorted(found) == [2, 3, 4, 5, 6]
    assert b"upload 1" in found[6]["BODY[HEADER.FIELDS (SUBJECT)]"]
    assert "Copy message" not in sync()


@needs("fetchmail", "fetchmail")
def test_fetchmail_takes_what_is_new_and_keeps_it(filled: User, tmp_path: Path) -> None:
    rc, box = tmp_path / "fetchmailrc", tmp_path / "box"
    rc.write_text(
        f"poll {filled.server.ip} protocol IMAP port {filled.server.imap_port} auth password no dns\n"
        f'user "{filled.address}" password "{filled.password}" sslproto "" keep mda "cat >> {box}"\n'
    )
    rc.chmod(0o600)
    run("fetchmail", "-f", str(rc), "--pidfile", str(tmp_path / "pid"), environment={"HOME": str(tmp_path)})
    text = box.read_bytes()
    assert [number for number in range(1, 6) if b"Body of letter %d." % number in text] == [2, 3, 4, 5]
    wire = filled.session("Inbox")
    assert wire.ok("SEARCH SEEN").numbers() == [1, 2, 3, 4, 5]


@needs("getmail", "getmail6")
def test_getmail_takes_each_message_once(filled: User, tmp_path: Path) -> None:
    box = tmp_path / "box"
    (tmp_path / "getmailrc").write_text(f"""
[retriever]
type = SimpleIMAPSSLRetriever
server = {filled.server.ip}
port = {filled.server.imaps_port}
ca_certs = {filled.server.certificate}
username = {filled.address}
password = {filled.password}
mailboxes = ("Inbox",)
[destination]
type = MDA_external
path = /usr/bin/tee
arguments = ("-a", "{box}")
allow_root_commands = true
[options]
read_all = false
delivered_to = false
received = false
""")
    command = ("getmail", "--getmaildir", str(tmp_path), "--rcfile", "getmailrc")
    run(*command)
    taken = [f"Body of letter {number}." for number in range(1, 6)]
    assert [line for line in box.read_text().splitlines() if line.startswith("Body")] == taken
    filled.session().ok("APPEND Inbox", simple("letter", 6), nonsync=True)
    run(*command)
    taken.append("Body of letter 6.")
    assert [line for line in box.read_text().splitlines() if line.startswith("Body")] == taken
