"""``mox imapserve``: a session on standard input and output, beside the running server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.core.management import CommandError, call_command

from accounts.models import Account
from tests.system.imap.conftest import User
from tests.system.imap.transcript import simple
from tests.system.servers import PROJECT

pytestmark = pytest.mark.database


def test_a_session_on_pipes_is_logged_in_and_others_hear_of_it(imap_user: User) -> None:
    idler = imap_user.session("Inbox")
    tag = idler.idle()
    message = simple("tunnelled", 1)
    said = b"a APPEND Inbox {%d+}\r\n%b\r\nb SELECT Inbox\r\nc FETCH 1 BODY.PEEK[]\r\nd NOOP\r\n" % (
        len(message),
        message,
    )
    done = subprocess.run(
        [sys.executable, "manage.py", "imapserve", imap_user.address],
        cwd=PROJECT,
        env=dict(os.environ),
        input=said,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"* PREAUTH [CAPABILITY IMAP4rev2 ")
    assert b"AUTH=" not in done.stdout.partition(b"\r\n")[0]
    assert message in done.stdout
    assert done.stdout.endswith(b"d OK NOOP done\r\n"), "it ends with its input, when all is answered"
    assert idler.wait_for("EXISTS").number == 1
    idler.done(tag)


def test_who_cannot_log_in_is_told(imap_user: User) -> None:
    with pytest.raises(CommandError, match="unknown address nobody@elsewhere"):
        call_command("imapserve", "nobody@elsewhere.example")
    Account.objects.filter(pk=imap_user.account.pk).update(login_disabled="moved away")
    with pytest.raises(CommandError, match="moved away"):
        call_command("imapserve", imap_user.address)
