"""Patterns of LIST and LSUB: what they match, and that hostile ones take no time."""

from __future__ import annotations

import random
import time

import pytest

from imap.patterns import WILDCARD_PATTERNS_MAX, BadPattern, Patterns, combined


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ["Inbox", "a", "a/b/c"], []),
        ("%", ["Inbox", "a"], ["a/b"]),
        ("a/%", ["a/b"], ["a", "a/b/c", "A/b"]),
        ("a*c", ["ac", "a/b/c"], ["a/b/d"]),
        ("%/%", ["a/b"], ["a", "a/b/c"]),
        ("a.c", ["a.c"], ["abc"]),
        ("inbox", ["Inbox"], ["a"]),
        ("INBOX*", ["Inbox", "Inbox/a"], ["a"]),
        ("in%", ["Inbox"], ["Index"]),
    ],
)
def test_it_matches_names(pattern: str, matching: list[str], others: list[str]) -> None:
    patterns = Patterns([pattern])
    assert all(patterns.matches(name) for name in matching)
    assert not any(patterns.matches(name) for name in others)


def test_a_reference_stands_before_the_pattern() -> None:
    assert combined("", "%") == "%"
    assert combined("a", "%") == combined("a/", "%") == "a/%"


def test_patterns_with_wildcards_have_a_limit() -> None:
    with pytest.raises(BadPattern, match="more than 4096 characters"):
        Patterns(["*/" * 1024, "%/" * 1025])
    assert Patterns(["*/" * 1024, "a" * 50_000, "b/" * 10_000, "c"]).matches("c")


def test_hostile_patterns_match_fast() -> None:
    patterns = Patterns([("*/" * 500)[: -number - 1] for number in range(WILDCARD_PATTERNS_MAX // 1000)])
    names = ["".join(random.Random(number).choices("ab/", k=1000)) for number in range(100)]
    start = time.process_time()
    for name in names:
        patterns.matches(name)
    assert time.process_time() - start < 0.5
