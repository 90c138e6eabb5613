"""Reading a notification, from whichever server: lax about what others get wrong and people still understand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from ipaddress import ip_address
from typing import Final

from protocols.message.addresses import EnvAddress
from protocols.message.charset import decode_bytes
from protocols.message.dates import parse_date
from protocols.message.encodedwords import one_line
from protocols.message.errors import MessageError
from protocols.message.headers import iter_headers, without_comments
from protocols.message.parser import parse as parse_message
from protocols.message.source import Readable, Source, as_source
from protocols.message.structure import Envelope, Part
from protocols.names import format_localpart
from protocols.smtpsyntax import POSTMASTER, Path, SyntaxProblem, parse_mailbox

from .values import DEFAULT_DIAGNOSTIC_TYPE, MAX_RECIPIENTS, Action, Dsn, DsnError, DsnRecipient, Fields, NameIP

MAX_PART: Final = 1 << 20  # bytes of a part; a longer status is refused, of text and original this much is kept
MAX_FIELDS: Final = 5000  # of one status; for MAX_RECIPIENTS a third of it is enough

_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?![0-9])")
_TYPE: Final = re.compile(r"([A-Za-z0-9._-]{1,64}) ?;")
_ESCAPED: Final = re.compile(r"\\([\\()])")
_CHARACTER: Final = re.compile(r"\\\\|\\x\{([0-9A-Fa-f]{1,6})\}")
_ACTIONS: Final = frozenset(Action)
_STATUS_TYPES: Final = {"DELIVERY-STATUS": False, "GLOBAL-DELIVERY-STATUS": True}
_ORIGINAL_TYPES: Final = frozenset(
    {
        ("TEXT", "RFC822-HEADERS"),
        ("MESSAGE", "RFC822"),
        ("MESSAGE", "GLOBAL-HEADERS"),
        ("MESSAGE", "GLOBAL"),
    }
)


def parse(source: Readable, *, strict: bool = False) -> tuple[Dsn, Part]:
    """The notification in a message, and the message's structure. Raises DsnError for what is none.

    ``strict`` is for what we compose: nothing missing, nothing that the RFCs don't have. Otherwise texts are "", and
    addresses the null path, where the other side left something out.
    """
    source = as_source(source)
    try:
        message = parse_message(source, strict=strict)
    except MessageError as error:
        raise DsnError(str(error)) from error
    if (message.media_type, message.media_subtype) != ("MULTIPART", "REPORT"):
        raise DsnError(f"message has content-type {_type(message)}, must be multipart/report")
    report_type = message.params.get("report-type", "" if strict else "delivery-status").lower()
    if report_type not in ("delivery-status", "global-delivery-status"):
        raise DsnError(f"report-type {report_type[:64]!r}, must be delivery-status")
    if len(message.parts) not in (2, 3):
        raise DsnError(f"multipart/report of {len(message.parts)} parts, must be 2 or 3")
    text, status, *original = message.parts
    is_utf8 = _STATUS_TYPES.get(status.media_subtype) if status.media_type == "MESSAGE" else None
    if is_utf8 is None:
        raise DsnError(f"second part has content-type {_type(status)}, must be message/delivery-status")
    data = _content(status, source)
    if len(data) > MAX_PART:
        raise DsnError(f"delivery status larger than {MAX_PART} bytes")
    dsn = decode_status(data, is_utf8, strict=strict)
    envelope = message.envelope or Envelope()
    dsn = replace(
        dsn,
        from_=_header_path(envelope.from_),
        to=_header_path(envelope.to),
        subject=envelope.subject,
        message_id=envelope.message_id,
        references=envelope.references,
        date=envelope.parsed_date,
        text=_text(text, source),
        original=_original(original[0], source, strict) if original else None,
    )
    return dsn, message


def decode_status(data: bytes, utf8: bool, *, strict: bool = False) -> Dsn:
    """What the part with the status says; the rest of the notification is empty. Raises DsnError.

    ``utf8``: it is message/global-delivery-status (RFC 6533). Both forms are read with whatever bytes they hold.
    """
    whole = _Block(strict)
    recipients: list[_Block] = []
    count = 0
    for fields in _blocks(data):
        count += len(fields)
        if count > MAX_FIELDS:
            raise DsnError(f"more than {MAX_FIELDS} fields")
        block = _Block(strict)
        block.add(fields)
        if block.is_about_recipient and (whole or strict):
            recipients.append(block)
        elif strict and (whole or recipients):
            raise DsnError('missing "Final-Recipient"')
        else:
            (recipients[-1] if recipients else whole).add(fields)  # an empty line too many
    if whole.is_about_recipient and not strict:
        recipients.insert(0, whole)  # the empty line between the two is missing
    if not recipients:
        raise DsnError("missing per-recipient fields")
    if len(recipients) > MAX_RECIPIENTS:
        raise DsnError(f"more than {MAX_RECIPIENTS} recipients")
    reporting_mta = whole.name_ip("Reporting-MTA", required=strict)
    gateway = whole.name_ip("DSN-Gateway")
    return Dsn(
        from_=Path(),
        to=Path(),
        subject="",
        message_id="",
        text="",
        reporting_mta=reporting_mta.name if reporting_mta is not None else "",
        arrival=whole.date("Arrival-Date"),
        future_release=whole.take("Future-Release-Request"),
        envelope_id=whole.take("Original-Envelope-Id"),
        dsn_gateway=gateway.name if gateway is not None else "",
        received_from=whole.name_ip("Received-From-MTA"),
        smtputf8=utf8,
        other_fields=whole.others() if recipients[0] is not whole else (),
        recipients=tuple(recipient.recipient() for recipient in recipients),
    )


class _Block:
    """The fields of one block. Each known one is taken; what is left over is unknown."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._fields: dict[str, list[tuple[str, str]]] = {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def add(self, fields: Fields) -> None:
        for name, value in fields:
            self._fields.setdefault(name.lower(), []).append((name, value))

    @property
    def is_about_recipient(self) -> bool:
        return "final-recipient" in self._fields or "original-recipient" in self._fields

    def recipient(self) -> DsnRecipient:
        final_text = self.take("Final-Recipient", required=self._strict)
        original_text = self.take("Original-Recipient")
        if not final_text and not original_text:
            raise DsnError('missing "Final-Recipient"')
        action = without_comments(self.take("Action", required=True)).strip(" ").lower()
        if action not in _ACTIONS:
            raise DsnError(f"unknown action {action[:64]!r}")
        status, status_comment = self._status()
        diagnostic_type, diagnostic = self._typed("Diagnostic-Code", DEFAULT_DIAGNOSTIC_TYPE)
        return DsnRecipient(
            final=self._path(final_text or original_text),
            final_text=final_text,
            original=self._path(original_text) if original_text else None,
            original_text=original_text,
            action=Action(action),
            status=status,
            status_comment=status_comment,
            remote_mta=self.name_ip("Remote-MTA"),
            diagnostic=diagnostic,
            diagnostic_type=diagnostic_type,
            last_attempt=self.date("Last-Attempt-Date"),
            final_log_id=self.take("Final-Log-Id"),
            will_retry_until=self.date("Will-Retry-Until"),
            other_fields=self.others(),
        )

    def take(self, name: str, *, required: bool = False) -> str:
        values = self._fields.pop(name.lower(), [])
        if len(values) > 1:
            raise DsnError(f'multiple values for "{name}"')
        if required and not values:
            raise DsnError(f'missing "{name}"')
        return values[0][1] if values else ""

    def date(self, name: str) -> datetime | None:
        return parse_date(self.take(name))

    def name_ip(self, name: str, *, required: bool = False) -> NameIP | None:
        """A server: its name, and its address if that is in a comment."""
        value = self.take(name, required=required)
        server = value.partition(";")[2] or value
        server, _, said = server.partition("(")
        if not server.strip(" "):
            return None
        literal = said.replace(",", " ").replace(")", " ").strip(" ").partition(" ")[0]
        try:
            ip = ip_address(literal.strip("[]").removeprefix("IPv6:")) if "%" not in literal else None
        except ValueError:
            ip = None
        return NameIP(server.strip(" "), ip)

    def others(self) -> tuple[tuple[str, str], ...]:
        """The fields that were not taken."""
        return tuple(field for fields in self._fields.values() for field in fields)

    def _status(self) -> tuple[str, str]:
        """The code and the comment after it."""
        value = self.take("Status", required=self._strict)
        match = _STATUS.match(value)
        if match is None and self._strict:
            raise DsnError(f"bad status {value[:64]!r}")
        status = match[0] if match is not None else ""
        said = value[len(status) :].strip(" ")
        if said.startswith("(") and said.endswith(")"):
            said = said[1:-1]
        return status, _ESCAPED.sub(r"\1", said)

    def _typed(self, name: str, default: str) -> tuple[str, str]:
        """Type, in lower case, and value of a field like `smtp; 550 no`."""
        value = self.take(name)
        match = _TYPE.match(value)
        text = " ".join(value[match.end() :].split() if match is not None else value.split())
        return match[1].lower() if match is not None else default, text

    def _path(self, value: str) -> Path:
        """The address of a field like `rfc822; user@example.org`, the null path if it is no address of mail."""
        match = _TYPE.match(value)
        if match is not None and match[1].lower() not in ("rfc822", "utf-8"):
            return Path()
        if match is None and self._strict:
            raise DsnError(f"address without type: {value[:64]!r}")
        address = value[match.end() :].strip(" ") if match is not None else value
        for text in (address, without_comments(address).strip(" ")):  # parentheses may be in quotes
            text = text.removeprefix("<").removesuffix(">")
            try:
                return _mailbox(_CHARACTER.sub(_character, text))
            except SyntaxProblem:
                continue
        return Path()


def _blocks(data: bytes) -> Iterator[Fields]:
    """The fields between empty lines."""
    lines: list[bytes] = []
    for line in (*data.split(b"\n"), b""):
        if line.strip(b" \t\r"):
            lines.append(line)
        elif lines:
            yield [
                (field.name, one_line(decode_bytes(field.value(), "unknown-8bit")).strip(" "))
                for field in iter_headers(b"\n".join((*lines, b"")))
            ]
            lines = []


def _mailbox(text: str) -> Path:
    return Path(text) if text.lower() == POSTMASTER else parse_mailbox(text, smtputf8=True)


def _character(match: re.Match[str]) -> str:
    r"""The character of `\x{HEX}` (RFC 6533 section 3); an escaped backslash stays what it is."""
    if match[1] is None:
        return match[0]
    code = int(match[1], 16)
    return chr(code) if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else match[0]


def _header_path(addresses: tuple[EnvAddress, ...]) -> Path:
    """The first address of a header field, the null path if there is none."""
    for address in addresses:
        if address.is_mailbox():
            try:
                return parse_mailbox(f"{format_localpart(address.user or '')}@{address.host}", smtputf8=True)
            except SyntaxProblem:
                return Path()
    return Path()


def _text(part: Part, source: Source) -> str:
    """The first text in a part, plain if there is one, with LF."""
    texts = [entity for entity in part.walk() if entity.is_text]
    texts.sort(key=lambda entity: entity.media_subtype not in ("", "PLAIN"))
    if not texts:
        return ""
    return decode_bytes(_content(texts[0], source), texts[0].params.get("charset", "")).replace("\r\n", "\n")


def _original(part: Part, source: Source, strict: bool) -> bytes | None:
    if (part.media_type, part.media_subtype) in _ORIGINAL_TYPES:
        return _content(part, source)
    if strict:
        raise DsnError(f"third part has content-type {_type(part)}, must be that of a header or message")
    return None


def _type(part: Part) -> str:
    """Its type as an error names it."""
    return f"{part.media_type}/{part.media_subtype}".lower()[:64] if part.media_type else "text/plain"


def _content(part: Part, source: Source) -> bytes:
    """The decoded body, of a long one the first MAX_PART bytes and some."""
    pieces: list[bytes] = []
    size = 0
    for piece in part.reader(source):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_PART:
            break
    return b"".join(pieces)
