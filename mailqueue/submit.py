"""The one way by which mail goes out: checked, completed, signed, stored once, and a row for each recipient.

    prepared = submit.prepare(request)                # no transaction: parses and signs; large content is on disk
    ids = await bridge.write([account_id], prepared.enqueue)

or, where no group commit is at hand, ``ids = submit.submit(request)``. Nothing else inserts a QueueMessage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import Counter

from accounts.addresses import canonical_localpart, hosted_domain, may_send_as
from accounts.dkim import signing_selectors
from protocols import dkim
from protocols.message import (
    FromError,
    MessageError,
    Part,
    from_address,
    header_section,
    iter_headers,
    parse,
)
from protocols.message.authresults import AuthMethod, AuthProp, AuthResults
from protocols.message.composer import message_id as new_message_id
from protocols.message.dates import format_date
from protocols.names import Address, own_hostname
from protocols.names import Domain as DomainName
from protocols.smtpsyntax import Path
from server import db
from server.encryption import CannotDecrypt
from server.models import ServerSettings
from store import blobs, rows
from store.db import Tx, write_tx

from . import fromids, holds, limits, routing, wakeup
from .errors import BadFrom, BadHeader, BadMessage, ExtraTwice, FromIDNeedsOneRecipient, SubmitError
from .models import MessageKind, QueueMessage
from .paths import domain_texts

log = logging.getLogger(__name__)

SUBJECT_MAX: Final = 1000  # characters kept for lists, DSNs and webhooks
EXTRA_PREFIX: Final = "x-mox-extra-"

_signed = Counter("mox_dkim_sign", "DKIM signatures made.", ["key"])

Join = Callable[[Tx, list[int]], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A message that somebody wants to be sent. Recipients are kept as given: who wants them folded does so before."""

    account_id: int
    mail_from: Path
    recipients: Sequence[Path]
    content: bytes | IO[bytes]
    received: Callable[[Path | None, bool], bytes]
    """The Received field: with this recipient in its ``for`` clause, without one for None, where there are several; and
    whether the message needs SMTPUTF8."""
    login_address: str = ""
    has_8bit: bool = False
    smtputf8: bool = False
    """What the client said; it counts only where the message cannot be parsed."""
    require_tls: bool | None = None
    not_before: datetime | None = None
    future_release_request: str = ""
    authenticated: bool = False
    """Add an Authentication-Results field that says so."""
    pedantic: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)
    kind: MessageKind = MessageKind.MESSAGE
    max_attempts: int = 0
    count_limits: bool = True
    dsn_utf8: bytes | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message that needs only a transaction; ``mail_froms`` and ``from_ids`` go with the recipients."""

    request: Request
    blob: blobs.PreparedBlob
    prefix: bytes
    mail_froms: tuple[Path, ...]
    from_ids: tuple[str, ...]
    require_tls: bool | None
    smtputf8: bool
    message_id: str
    subject: str
    extra: dict[str, str]
    problem: SubmitError | None = None
    """Why it is not taken, where the limits, which only a transaction can look at, come first."""
    signing_error: str = ""
    """Why it is not signed although its domain has selectors for that. Interfaces decide whether it goes out so."""

    def enqueue(self, tx: Tx, join: Iterable[Join] = ()) -> list[int]:
        """Queue it, in a transaction that holds the account; the ids of the rows, in the order of the recipients.

        ``join``: what belongs to the message and is stored with it. Raises MessageLimitReached, RecipientLimitReached,
        ExtraTwice, FromIDNeedsOneRecipient, FromIDUsed.
        """
        account = tx.account(self.request.account_id).account
        now = datetime.now(UTC)
        addresses = [str(recipient) for recipient in self.request.recipients]
        use = limits.check(account, addresses, now) if self.request.count_limits else None
        if self.problem is not None:
            raise self.problem
        fromids.take([from_id for from_id in self.from_ids if from_id], now)
        blob_id = blobs.insert(self.blob, is_searched=False)
        ids: list[int] = []
        next_attempt = self.request.not_before or now
        is_to_go = False  # a row that is not on hold
        shared = len(addresses) > 1 and len(set(self.mail_froms)) == 1
        for mail_from, from_id, recipient in zip(self.mail_froms, self.from_ids, self.request.recipients, strict=True):
            sender_ascii, sender_domain = domain_texts(mail_from)
            rcpt_ascii, rcpt_domain = domain_texts(recipient)
            hold = holds.matches(account.pk, sender_domain, rcpt_domain)
            is_to_go |= not hold
            values = {
                "base_id": ids[0] if shared and ids else 0,
                "queued": now,
                "hold": hold,
                "account_id": account.pk,
                "account_name": account.name,
                "sender_localpart": mail_from.localpart,
                "sender_domain": sender_domain,
                "from_id": from_id,
                "rcpt_localpart": recipient.localpart,
                "rcpt_domain": rcpt_domain,
                "rcpt_domain_ascii": rcpt_ascii,
                "max_attempts": self.request.max_attempts,
                "next_attempt": next_attempt,
                "has_8bit": self.request.has_8bit,
                "smtputf8": self.smtputf8,
                "size": len(self.prefix) + self.blob.size,
                "kind": self.request.kind,
                "message_id": self.message_id,
                "subject": self.subject,
                "require_tls": self.require_tls,
                "future_release_request": self.request.future_release_request,
                "extra": self.extra,
                "blob_id": blob_id,
                "prefix": self.prefix,
                "dsn_utf8": self.request.dsn_utf8,
                "destination": routing.way(account.pk, sender_ascii, rcpt_ascii, 0, "").destination,
            }
            ids.append(rows.insert(QueueMessage, values))
            if shared and len(ids) == 1:
                rows.update(QueueMessage, ids[0], {"base_id": ids[0]})
        if use is not None:
            limits.record(use)
        for function in join:
            function(tx, ids)
        if is_to_go:
            wakeup.on_commit(max(next_attempt - now, timedelta(0)))
        return ids

    def discard(self) -> None:
        """It was not queued: its content goes."""
        self.blob.discard()


def submit(request: Request, join: Iterable[Join] = ()) -> list[int]:
    """Queue a message in a transaction of its own; the ids of its rows.

    Raises SubmitError, StorageFull, DatabaseBusy.
    """
    prepared = prepare(request)

    def transact() -> list[int]:
        with write_tx(request.account_id) as tx:
            return prepared.enqueue(tx, join)

    try:
        return db.retrying(transact)
    except Exception:
        prepared.discard()
        raise


def prepare(request: Request) -> Prepared:
    """Everything that needs no transaction. Raises SubmitError, StorageFull; ValueError without recipients."""
    if not request.recipients:
        raise ValueError("a message needs at least one recipient")
    blob = blobs.prepare(request.content)
    try:
        return _prepare(request, blob)
    except BaseException:
        blob.discard()
        raise


def _prepare(request: Request, blob: blobs.PreparedBlob) -> Prepared:
    section, has_end = header_section(request.content)
    if not has_end or blob.headerless:
        raise BadMessage("message must have both a header and a body, with an empty line between them")
    if request.pedantic:
        _check_structure(request.content)
    author = _author(request, blob.part)
    fields = _Fields.read(section)
    if request.pedantic and fields.has_return_path:
        raise BadHeader("message has a Return-Path field, which only the last server adds")
    problem: SubmitError | None = ExtraTwice(fields.extra_twice) if fields.extra_twice else None
    count = len(request.recipients)
    mail_froms, from_ids = (request.mail_from,) * count, ("",) * count
    try:
        mail_froms, from_ids = fromids.assign(request.account_id, request.login_address, request.mail_from, count)
    except FromIDNeedsOneRecipient as exc:
        problem = problem or exc
    for mail_from in dict.fromkeys(mail_froms):
        if (mail_from.localpart, mail_from.domain.domain) != (author.localpart, author.domain):  # looked up just now
            _check_mail_from(request.account_id, mail_from)
    smtputf8 = blob.needs_smtputf8(
        request.content,
        (request.mail_from, *request.recipients),
        has_8bit=request.has_8bit,
        said=request.smtputf8,
    )
    hostname = own_hostname(ServerSettings.current().hostname)
    message_id = fields.message_id
    added = b""
    if not message_id:
        message_id = new_message_id(hostname, smtputf8)
        added += f"Message-Id: {message_id}\r\n".encode()
    if not fields.has_date:
        added += f"Date: {format_date(datetime.now(UTC))}\r\n".encode()
    completed, signing_error = signatures(request.content, author, added, smtputf8=smtputf8)
    if request.authenticated:
        # The id of one recipient is none of the others' business.
        shown = mail_froms[0] if len(set(mail_froms)) == 1 else request.mail_from
        completed += _authentication_results(hostname, shown, smtputf8=smtputf8)
    received = request.received(request.recipients[0] if len(request.recipients) == 1 else None, smtputf8)
    require_tls = request.require_tls
    if require_tls is None and fields.tls_not_required:
        require_tls = False  # RFC 8689 section 5
    return Prepared(
        request=request,
        blob=blob,
        prefix=received + added + completed,
        mail_froms=mail_froms,
        from_ids=from_ids,
        require_tls=require_tls,
        smtputf8=smtputf8,
        message_id=message_id[:SUBJECT_MAX],
        subject=fields.subject[:SUBJECT_MAX],
        extra={**fields.extra, **request.extra},
        problem=problem,
        signing_error=signing_error,
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """What the queue wants to know of a header."""

    message_id: str
    subject: str
    has_date: bool
    has_return_path: bool
    tls_not_required: bool
    extra: dict[str, str]
    extra_twice: str
    """A key of X-Mox-Extra that is there more than once."""

    @classmethod
    def read(cls, section: bytes) -> _Fields:
        message_id = subject = extra_twice = ""
        has_date = has_return_path = False
        tls_required: list[bool] = []
        extra: dict[str, str] = {}
        for header in iter_headers(section):
            name = header.name.lower()
            if name == "message-id" and not message_id:
                message_id = header.value().decode("utf-8", "replace")
            elif name == "subject" and not subject:
                subject = header.text()
            elif name == "date":
                has_date = True
            elif name == "return-path":
                has_return_path = True
            elif name == "tls-required":
                tls_required.append(header.value().strip().lower() == b"no")
            elif name.startswith(EXTRA_PREFIX) and len(name) > len(EXTRA_PREFIX):
                key = "-".join(word.capitalize() for word in name.removeprefix(EXTRA_PREFIX).split("-"))
                if key in extra:
                    extra_twice = key
                extra[key] = header.text()
        return cls(
            message_id=message_id,
            subject=subject,
            has_date=has_date,
            has_return_path=has_return_path,
            tls_not_required=bool(tls_required) and all(tls_required),
            extra=extra,
            extra_twice=extra_twice,
        )


def _check_structure(content: bytes | IO[bytes]) -> None:
    """Raises BadMessage for what breaks a rule of the format, though others might make sense of it."""
    try:
        parse(content, strict=True)
    except MessageError as exc:
        raise BadMessage(f"malformed message: {exc}") from exc


def _author(request: Request, part: Part) -> Address:
    """The From address, which must be the account's. Raises BadHeader, BadFrom."""
    try:
        author = from_address(part)
    except FromError as exc:
        raise BadHeader(str(exc)) from exc
    if not may_send_as(request.account_id, author.localpart, author.domain):
        raise BadFrom(f"{author} is not an address of this account: use one of its own in the From header")
    return author


def _check_mail_from(account_id: int, mail_from: Path) -> None:
    """Raises BadFrom for a sender that is not the account's; the null sender is anybody's."""
    if not mail_from.is_null and not may_send_as(account_id, mail_from.localpart, mail_from.domain.domain):
        raise BadFrom(f"{mail_from} is not an address of this account: use one of its own as sender")


def signatures(content: bytes | IO[bytes], author: Address, added: bytes, *, smtputf8: bool) -> tuple[bytes, str]:
    """DKIM-Signature fields of the From domain's selectors, none where it has none; and why signing failed.

    ``added``: fields before the content, which are signed too.
    """
    domain = hosted_domain(author.domain.ascii)
    if domain is None:
        return b"", ""  # the name of this server, which signs nothing
    localpart = canonical_localpart(author.localpart, domain)
    try:
        selectors = signing_selectors(domain)
        if not selectors:
            return b"", ""
        fields = dkim.sign(content, localpart, author.domain, selectors, prefix=added, smtputf8=smtputf8)
    except (CannotDecrypt, dkim.DkimError) as exc:
        log.error("message cannot be signed", extra={"domain": domain.name, "err": str(exc)})
        return b"", str(exc)
    for selector in selectors:
        _signed.labels("ed25519" if isinstance(selector.key, Ed25519PrivateKey) else "rsa").inc()
    return fields, ""


def _authentication_results(hostname: DomainName, mail_from: Path, *, smtputf8: bool) -> bytes:
    props = (AuthProp("smtp", "mailfrom", mail_from.text(smtputf8=smtputf8), is_addr=True),)  # RFC 8601 section 2.7.4
    ascii_name = hostname.ascii if smtputf8 and hostname.unicode else ""
    method = AuthMethod("auth", "pass", props=() if mail_from.is_null else props)
    return AuthResults(hostname.xname(smtputf8), ascii_name, (method,)).compose()
