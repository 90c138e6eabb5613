"""Sending by hand, and looking at what was queued."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from mailqueue.models import QueueMessage
from protocols.sasl.client import Plain
from store import content
from tests.system.conftest import MailboxUser
from tests.system.smtp_wire import Wire


def log_in(wire: Wire, user: MailboxUser) -> Wire:
    assert wire.hello().authenticate(Plain(user.address, user.password)).startswith("235 ")
    return wire


def message(sender: str, *fields: str, body: str = "body\r\n") -> bytes:
    """A message with its end."""
    return "".join(f"{line}\r\n" for line in (f"From: <{sender}>", "Subject: x", *fields, "", body)).encode() + b".\r\n"


def send(wire: Wire, user: MailboxUser, content: bytes, *recipients: str, mail: str = "") -> str:
    """A whole transaction; the reply to its content."""
    assert wire.command(f"MAIL FROM:<{user.address}>{mail}").startswith("250 2.1.0 ")
    for recipient in recipients or ("bo@remote.example",):
        assert wire.command(f"RCPT TO:<{recipient}>").startswith("250 2.1.0 ")
    return wire.data(content)


def queued(user: MailboxUser) -> list[QueueMessage]:
    return list(QueueMessage.objects.filter(account=user.account).order_by("pk"))


def stored(row: QueueMessage) -> bytes:
    """The content of a queued message, without what was put in front."""
    blob = row.blob
    with content.blob_reader(blob.pk, blob.size, blob.data, blob.storage_name) as reader:
        return reader.read()


def stored_files() -> set[Path]:
    return {path for path in (Path(settings.MOX.data_dir) / "msg").rglob("*") if path.is_file()}
