"""mbsync keeps a Maildir and an account equal, both ways, and has nothing to do when it runs again."""

from __future__ import annotations

import re
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.programs import in_terminal, needs
from tests.system.imap.transcript import messages, simple

pytestmark = pytest.mark.database


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
