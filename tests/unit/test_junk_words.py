"""The words of a message, and the score that they give: the vectors of the specification, and hostile text."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from junk.scoring import Counts, Parameters, classify, word_score
from junk.words import WORD_BYTES_MAX, WORDS_MAX, Grams, WordSet, forget_known_words

HAMS, SPAMS = 100, 50


def words(text: str, grams: Grams | None = None) -> set[str]:
    found = WordSet(grams or Grams())
    found.add_text(text)
    return found.found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't wait", {"don't", "wait"}),
        ("'quoted' it's' end'", {"quoted", "it's", "end"}),
        ("2fvu9stm9yxhnlu", set()),
        ("0x1f4e", {"0x1f4e"}),
        ("a1b234", set()),
        ("order20310303", set()),
        ("Zürich", {"zürich"}),
        ("a_b under_score", {"under", "score"}),
        ("ab 12 123 x1", set()),
        ("привет 你好", {"привет", "你好"}),
        ("buy\u00a0now!!!cheap--pills", {"buy", "now", "cheap", "pills"}),
    ],
)
def test_text_is_split_into_words_that_say_something(text: str, expected: set[str]) -> None:
    assert words(text) == expected


def test_neighbouring_words_count_together_where_that_is_wanted() -> None:
    # What is dropped does not break a sequence.
    assert words("don't wait 12345 for us", Grams(one=False, two=True)) == {"don't wait", "wait for"}
    assert words("don't wait 12345 for us", Grams(one=False, three=True)) == {"don't wait for"}


def test_header_words_have_the_name_of_their_field() -> None:
    found = WordSet(Grams())
    header = (
        b"From: Ann <ann@shop.example>\r\nSUBJECT: =?utf-8?q?Gro=C3=9Fe?= invoice\r\n\tthe second\r\n"
        b"X-Other: secret\r\nReturn-Path: <forged@x.example>\r\n"
    )
    found.add_header(header, "bounce@list.example")
    assert found.found == {
        "From:shop",
        "From:example",
        "Subject:große",
        "Subject:invoice",
        "Subject:second",
        "Return-Path:bounce",
        "Return-Path:list",
        "Return-Path:example",
    }


def test_a_message_of_endless_words_has_only_so_many() -> None:
    found = WordSet(Grams())
    for start in range(0, 2 * WORDS_MAX, 50_000):
        found.add_text(" ".join(f"w{number:o}z" for number in range(start, start + 50_000)))
    assert len(found.found) <= WORDS_MAX
    assert words("x" * 10_000_000) == set()
    assert words("ä" * (WORD_BYTES_MAX // 2)) == {"ä" * (WORD_BYTES_MAX // 2)}
    assert words("ä" * (WORD_BYTES_MAX // 2 + 1)) == set()


@given(st.text())
def test_any_text_has_words_that_the_database_takes(text: str) -> None:
    for word in words(text, Grams(two=True, three=True)):
        assert 3 <= len(word.encode()) <= WORD_BYTES_MAX
        assert "\0" not in word


HOSTILE: dict[str, Callable[[int], str]] = {
    "apostrophes": lambda n: "a'" * n,
    "one word": lambda n: "x1" * n,
    "digits": lambda n: "12" * n,
    "many words": lambda n: " ".join(f"w{i:o}" for i in range(n // 4)),
    "hex": lambda n: "0x" * n,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_the_cost_of_text_is_linear(name: str) -> None:
    def cost(size: int) -> float:
        text = HOSTILE[name](size)
        best = float("inf")
        for _ in range(5):
            forget_known_words()
            began = time.process_time()
            words(text, Grams(two=True))
            best = min(best, time.process_time() - began)
        return best

    assert cost(160_000) / max(cost(20_000), 0.0005) < 20


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((40, 0), 0.01),
        ((30, 5), 0.25),
        ((0, 20), 0.99),
        ((1, 1), 0.65),
        ((5, 15), 0.857142857),
        ((20, 10), None),
        ((1, 0), 0.108),
        ((0, 2), 0.941),
    ],
)
def test_a_word_speaks_for_ham_or_spam(counts: Counts, expected: float | None) -> None:
    score = word_score(counts, hams=HAMS, spams=SPAMS, parameters=Parameters())
    assert score is None if expected is None else score == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"a": (40, 0), "b": (30, 5), "c": (0, 20), "d": (5, 15)}, 0.666667),
        ({"c": (0, 20), "d": (5, 15)}, 0.998319),
        ({}, 0.5),
        ({"ignored": (20, 10)}, 0.5),
    ],
)
def test_the_words_of_a_message_give_its_probability(known: dict[str, Counts], expected: float) -> None:
    score = classify(known, hams=HAMS, spams=SPAMS, parameters=Parameters())
    assert round(score.probability, 6) == expected
    assert score.significant


def test_of_equally_strong_words_the_longer_ones_are_used() -> None:
    known: dict[str, Counts] = {"long" + "g" * number: (0, 20) for number in range(12)}
    score = classify(known, hams=HAMS, spams=SPAMS, parameters=Parameters())
    assert [word.word for word in score.spam_words] == ["long" + "g" * number for number in range(11, 1, -1)]
    assert score.ham_words == ()


def test_a_filter_that_has_seen_little_ham_knows_nothing() -> None:
    assert not classify({}, hams=49, spams=1000, parameters=Parameters()).significant


@given(
    st.dictionaries(st.text(max_size=5), st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=50),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.floats(0, 0.5),
)
def test_whatever_was_counted_the_result_is_a_probability(
    known: dict[str, Counts], hams: int, spams: int, power: float
) -> None:
    parameters = Parameters(max_power=power, top_words=1000, ignore_words=0)
    assert 0 <= classify(known, hams=hams, spams=spams, parameters=parameters).probability <= 1
