"""What the content filter of an account thinks of a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from accounts.models import Account
from protocols.message.source import Source
from server.statements import Statement

from . import counts
from .content import has_bad_type, words_of
from .scoring import SIGNIFICANT_HAMS, Counts, Parameters, Score, classify
from .words import Grams


@dataclass(frozen=True, slots=True)
class Filter:
    """How an account's filter weighs words, and how much it has learnt of which ones."""

    threshold: float
    parameters: Parameters
    grams: Grams
    generation: int
    hams: int
    spams: int


@dataclass(frozen=True, slots=True)
class AccountSettings:
    """What the verdict needs of an account's settings. ``filter`` None: content is not judged."""

    subject_pass_period: timedelta = timedelta()
    no_first_time_sender_delay: bool = False
    filter: Filter | None = None


_columns: Final[Statement[Any]] = Statement(
    lambda account_id: Account.objects.filter(pk=account_id).values_list(
        "subject_pass_period",
        "no_first_time_sender_delay",
        "junk_filter__threshold",
        "junk_filter__max_power",
        "junk_filter__top_words",
        "junk_filter__ignore_words",
        "junk_filter__rare_words",
        "trained_filter__onegrams",
        "trained_filter__twograms",
        "trained_filter__threegrams",
        "trained_filter__generation",
        "trained_filter__hams",
        "trained_filter__spams",
    )
)


def settings_of(account_id: int) -> AccountSettings:
    """The settings of an account; those of none where it is gone."""
    row = _columns.row(account_id)
    if row is None:
        return AccountSettings()
    period, no_delay, threshold, max_power, top_words, ignore_words, rare_words, *learnt = row
    if threshold is None:
        return AccountSettings(period, no_delay)
    one, two, three, generation, hams, spams = learnt if learnt[0] is not None else (True, False, False, 0, 0, 0)
    parameters = Parameters(max_power, top_words, ignore_words, rare_words)
    return AccountSettings(
        period, no_delay, Filter(threshold, parameters, Grams(one, two, three), generation, hams, spams)
    )


def score(account_id: int, learnt: Filter, source: Source, structure: Mapping[str, Any], mail_from: str) -> Score:
    """The score of content for an account. ``mail_from``: its envelope's sender, "" for none."""
    if has_bad_type(source, structure):
        return Score(1.0, learnt.hams >= SIGNIFICANT_HAMS, (), ())
    known: dict[str, Counts] = {}
    if learnt.hams or learnt.spams:  # else no word is known
        words = words_of(source, structure, learnt.grams, mail_from)
        known = counts.counts(account_id, learnt.generation, words)
    return classify(known, hams=learnt.hams, spams=learnt.spams, parameters=learnt.parameters)
