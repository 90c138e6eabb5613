"""Threads as RFC 5256 section 3 makes them: of references, then of subjects; and never of loops."""

from __future__ import annotations

import random

import pytest

from protocols.imapthreads import Threaded, ordered_subject, references


def message(name: str, *refers_to: str, subject: str = "", sent: float | None = None) -> Threaded:
    return Threaded(name, refers_to, subject, sent if sent is not None else float(ord(name[0]) if name else 0))


def threads(*messages: Threaded) -> str:
    return references(messages).formatted(range(1, len(messages) + 1)).decode()


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], ""),
        ([message("a"), message("b")], "(1)(2)"),
        ([message("a"), message("b", "a"), message("c", "a", "b")], "(1 2 3)"),
        ([message("a"), message("b", "a"), message("c", "a"), message("d", "a", "c")], "(1 (2)(3 4))"),
        # The RFC's example of the answer: (2)(3 6 (4 23)(44 7 96)).
        (
            [
                message("b"),
                message("c"),
                message("f", "c"),
                message("d", "c", "f", sent=1),
                message("w", "d"),
                message("z", "f"),
                message("g", "z"),
                message("y", "g"),
            ],
            "(1)(2 3 (4 5)(6 7 8))",
        ),
        # A message that is not there joins those that refer to it, or is left out.
        ([message("b", "a"), message("c", "a")], "((1)(2))"),
        ([message("b", "a")], "(1)"),
        ([message("c", "a", "b"), message("d", "a")], "((1)(2))"),
        ([message("a"), message("c", "a", "b"), message("d", "a", "b")], "(1 (2)(3))"),
        # The parent comes later, and with other ideas of what came before.
        ([message("c", "a", "b"), message("b", "a"), message("a")], "(3 2 1)"),
        ([message("d", "a", "b", "c"), message("c", "a"), message("a"), message("b")], "(3 2 1)(4)"),
        # Loops, a message that refers to itself, and one id twice.
        ([message("a", "b"), message("b", "a")], "(2 1)"),
        ([message("a", "a")], "(1)"),
        ([message("a", "c"), message("b", "a"), message("c", "b")], "(3 1 2)"),
        ([message("a", sent=1), message("a", sent=2), message("b", "a")], "(1 3)(2)"),
        ([message("", sent=1), message("", sent=2)], "(1)(2)"),
        # Siblings by date, equal ones by number; nodes without a message by their first.
        (
            [message("a"), message("b", "a", sent=9), message("c", "a", sent=8), message("d", "a", sent=8)],
            "(1 (3)(4)(2))",
        ),
        ([message("x", sent=5), message("b", "a", sent=9), message("c", "a", sent=3)], "((3)(2))(1)"),
        # The same base subject.
        ([message("a", subject="one"), message("b", subject="Re: one")], "(1 2)"),
        ([message("a", subject="one"), message("b", subject="one")], "((1)(2))"),
        ([message("a", subject="Re: one"), message("b", subject="re: One")], "((1)(2))"),
        ([message("a", subject="Re: one", sent=1), message("b", subject="one", sent=2)], "(2 1)"),
        ([message("a", subject="one"), message("b", subject="one"), message("c", subject="one")], "((1)(2)(3))"),
        (
            [message("b", "a", subject="one"), message("c", "a", subject="x"), message("d", subject="Re: one")],
            "((1)(2)(3))",
        ),
        (
            [
                message("b", "a", subject="one"),
                message("c", "a", subject="x"),
                message("e", "d", subject="one"),
                message("f", "d", subject="y"),
            ],
            "((1)(2)(3)(4))",
        ),
        ([message("a", subject=""), message("b", subject="")], "(1)(2)"),
        ([message("a", subject="Re:"), message("b", subject="")], "(1)(2)"),
        ([message("a", subject="one"), message("b", "a", subject="two"), message("c", subject="Re: two")], "(1 2)(3)"),
    ],
)
def test_it_threads_by_references(messages: list[Threaded], expected: str) -> None:
    assert threads(*messages) == expected


def test_it_threads_by_subject_alone() -> None:
    messages = [
        message("a", subject="one", sent=5),
        message("b", subject="two", sent=4),
        message("c", subject="Re: one", sent=3),
        message("d", "b", subject="Fwd: one", sent=6),
    ]
    assert ordered_subject(messages).formatted([11, 12, 13, 14]) == b"(13 (11)(14))(12)"
    assert ordered_subject(messages[:1]).formatted([11]) == b"(11)"


def test_no_message_is_lost_and_none_is_shown_twice() -> None:
    source = random.Random(4)
    names = [str(number) for number in range(30)]
    for _ in range(300):
        messages = [
            Threaded(
                source.choice(names),
                tuple(source.choices(names, k=source.randint(0, 4))),
                source.choice(("", "one", "Re: one", "two")),
                float(source.randint(0, 5)),
            )
            for _ in range(source.randint(0, 25))
        ]
        shown = threads(*messages).replace("(", " ").replace(")", " ").split()
        assert sorted(map(int, shown)) == list(range(1, len(messages) + 1)), messages


def test_deep_threads_cost_no_more_than_their_size() -> None:
    """20,000 answers to answers, in any order: recursion, or a look at all ancestors of each, would not end."""
    chain = [Threaded(str(n), (str(n - 1),) if n else (), "", float(n)) for n in range(20_000)]
    assert threads(*chain) == f"({' '.join(str(n) for n in range(1, 20_001))})"
    random.Random(1).shuffle(chain)
    assert len(references(chain).roots) < 20_000
    siblings = [Threaded(str(n), ("a", "b", "c"), f"subject {n % 3}", float(-n)) for n in range(20_000)]
    assert threads(*siblings).startswith("((20000)(19999)")
