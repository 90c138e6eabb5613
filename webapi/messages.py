"""What was received, for programs: reading messages and parts, flags, moving, removing. Always one account's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from accounts.models import Account
from mailqueue import mailjson
from protocols import imapformat
from protocols.message.bodies import readable_texts
from protocols.message.structure import Envelope, Part
from store import content, flags, mailboxes
from store import messages as store_messages
from store.content import Reader
from store.db import AccountTx, Tx
from store.errors import StoreError
from store.flags import FLAGS, SEEN, Flags
from store.messages import FlagMode
from store.models import Mailbox, Message, MessageDKIMDomain

from .errors import CallError, Code

Write = Callable[[Callable[[Tx], None]], None]
"""Runs a job of the group commit that has the account."""

_FLAG_NAMES: Final = sorted((word.lower(), bit) for _, bit, word in FLAGS)  # $ sorts before \


@dataclass(frozen=True, slots=True)
class _Stored:
    """A message with what is known about its content; ``content`` is to be closed."""

    message: Message
    part: Part
    content: Reader


def get(account: Account, message_id: int) -> dict[str, Any]:
    """Header, texts, structure and circumstances of a message. Raises CallError."""
    stored = _stored(account, message_id)
    message, part = stored.message, stored.part
    envelope = part.envelope or Envelope()
    prefix = bytes(message.prefix)
    if imapformat.prefix_changes_envelope(prefix):
        envelope = imapformat.with_prefix(envelope, prefix)
    with stored.content:
        texts = readable_texts(part, stored.content)
        references = mailjson.references(part, stored.content)
    answered = mailjson.ids(envelope.in_reply_to)[:1]
    if answered and answered[0] not in references:
        references.insert(0, answered[0])
    domains = MessageDKIMDomain.objects.filter(message=message).order_by("pk").values_list("domain", flat=True)
    bits = sum(bit for column, bit, _ in FLAGS if getattr(message, column))
    return {
        "Message": {
            **mailjson.header_fields(envelope),
            "References": references,
            "Text": texts.text,
            "HTML": texts.html,
        },
        "Structure": mailjson.structure(part),
        "Meta": {
            "Size": message.size,
            "DSN": message.is_dsn,
            "Flags": [name for name, bit in _FLAG_NAMES if bits & bit] + message.keywords.split(),
            "MailFrom": _address(message.mail_from_localpart, message.mail_from_domain),
            "MailFromValidated": message.mail_from_validated,
            "RcptTo": _address(message.rcpt_to_localpart, message.rcpt_to_domain),
            "MsgFrom": _address(message.msg_from_localpart, message.msg_from_domain),
            "MsgFromValidated": message.msg_from_validated,
            "DKIMVerifiedDomains": [mailjson.domain_text(domain) for domain in domains],
            "RemoteIP": message.remote_ip,
            "MailboxName": message.mailbox.name,
        },
    }


def raw(account: Account, message_id: int) -> Reader:
    """The message as it is stored, prefix and all; to be closed. Raises CallError."""
    row = _live(account, message_id)
    try:
        return content.message_reader(row.pk)
    except StoreError as exc:
        raise _not_found(message_id) from exc


def part_content(account: Account, message_id: int, path: list[int]) -> Iterator[bytes]:
    """The decoded bytes of a part, in pieces. Raises CallError before the first one."""
    stored = _stored(account, message_id)
    part = stored.part
    for depth, index in enumerate(path):
        if not 0 <= index < len(part.parts):
            stored.content.close()
            raise CallError(Code.PART_NOT_FOUND, f"no part {path[: depth + 1]}: there are {len(part.parts)} in it")
        part = part.parts[index]

    def pieces() -> Iterator[bytes]:
        with stored.content:
            yield from part.reader(stored.content)

    return pieces()


def delete(account: Account, message_id: int, write: Write) -> None:
    """Remove a message at once. Raises CallError."""

    def job(tx: Tx) -> None:
        own, mailbox, message = _for_change(tx, account, message_id)
        store_messages.remove(own, mailbox, [message.uid])

    write(job)


def change_flags(account: Account, message_id: int, mode: FlagMode, words: list[str], write: Write) -> None:
    """Add or remove flags; what is as wanted stays unchanged. Raises CallError."""
    wanted = _flags(words)

    def job(tx: Tx) -> None:
        own, mailbox, message = _for_change(tx, account, message_id)
        store_messages.set_flags(own, mailbox, [message.uid], mode, wanted)

    _user_errors(write, job)


def move(account: Account, message_id: int, name: str, write: Write) -> None:
    """Put a message into another mailbox; it keeps its id. Raises CallError."""

    def job(tx: Tx) -> None:
        own, mailbox, message = _for_change(tx, account, message_id)
        destination = own.mailbox_by_name(mailboxes.canonical_name(name))
        if destination is None:
            raise CallError(Code.USER, f"mailbox {name!r} does not exist")
        if destination.pk == mailbox.pk:
            raise CallError(Code.USER, f"the message is in mailbox {destination.name} already")
        moved = store_messages.move(own, mailbox, [message.uid], destination)
        if destination.special_trash:
            store_messages.set_flags(own, destination, moved.uids, FlagMode.ADD, Flags(SEEN))

    _user_errors(write, job)


def _user_errors(write: Write, job: Callable[[Tx], None]) -> None:
    try:
        write(job)
    except StoreError as exc:
        raise CallError(Code.USER, str(exc)) from exc


def _flags(words: list[str]) -> Flags:
    try:
        return flags.parse_words(words)
    except StoreError as exc:
        raise CallError(Code.USER, str(exc)) from exc


def _for_change(tx: Tx, account: Account, message_id: int) -> tuple[AccountTx, Mailbox, Message]:
    """A message that is to be changed, as it is in the transaction. Raises CallError."""
    own = tx.account(account.pk)
    message = Message.objects.filter(pk=message_id, account=account).only("uid", "mailbox_id", "expunged").first()
    if message_id == 0:
        raise CallError(Code.USER, "MsgID is missing")
    if message is None:
        raise _not_found(message_id)
    if message.expunged:
        raise CallError(Code.USER, f"message {message_id} was removed")
    return own, own.mailbox(message.mailbox_id), message


def _live(account: Account, message_id: int) -> Message:
    query = Message.objects.filter(pk=message_id, account=account, expunged=False, blob__isnull=False)
    message = query.select_related("mailbox").first()
    if message is None:
        raise _not_found(message_id)
    return message


def _stored(account: Account, message_id: int) -> _Stored:
    message = _live(account, message_id)
    blob = message.blob
    assert blob is not None  # as _live() asked
    reader = content.blob_reader(blob.pk, blob.size, blob.data, blob.storage_name)
    return _Stored(message, Part.from_json(blob.structure), reader)


def _not_found(message_id: int) -> CallError:
    return CallError(Code.MESSAGE_NOT_FOUND, f"there is no message {message_id}")


def _address(localpart: str, domain: str) -> str:
    return f"{localpart}@{mailjson.domain_text(domain)}" if domain else ""
