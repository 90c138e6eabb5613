"""Mbox files: whatever is written is read again, and files of others are read as they were meant."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from protocols import mbox
from protocols.message.headers import is_field

RECEIVED = datetime(2024, 3, 5, 10, 11, 12, tzinfo=UTC)
SIZE_MAX = 1 << 20

pieces = st.sampled_from(
    [b"From ", b">From ", b">", b"\n", b"\n\n", b"Subject: x\n", b"Status: RO\n", b" ", b"a", b":", b"\r", b"\0\xff"]
)
contents = (
    st.lists(pieces | st.binary(max_size=4), max_size=20).map(b"".join).map(lambda data: data.replace(b"\r", b""))
)
flags = st.lists(st.sampled_from(["\\Seen", "\\Answered", "\\Flagged", "\\Draft", "\\Deleted"]), unique=True)


class Trickle(io.BytesIO):
    """A file that gives as little as it may."""

    def __init__(self, data: bytes, step: int) -> None:
        super().__init__(data)
        self._step = step

    def read(self, length: int | None = -1, /) -> bytes:
        return super().read(self._step)


def written(content: bytes, words: Sequence[str] = (), keywords: Sequence[str] = (), step: int = 1000) -> bytes:
    blocks = (content[at : at + step] for at in range(0, len(content), step))
    return b"".join(mbox.write_message(blocks, "ada@example.org", RECEIVED, words, keywords))


def read(data: bytes, size_max: int = SIZE_MAX, step: int = 65536) -> list[mbox.MboxMessage]:
    return list(mbox.read_mbox(Trickle(data, step), size_max))


def content(message: mbox.MboxMessage) -> bytes:
    assert message.content is not None
    return message.content if isinstance(message.content, bytes) else message.content.read()


@given(
    st.lists(st.tuples(contents, flags, st.lists(st.sampled_from(["todo", "$Junk"]), unique=True)), max_size=4),
    st.integers(1, 40),
)
@example([(b"", [], []), (b"\n", ["\\Seen"], []), (b"From x\n\nFrom y", [], ["todo"])], 1)
def test_any_bytes_are_read_as_they_were_written(messages: list[tuple[bytes, list[str], list[str]]], step: int) -> None:
    data = b"".join(written(each, words, keywords, step) for each, words, keywords in messages)
    found = read(data, step=step)
    assert len(found) == len(messages)
    for message, (given_content, words, keywords) in zip(found, messages, strict=True):
        assert message.received == RECEIVED
        assert set(message.words) == {*words, *keywords}
        expected = _without_fields(given_content)
        if expected and not expected.endswith(b"\n"):
            expected += b"\n"
        assert content(message) == expected


def _without_fields(data: bytes) -> bytes:
    """The message without the fields for flags in its header, told apart line by line."""
    lines = data.split(b"\n")
    kept = []
    dropping = False
    for number, line in enumerate(lines):
        if line[:1] in (b" ", b"\t") and line.strip():
            pass
        elif is_field(line + b"\n"):
            dropping = line.partition(b":")[0].strip().lower() in (b"status", b"x-status", b"x-keywords")
        else:
            kept += lines[number:]
            break
        if not dropping:
            kept.append(line)
    return b"\n".join(kept)


def test_a_large_message_is_read_from_a_file_with_its_flags() -> None:
    text = b"Subject: x\n\n" + b"From the start\n" * 100_000
    (message,) = read(written(text, ["\\Seen"], ["todo"]), size_max=len(text))
    assert content(message) == text
    assert message.size == len(text)
    assert message.words == ("\\Seen", "todo")


def test_a_message_that_is_too_large_has_no_content_and_the_next_one_does() -> None:
    small = b"Subject: y\n\nhello\n"
    for size in (2000, 3_000_000):
        data = written(b"Subject: x\n\n".ljust(size - 1, b"a")) + written(small)
        large, following = read(data, size_max=1999)
        assert large.content is None
        assert large.size == size
        assert content(following) == small


def test_only_what_follows_an_empty_line_begins_a_message() -> None:
    data = b"From a\nSubject: x\n\nhello\nFrom here\n\n\nFrom b\n\nbody\n"
    first, second = read(data)
    assert content(first) == b"Subject: x\n\nhello\nFrom here\n\n"
    assert content(second) == b"\nbody\n"


def test_lines_may_end_in_crlf() -> None:
    data = b"From a Tue Mar  5 10:11:12 2024\r\nStatus: RO\r\nSubject: x\r\n\r\n>From me\r\n\r\nFrom b\r\n\r\nbody\r\n"
    first, second = read(data)
    assert content(first) == b"Subject: x\r\n\r\nFrom me\r\n"
    assert first.words == ("\\Seen",)
    assert content(second) == b"\r\nbody\r\n"


@pytest.mark.parametrize("step", [1, 7, 65536])
def test_a_line_without_end_takes_no_memory_to_read(step: int) -> None:
    size = 200_000 if step > 1 else 2000
    data = b"From a\n" + b"x" * size + b"From " + b"y" * size + b"\n>From z\n"
    (message,) = read(data, step=step)
    assert content(message) == b"x" * size + b"From " + b"y" * size + b"\nFrom z\n"


@pytest.mark.parametrize("data", [b"Subject: x\n\nbody\n", b"\nFrom a\n", b"\0", b"from a\n", b">From a\n"])
def test_what_is_no_mbox_is_refused(data: bytes) -> None:
    with pytest.raises(mbox.MboxError, match='first line does not start with "From "'):
        read(data)


def test_an_empty_file_has_no_messages() -> None:
    assert read(b"") == []


@pytest.mark.parametrize(
    ("line", "offset"),
    [
        ("From ada@example.org Tue Mar  5 10:11:12 2024", 0),
        ("From - Tue Mar 05 10:11:12 2024", 0),
        ("From 1792345@xxx Tue Mar 05 10:11:12 +0000 2024", 0),
        ("From ada@example.org Tue Mar  5 11:11:12 2024 +0100", 60),
        ("From ada@example.org Tue Mar 5 05:11:12 EST 2024", -300),
        ('From "a b"@example.org Tue Mar  5 10:11:12 2024', 0),
    ],
)
def test_from_lines_have_a_time(line: str, offset: int) -> None:
    received = mbox.parse_from_line(line)
    assert received == RECEIVED
    assert received is not None
    assert received.utcoffset() == timedelta(minutes=offset)


@pytest.mark.parametrize(
    "line", ["From ", "From a", "From a Tue Foo  5 10:11:12 2024", "From a Tue Mar 35 10:11:12 2024"]
)
def test_a_from_line_without_a_time_has_none(line: str) -> None:
    assert mbox.parse_from_line(line) is None


@pytest.mark.parametrize("sender", ["", "a b", "x\ny", "\x7f", "ü@example.org"])
def test_a_sender_that_would_break_the_line_is_mox(sender: str) -> None:
    assert mbox.format_from_line(sender, RECEIVED) == "From mox Tue Mar  5 10:11:12 2024"
