"""IMAP: the sections of any message, binary content on its way in, sets of numbers."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from array import array
from pathlib import Path
from typing import Final

from imap.binary import NotEncodable, with_binary_encoded
from imap.sections import Located, Section, SectionText, UnknownEncoding, locate, locate_binary, select_fields
from imap.sets import NoSuchMessage, SequenceSet, format_ranges, intersection, joined, missing, runs
from imap.syntax import BadSyntax, Parser
from protocols.imapthreads import Threaded, ordered_subject, references
from protocols.message import Part, ensure_part
from protocols.message.source import BytesSource

from .messages import MESSAGES, STRUCTURE
from .targets import Target

PREFIX: Final = b"Received: from x\r\n"
PARTS_MAX: Final = 50  # of a message that are asked for
UIDS: Final = array("I", [1, 2, 3, 5, 8, 13, 21, 4_294_967_295])


def sections(data: bytes) -> None:
    """Each part is found under its number, and its pieces are those of the content."""
    part, _ = ensure_part(data)
    structure = json.loads(json.dumps(part.to_json()))
    prefix = PREFIX + (b"\r\n" if part.headerless else b"")
    source = BytesSource(prefix + data)
    header, text = (_read(locate(structure, len(prefix), Section((), of)), source) for of in _WHOLE)
    assert header is not None
    assert text is not None
    _check_header(header, source.data.removesuffix(text) if text else source.data)
    for wanted in (False, True):
        assert select_fields(header, frozenset({b"subject"}), wanted=wanted).endswith(b"\r\n")
    for path, found in list(_numbered(part, ()))[:PARTS_MAX]:
        assert (
            _read(locate(structure, len(prefix), Section(path)), source) == data[found.body_offset : found.end_offset]
        )
        mime = _read(locate(structure, len(prefix), Section(path, SectionText.MIME)), source)
        assert mime is not None
        _check_header(mime, data[found.header_offset : found.body_offset])
        with contextlib.suppress(UnknownEncoding):
            _read(locate_binary(structure, len(prefix), Section(path)), source)


_WHOLE: Final = (SectionText.HEADER, SectionText.TEXT)


def _check_header(header: bytes, expected: bytes) -> None:
    """What has no empty line at its end is given one."""
    assert header.removeprefix(expected) in (b"", b"\r\n", b"\r\n\r\n")
    assert header.endswith(b"\r\n")


def _numbered(part: Part, path: tuple[int, ...]) -> list[tuple[tuple[int, ...], Part]]:
    """The parts of multiparts by number; those in embedded messages are relative to others."""
    found: list[tuple[tuple[int, ...], Part]] = []
    for number, child in enumerate(part.parts, start=1):
        found.append(((*path, number), child))
        found += _numbered(child, (*path, number))
    return found


def _read(found: Located | None, source: BytesSource) -> bytes | None:
    if found is None:
        return None
    with found.open(source) as content:
        whole = b"".join(content.chunks())
        assert len(whole) == content.size
        assert b"".join(content.chunks(1, 3, chunk=2)) == whole[1:4]
        return whole


def binary(data: bytes) -> None:
    """What is kept has no NUL, and is not encoded again."""
    with (
        contextlib.suppress(NotEncodable),
        with_binary_encoded(io.BytesIO(data), Path(tempfile.gettempdir())) as encoded,
    ):
        kept = encoded.read()
        assert b"\0" not in kept
        with with_binary_encoded(io.BytesIO(kept), Path(tempfile.gettempdir())) as again:
            assert again.read() == kept


def sequence_set(data: bytes) -> None:
    try:
        numbers = Parser(data).sequence_set()
    except BadSyntax:
        return
    if numbers.saved:
        return
    known = numbers.uids_known(UIDS)
    assert list(known) == sorted(uid for uid in UIDS if _is_in(numbers, uid, UIDS[-1]))
    with contextlib.suppress(NoSuchMessage):
        expected = [uid for number, uid in enumerate(UIDS, start=1) if _is_in(numbers, number, len(UIDS))]
        assert list(numbers.uids_by_number(UIDS)) == expected
    ranges = numbers.resolved(UIDS[-1])
    assert joined(ranges) == ranges
    assert Parser(format_ranges(ranges)).sequence_set().resolved(UIDS[-1]) == ranges
    assert intersection(ranges, runs(UIDS)) == runs(known)
    gaps = missing(UIDS, ranges)
    assert not intersection(gaps, runs(UIDS))
    assert joined([*gaps, *intersection(ranges, runs(UIDS))]) == ranges


def _is_in(numbers: SequenceSet, number: int, last: int) -> bool:
    for pair in numbers.ranges:
        low, high = sorted(last if end is None else end for end in pair)
        if low <= number <= high:
            return True
    return False


def threads(data: bytes) -> None:
    """A message on each line: its id and those that it refers to. Each is in the answer once."""
    messages = []
    for sent, line in enumerate(data.decode("latin-1").split("\n")):
        subject, _, ids = line.partition("|")
        own, *others = ids.split(" ")
        messages.append(Threaded(own, tuple(dict.fromkeys(filter(None, others))), subject, float(sent % 3)))
    numbers = range(1, len(messages) + 1)
    for algorithm in (references, ordered_subject):
        answer = algorithm(messages).formatted(numbers)
        assert sorted(map(int, re.findall(rb"[0-9]+", answer))) == list(numbers)
        assert answer.count(b"(") == answer.count(b")")


BINARY: Final = [b"Content-Transfer-Encoding: binary\r\n", b"\0", b"\n", b"Content-Type: image/png\r\n"]
THREADS: Final = [b"x|a\nRe: x|b a\nRe: x|c a b\ny|d z\nRe: y|e z", b"|a b\n|b a\n|a c\nx|c b a"]
SETS: Final = [b"1", b"*", b":", b",", b"4294967295", b"0", b"21", b"$"]

TARGETS = [
    Target("IMAP sections", sections, MESSAGES, STRUCTURE, seconds_per_mib=16),
    Target(
        "binary content",
        binary,
        [MESSAGES[0].replace(b"base64", b"binary"), b"".join(BINARY[::3]) + b"\r\n\0\n", *MESSAGES[:4]],
        [*STRUCTURE, *BINARY],
        seconds_per_mib=16,
    ),
    Target(
        "threads",
        threads,
        THREADS,
        [b"\n", b"|", b" ", b"a", b"b", b"c", b"Re: ", b"x", b"Re: x|a b c d\n"],
        seconds_per_mib=32,
    ),
    Target("sequence set", sequence_set, [b"1:*,3,8:5", b"*:4294967295"], SETS, 16 * 1024),
]
