"""A bounce comes in by SMTP for the sender of one message, and other mail: who is told, and that all is delivered."""

from __future__ import annotations

import json
import smtplib
import uuid

from accounts import webhooks
from accounts.fromidlogins import set_logins
from mailqueue.models import Hook, RetiredMessage, Suppression
from protocols import dsn
from protocols.names import IPDomain, parse_domain
from protocols.smtpsyntax import Path
from server import db
from store.models import Message
from tests.system.conftest import MailboxUser
from tests.system.servers import Server


def send(server: Server, mail_from: str, rcpt_to: str, content: bytes) -> None:
    with smtplib.SMTP(server.ip, server.smtp_port) as smtp:
        smtp.sendmail(mail_from, [rcpt_to], content)


def test_a_bounce_and_a_question_reach_mailbox_and_program(server: Server, mailbox_user: MailboxUser) -> None:
    account, own = mailbox_user.account, mailbox_user.address
    set_logins(account, [own])
    webhooks.set_endpoint(account, "outgoing", "https://hooks.example/out")
    webhooks.set_endpoint(account, "incoming", "https://hooks.example/in", authorization="Bearer x")
    from_id = uuid.uuid4().hex
    now = db.now()
    message = RetiredMessage.objects.create(
        id=10**9 + account.pk,
        queued=now,
        account=account,
        account_name=account.name,
        sender_localpart=f"{account.name}+{from_id}",
        sender_domain="localhost",
        from_id=from_id,
        rcpt_localpart="them",
        rcpt_domain="far.example",
        rcpt_domain_ascii="far.example",
        recipient_address="them@far.example",
        next_attempt=now,
        size=1,
        message_id="<sent@localhost>",
        subject="Order 17",
        extra={"Order": "17"},
        success=True,
        last_activity=now,
        keep_until=now,
    )
    bounce = dsn.compose(
        dsn.Dsn(
            from_=Path("postmaster", IPDomain(domain=parse_domain("far.example"))),
            to=Path(f"{account.name}+{from_id}", IPDomain(domain=parse_domain("localhost"))),
            subject="mail delivery failed",
            message_id="<bounce@far.example>",
            text="No such user.\n",
            reporting_mta="mx.far.example",
            recipients=[
                dsn.DsnRecipient(
                    final=Path("them", IPDomain(domain=parse_domain("far.example"))),
                    action=dsn.Action.FAILED,
                    status="5.1.1",
                    diagnostic="550 5.1.1 no such user",
                )
            ],
        ),
        False,
    )
    send(server, "", message.sender, bounce)
    (hook,) = Hook.objects.filter(account=account)
    told = json.loads(hook.payload)
    (stored,) = Message.objects.filter(account=account)
    assert (told["Event"], told["DSN"], told["Suppressing"]) == ("failed", True, True)
    assert (told["QueueMsgID"], told["MsgID"], told["Extra"]) == (message.pk, stored.pk, {"Order": "17"})
    assert stored.is_dsn
    assert Suppression.objects.filter(account=account, base_address="them@far.example").exists()
    assert not RetiredMessage.objects.get(pk=message.pk).success

    question = b"From: <a@remote.example>\r\nSubject: question\r\nMessage-Id: <q@remote.example>\r\n\r\nHow?\r\n"
    send(server, "a@remote.example", own.replace("@", "+shop@"), question)
    (hook,) = Hook.objects.filter(account=account, is_incoming=True)
    told = json.loads(hook.payload)
    stored = Message.objects.filter(account=account).latest("pk")
    assert (hook.queue_msg_id, hook.message_id, hook.subject) == (0, "<q@remote.example>", "question")
    assert (hook.url, hook.authorization) == ("https://hooks.example/in", b"Bearer x")
    assert told["Text"] == "How?\n"
    assert told["Meta"] == {
        "MsgID": stored.pk,
        "MailFrom": "a@remote.example",
        "MailFromValidated": told["Meta"]["MailFromValidated"],
        "MsgFromValidated": told["Meta"]["MsgFromValidated"],
        "RcptTo": own.replace("@", "+shop@"),
        "DKIMVerifiedDomains": [],
        "RemoteIP": "127.0.0.1",
        "Received": told["Meta"]["Received"],
        "MailboxName": "Inbox",
        "Automated": False,
    }
    RetiredMessage.objects.filter(pk=message.pk).delete()
