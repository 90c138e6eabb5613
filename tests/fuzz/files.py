"""What people upload and what clients compress: archives, mbox files, names of Maildir files, deflate, HTML."""

from __future__ import annotations

import contextlib
import io
import itertools
import zlib
from datetime import UTC, datetime
from typing import Final

from protocols.archives import ArchiveError, ArchiveWriter, Content, TarWriter, ZipWriter, compressed, members
from protocols.deflate import UNPACKED_MAX, BadDeflate, Deflate
from protocols.maildir import format_name, parse_keywords, parse_name
from protocols.mbox import MboxError, read_mbox, write_message
from protocols.message.htmltext import HTMLText, attributes

from .targets import Target

NOW: Final = datetime(2031, 3, 3, 9, 12, 44, tzinfo=UTC)
MESSAGE: Final = b"From: a@example.org\nStatus: RO\nX-Keywords: a,b\n\n>From x\nFrom y\n"
READ_MAX: Final = 4 << 20  # bytes: what an archive unpacks to is bounded elsewhere
MESSAGE_MAX: Final = 32 * 1024  # bytes


def archive(data: bytes) -> None:
    left = READ_MAX
    with contextlib.suppress(ArchiveError):
        for number, member in enumerate(members(io.BytesIO(data)), start=1):
            assert member.number == number
            left -= _read(member.content, left)
            if left <= 0:
                return


def _read(content: Content, most: int) -> int:
    size = 0
    while size < most and (block := content.read(4096)):
        assert len(block) <= 4096
        size += len(block)
    return size


def mbox(data: bytes) -> None:
    """Whatever was in one message is in one message when it is written."""
    with contextlib.suppress(MboxError):
        for message in read_mbox(io.BytesIO(data), MESSAGE_MAX):
            assert (message.content is None) == (message.size > MESSAGE_MAX)
            if not isinstance(message.content, bytes):
                continue
            content = message.content.replace(b"\r\n", b"\n")
            written = b"".join(write_message([content], "a@example.org", NOW, message.words))
            (again,) = read_mbox(io.BytesIO(written), 1 << 20)
            assert again.received == NOW
            assert isinstance(again.content, bytes)


def maildir(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    name = parse_name(text)
    again = parse_name(format_name(NOW, "x", name.words, name.letters))
    assert (again.words, again.letters) == (name.words, name.letters)
    words, _ = parse_keywords(text)
    assert all(len(letter) == 1 for letter in words)


def deflate(data: bytes) -> None:
    stream = Deflate()
    left = READ_MAX
    half = len(data) // 2
    with contextlib.suppress(BadDeflate):
        for piece in (data[:half], data[half:]):
            stream.received(piece)
            while left > 0 and (block := stream.unpack()):
                assert len(block) <= UNPACKED_MAX
                left -= len(block)
    packed = stream.pack(data) + stream.flush()
    stream.rest()
    packed += stream.pack(data) + stream.flush()
    reader = Deflate()
    reader.received(packed)
    assert b"".join(iter(reader.unpack, b"")) == data + data


class Page(HTMLText):
    def tag(self, name: str, tag: str, words: list[str]) -> None:
        assert name == name.lower()
        words.append(f"[{name}{dict(attributes(tag)).get('alt', '')}]")


def html(data: bytes) -> None:
    """Cut anywhere it is the same text."""
    text = data.decode("utf-8", "replace")
    whole = Page(frozenset({"script", "style"})).feed(text, last=True)
    page = Page(frozenset({"script", "style"}))
    cuts = [0, len(text) // 3, len(text) // 2, len(text)]
    pieces = [page.feed(text[start:end]) for start, end in itertools.pairwise(cuts)]
    assert "".join([*pieces, page.feed("", last=True)]) == whole


def _archive(writer: ArchiveWriter) -> bytes:
    pieces = [*writer.directory("a", NOW), *writer.file("a/b.eml", NOW, [MESSAGE], len(MESSAGE))]
    return b"".join([*pieces, *writer.file("é" * 120, NOW, [b"x" * 600]), *writer.finish()])


TAR: Final = _archive(TarWriter())
ARCHIVES: Final = [TAR, b"".join(compressed([TAR])), _archive(ZipWriter())]
ZIP = [
    b"PK\3\4",
    b"PK\1\2",
    b"PK\5\6",
    b"PK\6\6",
    b"PK\6\7",
    b"\1\0\x10\0",
    b"\xff\xff\xff\xff",
    b"\0",
    b"ustar\0",
]
ZIP += [b"0000644\0", b"11 path=x\n", b"12 size=10\n", b"\x80\0\0\0", b"L", b"x", b"5", b"\x1f\x8b\x08\0"]
MBOX: Final = [
    b"From ",
    b"From a Mon Mar  3 09:12:44 2031\n",
    b"\n",
    b"\r\n",
    b">",
    b"Status: RO\n",
    b"X-Keywords: ",
    b":",
]
HTML: Final = [b"<", b">", b"<!--", b"-->", b"<script>", b"</script", b"<p ", b"alt=", b'"', b"'", b"&amp;", b"&", b";"]

TARGETS = [
    Target("archive", archive, ARCHIVES, ZIP, seconds_per_mib=32),
    Target("mbox", mbox, [b"From a Mon Mar  3 09:12:44 2031\n" + MESSAGE + b"\n"], MBOX, seconds_per_mib=8),
    Target(
        "Maildir", maildir, [b"1709629872.5.mox:2,FSa", b"0 $Forwarded\n1 x\n"], [b":2,", b"F", b"a", b".", b"1", b"\n"]
    ),
    Target(
        "deflate", deflate, [zlib.compress(MESSAGE, wbits=-15)], [b"\0\0\xff\xff", b"\x03\0", b"\0"], seconds_per_mib=32
    ),
    Target("HTML", html, [b"<p>Hel<b alt='x'>lo</b> &lt;<!-- c --><script>1<2</script></p>"], HTML, seconds_per_mib=8),
]
