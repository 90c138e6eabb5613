"""Writing a notification: multipart/report of a text, the status, and the header of the original message.

Much of what is in it comes from other servers. None of that can make composing fail, or begin a field or line of its
own: control characters become spaces, and what is outside ASCII becomes `\\x{HEX}` where the reader takes only ASCII.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from protocols.message.charset import clean_text
from protocols.message.composer import Composer
from protocols.message.dates import format_date
from protocols.message.headers import is_field_name
from protocols.message.headerwriter import HeaderWriter, comment
from protocols.names import address_literal, dsn_localpart, format_localpart
from protocols.smtpsyntax import Path

from .values import DEFAULT_DIAGNOSTIC_TYPE, Action, Dsn, DsnError, DsnRecipient, Fields, NameIP

MAX_TEXT: Final = 8 * 1024  # characters of one value in the status; with 100 recipients others still read it
MAX_LINE: Final = 998  # bytes without CRLF, RFC 5322 2.1.1
CUT_LINE: Final = 240  # characters that a longer line of text is cut to; at most 960 bytes

_CONTROLS: Final = re.compile(r"[\x00-\x20\x7f]+")
_LINE_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NON_ASCII: Final = re.compile(r"[^\x00-\x7f]")
_NOT_IN_NAME: Final = re.compile(r"[ ();]")
_HEADER_END: Final = re.compile(rb"\A\r?\n|\n\r?\n")
_NOT_PLAIN: Final = re.compile(rb"\0|\r(?!\n)")
_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_DIAGNOSTIC_TYPE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNKNOWN_STATUS: Final = {Action.FAILED: "5.0.0", Action.DELAYED: "4.0.0"}
_SUCCESS_STATUS: Final = "2.0.0"


def compose(dsn: Dsn, remote_smtputf8: bool) -> bytes:
    """The message, from its From field on; signing it and fields in front of it are the caller's.

    In UTF-8 (RFC 6533) if the original needed SMTPUTF8 and the reader's server takes it, else in ASCII. Raises
    DsnError without Message-Id, recipients or the name of the server that reports; BadHeaderText for a Message-Id or
    address with a line end in it, and for a Message-Id outside ASCII in a notification in ASCII.
    """
    if not dsn.message_id:
        raise DsnError("missing message-id")
    if not dsn.recipients:
        raise DsnError("missing per-recipient fields")
    if not dsn.reporting_mta:
        raise DsnError("missing reporting-mta")
    form = _Form(utf8=dsn.smtputf8 and remote_smtputf8)
    file = io.BytesIO()
    composer = Composer(file, max_size=sys.maxsize, smtputf8=form.utf8)
    composer.header("From", f"<{form.path(dsn.from_)}>")
    composer.header("To", f"<{form.path(dsn.to)}>")
    composer.unstructured("Subject", dsn.subject)
    composer.header("Message-Id", dsn.message_id)
    if dsn.references:
        composer.header("References", form.text(dsn.references))
    composer.header("Date", format_date(dsn.date or datetime.now(UTC)))
    composer.header("Auto-Submitted", "auto-replied")  # RFC 3834 section 5
    composer.header("MIME-Version", "1.0")
    if form.utf8:
        composer.header("Content-Transfer-Encoding", "8bit")
    with composer.multipart("report", {"report-type": "delivery-status"}) as report:
        report.part()
        form.begin(composer, "text/plain; charset=utf-8" if form.utf8 else "text/plain")
        composer.write(form.lines(dsn.text))
        report.part()
        form.begin(composer, "message/global-delivery-status" if form.utf8 else "message/delivery-status")
        composer.write(_status(dsn, form))
        if dsn.original is not None:
            report.part()
            _add_header_of(dsn.original, composer, is_international=dsn.smtputf8)
    return file.getvalue()


class _Form:
    """How values are written: in UTF-8 or in ASCII."""

    def __init__(self, *, utf8: bool) -> None:
        self.utf8 = utf8

    def begin(self, composer: Composer, content_type: str) -> None:
        """The header of a part."""
        composer.header("Content-Type", content_type)
        composer.header("Content-Transfer-Encoding", "8bit" if self.utf8 else "7bit")
        composer.line()

    def text(self, text: str) -> str:
        """Text of anybody's on one line, without white space at its ends."""
        written = self._readable(_CONTROLS.sub(" ", text[:MAX_TEXT]).strip(" "))
        if len(text) <= MAX_TEXT and len(written) <= MAX_TEXT:
            return written
        return f"{written[:MAX_TEXT]}..."

    def lines(self, text: str) -> bytes:
        """Text of anybody's as the body of a part."""
        lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
        cut = (piece for line in lines for piece in _cut(self._readable(_LINE_CONTROLS.sub(" ", line))))
        return "".join(f"{line}\r\n" for line in cut).encode()

    def path(self, path: Path) -> str:
        """An address for a header."""
        if self.utf8 or path.localpart.isascii():
            return path.text(smtputf8=self.utf8)
        # No ASCII form of it is a real address; this one is legible and breaks nobody's parser.
        return Path(dsn_localpart(path.localpart, utf8=False), path.domain).text()

    def recipient(self, path: Path, text: str) -> str:
        """An address with its type, for the status; the text as it was read if there is no address."""
        if path.is_null:
            return self.text(text)
        if self.utf8:
            return f"utf-8;{path.text(smtputf8=True)}"
        if path.localpart.isascii():
            return f"rfc822;{path.text()}"
        # RFC 6533 section 3
        localpart = dsn_localpart(path.localpart, utf8=False)
        return f"rfc822;{path.text().replace(format_localpart(path.localpart), localpart, 1)}"

    def mta(self, server: NameIP, *, literal: bool = False) -> str:
        """A server and its address in a comment."""
        name = f"dns;{_NOT_IN_NAME.sub('', self.text(server.name))}"
        if server.ip is None:
            return name
        return f"{name} ({address_literal(server.ip) if literal else server.ip})"

    def _readable(self, text: str) -> str:
        """The text in the characters that may be written."""
        if text.isascii():
            return text
        text = clean_text(text)
        return text if self.utf8 else _NON_ASCII.sub(lambda match: f"\\x{{{ord(match[0]):x}}}", text)


def _status(dsn: Dsn, form: _Form) -> bytes:
    """The fields of the message as a whole, and a block for each recipient (RFC 3464 section 2)."""
    whole = [("Reporting-MTA", f"dns; {_NOT_IN_NAME.sub('', form.text(dsn.reporting_mta))}")]
    if dsn.arrival is not None:
        whole.append(("Arrival-Date", format_date(dsn.arrival)))
    whole.append(("Future-Release-Request", form.text(dsn.future_release)))
    whole.append(("Original-Envelope-ID", form.text(dsn.envelope_id)))
    if dsn.dsn_gateway:
        whole.append(("DSN-Gateway", f"dns; {_NOT_IN_NAME.sub('', form.text(dsn.dsn_gateway))}"))
    if dsn.received_from is not None:
        whole.append(("Received-From-MTA", form.mta(dsn.received_from, literal=True)))
    blocks = [_block([*whole, *_others(dsn.other_fields, form)])]
    blocks.extend(_block(_recipient(recipient, form)) for recipient in dsn.recipients)
    return b"\r\n".join(blocks)


def _recipient(recipient: DsnRecipient, form: _Form) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    if recipient.original is not None:
        fields.append(("Original-Recipient", form.recipient(recipient.original, recipient.original_text)))
    fields.append(("Final-Recipient", form.recipient(recipient.final, recipient.final_text)))
    fields.append(("Action", recipient.action.value))
    status = recipient.status
    if _STATUS.fullmatch(status) is None:
        status = _UNKNOWN_STATUS.get(recipient.action, _SUCCESS_STATUS)
    said = form.text(recipient.status_comment)
    fields.append(("Status", f"{status} {comment(said)}" if said else status))
    if recipient.remote_mta is not None:
        fields.append(("Remote-MTA", form.mta(recipient.remote_mta)))
    if recipient.diagnostic:
        kind = recipient.diagnostic_type
        kind = kind if _DIAGNOSTIC_TYPE.fullmatch(kind) else DEFAULT_DIAGNOSTIC_TYPE
        fields.append(("Diagnostic-Code", f"{kind}; {form.text(recipient.diagnostic)}"))
    if recipient.last_attempt is not None:
        fields.append(("Last-Attempt-Date", format_date(recipient.last_attempt)))
    fields.append(("Final-Log-ID", form.text(recipient.final_log_id)))
    if recipient.will_retry_until is not None:
        fields.append(("Will-Retry-Until", format_date(recipient.will_retry_until)))
    return [*fields, *_others(recipient.other_fields, form)]


def _others(fields: Fields, form: _Form) -> list[tuple[str, str]]:
    return [(name, form.text(value)) for name, value in fields if is_field_name(name)]


def _block(fields: Fields) -> bytes:
    """Fields with a value."""
    lines = []
    for name, value in fields:
        if value:
            field = HeaderWriter(f"{name}:")
            field.words(value)
            lines.append(field.bytes())
    return b"".join(lines)


def _add_header_of(original: bytes, composer: Composer, *, is_international: bool) -> None:
    """The part with the header of the original, in base64 where it cannot stand as it is."""
    end = _HEADER_END.search(original)
    header = original if end is None else original[: end.start() + 1] if end.start() else b""
    header = header.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    as_it_is = _NOT_PLAIN.search(header) is None and all(len(line) <= MAX_LINE for line in header.split(b"\r\n"))
    is_utf8 = _is_utf8(header)
    if composer.smtputf8 and is_utf8:
        content_type = "message/global-headers"
    elif is_international or not header.isascii():
        as_it_is = False
        content_type = f"text/rfc822-headers; charset={'utf-8' if is_utf8 else 'unknown-8bit'}"
    else:
        content_type = "text/rfc822-headers"
    encoding = "base64" if not as_it_is else "7bit" if header.isascii() and not composer.smtputf8 else "8bit"
    composer.header("Content-Type", content_type)
    composer.header("Content-Transfer-Encoding", encoding)
    composer.line()
    if as_it_is:
        composer.write(header)
    else:
        composer.base64(header)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _cut(line: str) -> Iterator[str]:
    """A line in pieces that mail may have, cut at spaces if there are any."""
    start = 0
    if len(line.encode()) > MAX_LINE:
        while len(line) - start > CUT_LINE:
            end = line.rfind(" ", start + 1, start + CUT_LINE)
            end = end if end >= 0 else start + CUT_LINE
            yield line[start:end]
            start = end
    yield line[start:]
