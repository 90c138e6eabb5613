"""A directory that the previous release made is opened by this one: its mail is there as clients left it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from tests.system.imap.wire import Wire
from tests.system.servers import PROJECT, Server

RELEASES = Path(__file__).parent / "releases"  # localserve directories, each named for the day of its release
PREVIOUS = "2026-11-25"

INBOX_UIDVALIDITY, MOVED_UIDVALIDITY = 897807010, 897807014
KNOWN_MODSEQ = 5  # of a client that was last here before the flags were set
ATTACHMENT = b"".join(hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(300)) * 12


def test_a_directory_of_the_previous_release_is_opened_with_all_its_mail(
    database: None, template: Path, new_server: Callable[[], Server]
) -> None:
    server = new_server()
    unpack(PREVIOUS, server)
    server.start()
    copies = list(server.directory.glob("mox.sqlite3.before-*"))
    assert copies, "it was migrated without a copy of the database"
    assert "mox.sqlite3.before-" in "".join(server.output), "the copy is not told of"
    assert tables(server.directory) == tables(template), "migrations lead elsewhere than what a new directory gets"

    wire = Wire(server.ip, server.imap_port)
    wire.ok("LOGIN mox@localhost moxmoxmox")
    listed = wire.ok('LIST (SUBSCRIBED) "" *').untagged
    names = [line.data[2] for line in listed if line.name == "LIST"]
    assert {"Inbox", "Lists/python", "Old", "absent", "Sent"} <= {str_of(name) for name in names}

    wire.ok("ENABLE QRESYNC")
    answer = wire.ok(f"SELECT Inbox (QRESYNC ({INBOX_UIDVALIDITY} {KNOWN_MODSEQ} 1:5))")
    assert [line.raw for line in answer.untagged if line.name == "VANISHED"] == []
    flags = {line.items["UID"]: set(line.items["FLAGS"]) for line in wire.ok("FETCH 1:* FLAGS").untagged}
    assert sorted(flags, key=int) == ["1", "2", "3", "4", "5", "7", "9", "10"]
    assert flags["1"] == {"\\Seen", "\\Answered"}
    assert flags["3"] == {"\\Flagged", "$Forwarded", "todo"}
    (attachment,) = (line.items["BINARY[2]"] for line in wire.ok("UID FETCH 4 BINARY.PEEK[2]").untagged)
    assert attachment == ATTACHMENT
    (found,) = wire.ok("UID SEARCH RETURN (ALL) CHARSET UTF-8 BODY", "grüßen".encode()).untagged
    assert found.raw.rstrip().endswith(b"ALL 1:5,7,9:10")
    (status,) = wire.ok("STATUS New (MESSAGES UIDVALIDITY UIDNEXT)").untagged
    assert status.data[1] == ["MESSAGES", "1", "UIDVALIDITY", str(MOVED_UIDVALIDITY), "UIDNEXT", "2"]
    appended = wire.ok("APPEND Inbox", b"Subject: new\r\n\r\nafter the upgrade\r\n")
    assert appended.code == ["APPENDUID", str(INBOX_UIDVALIDITY), "11"]
    wire.close()

    (queued,) = json.loads(mox(server, "queue", "list", "--json"))
    assert queued["recipient"] == "queuetemperror@localhost"
    mox(server, "store", "check")  # fails with what it finds
    assert server.stop() == 0


def tables(directory: Path) -> dict[tuple[str, str], list[str]]:
    """What the tables and indexes of a directory are made of, by kind and name; columns in any order."""
    with contextlib.closing(sqlite3.connect(directory / "mox.sqlite3")) as database:
        made = database.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    return {(kind, name): parts(sql) if kind == "table" else [sql] for kind, name, sql in made}


def parts(statement: str) -> list[str]:
    """What stands between the commas of a statement's outermost parentheses."""
    found, depth = [""], 0
    for character in statement.partition("(")[2].rstrip()[:-1]:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            found.append("")
        else:
            found[-1] += character
    return sorted(part.strip() for part in found)


def unpack(release: str, server: Server) -> None:
    """The directory of an earlier release, as the server's; it listens on the server's address."""
    with tarfile.open(RELEASES / f"{release}.tar.xz") as archive:
        archive.extractall(server.directory, filter="data")
    with contextlib.closing(sqlite3.connect(server.directory / "mox.sqlite3")) as database, database:
        database.execute("UPDATE server_listener SET ips = ?", [json.dumps([server.ip])])


def mox(server: Server, *words: str) -> str:
    """What a command prints about the server's directory; it succeeds."""
    command = [sys.executable, "manage.py", *words, "--dir", str(server.directory)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60).stdout


def str_of(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
