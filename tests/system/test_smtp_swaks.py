"""swaks as people use it to try out a mail server."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from store.models import Message
from tests.system.conftest import MailboxUser
from tests.system.servers import Server, source_ip

pytestmark = pytest.mark.skipif(shutil.which("swaks") is None, reason="swaks is not installed")


def swaks(server: Server, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["swaks", "--server", f"{server.ip}:{server.smtp_port}", "--local-interface", source_ip(), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the server said, after swaks' mark for that: in the clear or under TLS, accepted or an error."""
    marks = ("<-", "<~", "<**", "<~*")
    return [line[4:].strip() for line in done.stdout.splitlines() if line.startswith(marks)]


def test_it_delivers_without_further_options(server: Server, mailbox_user: MailboxUser) -> None:
    done = swaks(server, "--to", mailbox_user.address)
    assert done.returncode == 0, done.stdout
    assert Message.objects.filter(account=mailbox_user.account).count() == 1


def test_any_address_will_do(server: Server) -> None:
    done = swaks(server, "--to", "whoever@elsewhere.example")
    assert done.returncode == 0, done.stdout


def test_it_delivers_over_tls(server: Server, mailbox_user: MailboxUser) -> None:
    done = swaks(server, "--to", mailbox_user.address, "--tls", "--pipeline")
    assert done.returncode == 0, done.stdout
    message = Message.objects.get(account=mailbox_user.account)
    assert message.received_tls_version == 0x0304


def test_the_extensions_before_and_after_tls(server: Server) -> None:
    done = swaks(server, "--quit-after", "EHLO", "--tls")
    assert done.returncode == 0, done.stdout
    replies = said(done)
    assert ("250-STARTTLS" in replies, "250-REQUIRETLS" in replies) == (True, True)
    assert replies.index("250-STARTTLS") < replies.index("250-REQUIRETLS")


@pytest.mark.parametrize(
    ("sender", "recipient", "command"),
    [
        ("mailfrom452@remote.example", "mox@localhost", "MAIL"),
        ("a@remote.example", "rcptto452@localhost", "RCPT"),
        ("a@remote.example", "box452@localhost", "."),
        ("a@remote.example", "queue452@localhost", "."),
    ],
)
def test_special_localparts_fail_where_they_say(server: Server, sender: str, recipient: str, command: str) -> None:
    done = swaks(server, "--from", sender, "--to", recipient)
    assert done.returncode != 0
    lines = done.stdout.splitlines()
    (failure,) = [at for at, line in enumerate(lines) if line.startswith("<** 452 4.0.0 failure with code 452 ")]
    sent = [line for line in lines[:failure] if line.startswith(" -> ")]
    assert sent[-1].startswith(f" -> {command}")
