"""The sessions of an account that is removed end, and its removal outlives a killed process."""

from __future__ import annotations

import os
import smtplib
import sqlite3
import subprocess
import sys
from collections.abc import Callable

import pytest

from accounts import removal
from accounts.models import Account
from store import repair
from tests.system.conftest import MailboxUser
from tests.system.imap.wire import Wire
from tests.system.servers import PROJECT, Server, source_ip
from tests.system.test_crashes import deliver, store_check

OwnServer = Callable[[], Server]

SOON = 5.0  # seconds: it is told at once, on a machine that may be busy


@pytest.mark.database
def test_open_sessions_end_when_their_account_is_removed(server: Server, new_user: Callable[[], MailboxUser]) -> None:
    user, other = new_user(), new_user()
    idler, waiting, unconcerned = (Wire(server.ip, server.imap_port) for _ in range(3))
    for wire in (idler, waiting):
        wire.login(user.address, user.password)
        wire.ok("SELECT Inbox")
    unconcerned.login(other.address, other.password)
    idler.idle()
    submission = smtplib.SMTP(server.ip, server.submission_port, timeout=20, source_address=(source_ip(), 0))
    submission.login(user.address, user.password)

    removal.order(user.account)

    for wire in (idler, waiting):
        bye = wire.take(SOON)
        assert str(bye) == "* BYE account was removed"
        assert wire.expect_closed() == []
    code, text = submission.getreply()
    assert (code, text.partition(b" (")[0]) == (421, b"4.7.0 account was removed")
    assert unconcerned.ok("NOOP")
    again = Wire(server.ip, server.imap_port)
    again.no(f"LOGIN {user.address} {user.password}", code="AUTHENTICATIONFAILED")
    repair.bump_uidvalidity(other.account.pk)
    assert str(unconcerned.take(SOON)) == "* BYE mailboxes have new uids, connect again"
    for wire in (idler, waiting, unconcerned, again):
        wire.close()
    submission.close()
    removal.work()  # unless a worker did it
    assert not Account.objects.filter(name=user.account.name).exists()


def mox(server: Server, *words: str) -> str:
    """The output of a command on a server's directory."""
    done = subprocess.run(
        [sys.executable, "manage.py", *words],
        cwd=PROJECT,
        env={**os.environ, "MOX_DATA_DIR": str(server.directory)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(300)  # it starts a server twice, and commands four times
def test_a_removal_goes_on_after_its_process_was_killed(own_server: OwnServer) -> None:
    server = own_server()
    server.start("--ip", server.ip, env={"MOX_FAULT": "accounts.removal_step:3"})
    mox(server, "config", "account", "add", "gone", "gone@localhost")
    for number in range(5):
        assert deliver(server, number, "small body\r\n", "gone@localhost")
    assert "5 messages" in mox(server, "config", "account", "rm", "gone")
    server.wait_for_line('cause="signal 9"')
    server.kill()
    server.start()
    server.wait_for_line("account is removed")
    mox(server, "config", "account", "add", "gone", "gone@localhost")
    with sqlite3.connect(server.directory / "mox.sqlite3", timeout=20) as database:
        messages = database.execute("SELECT count(*) FROM store_message").fetchone()
        lowest = database.execute(
            "SELECT min(uidvalidity) > (SELECT max(next_uidvalidity) FROM accounts_accountremoval) FROM store_mailbox"
            " JOIN accounts_account a ON a.id = account_id WHERE a.name = 'gone'"
        ).fetchone()
    database.close()
    assert (messages, lowest) == ((0,), (1,))
    assert "2 accounts are consistent" in store_check(server)
    assert server.stop() == 0
