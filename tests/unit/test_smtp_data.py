"""The content of a message after DATA: dots, line ends, its end, smuggling, at every way of cutting it into blocks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.smtpdata import END_OF_DATA, BareLineEnd, ContentTooLarge, DataReader, DotStuffer


@dataclass(frozen=True)
class Read:
    content: bytes
    violation: bool
    rest: bytes
    size: int
    has_8bit: bool
    has_separator: bool


def read(blocks: Iterable[bytes], *, strict: bool = False, limit: int = 1 << 20) -> Read:
    """What a reader makes of the blocks; those behind the one with the end are part of the rest."""
    reader = DataReader(limit, strict=strict)
    content = []
    rest = b""
    for block in blocks:
        if reader.done:
            rest += block
        else:
            content.append(reader.feed(block))
    assert reader.done, "the end was not found"
    return Read(
        b"".join(content),
        bool(reader.violation),
        reader.rest + rest,
        reader.size,
        reader.has_8bit,
        reader.has_separator,
    )


def splits(wire: bytes) -> Iterable[list[bytes]]:
    """The bytes in one block, one by one, and cut in two and in three at every place."""
    yield [wire]
    yield [wire[i : i + 1] for i in range(len(wire))]
    for first in range(1, len(wire)):
        yield [wire[:first], wire[first:]]
        for second in range(first + 1, len(wire)):
            yield [wire[:first], wire[first:second], wire[second:]]


def read_in_every_split(wire: bytes, *, strict: bool = False) -> Read:
    whole = read([wire], strict=strict)
    for blocks in splits(wire):
        part = read(blocks, strict=strict)
        if whole.violation:  # its content is thrown away
            assert part.violation
            assert part.rest == whole.rest
        else:
            assert part == whole
    return whole


def by_the_book(wire: bytes, *, strict: bool) -> tuple[bytes, bool, bytes]:
    """The rules once more, byte by byte: content, violation, rest."""
    end = (b"\r\n" + wire).find(b"\r\n.\r\n")
    assert end >= 0
    raw, rest = wire[:end], wire[end + 3 :]
    content = bytearray()
    violation = False
    framed = b"\r\n" + raw
    for at in range(2, len(framed)):
        byte = framed[at : at + 1]
        before = framed[at - 2 : at]
        if byte == b"\r" and framed[at + 1 : at + 2] != b"\n":
            violation = True
        if byte == b"\n" and before[1:] != b"\r":
            violation = violation or strict
            if framed[at - 2 : at] == b"\n.":
                violation = True
            if framed[at + 1 : at + 4] == b".\r\n":
                violation = True
            content += b"\r\n"
        elif byte == b"." and before == b"\r\n":
            pass
        else:
            content += byte
    return bytes(content), violation, rest


def test_it_takes_the_stuffed_dots_out() -> None:
    """RFC 5321 4.5.2."""
    result = read_in_every_split(b"..\r\n.a\r\nb.\r\n...\r\n. \r\n.\r\nRSET\r\n")
    assert result.content == b".\r\na\r\nb.\r\n..\r\n \r\n"
    assert result.rest == b"RSET\r\n"
    assert not result.violation


def test_empty_content() -> None:
    assert read_in_every_split(b".\r\n").content == b""
    assert read_in_every_split(b"\r\n.\r\n").content == b"\r\n"


def test_it_counts_and_notes() -> None:
    result = read_in_every_split(b"Subject: x\r\n\r\nb\xe9\n\r\n.\r\n")
    assert result.content == b"Subject: x\r\n\r\nb\xe9\r\n\r\n"
    assert result.size == len(result.content)
    assert result.has_8bit
    assert result.has_separator
    plain = read_in_every_split(b"Subject: x\r\nTo: y\r\n.\r\n")
    assert not plain.has_8bit
    assert not plain.has_separator
    assert read_in_every_split(b"\r\nbody\r\n.\r\n").has_separator


def test_a_bare_line_feed_is_stored_as_crlf_and_refused_when_pedantic() -> None:
    wire = b"a\nb\r\n\n.c\n\r\n.\r\n"
    assert read_in_every_split(wire).content == b"a\r\nb\r\n\r\n.c\r\n\r\n"
    assert not read_in_every_split(wire).violation
    assert read_in_every_split(wire, strict=True).violation


SMUGGLED = [
    b"\r\n.\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r.\n",
    b"\n.\r",
    b"\r",
    b"\n\r.\r\n",
    b"\r\r\n.\r\n\r",
]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("end", SMUGGLED)
def test_a_smuggled_end_is_a_violation_and_no_end(end: bytes, strict: bool) -> None:
    wire = b"first" + end + b"MAIL FROM:<evil@example.org>\r\n.\r\nQUIT\r\n"
    if b"\r\n.\r\n" in b"first" + end:
        assert read([wire]).violation
        return
    result = read_in_every_split(wire, strict=strict)
    assert result.violation
    assert result.rest == b"QUIT\r\n"


@pytest.mark.parametrize("start", [b".\n", b"\n.\n", b"\n.\r\n", b".\rx", b"\r\n.\n"])
def test_the_first_line_is_no_exception(start: bytes) -> None:
    result = read_in_every_split(start + b"x\r\n.\r\n")
    assert result.violation
    assert result.rest == b""


@given(st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\xe9", b"line\r\n"]), max_size=14))
def test_it_agrees_with_the_rules_byte_by_byte(pieces: list[bytes]) -> None:
    wire = b"".join(pieces) + b"\r\n.\r\nnext"
    for strict in (False, True):
        content, violation, rest = by_the_book(wire, strict=strict)
        result = read([wire[i : i + 1] for i in range(len(wire))], strict=strict)
        assert (result.violation, result.rest) == (violation, rest)
        assert read([wire], strict=strict).violation == violation
        if not violation:
            assert result.content == read([wire], strict=strict).content == content
            assert result.size == len(content)


def test_a_limit_is_a_limit() -> None:
    wire = b"0123456789\n.\r\n"[:10] + b"\r\n.\r\n"
    assert read([wire], limit=12).size == 12
    for blocks in splits(wire):
        with pytest.raises(ContentTooLarge):
            read(blocks, limit=11)


def test_the_limit_counts_converted_line_ends_and_refused_content() -> None:
    with pytest.raises(ContentTooLarge):
        read([b"\n" * 6 + b"\r\n.\r\n"], limit=12)
    reader = DataReader(100)
    reader.feed(b"\r.")
    assert reader.violation
    reader.feed(b"x" * 90)
    with pytest.raises(ContentTooLarge):
        reader.feed(b"x" * 10)


@given(st.lists(st.sampled_from([b".", b"x", b"\r\n", b"..", b"\r\n.\r\n"])), st.integers(1, 7))
def test_what_was_stuffed_is_read_as_it_was(pieces: list[bytes], block: int) -> None:
    content = b"".join(pieces)
    stuffer = DotStuffer()
    wire = b"".join(stuffer.feed(content[start : start + block]) for start in range(0, len(content), block))
    got = read([wire + stuffer.finish() + END_OF_DATA], strict=True)
    assert got.content == (content if not content or content.endswith(b"\r\n") else content + b"\r\n")
    assert not got.violation


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"x", b"."])), st.integers(1, 4))
def test_no_bare_line_end_is_sent(pieces: list[bytes], block: int) -> None:
    content = b"".join(pieces)
    bare = bool(content.replace(b"\r\n", b"").translate(None, b"x."))
    stuffer = DotStuffer()
    try:
        for start in range(0, len(content), block):
            stuffer.feed(content[start : start + block])
        stuffer.finish()
    except BareLineEnd:
        assert bare
    else:
        assert not bare


@pytest.mark.parametrize(
    "unit", [b"a", b".", b"\r\n", b"\n", b"\r", b"\r\n.", b"\n.", b"\r\n.\r", b"x\r\n..\r\n", b"\n.\n", b".\r\n."]
)
@pytest.mark.parametrize("block", [1, 1 << 16])
def test_the_time_grows_with_the_length_only(unit: bytes, block: int) -> None:
    def seconds(size: int) -> float:
        wire = unit * (size // len(unit))
        blocks = [wire[at : at + block] for at in range(0, len(wire), block)]
        best = float("inf")
        for _ in range(5):
            reader = DataReader(1 << 30)
            start = time.process_time()
            for piece in blocks:
                if not reader.done:
                    reader.feed(piece)
            best = min(best, time.process_time() - start)
        return best

    size = 2_000 if block == 1 else 1 << 16
    assert seconds(8 * size) < 20 * max(seconds(size), 1e-5)


def test_a_small_message_costs_less_than_a_tenth_of_a_millisecond() -> None:
    wire = b"Subject: x\r\n\r\n" + b"a line of text that is not very long\r\n" * 100 + b".\r\n"
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        for _ in range(20):
            DataReader(1 << 20).feed(wire)
        best = min(best, (time.process_time() - start) / 20)
    assert best < 1e-4
