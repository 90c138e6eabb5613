"""Text of HTML in pieces: what is text, what is skipped, and what hostile pages cost."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.message.htmltext import HTMLText, attributes


class Words(HTMLText):
    """Every tag ends a word."""

    def __init__(self) -> None:
        super().__init__(skipped=frozenset({"script", "style"}))

    def tag(self, name: str, tag: str, words: list[str]) -> None:
        words.append(" ")


def text_of(*pieces: str) -> str:
    page = Words()
    return " ".join(("".join(page.feed(piece) for piece in pieces) + page.feed("", last=True)).split())


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Hello <b>you</b></p>", "Hello you"),
        ("a &lt; b &amp;&#8364;", "a < b &€"),
        ("one<script>if (a < b) { x() }</script>two", "one two"),
        ("one<STYLE>p {}</style >two", "one two"),
        ("a<!-- <b>not</b> -->b", "ab"),
        ("a < b and c > d", "a < b and c > d"),
        ("<p", "<p"),
        ("<script>never ended", ""),
        ("<!DOCTYPE html><?php ?>x", "x"),
    ],
)
def test_it_finds_the_text(page: str, text: str) -> None:
    assert text_of(page) == text


@given(st.text(alphabet="<>ab/!-&;\"'= script", max_size=60), st.data())
def test_where_a_page_is_cut_into_pieces_makes_no_difference(page: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(page)))
    assert text_of(page[:cut], page[cut:]) == text_of(page)


def test_attributes_are_names_with_decoded_values() -> None:
    assert list(attributes("img src='a.png' ALT=\"a &amp; b\" width=3 hidden")) == [
        ("src", "a.png"),
        ("alt", "a & b"),
        ("width", "3"),
    ]


HOSTILE: dict[str, Callable[[int], str]] = {
    "tags that never end": lambda n: "<a " * n,
    "comments that never end": lambda n: "<!--" * n,
    "attributes without a value": lambda n: "<a " + "b" * n + ">",
    "quotes that never end": lambda n: "<a " + '="' * n + ">",
    "scripts": lambda n: "<script></script>" * n,
    "ampersands": lambda n: "&" * n,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_its_cost_is_linear(name: str) -> None:
    make = HOSTILE[name]

    def cost(size: int) -> float:
        pieces = [make(size)[start : start + 4096] for start in range(0, len(make(size)), 4096)]
        best = float("inf")
        for _ in range(5):
            began = time.process_time()
            page = Words()
            for piece in pieces:
                page.feed(piece)
            page.feed("", last=True)
            list(attributes(make(size)))
            best = min(best, time.process_time() - began)
        return best

    small = max(cost(4000), 0.0005)
    assert cost(32_000) / small < 20
