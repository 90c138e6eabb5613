"""Writing messages (RFC 5322, MIME): header fields that no value can break out of, text, attachments, multiparts."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Final
from urllib.parse import quote

from protocols.errors import ProtocolError
from protocols.names import Address, Domain, pack

from .encodedwords import encode_words
from .headers import is_field_name, is_token
from .headerwriter import MAX_WORD, BadHeaderText, HeaderWriter

MAX_TEXT_LINE: Final = 78  # bytes; text with longer lines is quoted-printable
BASE64_BLOCK: Final = 57 * 1024  # bytes encoded at once; whole lines of 76 characters
MAX_PARAMETER: Final = 60  # characters of a parameter's value on one line; more is continued (RFC 2231 section 3)

_PHRASE: Final = re.compile(r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+(?: [A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+)*+")
_CONTROL: Final = re.compile("[\x00-\x1f\x7f]")
_CONTROL_IN_TEXT: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # in a line; tabs are text


class MessageTooLarge(ProtocolError, ValueError):
    """What was written is more than the most that was allowed."""


@dataclass(frozen=True, slots=True)
class NameAddress:
    """An address with the name to show for it, "" for none."""

    name: str
    address: Address


@dataclass(frozen=True, slots=True)
class TextBody:
    """Text as the body of a part: lines that end in CRLF, the last one too."""

    content: bytes
    charset: str
    encoding: str
    """7bit, 8bit or quoted-printable."""


class Composer:
    """Writes one message to a binary file.

    composer = Composer(file, max_size=50_000_000)
    composer.addresses("From", [NameAddress("Jan", address)])
    composer.unstructured("Subject", "Grüße")
    composer.header("MIME-Version", "1.0")
    with composer.multipart("mixed") as mixed:
        mixed.part()
        composer.text("plain", "Hello\\n")
        mixed.part()
        composer.attachment(b"...", "image/png", "plot.png")

    With ``smtputf8`` headers hold UTF-8 (RFC 6532), else ASCII. Raises BadHeaderText for a value with a line end or
    NUL in it, or one that needs SMTPUTF8 where there is none; MessageTooLarge at the first byte over ``max_size``.
    """

    def __init__(self, file: IO[bytes], *, max_size: int, smtputf8: bool = False) -> None:
        self._file = file
        self._max_size = max_size
        self.smtputf8 = smtputf8
        self.size = 0
        self.has_8bit = False
        """Whether a body with 8bit content was written."""

    def write(self, data: bytes) -> None:
        """Bytes as they are, with CRLF."""
        self.size += len(data)
        if self.size > self._max_size:
            raise MessageTooLarge(f"message larger than {self._max_size} bytes")
        self._file.write(data)

    def line(self) -> None:
        """An empty line: the end of a header."""
        self.write(b"\r\n")

    def header(self, name: str, value: str) -> None:
        """A field whose value has a syntax of its own, folded at its spaces."""
        self._require_text(value)
        field = self._field(name)
        field.words(value)
        self.write(field.bytes())

    def unstructured(self, name: str, text: str) -> None:
        """A field of free text, such as Subject; what a header cannot hold becomes encoded words."""
        field = self._field(name)
        words = text.split(" ")
        odd = [at for at, word in enumerate(words) if self._needs_encoding(word)]
        if odd:
            # From first to last as one: the spaces between encoded words are not shown (RFC 2047 6.2).
            first, after = odd[0], odd[-1] + 1
            _refuse_line_ends(text)
            # A field that began with a line end would be read with a space too many.
            taken = 0 if first else len(name) + len(": ")
            words[first:after] = encode_words(" ".join(words[first:after]), taken)
        field.words(" ".join(words))
        self.write(field.bytes())

    def addresses(self, name: str, addresses: Iterable[NameAddress]) -> None:
        """A field with a list of addresses; none at all when the list is empty."""
        field = self._field(name)
        texts = [self._mailbox(address) for address in addresses]
        if not texts:
            return
        for mailbox in texts[:-1]:
            mailbox[-1] += ","
        for mailbox in texts:
            field.add(" ", *mailbox)
        self.write(field.bytes())

    def text(self, subtype: str, text: str) -> None:
        """The rest of a part, or of a message: type and encoding fields, the empty line, and a text body."""
        body = text_body(text)
        self.header("Content-Type", f"text/{subtype}; charset={body.charset}")
        self.header("Content-Transfer-Encoding", body.encoding)
        self.line()
        self.has_8bit = self.has_8bit or body.encoding == "8bit"
        self.write(body.content)

    def attachment(
        self,
        content: bytes | IO[bytes],
        content_type: str,
        filename: str,
        *,
        disposition: str = "attachment",
        content_id: str = "",
    ) -> None:
        """The rest of a part: its fields, the empty line, and the content in base64, read from its position on."""
        self.header("Content-Type", content_type)
        self.header("Content-Transfer-Encoding", "base64")
        field = self._field("Content-Disposition")
        texts = [disposition, *parameters("filename", filename)] if filename else [disposition]
        field.add(" ", *(f"{text};" for text in texts[:-1]), texts[-1])
        self.write(field.bytes())
        if content_id:
            self.header("Content-Id", content_id)
        self.line()
        self.base64(content)

    def base64(self, content: bytes | IO[bytes]) -> None:
        """A body in base64, lines of 76 characters."""
        if isinstance(content, bytes):
            self.write(_base64_lines(content))
            return
        while block := content.read(BASE64_BLOCK):
            self.write(_base64_lines(block))

    def multipart(self, subtype: str, params: Mapping[str, str] | None = None) -> Multipart:
        """The rest of a part, or of a message, made of parts: its Content-Type field and the empty line."""
        parts = Multipart(self, boundary())
        field = self._field("Content-Type")
        field.add(" ", f"multipart/{subtype};")
        for name, value in (params or {}).items():
            field.add(" ", f'{name}="{value}";')
        field.add(" ", f'boundary="{parts.boundary}"')
        self.write(field.bytes())
        self.line()
        return parts

    def _field(self, name: str) -> HeaderWriter:
        if not is_field_name(name):
            raise BadHeaderText(f"not the name of a header field: {name!r}")
        return HeaderWriter(f"{name}:")

    def _require_text(self, value: str) -> None:
        if not self.smtputf8 and not value.isascii():
            raise BadHeaderText(f"header value outside ASCII needs SMTPUTF8: {value!r}")

    def _needs_encoding(self, word: str) -> bool:
        return (
            len(word) > MAX_WORD
            or not (self.smtputf8 or word.isascii())
            or "=?" in word
            or _CONTROL.search(word) is not None
        )

    def _mailbox(self, address: NameAddress) -> list[str]:
        """The texts between which a line may be folded."""
        spec = pack(address.address, self.smtputf8)
        self._require_text(spec)
        name = address.name
        _refuse_line_ends(name)
        if not name:
            return [f"<{spec}>"]
        if self._needs_encoding(name):
            words = encode_words(name)
        elif _PHRASE.fullmatch(name):
            words = name.split(" ")
        else:
            words = ['"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"']
        return [*words, f"<{spec}>"]


class Multipart:
    """The parts of a multipart; the end of its ``with`` block closes it."""

    def __init__(self, composer: Composer, boundary: str) -> None:
        self._composer = composer
        self._before = b""
        self.boundary = boundary

    def part(self) -> None:
        """The next part begins: its fields, an empty line and its body follow."""
        self._composer.write(b"%s--%s\r\n" % (self._before, self.boundary.encode()))
        self._before = b"\r\n"

    def __enter__(self) -> Multipart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._composer.write(b"\r\n--%s--\r\n" % self.boundary.encode())


def text_body(text: str) -> TextBody:
    """The text with CRLF, encoded if it must be: for long lines, white space at line ends, control characters."""
    content = text.replace("\r\n", "\n").replace("\n", "\r\n").encode("utf-8", "replace")
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    lines = content.split(b"\r\n")
    charset = "us-ascii" if content.isascii() else "utf-8"
    if any(
        len(line) > MAX_TEXT_LINE or line.endswith((b" ", b"\t")) or _CONTROL_IN_TEXT.search(line) for line in lines
    ):
        # Line by line: b2a_qp leaves a bare CR as it is in what it takes for text.
        encoded = b"\r\n".join(binascii.b2a_qp(line, istext=False).replace(b"\n", b"\r\n") for line in lines)
        return TextBody(encoded, charset, "quoted-printable")
    return TextBody(content, charset, "7bit" if content.isascii() else "8bit")


def parameters(name: str, value: str) -> list[str]:
    """The parameters of a MIME field that together say this value, by RFC 2231 where it takes more than a plain one."""
    _refuse_line_ends(value)
    if len(value) <= MAX_PARAMETER and value.isascii() and value.isprintable() and "=?" not in value:
        if is_token(value.encode()):
            return [f"{name}={value}"]
        return [f'{name}="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"']
    pieces = [""]
    for character in value:
        encoded = quote(character, safe="", errors="replace")
        if len(pieces[-1]) + len(encoded) > MAX_PARAMETER:
            pieces.append("")
        pieces[-1] += encoded
    if len(pieces) == 1:
        return [f"{name}*=utf-8''{pieces[0]}"]
    return [f"{name}*{number}*={'' if number else 'utf-8' + 2 * chr(39)}{piece}" for number, piece in enumerate(pieces)]


def message_id(hostname: Domain, smtputf8: bool) -> str:
    """A new Message-Id, in its angle brackets."""
    return f"<{secrets.token_urlsafe(16)}@{hostname.xname(smtputf8)}>"


def boundary() -> str:
    """A boundary that no content can hold by chance."""
    return secrets.token_hex(16)


def _base64_lines(content: bytes) -> bytes:
    return base64.encodebytes(content).replace(b"\n", b"\r\n")


def _refuse_line_ends(text: str) -> None:
    if "\r" in text or "\n" in text or "\0" in text:
        raise BadHeaderText(f"line end or NUL in a header: {text!r}")
