"""What the content filter of an account thinks of a message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accounts.models import JunkFilterConfig
from protocols.message.source import Source

from . import counts
from .content import words_of
from .models import JunkFilter
from .scoring import Parameters, Score, classify
from .training import grams_of


def parameters_of(config: JunkFilterConfig) -> Parameters:
    """How an account's words are weighed."""
    return Parameters(config.max_power, config.top_words, config.ignore_words, config.rare_words)


def score(config: JunkFilterConfig, source: Source, structure: Mapping[str, Any], return_path: str) -> Score:
    """The score of content for the account of ``config``. ``return_path``: its envelope's sender, "" for none."""
    found = JunkFilter.objects.filter(pk=config.account_id).first() or JunkFilter()
    words = words_of(source, structure, grams_of(found), return_path)
    known = counts.counts(config.account_id, found.generation, words)
    return classify(known, hams=found.hams, spams=found.spams, parameters=parameters_of(config))
