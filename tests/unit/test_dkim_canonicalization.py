"""Canonical forms of headers and bodies: the examples of RFC 6376, blocks of any size, cost on hostile white space."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dkim import (
    BodyCanonicalizer,
    BodyHashes,
    Canonicalization,
    DkimError,
    ErrorKind,
    HeaderSection,
    canonical_field,
)

SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED
WHITE_SPACE_AND_LINE_ENDS = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b"a", b"  \r\n"]), max_size=24
)


def canonical(body: bytes, canonicalization: Canonicalization, size: int | None = None) -> bytes:
    form = BodyCanonicalizer(canonicalization)
    size = size or len(body) or 1
    pieces = [piece for at in range(0, len(body), size) for piece in form.update(body[at : at + size])]
    return b"".join([*pieces, *form.finish()])


def by_the_book(body: bytes, canonicalization: Canonicalization) -> bytes:
    """RFC 6376 sections 3.4.3 and 3.4.4, sentence by sentence."""
    lines = body.split(b"\r\n")
    if canonicalization is RELAXED:
        lines = [re.sub(rb"[ \t]+", b" ", line).removesuffix(b" ") for line in lines]
    while lines and lines[-1] == b"":
        lines.pop()
    if not lines:
        return b"" if canonicalization is RELAXED else b"\r\n"
    return b"\r\n".join(lines) + b"\r\n"


def test_it_gives_the_example_of_the_rfc() -> None:
    # RFC 6376 section 3.4.5.
    header = b"A: X\r\nB : Y\t\r\n\tZ  \r\n"
    body = b" C \r\nD \t E\r\n\r\n\r\n"
    assert HeaderSection(header).signed_data(["A", "B"], RELAXED, b"S:") == b"a:X\r\nb:Y Z\r\ns:"
    assert canonical(body, RELAXED) == b" C\r\nD E\r\n"
    assert HeaderSection(header).signed_data(["A", "B"], SIMPLE, b"S:") == header + b"S:"
    assert canonical(body, SIMPLE) == b" C \r\nD \t E\r\n"


def test_it_hashes_an_empty_body_as_the_rfc_says() -> None:
    # RFC 6376 sections 3.4.3 and 3.4.4 give these digests.
    hashes = BodyHashes((form, name) for form in (SIMPLE, RELAXED) for name in ("sha1", "sha256"))
    assert {key: base64.b64encode(digest).decode() for key, digest in hashes.finish().items()} == {
        (SIMPLE, "sha1"): "uoq1oCgLlTqpdDX/iUbLy7J1Wic=",
        (SIMPLE, "sha256"): "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=",
        (RELAXED, "sha1"): "2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
        (RELAXED, "sha256"): "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    }


@pytest.mark.parametrize("canonicalization", [SIMPLE, RELAXED])
@given(pieces=WHITE_SPACE_AND_LINE_ENDS, size=st.integers(1, 7))
def test_it_gives_the_same_form_whatever_the_blocks(
    canonicalization: Canonicalization, pieces: list[bytes], size: int
) -> None:
    body = b"".join(pieces)
    assert canonical(body, canonicalization, size) == by_the_book(body, canonicalization)


def test_it_takes_a_bare_line_feed_for_content() -> None:
    assert canonical(b"a \n\r\n\n", RELAXED) == b"a \n\r\n\n\r\n"


def test_it_relaxes_a_field_with_white_space_around_its_colon() -> None:
    assert canonical_field(b"SUBJect \t:\t  a\r\n\t b\tc \r\n", RELAXED) == b"subject:a b c\r\n"
    assert canonical_field(b"X:\r\n", RELAXED) == b"x:\r\n"


def test_it_takes_the_last_field_of_a_name_first_and_nothing_for_a_missing_one() -> None:
    header = b"To: 1\r\nX: x\r\nTo: 2\r\n"
    assert HeaderSection(header).signed_data(["to", "Cc", "TO", "to"], SIMPLE, b"S:") == b"To: 2\r\nTo: 1\r\nS:"


def test_it_refuses_line_ends_in_the_header_that_others_read_in_another_way() -> None:
    for header in (b"From: a\nTo: b\r\n", b"From: a\rTo: b\r\n"):
        with pytest.raises(DkimError) as caught:
            HeaderSection(header).check_line_ends()
        assert caught.value.kind is ErrorKind.HEADER_MALFORMED


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "one line of spaces": lambda n: b" " * n,
    "spaces and a letter": lambda n: b" " * n + b"x",
    "tabs and spaces": lambda n: b"\t " * (n // 2),
    "empty lines": lambda n: b"\r\n" * (n // 2),
    "empty lines and a letter": lambda n: b"\r\n" * (n // 2) + b"x",
    "lines of a space": lambda n: b" \r\n" * (n // 3),
    "carriage returns": lambda n: b"\r" * n,
    "line feeds": lambda n: b"\n" * n,
    "almost line ends": lambda n: b" \r" * (n // 2),
}


@pytest.mark.parametrize("canonicalization", [SIMPLE, RELAXED])
@pytest.mark.parametrize("name", HOSTILE)
def test_it_costs_no_more_than_the_length_of_a_hostile_body(name: str, canonicalization: Canonicalization) -> None:
    def cost(size: int) -> float:
        body = HOSTILE[name](size)
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            hashes = BodyHashes([(canonicalization, "sha256")])
            for at in range(0, len(body), 4096):
                hashes.update(body[at : at + 4096])
            hashes.finish()
            best = min(best, time.process_time() - began)
        return best

    assert cost(8 * 500_000) < 20 * cost(500_000)
