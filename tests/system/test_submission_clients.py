"""Programs that people send with: swaks, gsasl, curl, smtplib, mutt; by each way to connect, and with each login."""

from __future__ import annotations

import smtplib
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailqueue.models import HoldRule, QueueMessage
from server import db
from tests.system.conftest import MailboxUser
from tests.system.imap.programs import needs, run
from tests.system.servers import Server, source_ip

pytestmark = pytest.mark.database

NEEDS_SWAKS, NEEDS_GSASL = needs("swaks", "swaks"), needs("gsasl", "gsasl")
RECIPIENT = "bo@remote.example"


@pytest.fixture
def user(mailbox_user: MailboxUser) -> Iterator[MailboxUser]:
    """Somebody whose messages stay in the queue until the test is over."""
    with db.write():
        rule = HoldRule.objects.create(account=mailbox_user.account)
    yield mailbox_user
    with db.write():
        QueueMessage.objects.filter(account=mailbox_user.account).delete()
        rule.delete()


def prefix_of_the_only_message(user: MailboxUser) -> str:
    (row,) = QueueMessage.objects.filter(account=user.account)
    assert (row.recipient, row.hold) == (RECIPIENT, True)
    return bytes(row.prefix).decode().replace("\r\n\t", " ")


# swaks.


def swaks(server: Server, port: int, user: MailboxUser, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["swaks", "--server", f"{server.ip}:{port}", "--local-interface", source_ip(), "--from", user.address]
    command += ["--to", RECIPIENT, "--auth-user", user.address, "--auth-password", user.password, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@NEEDS_SWAKS
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize(
    ("port", "option", "protocol"),
    [
        ("submission", None, "ESMTPA"),
        ("submission", "--tls", "ESMTPSA"),
        ("submissions", "--tls-on-connect", "ESMTPSA"),
    ],
    ids=["plain", "starttls", "tls"],
)
def test_swaks_sends(
    server: Server, user: MailboxUser, port: str, option: str | None, protocol: str, mechanism: str
) -> None:
    number = server.submissions_port if port == "submissions" else server.submission_port
    done = swaks(server, number, user, "--auth", mechanism, *([option] if option else []))
    assert done.returncode == 0, done.stdout
    assert f"Received: from localhost by localhost via tcp with {protocol} id " in prefix_of_the_only_message(user)


@NEEDS_SWAKS
def test_the_extensions_before_and_after_tls(server: Server, user: MailboxUser) -> None:
    done = swaks(server, server.submission_port, user, "--tls", "--quit-after", "EHLO")
    assert done.returncode == 0, done.stdout
    before, _, after = done.stdout.partition("TLS started")
    mechanisms = "AUTH SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN"
    for part, other in ((before, "STARTTLS"), (after, "REQUIRETLS")):
        assert f"250-{other}\n" in part
        assert f"250-{mechanisms}\n" in part
        assert "250-FUTURERELEASE 5184000 20" in part
    assert "STARTTLS" not in after
    assert "REQUIRETLS" not in before


@NEEDS_SWAKS
def test_swaks_is_told_that_a_password_is_wrong(server: Server, user: MailboxUser) -> None:
    done = swaks(server, server.submission_port, user, "--auth-password", "wrong-password")
    assert done.returncode == 28, done.stdout  # swaks: authentication failed
    assert "535 5.7.8 bad user name or password (" in done.stdout


@NEEDS_SWAKS
@pytest.mark.parametrize(
    ("sender", "recipient", "command"),
    [
        ("mailfrom452@remote.example", RECIPIENT, "MAIL"),
        ("", "rcptto452@localhost", "RCPT"),
        ("", "box452@remote.example", "."),
        ("", "box452@localhost", "."),
    ],
)
def test_special_localparts_fail_where_they_say(
    server: Server, user: MailboxUser, sender: str, recipient: str, command: str
) -> None:
    done = swaks(server, server.submission_port, user, "--from", sender or user.address, "--to", recipient)
    assert done.returncode != 0
    lines = done.stdout.splitlines()
    (failure,) = [at for at, line in enumerate(lines) if line.startswith("<** 452 4.0.0 failure with code 452 ")]
    sent = [line for line in lines[:failure] if line.startswith(" -> ")]
    assert sent[-1].startswith(f" -> {command}")
    assert not QueueMessage.objects.filter(account=user.account).exists()


@NEEDS_SWAKS
def test_what_is_to_fail_in_the_queue_is_accepted(server: Server, user: MailboxUser) -> None:
    done = swaks(server, server.submission_port, user, "--to", "queue452@localhost")
    assert done.returncode == 0, done.stdout
    assert QueueMessage.objects.get(account=user.account).recipient == "queue452@localhost"


# gsasl.


def gsasl(server: Server, user: MailboxUser, mechanism: str, *options: str) -> None:
    run(
        "gsasl",
        "--client",
        "--smtp",
        f"--connect={server.ip}:{server.submission_port}",
        f"--mechanism={mechanism}",
        f"--authentication-id={user.address}",
        f"--authorization-id={user.address}",
        f"--password={user.password}",
        f"--x509-ca-file={server.certificate}",
        *options,
    )


@NEEDS_GSASL
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_gsasl_logs_in(server: Server, user: MailboxUser, mechanism: str) -> None:
    gsasl(server, user, mechanism, "--no-starttls")


@NEEDS_GSASL
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_gsasl_logs_in_after_starttls(server: Server, user: MailboxUser, mechanism: str) -> None:
    """It finds STARTTLS in our answer to EHLO.

    Under TLS 1.3 gsasl cannot bind: there is no tls-unique, and it does not know tls-server-end-point.
    """
    gsasl(server, user, mechanism, "--no-cb")


@NEEDS_GSASL
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_gsasl_binds_to_the_channel_under_tls_1_2(server: Server, user: MailboxUser, mechanism: str) -> None:
    gsasl(server, user, mechanism, "--priority=NORMAL:-VERS-ALL:+VERS-TLS1.2")


# smtplib.


def over_tls(server: Server) -> smtplib.SMTP:
    context = ssl.create_default_context(cafile=str(server.certificate))
    source = (source_ip(), 0)
    return smtplib.SMTP_SSL(server.ip, server.submissions_port, timeout=20, source_address=source, context=context)


def with_starttls(server: Server) -> smtplib.SMTP:
    client = smtplib.SMTP(server.ip, server.submission_port, timeout=20, source_address=(source_ip(), 0))
    client.starttls(context=ssl.create_default_context(cafile=str(server.certificate)))
    return client


@pytest.mark.parametrize("connect", [over_tls, with_starttls])
@pytest.mark.parametrize("mechanism", ["auth_cram_md5", "auth_plain", "auth_login"])
def test_smtplib_sends(
    server: Server, user: MailboxUser, connect: Callable[[Server], smtplib.SMTP], mechanism: str
) -> None:
    with connect(server) as client:
        client.ehlo()
        client.user, client.password = user.address, user.password
        client.auth(mechanism.removeprefix("auth_").replace("_", "-").upper(), getattr(client, mechanism))
        text = f"From: <{user.address}>\r\nTo: <{RECIPIENT}>\r\nSubject: x\r\n\r\n.\r\n"
        assert client.sendmail(user.address, [RECIPIENT], text) == {}
    assert " with ESMTPSA id " in prefix_of_the_only_message(user)


# curl.


@needs("curl", "curl")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
def test_curl_sends(server: Server, user: MailboxUser, tmp_path: Path, scheme: str, mechanism: str) -> None:
    text = tmp_path / "message"
    text.write_bytes(f"From: <{user.address}>\r\nTo: <{RECIPIENT}>\r\nSubject: x\r\n\r\nbody\r\n".encode())
    port = server.submissions_port if scheme == "smtps" else server.submission_port
    run(
        *("curl", "--silent", "--show-error", "--ssl-reqd", "--cacert", str(server.certificate)),
        *("--resolve", f"localhost:{port}:{server.ip}", "--interface", source_ip()),
        *("--login-options", f"AUTH={mechanism}", "--user", f"{user.address}:{user.password}"),
        *("--mail-from", user.address, "--mail-rcpt", RECIPIENT, "--upload-file", str(text)),
        f"{scheme}://localhost:{port}/client.example",
    )
    assert " with ESMTPSA id " in prefix_of_the_only_message(user)


# mutt.


@needs("mutt", "mutt")
def test_mutt_sends(server: Server, user: MailboxUser, tmp_path: Path) -> None:
    configuration = tmp_path / "muttrc"
    login = user.address.replace("@", "%40")
    configuration.write_text(
        f'set smtp_url="smtp://{login}@{server.ip}:{server.submission_port}/"\nset smtp_pass="{user.password}"\n'
        f'set smtp_authenticators="cram-md5:plain"\nset certificate_file="{server.certificate}"\n'
        f'set ssl_starttls=yes\nset from="{user.address}"\nset use_from=yes\nset record=""\n'
    )
    body = tmp_path / "body"
    body.write_text("Grüße\n")
    command = f'mutt -n -F "{configuration}" -s "hello" {RECIPIENT} < "{body}"'
    run("sh", "-c", command, environment={"HOME": str(tmp_path), "LANG": "C.UTF-8"})
    assert " with ESMTPSA id " in prefix_of_the_only_message(user)
    assert QueueMessage.objects.get(account=user.account).subject == "hello"
