"""mutt and neomutt with a header cache and QRESYNC, after STARTTLS, told by keys what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.imap.conftest import User
from tests.system.imap.programs import in_terminal, needs
from tests.system.imap.transcript import simple

pytestmark = pytest.mark.database

CONFIGURATION = """
set folder="imap://{ip}:{port}/"
set spoolfile="+Inbox"
set imap_user="{address}"
set imap_pass="{password}"
set imap_authenticators="cram-md5:login"
set certificate_file="{certificate}"
set imap_qresync=yes
set imap_deflate=yes
set header_cache="{home}/cache"
set message_cachedir="{home}/cache"
set postponed="{home}/postponed"
set record=""
set resolve=no
set wait_key=no
set quit=yes
set delete=yes
set move=no
set confirmappend=no
set confirmcreate=no
set mark_old=no
"""


class Mutt:
    """A mutt of its own home, which keeps its caches from one run to the next."""

    def __init__(self, program: str, user: User, home: Path) -> None:
        self._program = program
        self._home = home
        (home / "cache").mkdir()
        self._config = home / "muttrc"
        self._config.write_text(
            CONFIGURATION.format(
                ip=user.server.ip,
                port=user.server.imap_port,
                address=user.address,
                password=user.password,
                certificate=user.server.certificate,
                home=home,
            )
        )

    def press(self, keys: str) -> str:
        """Start it and press these keys, the last of which leave it; gives what it showed."""
        command = [self._program, "-n", "-F", str(self._config), "-e", f'push "{keys}"']
        return in_terminal(command, {"TERM": "xterm", "HOME": str(self._home), "LANG": "C.UTF-8"})


@pytest.mark.parametrize("program", [pytest.param(name, marks=needs(name, name)) for name in ("mutt", "neomutt")])
def test_mutt_flags_moves_and_reopens_from_its_cache(imap_user: User, tmp_path: Path, program: str) -> None:
    wire = imap_user.session()
    for number in range(1, 6):
        wire.ok("APPEND Inbox", simple("letter", number), nonsync=True)
    mutt = Mutt(program, imap_user, tmp_path)
    screen = mutt.press("<first-entry><flag-message><next-entry><save-message><kill-line>=Archive<enter><quit>")
    assert "letter 5" in screen
    wire.ok("SELECT Inbox")
    state = {uid: items["FLAGS"] for uid, items in wire.ok("FETCH 1:* (UID FLAGS)").by_uid().items()}
    assert sorted(state) == [1, 3, 4, 5], screen
    assert "\\Flagged" in state[1]
    assert wire.ok("STATUS Archive (MESSAGES)").one("STATUS").data[1] == ["MESSAGES", "1"]

    # Another client changes things; mutt comes back with QRESYNC and its cache.
    wire.ok("UID STORE 3 +FLAGS.SILENT (\\Deleted)")
    wire.ok("EXPUNGE")
    wire.ok("APPEND Inbox", simple("letter", 6), nonsync=True)
    screen = mutt.press("<last-entry><display-message><exit><first-entry><delete-message><quit>")
    assert "letter 6" in screen
    fresh = imap_user.session("Inbox")
    state = {uid: items["FLAGS"] for uid, items in fresh.ok("FETCH 1:* (UID FLAGS)").by_uid().items()}
    assert sorted(state) == [4, 5, 6], screen
    assert "\\Seen" in state[6]
