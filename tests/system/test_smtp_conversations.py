"""Commands of SMTP as conversations: who may say what when, and what it is answered."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator

import pytest

from tests.system.conftest import MailboxUser
from tests.system.servers import Server, source_ip
from tests.system.smtp_wire import Wire, play


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server.ip, server.smtp_port) as connected:
        yield connected


def test_a_whole_session(wire: Wire, mailbox_user: MailboxUser) -> None:
    play(
        wire,
        f"""
        S: 220 localhost ESMTP mox
        C: EHLO client.example
        S: 250-localhost
        S: 250-PIPELINING
        S: 250-SIZE 104857600
        S: 250-STARTTLS
        S: 250-ENHANCEDSTATUSCODES
        S: 250-8BITMIME
        S: 250-LIMITS RCPTMAX=1000
        S: 250 SMTPUTF8
        C: MAIL FROM:<a@remote.example> SIZE=100 BODY=8BITMIME
        S: 250 2.1.0 ...
        C: RCPT TO:<{mailbox_user.address}>
        S: 250 2.1.0 ...
        C: DATA
        S: 354 ...
        C: Subject: hello
        C:
        C: hello
        C: .
        S: 250 2.2.0 ...
        C: RSET
        S: 250 2.0.0 ...
        C: QUIT
        S: 221 2.0.0 ...
        S: <closed>
        """,
    )


def test_commands_that_need_no_hello(wire: Wire) -> None:
    play(
        wire,
        """
        S: 220 ...
        C: NOOP
        S: 250 2.0.0 ...
        C: noop with words
        S: 250 2.0.0 ...
        C: RSET
        S: 250 2.0.0 ...
        C: HELP
        S: 214 2.0.0 ...RFC 5321
        C: HELP MAIL
        S: 214 2.0.0 ...
        C: VRFY somebody
        S: 252 2.7.0 ...
        C: EXPN list SMTPUTF8
        S: 252 2.7.0 ...
        C: VRFY
        S: 501 5.5.2 ...
        C: QUIT
        S: 221 2.0.0 ...
        S: <closed>
        """,
    )


def test_commands_out_of_order(wire: Wire, mailbox_user: MailboxUser) -> None:
    play(
        wire,
        f"""
        S: 220 ...
        C: MAIL FROM:<a@remote.example>
        S: 503 5.5.1 ...
        C: RCPT TO:<{mailbox_user.address}>
        S: 503 5.5.1 ...
        C: DATA
        S: 503 5.5.1 ...
        C: STARTTLS
        S: 503 5.5.1 ...
        C: EHLO client.example
        S: 250-localhost
        S: ...
        C: RCPT TO:<{mailbox_user.address}>
        S: 503 5.5.1 ...
        C: DATA
        S: 503 5.5.1 ...
        C: AUTH PLAIN AG1veABtb3htb3htb3g=
        S: 503 5.5.1 ...
        C: MAIL FROM:<a@remote.example>
        S: 250 2.1.0 ...
        C: MAIL FROM:<b@remote.example>
        S: 503 5.5.1 ...
        C: DATA
        S: 503 5.5.1 ...
        C: EHLO client.example
        S: 250-localhost
        S: ...
        C: RCPT TO:<{mailbox_user.address}>
        S: 503 5.5.1 ...
        """,
    )


def test_helo_is_answered_with_one_line(wire: Wire) -> None:
    play(
        wire,
        """
        S: 220 ...
        C: HELO client.example
        S: 250 localhost
        C: HELO [192.0.2.1]
        S: 501 5.5.2 ...
        C: HELO
        S: 501 5.5.2 ...
        C: EHLO [IPv6:2001:db8::1]
        S: 250-localhost
        S: ...
        C: EHLO nöt.example
        S: 501 5.5.2 ...
        """,
    )


def test_unknown_commands_after_a_known_one(wire: Wire) -> None:
    play(
        wire,
        """
        S: 220 ...
        C: NOOP
        S: 250 2.0.0 ...
        C: BDAT 10 LAST
        S: 500 5.5.1 ...
        C:
        S: 500 5.5.1 ...
        C> NOOP\\t\\r\\n
        S: 500 5.5.1 ...
        C> RSET\\rx\\r\\n
        S: 500 5.5.2 ...
        C: RSET now
        S: 501 5.5.2 ...
        C: QUIT now
        S: 501 5.5.2 ...
        C: RSET
        S: 250 2.0.0 ...
        """,
    )


def test_a_client_that_does_not_speak_smtp_is_sent_away(wire: Wire) -> None:
    play(
        wire,
        """
        S: 220 ...
        C: GET / HTTP/1.1
        C: Host: localhost:1025
        C: Content-Length: 20
        C:
        C: MAIL FROM:<a@b.example>
        S: 500 5.5.2 ...
        S: <closed>
        """,
    )


def test_a_bare_line_feed_ends_no_command_in_pedantic_mode(wire: Wire) -> None:
    play(
        wire,
        """
        S: 220 ...
        C> RSET\\n
        S: 500 5.5.2 ...
        C: RSET
        S: 250 2.0.0 ...
        """,
    )


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        ("<a@remote.example> SIZE=1 SIZE=2", "501 5.5.4"),
        ("<a@remote.example> SIZE=104857601", "552 5.3.4"),
        ("<a@remote.example> SIZE=" + "9" * 20, "552 5.3.4"),
        ("<a@remote.example> SIZE=" + "9" * 21, "501 5.5.2"),
        ("<a@remote.example> BODY=BINARYMIME", "555 5.5.4"),
        ("<a@remote.example> AUTH=a+3d", "501 5.5.2"),
        ("<a@remote.example> RET=FULL", "555 5.3.3"),
        ("<a@remote.example> ENVID=x", "555 5.3.3"),
        ("<a@remote.example> HOLDFOR=60", "555 5.3.3"),
        ("<a@remote.example> REQUIRETLS", "530 5.7.10"),
        ("<é@remote.example>", "550 5.6.7"),
        ("<a@bücher.example>", "501 5.5.2"),
        ("<a@[192.0.2.1]>", "550 5.7.0"),
        ("a@remote.example", "501 5.5.2"),
        ("<a@remote.example", "501 5.5.2"),
        ("<user>", "501 5.5.2"),
        (" <a@remote.example>", "501 5.5.2"),  # a space: forgiven outside pedantic mode only
        ("<mailfrom452@remote.example>", "452 4.0.0"),
        ("<mailfrompermerror@remote.example>", "550 5.0.0"),
        ("<mailfromtemperror@remote.example>", "451 4.0.0"),
    ],
)
def test_mail_is_refused_and_leaves_no_transaction(wire: Wire, arguments: str, reply: str) -> None:
    wire.hello()
    assert wire.command(f"MAIL FROM:{arguments}").startswith(f"{reply} ")
    assert wire.command("RCPT TO:<mox@localhost>").startswith("503 5.5.1 ")
    assert wire.command("MAIL FROM:<> SIZE=104857600 AUTH=<>").startswith("250 2.1.0 ")


@pytest.mark.parametrize(
    ("arguments", "reply"),
    [
        ("<mox@localhost> NOTIFY=NEVER", "555 5.3.3"),
        ("<mox@localhost> ORCPT=rfc822;x", "555 5.3.3"),
        ("<é@localhost>", "553 5.6.7"),
        ("<mox@[127.0.0.1]>", "550 5.1.1"),
        ("<>", "501 5.5.2"),
        ("mox@localhost", "501 5.5.2"),
        ("<rcptto452@localhost>", "452 4.0.0"),
        ("<RCPTTO599@elsewhere.example>", "599 5.0.0"),
        ("<rcpttopermerror@localhost>", "550 5.0.0"),
        ("<rcpttotemperror@localhost>", "451 4.0.0"),
    ],
)
def test_rcpt_is_refused_and_the_transaction_goes_on(wire: Wire, arguments: str, reply: str) -> None:
    wire.hello().begin()
    assert wire.command(f"RCPT TO:{arguments}").startswith(f"{reply} ")
    assert wire.command("RCPT TO:<mox@localhost>").startswith("250 2.1.0 ")


@pytest.mark.parametrize(
    ("localpart", "reply"),
    [
        ("temperror", "451 4.0.0"),
        ("permerror", "550 5.0.0"),
        ("box+452", "452 4.0.0"),
        ("queue550", "550 5.0.0"),
        ("400", "400 4.0.0"),
        ("599", "599 5.0.0"),
    ],
)
def test_special_recipients_fail_after_the_message(wire: Wire, localpart: str, reply: str) -> None:
    wire.hello().begin(f"{localpart}@localhost")
    assert wire.data(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith(
        f"{reply} failure with code {reply[:3]} because of the"
    )


def test_other_numbers_are_not_special(wire: Wire, mailbox_user: MailboxUser) -> None:
    localpart = mailbox_user.address.partition("@")[0]
    wire.hello().begin(f"{localpart}+399@localhost", f"{localpart}+600@localhost", f"{localpart}+40@localhost")
    assert wire.data(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250 2.2.0 ")


def test_one_of_two_recipients_fails_and_the_other_gets_the_message(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.hello().begin("permerror@localhost", mailbox_user.address)
    assert wire.data(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250 2.2.0 ")


def test_recipients_that_fail_differently_have_a_line_each(wire: Wire) -> None:
    wire.hello().begin("temperror@localhost", "box452@localhost")
    assert wire.command("DATA").startswith("354 ")
    wire.send(b".\r\n")
    assert [line[:9] for line in wire.reply()] == ["451-4.3.0", "451 4.3.0"]
    wire.begin("permerror@localhost", "box452@localhost")
    assert wire.command("DATA").startswith("354 ")
    wire.send(b".\r\n")
    lines = wire.reply()
    assert lines[0].startswith("554-5.3.0 <permerror@localhost>: 550 5.0.0 ")
    assert lines[1].startswith("554 5.3.0 <box452@localhost>: 452 4.0.0 ")


def test_a_bounce_has_one_recipient(wire: Wire) -> None:
    wire.hello().begin("mox@localhost", sender="")
    assert wire.command("RCPT TO:<other@localhost>").startswith("452 4.5.3 ")


def test_errors_end_in_an_id_that_is_the_connections(wire: Wire) -> None:
    wire.hello()
    ids = set()
    for command in ("MAIL", "RSET x", "XYZ", "DATA"):
        match = re.search(r" \(([\w-]{22})\)$", wire.command(command))
        assert match is not None
        ids.add(match[1])
    assert len(ids) == 1
    assert "(" not in wire.command("NOOP")


def test_replies_to_pipelined_commands_come_in_one_piece(wire: Wire, mailbox_user: MailboxUser) -> None:
    wire.hello()
    wire.send(f"MAIL FROM:<a@remote.example>\r\nRCPT TO:<{mailbox_user.address}>\r\nRCPT TO:<x\r\nDATA\r\n")
    received = wire.sock.recv(65536)
    assert [line[:3] for line in received.splitlines()] == [b"250", b"250", b"501", b"354"]
    wire.send("Subject: x\r\n\r\nx\r\n.\r\nNOOP\r\nQUIT\r\n")
    assert [wire.reply()[0][:9] for _ in range(3)] == ["250 2.2.0", "250 2.0.0", "221 2.0.0"]
    assert wire.is_closed()


def test_ehlo_within_tls_offers_requiretls_and_state_begins_anew(server: Server, wire: Wire) -> None:
    play(
        wire,
        """
        S: 220 ...
        C: EHLO client.example
        S: 250-localhost
        S: ...
        C: MAIL FROM:<a@remote.example>
        S: 250 2.1.0 ...
        C: STARTTLS now
        S: 501 5.5.2 ...
        C: STARTTLS
        S: 220 2.0.0 ...
        """,
    )
    wire.start_tls(server.certificate)
    play(
        wire,
        """
        C: RCPT TO:<mox@localhost>
        S: 503 5.5.1 ...
        C: EHLO client.example
        S: 250-localhost
        S: 250-PIPELINING
        S: 250-SIZE 104857600
        S: 250-REQUIRETLS
        S: 250-ENHANCEDSTATUSCODES
        S: 250-8BITMIME
        S: 250-LIMITS RCPTMAX=1000
        S: 250 SMTPUTF8
        C: RCPT TO:<mox@localhost>
        S: 503 5.5.1 ...
        C: STARTTLS
        S: 503 5.5.1 ...
        C: MAIL FROM:<a@remote.example> REQUIRETLS
        S: 250 2.1.0 ...
        """,
    )


def test_smtplib_sends_over_starttls(server: Server, mailbox_user: MailboxUser) -> None:
    with smtplib.SMTP(server.ip, server.smtp_port, timeout=20, source_address=(source_ip(), 0)) as client:
        client.starttls()
        client.ehlo()
        assert client.has_extn("requiretls")
        refused = client.sendmail("a@remote.example", [mailbox_user.address], "Subject: x\r\n\r\n.\r\n")
        assert refused == {}
