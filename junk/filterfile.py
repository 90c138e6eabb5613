"""A junk filter in a file of its own (SQLite), for trying parameters on collections of messages.

with FilterFile(path, Grams()) as filter:
    filter.train([words, ...], junk=True)
    filter.classify(words, Parameters()).probability
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from .scoring import Parameters, Score, classify
from .words import WORDS_VERSION, Grams

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS filter (version INTEGER, grams TEXT, hams INTEGER, spams INTEGER);
CREATE TABLE IF NOT EXISTS word (word TEXT PRIMARY KEY, ham INTEGER, spam INTEGER) WITHOUT ROWID;
"""


class BadFilterFile(Exception):
    """The file is no filter, or one of other words than asked for."""


class FilterFile:
    """The filter in the file at ``path``, made if there is none; ":memory:" is kept nowhere. Raises BadFilterFile."""

    def __init__(self, path: Path | str, grams: Grams) -> None:
        wanted = json.dumps([grams.one, grams.two, grams.three])
        try:
            self._database = sqlite3.connect(path)
            self._database.executescript(_SCHEMA)
            row = self._database.execute("SELECT version, grams FROM filter").fetchone()
            if row is None:
                self._database.execute("INSERT INTO filter VALUES (?, ?, 0, 0)", [WORDS_VERSION, wanted])
                self._database.commit()
            elif row != (WORDS_VERSION, wanted):
                raise BadFilterFile(
                    f"the filter in {path} was made with other words (onegrams, twograms, threegrams: {row[1]}):"
                    " give the same options, or remove it and train again"
                )
        except sqlite3.Error as exc:
            raise BadFilterFile(f"{path} is no junk filter: {exc}") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._database.close()

    @property
    def totals(self) -> tuple[int, int]:
        """How many ham and spam messages were trained."""
        hams, spams = self._database.execute("SELECT hams, spams FROM filter").fetchone()
        return hams, spams

    def train(self, messages: Iterable[frozenset[str]], *, junk: bool) -> int:
        """Learn messages, as their words; returns how many."""
        ham, spam = int(not junk), int(junk)
        trained = 0
        with self._database:
            for words in messages:
                self._database.execute(
                    "INSERT INTO word SELECT value, ?, ? FROM json_each(?) WHERE true"
                    " ON CONFLICT (word) DO UPDATE SET ham = ham + excluded.ham, spam = spam + excluded.spam",
                    [ham, spam, json.dumps(sorted(words))],
                )
                trained += 1
            self._database.execute(
                "UPDATE filter SET hams = hams + ?, spams = spams + ?", [ham * trained, spam * trained]
            )
        return trained

    def classify(self, words: frozenset[str], parameters: Parameters) -> Score:
        """What the filter thinks of a message with these words."""
        rows = self._database.execute(
            "SELECT word, ham, spam FROM word WHERE word IN (SELECT value FROM json_each(?))",
            [json.dumps(list(words))],
        )
        hams, spams = self.totals
        known = {word: (ham, spam) for word, ham, spam in rows}
        return classify(known, hams=hams, spams=spams, parameters=parameters)
