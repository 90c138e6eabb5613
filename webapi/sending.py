"""Sending a message for a program: what it asks is checked in the order that the contract has, composed, queued.

sent = Sending(caller, request, uploads, circumstances).send()
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final

from django.conf import settings
from prometheus_client import Counter

from accounts.addresses import hosted_domain, may_send_as
from accounts.fromidlogins import is_login
from mailqueue import limits, submit
from mailqueue.errors import BadFrom, MessageLimitReached, RecipientLimitReached, SubmitError
from mailqueue.models import QueueMessage
from mailqueue.submit import Prepared
from protocols.message import BadHeaderText, Composer, HeaderWriter, MessageTooLarge, NameAddress, format_date
from protocols.message import message_id as new_message_id
from protocols.message.headers import is_field_name
from protocols.message.mail import Mail, MailFile
from protocols.names import Address, BadAddress, IPDomain, own_hostname, parse_address
from protocols.names import Domain as DomainName
from protocols.smtpsyntax import Path
from server.db import DatabaseBusy
from server.models import ServerSettings
from server.version import VERSION
from store import messages as store_messages
from store.db import Tx
from store.errors import OverQuota, StoreError
from store.flags import NOTJUNK, SEEN, Flags
from store.messages import NewMessage
from store.models import Mailbox

from .authentication import Caller
from .errors import CallError, Code
from .parsers import Upload

log = logging.getLogger(__name__)

HOLD_MAX: Final = timedelta(days=60)  # how far ahead a message can be submitted
IN_MEMORY: Final = 1 << 20  # bytes of a composed message; more is on disk

_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_OURS: Final = frozenset(
    {"from", "to", "cc", "bcc", "reply-to", "subject", "date", "message-id", "mime-version"}
    | {"received", "return-path", "dkim-signature"}
)
"""Header fields that are composed here, or that no submitter may add."""
_REFERRING: Final = frozenset({"references", "in-reply-to"})

submissions = Counter("mox_webapi_submission", "Messages given to the webapi.", ["result"])
errors = Counter("mox_webapi_errors", "Messages that could not be taken for a fault of ours.", ["error"])


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Of a call: what the message's Received field says, how large it may be, and who stores it."""

    request_id: str
    tls: str
    max_size: int
    write: Callable[[Callable[[Tx], Any]], Any]
    """Runs a job of the group commit that has the account."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that is queued. ``is_over_quota``: the copy that was wanted did not fit."""

    answer: Mapping[str, Any]
    is_over_quota: bool

    @property
    def error(self) -> CallError | None:
        """What the client is told although the message is on its way."""
        if not self.is_over_quota:
            return None
        text = "message is queued and will be sent, but the copy did not fit into the quota: do not send it again"
        return CallError(Code.SENT_OVER_QUOTA, text, self.answer)


@dataclass(frozen=True, slots=True)
class _Recipient:
    """A recipient, and how the client wrote it."""

    text: str
    address: NameAddress

    @property
    def path(self) -> Path:
        return _path(self.address.address)


class Sending:
    """One Send call: ``given`` is what its serializer made of the request."""

    def __init__(
        self, caller: Caller, given: Mapping[str, Any], uploads: Sequence[Upload], circumstances: Circumstances
    ) -> None:
        self._caller = caller
        self._given = given
        self._uploads = uploads
        self._around = circumstances
        self._now = datetime.now(UTC)

    def send(self, complete: Callable[[Sent], None] | None = None) -> Sent:
        """Check, compose and queue it; ``complete`` runs in the transaction. Raises CallError."""
        result = "queueerror"
        try:
            sent = self._send(complete)
            result = "storesenterror" if sent.is_over_quota else "ok"
        except CallError as exc:
            result = _RESULTS.get(exc.code, result)
            raise
        finally:
            submissions.labels(result).inc()
        return sent

    def _send(self, complete: Callable[[Sent], None] | None) -> Sent:
        given = self._given
        if not given["Text"] and not given["HTML"]:
            raise CallError(Code.MISSING_BODY, "Text and HTML are both empty: at least one of them is needed")
        if len(given["From"]) > 1:
            raise CallError(Code.MULTIPLE_FROM, f"{len(given['From'])} From addresses: use one")
        from_ = self._from()
        to, cc, bcc = (_recipients(given[name]) for name in ("To", "CC", "BCC"))
        self._check_from(from_.address)
        recipients = [*to, *cc, *bcc]
        if not recipients:
            raise CallError(Code.NO_RECIPIENTS, "To, CC and BCC are all empty")
        paths = [recipient.path for recipient in recipients]
        try:
            mail = self._mail(from_, to, cc)
            smtputf8 = mail.needs_smtputf8(recipient.address.address for recipient in bcc)
            with _composed(mail, self._around.max_size, smtputf8=smtputf8) as composed:
                prepared = self._prepare(from_.address, paths, mail, composed)
        except CallError:
            # What an account may still send comes before what is wrong with the message.
            self._check_limits(paths)
            raise
        if prepared.signing_error:
            errors.labels("dkimsign").inc()
            prepared.discard()
            raise CallError(Code.SERVER, f"the message cannot be signed (id {self._around.request_id})")
        copy = None
        if given["SaveSent"]:
            copy = _SentCopy(self._caller.account.pk, prepared, _bcc_field(bcc, smtputf8=smtputf8))
        return self._enqueue(prepared, recipients, copy, complete)

    def _enqueue(
        self,
        prepared: Prepared,
        recipients: Sequence[_Recipient],
        copy: _SentCopy | None,
        complete: Callable[[Sent], None] | None,
    ) -> Sent:
        def job(tx: Tx) -> Sent:
            ids = prepared.enqueue(tx)
            is_over_quota = copy is not None and not copy.store(tx, ids[0])
            submissions = [
                {"Address": recipient.text, "QueueMsgID": queue_id, "FromID": from_id}
                for recipient, queue_id, from_id in zip(recipients, ids, prepared.from_ids, strict=True)
            ]
            sent = Sent({"MessageID": prepared.message_id, "Submissions": submissions}, is_over_quota)
            if complete is not None:
                complete(sent)
            return sent

        try:
            sent: Sent = self._around.write(job)
        except Exception as exc:
            # Only these say for sure that nothing was committed; otherwise the content may be needed.
            if isinstance(exc, SubmitError | CallError | DatabaseBusy | StoreError):
                prepared.discard()
            if isinstance(exc, SubmitError):
                raise _refusal(exc) from exc
            errors.labels("submit").inc()
            raise
        log.info(
            "message given to the webapi",
            extra={
                "login": self._caller.login_address,
                "size": prepared.blob.size,
                "queue_ids": [submission["QueueMsgID"] for submission in sent.answer["Submissions"]],
            },
        )
        return sent

    def _from(self) -> NameAddress:
        if self._given["From"]:
            return _name_address(self._given["From"][0])
        account = self._caller.account
        return NameAddress(account.full_name, parse_address(self._caller.login_address))

    def _check_from(self, address: Address) -> None:
        if not may_send_as(self._caller.account.pk, address.localpart, address.domain):
            hosted = hosted_domain(address.domain.ascii)
            if hosted is not None and hosted.disabled:
                raise CallError(Code.DOMAIN_DISABLED, f"domain {address.domain.name()} is disabled")
            raise CallError(Code.BAD_FROM, f"{address} is not an address of this account")
        token = self._caller.token
        if token is not None and token.from_addresses and str(address) not in token.from_addresses:
            raise CallError(Code.BAD_FROM, f"the token may not be used to send from {address}")

    def _check_limits(self, paths: Sequence[Path]) -> None:
        try:
            limits.check(self._caller.account, [str(path) for path in paths], self._now)
        except SubmitError as exc:
            raise _refusal(exc) from exc

    def _mail(self, from_: NameAddress, to: Sequence[_Recipient], cc: Sequence[_Recipient]) -> Mail:
        """The message, from what is looked at after the limits."""
        given = self._given
        reply_to = [_name_address(value) for value in given["ReplyTo"]]
        message_id = given["MessageID"]
        if message_id and not (message_id.startswith("<") and message_id.endswith(">")):
            raise CallError(Code.MALFORMED_MESSAGE_ID, "MessageID must have < at its start and > at its end")
        for where, text in self._header_texts():
            if found := _CONTROL.search(text):
                raise CallError(Code.USER, f"{where} has a control character, {found[0]!r}")
        fields = [(name, value) for name, value in given["Headers"]]
        for name, _ in fields:
            self._check_field_name(name)
        if given["RequireTLS"] is False:
            fields.append(("TLS-Required", "No"))
        return Mail(
            from_=from_,
            to=[recipient.address for recipient in to],
            cc=[recipient.address for recipient in cc],
            reply_to=reply_to,
            subject=given["Subject"],
            date=given["Date"] or self._now,
            message_id=message_id or new_message_id(_hostname(), smtputf8=False),
            references=given["References"],
            fields=fields,
            user_agent=f"mox/{VERSION}",
            text=given["Text"],
            html=given["HTML"],
            alternative_files=self._files("AlternativeFiles", "alternativefile"),
            inline_files=self._files("InlineFiles", "inlinefile"),
            attached_files=self._files("AttachedFiles", "attachedfile"),
        )

    def _header_texts(self) -> Iterator[tuple[str, str]]:
        """Everything that goes into a header, and what it is called."""
        given = self._given
        for name in ("From", "To", "CC", "BCC", "ReplyTo"):
            for value in given[name]:
                yield f"a name in {name}", value["Name"]
        yield "Subject", given["Subject"]
        yield "MessageID", given["MessageID"]
        for reference in given["References"]:
            yield "References", reference
        for name, value in given["Headers"]:
            yield "a header name", name
            yield f"header {name}", value
        for kind in ("AlternativeFiles", "InlineFiles", "AttachedFiles"):
            for file in given[kind]:
                for name in ("Name", "ContentType", "ContentID"):
                    yield f"{name} in {kind}", file[name]
        for upload in self._uploads:
            yield f"the file name of {upload.field}", upload.name
            yield f"the Content-Type of {upload.field}", upload.content_type
            yield f"the Content-ID of {upload.field}", upload.content_id

    def _check_field_name(self, name: str) -> None:
        lower = name.lower()
        if not is_field_name(name):
            raise CallError(Code.USER, f"{name!r} is not the name of a header field")
        if lower in _OURS or lower.startswith("content-") or (lower in _REFERRING and self._given["References"]):
            raise CallError(Code.USER, f"header {name} is made by the server: it cannot be among Headers")

    def _files(self, kind: str, field: str) -> list[MailFile]:
        files = [
            MailFile(file["Name"], file["ContentType"], file["ContentID"], _decoded(file["Data"], kind))
            for file in self._given[kind]
        ]
        uploads = (upload for upload in self._uploads if upload.field == field)
        files += [MailFile(upload.name, upload.content_type, upload.content_id, upload.file) for upload in uploads]
        return files

    def _prepare(self, from_: Address, paths: Sequence[Path], mail: Mail, composed: _Composed) -> Prepared:
        mail_from = self._mail_from(from_)
        not_before = self._given["FutureRelease"]
        if not_before is not None and not_before > self._now + HOLD_MAX:
            raise CallError(Code.USER, f"FutureRelease is more than {HOLD_MAX.days} days ahead")
        is_later = not_before is not None and not_before > self._now
        request = submit.Request(
            account_id=self._caller.account.pk,
            mail_from=mail_from,
            recipients=paths,
            content=composed.content,
            received=self._received,
            login_address=self._caller.login_address,
            has_8bit=composed.has_8bit or composed.smtputf8,
            smtputf8=composed.smtputf8,
            require_tls=self._given["RequireTLS"],
            not_before=not_before if is_later else None,
            future_release_request=f"until;{not_before.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if is_later else "",
            extra=self._given["Extra"],
        )
        try:
            return submit.prepare(request)
        except SubmitError as exc:
            raise _refusal(exc) from exc

    def _mail_from(self, from_: Address) -> Path:
        """The sender in the envelope: without what stands after a separator where an id is to be put there."""
        if not is_login(self._caller.account.pk, self._caller.login_address):
            return _path(from_)
        hosted = hosted_domain(from_.domain.ascii)
        separators = hosted.localpart_catchall_separators if hosted is not None else []
        if not separators:
            raise CallError(Code.USER, f"domain {from_.domain.name()} has no separator for unique senders (fromid)")
        cuts = [at for separator in separators if (at := from_.localpart.find(separator)) > 0]
        return Path(from_.localpart[: min(cuts)] if cuts else from_.localpart, IPDomain(domain=from_.domain))

    def _received(self, recipient: Path | None, smtputf8: bool) -> bytes:
        """RFC 5321 section 4.4; nothing of the client."""
        hostname = _hostname().xname(smtputf8)
        field = HeaderWriter("Received:")
        texts = ["from", hostname, "by", hostname, "id", self._around.request_id]
        if self._around.tls:
            version, _, cipher = self._around.tls.partition(" ")
            texts += [f"({version.replace('TLSv', 'TLS')}", f"{cipher})"]
        if recipient is not None:
            texts += ["for", f"<{recipient.text(smtputf8=smtputf8)}>"]
        texts[-1] += ";"
        field.add(" ", *texts)
        field.add(" ", *format_date(self._now).split(" ", 2))
        return field.bytes()


@dataclass(frozen=True, slots=True)
class _Composed:
    """A composed message."""

    content: bytes | IO[bytes]
    has_8bit: bool
    smtputf8: bool


@contextlib.contextmanager
def _composed(mail: Mail, max_size: int, *, smtputf8: bool) -> Iterator[_Composed]:
    """The message, in memory or on disk. Raises CallError."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(settings.MOX.temporary_dir)) as file:
        composer = Composer(file, max_size=max_size, smtputf8=smtputf8)
        try:
            mail.write(composer)
        except MessageTooLarge as exc:
            raise CallError(Code.MESSAGE_TOO_LARGE, str(exc)) from exc
        except BadHeaderText as exc:
            raise CallError(Code.USER, str(exc)) from exc
        file.seek(0)
        content = file.read() if composer.size <= IN_MEMORY else file
        yield _Composed(content, composer.has_8bit, smtputf8)


class _SentCopy:
    """The copy in the mailbox for sent mail: signed as it is sent, with the hidden recipients, without our Received."""

    def __init__(self, account_id: int, prepared: Prepared, bcc: bytes) -> None:
        self._account_id = account_id
        received_end = prepared.prefix.find(b"DKIM-Signature:")
        signatures = prepared.prefix[received_end:] if received_end >= 0 else b""
        self._new = NewMessage(prepared.blob, prefix=bcc + signatures, flags=Flags(SEEN | NOTJUNK))

    def store(self, tx: Tx, queue_id: int) -> bool:
        """Put it there, if there is such a mailbox; False if it does not fit."""
        own = tx.account(self._account_id)
        sent = Mailbox.objects.filter(account_id=self._account_id, special_sent=True, expunged=False).order_by("pk")
        mailbox_id = sent.values_list("pk", flat=True).first()
        if mailbox_id is None:
            return True
        blob_id = QueueMessage.objects.values_list("blob_id", flat=True).get(pk=queue_id)
        try:
            store_messages.add(own, own.mailbox(mailbox_id), self._new, blob_id)
        except OverQuota:  # looked at before anything is written
            return False
        return True


def _bcc_field(bcc: Sequence[_Recipient], *, smtputf8: bool) -> bytes:
    file = io.BytesIO()
    Composer(file, max_size=1 << 30, smtputf8=smtputf8).addresses("Bcc", [recipient.address for recipient in bcc])
    return file.getvalue()


def _recipients(values: Sequence[Mapping[str, str]]) -> list[_Recipient]:
    return [_Recipient(value["Address"], _name_address(value)) for value in values]


def _name_address(value: Mapping[str, str]) -> NameAddress:
    try:
        return NameAddress(value["Name"], parse_address(value["Address"]))
    except BadAddress as exc:
        raise CallError(Code.BAD_ADDRESS, f'parsing address "{value["Address"][:200]}": {exc}') from exc


def _path(address: Address) -> Path:
    return Path(address.localpart, IPDomain(domain=address.domain))


def _decoded(data: str, kind: str) -> bytes:
    try:
        return base64.b64decode(data.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CallError(Code.USER, f"Data in {kind} is not base64: {exc}") from exc


def _hostname() -> DomainName:
    return own_hostname(ServerSettings.current().hostname)


_RESULTS: Final = {
    Code.BAD_FROM: "badfrom",
    Code.MESSAGE_LIMIT_REACHED: "messagelimiterror",
    Code.RECIPIENT_LIMIT_REACHED: "recipientlimiterror",
    Code.DOMAIN_DISABLED: "domaindisabled",
}
_CODES: Final = {
    BadFrom: Code.BAD_FROM,
    MessageLimitReached: Code.MESSAGE_LIMIT_REACHED,
    RecipientLimitReached: Code.RECIPIENT_LIMIT_REACHED,
}


def _refusal(exc: SubmitError) -> CallError:
    return CallError(_CODES.get(type(exc), Code.USER), str(exc))
