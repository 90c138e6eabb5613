"""The probability that a message is junk, from how often its words were in ham and in spam (a naive Bayes filter).

score = classify({"invoice": (40, 0), "watches": (0, 20)}, hams=100, spams=50, parameters=Parameters())
score.probability          # 0 .. 1
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SIGNIFICANT_HAMS: Final = 50  # with fewer trained the filter knows nothing of what its user wants

Counts = tuple[int, int]
"""In how many trained messages a word was: ham, spam."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """How words are weighed. ``rare_words``: those seen so often or less count less."""

    max_power: float = 0.01
    top_words: int = 10
    ignore_words: float = 0.1
    rare_words: int = 2


@dataclass(frozen=True, slots=True)
class WordScore:
    """A word that decided; ``score`` is the probability of junk that it speaks for."""

    word: str
    score: float


@dataclass(frozen=True, slots=True)
class Score:
    """``significant``: enough was learnt for a high probability to mean something. Strongest words come first."""

    probability: float
    significant: bool
    ham_words: tuple[WordScore, ...]
    spam_words: tuple[WordScore, ...]


def classify(words: Mapping[str, Counts], *, hams: int, spams: int, parameters: Parameters) -> Score:
    """The score of a message with these words; without any that says something the probability is 0.5."""
    scores: dict[Counts, float | None] = {}  # most words share theirs with others
    # Of equally strong words the longer ones are the rarer, and by the word itself the choice is the same each time.
    ham_words: list[tuple[float, int, str]] = []
    spam_words: list[tuple[float, int, str]] = []
    for word, counts in words.items():
        if counts in scores:
            score = scores[counts]
        else:
            score = scores[counts] = word_score(counts, hams=hams, spams=spams, parameters=parameters)
        if score is None:
            continue
        if score < 0.5:
            ham_words.append((score, -len(word), word))
        else:
            spam_words.append((-score, -len(word), word))
    top_ham = [WordScore(word, score) for score, _, word in heapq.nsmallest(parameters.top_words, ham_words)]
    top_spam = [WordScore(word, -score) for score, _, word in heapq.nsmallest(parameters.top_words, spam_words)]
    eta = sum(math.log(1 - w.score) - math.log(w.score) for w in (*top_ham, *top_spam))
    return Score(_logistic(-eta), hams >= SIGNIFICANT_HAMS, tuple(top_ham), tuple(top_spam))


def word_score(counts: Counts, *, hams: int, spams: int, parameters: Parameters) -> float | None:
    """The probability of junk that one word speaks for; None for a word that says nothing."""
    ham, spam = counts
    ham_share = ham / hams if hams else 0.0
    spam_share = spam / spams if spams else 0.0
    if not ham_share and not spam_share:
        return None
    score = spam_share / (spam_share + ham_share)
    score = min(max(score, parameters.max_power), 1 - parameters.max_power)
    seen = ham + spam
    if seen <= parameters.rare_words:
        score += (1 + parameters.rare_words - seen) * (0.5 - score) / 10
    if abs(0.5 - score) < parameters.ignore_words or score == 0.5:
        return None
    # With a max_power of 0 a word may be sure of it, and a logarithm may not.
    return min(max(score, 1e-9), 1 - 1e-9)


def _logistic(value: float) -> float:
    """1 / (1 + e^-value), without overflow."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    power = math.exp(value)
    return power / (1 + power)
