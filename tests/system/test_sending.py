"""What is sent goes through submission, the queue, its worker and a server's port 25: it arrives, or comes back."""

from __future__ import annotations

import email
import email.policy
import smtplib
from collections.abc import Callable, Iterator
from email.message import EmailMessage

import pytest
from imapclient import IMAPClient

from accounts.aliases import add_alias
from mailqueue.models import DeliveryAttempt, QueueMessage, RetiredMessage
from store.models import Message
from tests.system.conftest import MailboxUser
from tests.system.servers import Server, source_ip

pytestmark = pytest.mark.database

ARRIVES = 30  # seconds to wait for what takes less than one


@pytest.fixture
def user(mailbox_user: MailboxUser) -> Iterator[MailboxUser]:
    yield mailbox_user
    QueueMessage.objects.filter(account=mailbox_user.account).delete()


def send(server: Server, user: MailboxUser, *recipients: str) -> None:
    """Submit a message; it is in the queue afterwards."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = user.address, ", ".join(recipients), "by way of the queue"
    message.set_content("The text.\n")
    with smtplib.SMTP(server.ip, server.submission_port, timeout=20, source_address=(source_ip(), 0)) as client:
        client.login(user.address, user.password)
        client.send_message(message, user.address, list(recipients))


class Inbox:
    """An idling client."""

    def __init__(self, server: Server, user: MailboxUser) -> None:
        self._client = IMAPClient(server.ip, server.imap_port, ssl=False, timeout=ARRIVES)
        self._client.login(user.address, user.password)
        self._client.select_folder("Inbox")
        self._client.idle()

    def next_message(self) -> EmailMessage:
        """The message that the server announces next."""
        while not any(b"EXISTS" in response for response in self._client.idle_check(ARRIVES)):
            pass
        self._client.idle_done()
        last = max(self._client.search())
        raw = self._client.fetch([last], ["BODY.PEEK[]"])[last][b"BODY[]"]
        self._client.idle()
        message = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message

    def close(self) -> None:
        self._client.idle_done()
        self._client.logout()


@pytest.fixture
def open_inbox(server: Server) -> Iterator[Callable[[MailboxUser], Inbox]]:
    opened: list[Inbox] = []

    def open_inbox(user: MailboxUser) -> Inbox:
        opened.append(Inbox(server, user))
        return opened[-1]

    yield open_inbox
    for inbox in opened:
        inbox.close()


def test_a_message_arrives_signed_and_verified(
    server: Server,
    user: MailboxUser,
    new_user: Callable[[], MailboxUser],
    open_inbox: Callable[[MailboxUser], Inbox],
) -> None:
    other = new_user()
    inbox = open_inbox(other)
    send(server, user, other.address)
    message = inbox.next_message()
    assert message["Subject"] == "by way of the queue"
    assert message["Return-Path"] == f"<{user.address}>"
    assert "d=localhost; s=localserve;" in message["DKIM-Signature"]
    results = str(message["Authentication-Results"])
    assert "dkim=pass" in results
    assert "spf=pass" in results
    assert len(message.get_all("Received", [])) == 2
    assert message.get_content().strip() == "The text."


@pytest.mark.parametrize(
    ("localpart", "status", "reply"), [("queuepermerror", "5.0.0", "550 5.0.0"), ("queue503", "5.0.0", "503 5.0.0")]
)
def test_what_cannot_be_delivered_comes_back(
    server: Server,
    user: MailboxUser,
    open_inbox: Callable[[MailboxUser], Inbox],
    localpart: str,
    status: str,
    reply: str,
) -> None:
    inbox = open_inbox(user)
    send(server, user, f"{localpart}@localhost")
    bounce = inbox.next_message()
    assert bounce["Subject"] == "mail delivery failed"
    assert bounce["Auto-Submitted"] == "auto-replied"
    assert bounce.get_content_type() == "multipart/report"
    text, report, header = bounce.iter_parts()
    assert f"{localpart}@localhost" in text.get_content()
    assert reply in text.get_content()
    fields = list(report.iter_parts())[1]
    assert str(fields["Status"]).startswith(status)
    assert "by way of the queue" in header.as_string()


def test_some_arrive_and_some_come_back(
    server: Server,
    user: MailboxUser,
    new_user: Callable[[], MailboxUser],
    open_inbox: Callable[[MailboxUser], Inbox],
) -> None:
    other = new_user()
    sender_inbox, recipient_inbox = open_inbox(user), open_inbox(other)
    send(server, user, "queuepermerror@localhost", other.address)
    assert recipient_inbox.next_message()["Subject"] == "by way of the queue"
    assert "queuepermerror@localhost" in str(sender_inbox.next_message())


def test_what_fails_for_now_stays_in_the_queue(
    server: Server, user: MailboxUser, new_user: Callable[[], MailboxUser], open_inbox: Callable[[MailboxUser], Inbox]
) -> None:
    other = new_user()
    inbox = open_inbox(other)
    send(server, user, "queuetemperror@localhost")
    # The same destination is served in order: when this one is there, the one before was tried.
    send(server, user, other.address)
    inbox.next_message()
    waiting = QueueMessage.objects.get(account=user.account, rcpt_localpart="queuetemperror")
    assert (waiting.attempts, waiting.state) == (1, "queued")
    (attempt,) = DeliveryAttempt.objects.filter(message_id=waiting.pk)
    assert (attempt.code, attempt.secode) == (451, "0.0")
    assert not RetiredMessage.objects.filter(account=user.account, success=False).exists()


def test_mail_for_an_alias_reaches_the_other_members(
    server: Server,
    user: MailboxUser,
    new_user: Callable[[], MailboxUser],
    open_inbox: Callable[[MailboxUser], Inbox],
) -> None:
    other = new_user()
    name = f"team-{user.account.name}@localhost"
    add_alias(name, [user.address, other.address])
    inbox = open_inbox(other)
    send(server, user, name)
    message = inbox.next_message()
    assert (message["From"], message["To"], message["Delivered-To"]) == (user.address, name, other.address)
    assert not Message.objects.filter(account=user.account).exists()
    with (
        smtplib.SMTP(server.ip, server.smtp_port, timeout=20, source_address=(source_ip(), 0)) as stranger,
        pytest.raises(smtplib.SMTPDataError) as refused,
    ):
        stranger.sendmail("eve@remote.example", [name], "From: <eve@remote.example>\r\n\r\nhello\r\n")
    assert (refused.value.smtp_code, refused.value.smtp_error[:5]) == (550, b"5.7.2")
