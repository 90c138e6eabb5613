"""What the queue is given: rows and what the server adds, when to send, and nothing of what fails."""

from __future__ import annotations

import base64
import email.utils
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.conf import settings
from prometheus_client import REGISTRY

from accounts.accounts import add_address, create_account
from accounts.models import Address, DKIMSelector, Domain
from accounts.passwords import set_password
from mailqueue.models import HoldRule, OutgoingRecipient
from protocols.sasl.client import Plain
from server import db
from tests.domain.smtp_service import Service
from tests.domain.submission.sending import log_in, message, queued, send, stored, stored_files
from tests.system.conftest import MailboxUser
from tests.system.smtp_wire import Wire, play

pytestmark = pytest.mark.database


# Rows, and what is put in front.


def test_a_message_is_queued_with_what_the_server_adds(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "To: bo@remote.example")
    assert send(wire, user, text).startswith("250 2.2.0 ")
    (row,) = queued(user)
    assert (row.sender, row.recipient, row.base_id) == (user.address, "bo@remote.example", 0)
    assert (row.has_8bit, row.smtputf8, row.require_tls, row.kind) == (False, False, None, "message")
    prefix = bytes(row.prefix)
    names = [line.split(b":")[0] for line in prefix.split(b"\r\n") if line and line[:1] not in b"\t "]
    assert names == [b"Received", b"Message-Id", b"Date", b"DKIM-Signature", b"Authentication-Results"]
    unfolded = re.sub(rb"\r\n[\t ]", b" ", prefix)
    assert re.search(
        rb"^Received: from localhost by localhost via tcp with ESMTPA id [\w-]{22} for <bo@remote.example>; \d",
        unfolded,
    )
    assert f"Authentication-Results: localhost; auth=pass smtp.mailfrom={user.address}\r\n".encode() in unfolded
    assert re.search(rb"\r\nMessage-Id: <[\w-]{22}@localhost>\r\n", unfolded)
    match = re.search(rb"\r\nDate: ([^\r]*)\r\n", unfolded)
    assert match is not None
    assert abs(email.utils.parsedate_to_datetime(match[1].decode()) - datetime.now(UTC)) < timedelta(minutes=1)
    assert row.message_id.encode() in prefix
    assert row.subject == "x"
    assert row.size == len(prefix) + len(text) - len(b".\r\n")
    assert stored(row) + b".\r\n" == text
    assert OutgoingRecipient.objects.filter(account=user.account).count() == 1


def test_nothing_of_the_client_is_told(service: Service, user: MailboxUser) -> None:
    with service.connect() as wire:
        source = wire.sock.getsockname()[0]
        log_in(wire, user)
        assert send(wire, user, message(user.address)).startswith("250 ")
    (row,) = queued(user)
    assert source.encode() not in bytes(row.prefix)
    assert b"client.example" not in bytes(row.prefix)


def test_what_the_message_has_is_not_added(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "Message-ID: <mine@here.example>", "date: Thu, 1 Jan 1998 00:00:00 +0000")
    assert send(wire, user, text).startswith("250 ")
    (row,) = queued(user)
    assert row.message_id == "<mine@here.example>"
    assert b"\r\nMessage-Id:" not in bytes(row.prefix)
    assert b"\r\nDate:" not in bytes(row.prefix)


def test_several_recipients_share_one_message(wire: Wire, user: MailboxUser) -> None:
    recipients = ("bo@remote.example", "jo@far.example", "bo@remote.example", "<postmaster>"[1:-1])
    assert send(wire, user, message(user.address), *recipients).startswith("250 ")
    rows = queued(user)
    assert [row.recipient for row in rows] == ["bo@remote.example", "jo@far.example", "postmaster@localhost"]
    assert {row.base_id for row in rows} == {rows[0].pk}
    assert len({(row.blob_id, bytes(row.prefix)) for row in rows}) == 1
    assert b" for <" not in bytes(rows[0].prefix)
    assert OutgoingRecipient.objects.filter(account=user.account).count() == 3


def test_a_message_over_tls_says_so(service: Service, user: MailboxUser) -> None:
    with service.connect() as wire:
        assert wire.hello().command("STARTTLS").startswith("220 ")
        wire.start_tls(Path(settings.MOX.data_dir) / "localhost.crt")
        log_in_again = wire.command("EHLO client.example")
        assert log_in_again.startswith("250 ")
        assert wire.authenticate(Plain(user.address, user.password)).startswith("235 ")
        assert send(wire, user, message(user.address, "TLS-Required: No"), mail=" REQUIRETLS").startswith("250 ")
        assert send(wire, user, message(user.address, "TLS-Required: No", "TLS-required:  no ")).startswith("250 ")
        assert send(wire, user, message(user.address, "TLS-Required: No", "TLS-Required: yes")).startswith("250 ")
    rows = queued(user)
    assert [row.require_tls for row in rows] == [True, False, None]
    unfolded = re.sub(rb"\r\n[\t ]", b" ", bytes(rows[0].prefix))
    assert re.search(rb"with ESMTPSA \(requiretls\) id \S+ \(TLS1\.3 TLS_\w+\) for <bo@remote.example>;", unfolded)


def test_requiretls_needs_tls(wire: Wire, user: MailboxUser) -> None:
    assert wire.command(f"MAIL FROM:<{user.address}> REQUIRETLS").startswith("530 5.7.10 ")


def test_an_internationalised_message(wire: Wire, user: MailboxUser, own_domain: Domain) -> None:
    with db.write():
        add_address(user.account, "é", own_domain)
    text = message(f"é@{own_domain.name}", "To: ü@bücher.example")
    wire.send(f"MAIL FROM:<e\u0301@{own_domain.name}> SMTPUTF8\r\nRCPT TO:<ü@BÜCHER.example>\r\n")
    assert [wire.reply()[0][:3] for _ in range(2)] == ["250", "250"]
    assert wire.data(text).startswith("250 ")
    (row,) = queued(user)
    assert (row.smtputf8, row.has_8bit, row.sender_localpart, row.rcpt_domain) == (True, True, "é", "bücher.example")
    assert row.rcpt_domain_ascii == "xn--bcher-kva.example"
    unfolded = re.sub(rb"\r\n[\t ]", b" ", bytes(row.prefix)).decode()
    assert " with UTF8SMTPA id " in unfolded
    assert f"smtp.mailfrom=é@{own_domain.name}" in unfolded
    assert "DKIM-Signature" not in unfolded  # its domain has no keys


def test_8bit_content_alone_needs_no_smtputf8(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", body="é\r\n")
    assert send(wire, user, text, mail=" BODY=8BITMIME").startswith("250 ")
    (row,) = queued(user)
    assert (row.has_8bit, row.smtputf8) == (True, False)


def test_the_null_sender_may_be_used(wire: Wire, user: MailboxUser) -> None:
    assert wire.command("MAIL FROM:<>").startswith("250 ")
    assert wire.command("RCPT TO:<bo@remote.example>").startswith("250 ")
    assert wire.data(message(user.address)).startswith("250 ")
    (row,) = queued(user)
    assert row.sender == ""
    assert b"\r\nAuthentication-Results: localhost;\r\n\tauth=pass\r\n" in bytes(row.prefix)


def test_hold_rules_hold_what_is_submitted(wire: Wire, user: MailboxUser) -> None:
    with db.write():
        HoldRule.objects.filter(account=user.account).update(recipient_domain="held.example")
    recipients = ("bo@held.example", "bo@remote.example")
    assert send(wire, user, message(user.address), *recipients, mail=" HOLDFOR=3600").startswith("250 ")
    assert [row.hold for row in queued(user)] == [True, False]


def test_extra_headers_are_kept_and_told(wire: Wire, user: MailboxUser) -> None:
    text = message(user.address, "x-mox-extra-order-NUMBER: 17", "X-Mox-Extra-A: b", "X-Mox-Extra-: nothing")
    assert send(wire, user, text).startswith("250 ")
    (row,) = queued(user)
    assert row.extra == {"Order-Number": "17", "A": "b"}
    twice = message(user.address, "X-Mox-Extra-A: b", "x-mox-extra-a: c")
    assert send(wire, user, twice).startswith("554 5.6.0 X-Mox-Extra-A ")
    assert len(queued(user)) == 1


def test_odd_characters_in_the_header_reach_the_queue_as_text(wire: Wire, user: MailboxUser) -> None:
    odd = "a\0b\x7fc"
    fields = (f"Message-Id: <{odd}@b.example>", f"X-Mox-Extra-Odd: {odd}", "X-Mox-Extra-Enc: =?utf-8?q?a=00=0D=0Ab?=")
    text = f"From: <{user.address}>\r\nSubject: {odd} =?utf-8?q?=00=0D=0Ax?=\r\n".encode()
    text += "".join(f"{field}\r\n" for field in fields).encode() + b"X-Mox-Extra-Raw: \xff\xfe\r\n\r\nbody\r\n.\r\n"
    assert send(wire, user, text).startswith("250 ")
    (row,) = queued(user)
    for value in (row.subject, row.message_id, *row.extra.values()):
        assert "\0" not in value
        assert "\n" not in value
    assert set(row.extra) == {"Odd", "Enc", "Raw"}


def test_without_a_usable_key_a_message_goes_out_unsigned(wire: Wire, user: MailboxUser, own_domain: Domain) -> None:
    with db.write():
        add_address(user.account, "me", own_domain)
        DKIMSelector.objects.create(domain=own_domain, name="broken", algorithm="rsa", private_key=b"x", sign=True)
    before = REGISTRY.get_sample_value("mox_smtpserver_errors_total", {"error": "dkimsign"}) or 0.0
    assert send(wire, user, message(f"me@{own_domain.name}")).startswith("250 ")
    assert REGISTRY.get_sample_value("mox_smtpserver_errors_total", {"error": "dkimsign"}) == before + 1
    (row,) = queued(user)
    assert b"DKIM-Signature" not in bytes(row.prefix)


# FUTURERELEASE.


def test_a_message_is_held_back_until_its_time(wire: Wire, user: MailboxUser) -> None:
    now = datetime.now(UTC)
    until = (now + timedelta(days=3)).replace(microsecond=0)
    request = f"{until:%Y-%m-%dT%H:%M:%SZ}"
    assert send(wire, user, message(user.address), mail=" HOLDFOR=3600").startswith("250 ")
    assert send(wire, user, message(user.address), mail=f" HOLDUNTIL={request}").startswith("250 ")
    assert send(wire, user, message(user.address), mail=" HOLDFOR=0").startswith("250 ")
    first, second, third = queued(user)
    assert abs(first.next_attempt - now - timedelta(hours=1)) < timedelta(minutes=1)
    assert second.next_attempt == until
    assert abs(third.next_attempt - now) < timedelta(minutes=1)
    assert [row.future_release_request for row in (first, second, third)] == ["for;3600", f"until;{request}", "for;0"]


# What goes wrong here.


def test_an_account_that_is_removed_meanwhile(service: Service, user: MailboxUser) -> None:
    leaving = create_account("leaving-sender", "leaving-sender", Domain.objects.get(name="localhost"))
    set_password(leaving, user.password)
    with service.connect() as wire:
        log_in(wire, MailboxUser(leaving, "leaving-sender@localhost"))
        assert wire.command("MAIL FROM:<leaving-sender@localhost>").startswith("250 ")
        assert wire.command("RCPT TO:<bo@remote.example>").startswith("250 ")
        assert wire.command("DATA").startswith("354 ")
        with db.write():
            Address.objects.filter(account=leaving).delete()
            leaving.delete()
        files = stored_files()
        wire.send(message("leaving-sender@localhost"))
        assert wire.reply()[0].startswith("550 5.7.1 ")
    assert stored_files() == files


def test_a_whole_session(pedantic_service: Service, user: MailboxUser) -> None:
    plain = base64.b64encode(f"\0{user.address}\0{user.password}".encode()).decode()
    with pedantic_service.connect() as wire:
        play(
            wire,
            f"""
            S: 220 localhost ESMTP mox
            C: EHLO client.example
            S: 250-localhost
            S: ...
            C: AUTH LOGIN
            S: 334 VXNlcm5hbWU6
            C: *
            S: 501 5.5.0 login cancelled ...
            C: AUTH PLAIN {plain}
            S: 235 2.7.0 logged in
            C: MAIL FROM:<{user.address}> BODY=8BITMIME
            S: 250 2.1.0 ...
            C: RCPT TO:<bo@remote.example>
            S: 250 2.1.0 ...
            C: DATA
            S: 354 ...
            C: From: Jo <{user.address}>
            C: Subject: Grüße
            C:
            C: ..dot
            C: .
            S: 550 5.6.0 message needs SMTPUTF8...
            C: MAIL FROM:<{user.address}> BODY=8BITMIME SMTPUTF8
            S: 250 2.1.0 ...
            C: RCPT TO:<bo@remote.example>
            S: 250 2.1.0 ...
            C: DATA
            S: 354 ...
            C: From: Jo <{user.address}>
            C: Subject: Grüße
            C:
            C: ..dot
            C: .
            S: 250 2.2.0 message is queued
            C: RSET
            S: 250 2.0.0 ...
            C: QUIT
            S: 221 2.0.0 ...
            S: <closed>
            """,
        )
    (row,) = queued(user)
    assert row.subject == "Grüße"
    assert stored(row).endswith(b"\r\n\r\n.dot\r\n")
