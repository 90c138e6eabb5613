"""A whole message from what somebody wants to say: header, texts, files, and only the multiparts that they need.

composer = Composer(file, max_size=100_000_000, smtputf8=mail.needs_smtputf8([]))
mail.write(composer)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import IO, Final

from protocols.names import Address

from .composer import Composer, NameAddress
from .dates import format_date
from .sniffing import SNIFFED, content_type

_AGENT_FIELDS: Final = frozenset({"user-agent", "x-mailer"})


@dataclass(frozen=True, slots=True)
class MailFile:
    """A file of a message. ``media_type`` "": found by its content; ``content_id`` in angle brackets, or ""."""

    name: str
    media_type: str
    content_id: str
    content: bytes | IO[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """What a message says. Message-Ids in angle brackets; ``fields``: more header fields, in this order."""

    from_: NameAddress
    to: Sequence[NameAddress] = ()
    cc: Sequence[NameAddress] = ()
    reply_to: Sequence[NameAddress] = ()
    subject: str = ""
    date: datetime
    message_id: str
    references: Sequence[str] = ()
    fields: Sequence[tuple[str, str]] = ()
    user_agent: str = ""
    """Unless the fields say what made the message."""
    text: str = ""
    html: str = ""
    alternative_files: Sequence[MailFile] = ()
    """More forms of what the texts say, such as an invitation."""
    inline_files: Sequence[MailFile] = ()
    """What the HTML shows, by their Content-Ids."""
    attached_files: Sequence[MailFile] = ()

    def needs_smtputf8(self, bcc: Iterable[Address]) -> bool:
        """Whether a localpart can be written in UTF-8 only (RFC 6531)."""
        shown = (self.from_, *self.to, *self.cc, *self.reply_to)
        addresses = (*(each.address for each in shown), *bcc)
        return not all(address.localpart.isascii() for address in addresses)

    def write(self, composer: Composer) -> None:
        """Write it. Raises BadHeaderText, MessageTooLarge."""
        composer.addresses("From", [self.from_])
        composer.addresses("Reply-To", self.reply_to)
        composer.addresses("To", self.to)
        composer.addresses("Cc", self.cc)
        if self.subject:
            composer.unstructured("Subject", self.subject)
        composer.header("Date", format_date(self.date))
        composer.header("Message-Id", self.message_id)
        if self.references:
            composer.header("References", " ".join(self.references))
            composer.header("In-Reply-To", self.references[-1])
        composer.header("MIME-Version", "1.0")
        for name, value in self.fields:
            composer.unstructured(name, value)
        if self.user_agent and not any(name.lower() in _AGENT_FIELDS for name, _ in self.fields):
            composer.header("User-Agent", self.user_agent)
        self._mixed(composer)

    def _mixed(self, composer: Composer) -> None:
        if not self.attached_files:
            self._related(composer)
            return
        with composer.multipart("mixed") as mixed:
            mixed.part()
            self._related(composer)
            for file in self.attached_files:
                mixed.part()
                _file(composer, file, "attachment")

    def _related(self, composer: Composer) -> None:
        if not self.inline_files:
            self._alternative(composer)
            return
        with composer.multipart("related", {"type": self._root_type()}) as related:
            related.part()
            self._alternative(composer)
            for file in self.inline_files:
                related.part()
                _inline(file, composer)

    def _root_type(self) -> str:
        """Of the first part of multipart/related (RFC 2387 section 3.1)."""
        if len(self._alternatives()) > 1:
            return "multipart/alternative"
        return "text/html" if self.html else "text/plain"

    def _alternative(self, composer: Composer) -> None:
        forms = self._alternatives()
        if len(forms) == 1:
            forms[0](composer)
            return
        with composer.multipart("alternative") as alternative:
            for form in forms:
                alternative.part()
                form(composer)

    def _alternatives(self) -> list[Callable[[Composer], None]]:
        """What writes each form of the text, the plainest first."""
        forms: list[Callable[[Composer], None]] = []
        if self.text or not self.html:
            forms.append(lambda composer: composer.text("plain", self.text))
        if self.html:
            forms.append(lambda composer: composer.text("html", self.html))
        forms += [partial(_inline, file) for file in self.alternative_files]
        return forms


def _inline(file: MailFile, composer: Composer) -> None:
    _file(composer, file, "inline")


def _file(composer: Composer, file: MailFile, disposition: str) -> None:
    media_type = file.media_type or content_type(_start(file.content))
    composer.attachment(file.content, media_type, file.name, disposition=disposition, content_id=file.content_id)


def _start(content: bytes | IO[bytes]) -> bytes:
    if isinstance(content, bytes):
        return content[:SNIFFED]
    position = content.tell()
    start = content.read(SNIFFED)
    content.seek(position)
    return start
