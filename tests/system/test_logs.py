"""The log of a server at work: lines that programs can read, and no secret and no content in them."""

from __future__ import annotations

import base64
import imaplib
import re
import smtplib
from collections.abc import Callable
from email.message import EmailMessage

import pytest

from mox_project import localserve
from tests.system.servers import Server
from tests.system.smtp_wire import Wire

LINE = re.compile(r'[a-z_]+=("(?:[^"\\]|\\.)*"|[^\s"=\\]*)( [a-zA-Z_.]+=("(?:[^"\\]|\\.)*"|[^\s"=\\]*))*')
ADDRESS = f"{localserve.LOCALPART}@{localserve.DOMAIN}"
WRONG = "wrong-but-secret"
SUBJECT = "subject-of-nobodys-business"
BODY = "body-of-nobodys-business"


def forms(secret: str) -> set[str]:
    """How a secret looks in a log that has not masked it: as it is, in base64 at any offset, in hex."""
    found = {secret, secret.encode().hex()}
    for before in (b"", b"\0", f"\0{ADDRESS}\0".encode(), f"{ADDRESS}\0{ADDRESS}\0".encode()):
        # The part that does not depend on what follows.
        found.add(base64.b64encode(before + secret.encode()).decode().rstrip("=")[:-2])
    return found


def use(server: Server) -> None:
    """Send and read a message, and log in by each way, in vain and successfully."""
    message = EmailMessage()
    message["From"] = message["To"] = ADDRESS
    message["Subject"] = SUBJECT
    message.set_content(BODY)
    with smtplib.SMTP(server.ip, 1587) as smtp:
        smtp.login(ADDRESS, localserve.PASSWORD)
        smtp.send_message(message)
    with smtplib.SMTP(server.ip, server.smtp_port) as smtp:
        smtp.send_message(message)
    for password in (WRONG, localserve.PASSWORD):
        for mechanism in ("LOGIN", "PLAIN", "CRAM-MD5"):
            with imaplib.IMAP4(server.ip, server.imap_port) as imap:
                if password == WRONG:
                    with pytest.raises(imaplib.IMAP4.error):
                        log_in(imap, mechanism, password)
                else:
                    log_in(imap, mechanism, password)
                    imap.select()
                    imap.fetch("1:*", "(FLAGS BODY.PEEK[])")
        initial = base64.b64encode(f"\0{ADDRESS}\0{password}".encode()).decode()
        for lines in ([f"AUTH PLAIN {initial}"], ["AUTH PLAIN", initial]):
            with Wire(server.ip, 1587) as wire:
                wire.hello()
                for line in lines:
                    answer = wire.command(line)
                assert answer.startswith("535" if password == WRONG else "235")


def log_in(imap: imaplib.IMAP4, mechanism: str, password: str) -> None:
    if mechanism == "PLAIN":
        imap.authenticate("PLAIN", lambda _: f"\0{ADDRESS}\0{password}".encode())
    elif mechanism == "CRAM-MD5":
        imap.login_cram_md5(ADDRESS, password)
    else:
        imap.login(ADDRESS, password)


@pytest.mark.parametrize("level", ["info", "debug", "trace"])
def test_neither_passwords_nor_messages_are_logged(own_server: Callable[[], Server], level: str) -> None:
    server = own_server()
    server.start("--ip", server.ip, "--loglevel", level)
    begin = len(server.output)
    use(server)
    assert server.stop() == 0
    lines = server.output[begin:]
    for line in lines:
        assert LINE.fullmatch(line.rstrip("\n")), f"no line of logfmt: {line!r}"
    text = "".join(lines)
    assert "m=" in text
    for secret in (localserve.PASSWORD, WRONG):
        for form in forms(secret):
            assert form not in text
    assert BODY not in text
    if level == "info":
        assert SUBJECT not in text
        assert base64.b64encode(BODY.encode()).decode()[:16] not in text


def test_each_connection_has_an_id_that_its_replies_lead_to(own_server: Callable[[], Server]) -> None:
    server = own_server()
    server.start("--ip", server.ip, "--loglevel", "debug")
    begin = len(server.output)
    use(server)
    assert server.stop() == 0
    ids = set(re.findall(r" cid=([0-9a-f]+)", "".join(server.output[begin:])))
    assert len(ids) >= 10, "one for each connection, and for each task"
