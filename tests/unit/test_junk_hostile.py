"""The words of messages that were made to cost as much as they can: what they take is in line with their length."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from junk.content import words_of
from junk.words import WORD_BYTES_MAX, WORDS_MAX, Grams
from protocols.message import ensure_part
from protocols.message.source import BytesSource, Source

HEADER = b"Subject: x\r\nContent-Type: text/%b; charset=%b\r\n\r\n"
RATIO_MAX = 30  # between ten times as much and once; quadratic work would take a hundred times as long
LEAST = 0.01  # seconds; what is shorter is not measured well


def found(source: Source, grams: Grams | None = None) -> frozenset[str]:
    part, _ = ensure_part(source)
    return words_of(source, part.to_json(), grams or Grams())


def words(content: bytes) -> frozenset[str]:
    return found(BytesSource(content))


def text(body: bytes, subtype: bytes = b"plain", charset: bytes = b"utf-8") -> bytes:
    return HEADER % (subtype, charset) + body


def nested(depth: int) -> bytes:
    """A multipart in a multipart, and so on, around one word."""
    opened = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (level, level) for level in range(depth)
    )
    return b"Subject: x\r\n" + opened + b"\r\ninnermost\r\n"


def forwarded(depth: int) -> bytes:
    return b"Content-Type: message/rfc822\r\n\r\n" * depth + b"Subject: x\r\n\r\ninnermost\r\n"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda n: text(b"x" * n), id="without spaces"),
        pytest.param(lambda n: text(b"a'" * (n // 2)), id="apostrophes"),
        pytest.param(lambda n: text(b" ".join(b"w%xz" % i for i in range(n // 7))), id="distinct words"),
        pytest.param(lambda n: text("aбγ".encode() * (n // 5)), id="mixed scripts"),
        pytest.param(lambda n: text(b"\0 a\0b" * (n // 5)), id="null bytes"),
        pytest.param(lambda n: text(b"\xff\xfe\x80 " * (n // 4)), id="no utf-8"),
        pytest.param(lambda n: text(b"\x1b$B" * (n // 3), charset=b"iso-2022-jp"), id="shifts of charset"),
        pytest.param(lambda n: text(b"hello " * (n // 6), charset=b"no-such-charset"), id="unknown charset"),
        pytest.param(lambda n: text(b"+AGE-" * (n // 5), charset=b"utf-7"), id="utf-7"),
        pytest.param(lambda n: text(b"<" * n, b"html"), id="angle brackets"),
        pytest.param(lambda n: text(b"<a " + b"b=c " * (n // 4), b"html"), id="unterminated tag"),
        pytest.param(lambda n: text(b'<img alt="' + b"x " * (n // 2), b"html"), id="unterminated attribute"),
        pytest.param(lambda n: text(b"<!--" + b"-- >" * (n // 4), b"html"), id="unterminated comment"),
        pytest.param(lambda n: text(b"<script>" + b"</scrip" * (n // 7), b"html"), id="unterminated script"),
        pytest.param(lambda n: text(b"<div>" * (n // 5), b"html"), id="nesting"),
        pytest.param(lambda n: text(b"</p><b><i></b>" * (n // 14), b"html"), id="broken nesting"),
        pytest.param(lambda n: text(b"&" * (n // 2) + b"&#" * (n // 4), b"html"), id="entities"),
        pytest.param(lambda n: text(b"&lt" * (n // 3), b"html"), id="entities without an end"),
        pytest.param(lambda n: b"Subject: " + b"=?utf-8?q?a?= " * (n // 14) + b"\r\n\r\n", id="encoded words"),
        pytest.param(lambda n: b"Subject: x\r\n" * (n // 12) + b"\r\n", id="fields"),
        pytest.param(lambda n: b"To: " + b"a@b.example,\r\n " * (n // 16) + b"\r\n\r\n", id="addresses"),
        pytest.param(lambda n: nested(n // 60), id="multiparts"),
        pytest.param(lambda n: forwarded(n // 32), id="forwarded messages"),
    ],
)
def test_it_costs_what_its_length_is(make: Callable[[int], bytes]) -> None:
    small, large = make(30_000), make(300_000)

    def seconds(content: bytes) -> float:
        best = float("inf")
        for _ in range(2):
            began = time.process_time()
            words(content)
            best = min(best, time.process_time() - began)
        return best

    assert seconds(large) < RATIO_MAX * max(seconds(small), LEAST)


@dataclass(frozen=True, slots=True)
class _Endless:
    """A message of some size that is never in memory."""

    size: int
    piece: bytes
    start: bytes = text(b"")

    def read_at(self, offset: int, length: int, /) -> bytes:
        length = max(0, min(length, self.size - offset))
        head = self.start[offset : offset + length]
        at = max(0, offset - len(self.start)) % len(self.piece)
        left = length - len(head)
        return head + (self.piece * (left // len(self.piece) + 2))[at : at + left]


@pytest.mark.parametrize("piece", [b"x" * 1024, b"casino prize and so on\r\n"])
def test_fifty_megabytes_take_little_memory_and_time(piece: bytes) -> None:
    found(_Endless(1 << 20, piece))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    words_found = found(_Endless(50 << 20, piece))
    assert time.process_time() - began < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
    assert all(len(word.encode()) <= WORD_BYTES_MAX for word in words_found)


def test_very_many_words_are_cut_off() -> None:
    body = b" ".join(b"%dword%d" % (i % 1000, i // 1000) for i in range(205_000))
    assert len(found(BytesSource(text(body)), Grams(one=True, two=True, three=True))) == WORDS_MAX


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (nested(1000), set()),
        (text(b"<p>cheap<script>hidden</script><svg><text>drawn</text></svg> pills<", b"html"), {"cheap", "pills"}),
        (text(b"<b>che</i>ap</b> &#112;ills <!-- secret --><img alt='watches'", b"html"), {"che", "pills"}),
        (text(b"caf\xe9 watches", charset=b"no-such-charset"), {"watches"}),
        (text("v\u0456agra \u0440ills".encode()), {"v\u0456agra", "\u0440ills"}),
        (text(b"one\0two three"), {"one", "two", "three"}),
    ],
)
def test_what_is_broken_still_has_words(content: bytes, expected: set[str]) -> None:
    assert expected <= words(content)
    assert not {"hidden", "drawn", "secret"} & words(content)
