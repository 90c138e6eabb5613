"""The word counts of an account: looked up and changed many words at a time.

counts(account_id, generation, {"invoice", "watches"})          # {"invoice": (40, 0)}
add(account_id, generation, words, junk=False)                  # in a transaction
take(account_id, generation, words, junk=False)                 # the reverse

Words go to the database as one array, whatever their number: a statement for each few hundred would be the whole cost.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from typing import Any, Final

from django.db import connection

from server.statements import run

from .scoring import Counts

log = logging.getLogger(__name__)

_LISTED: Final = {
    "sqlite": "SELECT value AS word FROM json_each(%s)",
    "postgresql": "SELECT unnest(%s::text[]) AS word",
}


def counts(account_id: int, generation: int, words: Collection[str]) -> dict[str, Counts]:
    """What is known of these words; those that were never trained are left out."""
    if not words:
        return {}
    rows = run(f"SELECT word, ham, spam {_of_words()}", [account_id, generation, _array(words)])
    return {word: (ham, spam) for word, ham, spam in rows}


def add(account_id: int, generation: int, words: Collection[str], *, junk: bool) -> None:
    """Count the words of one more message that is junk, or is not."""
    if not words:
        return
    run(
        "INSERT INTO junk_junkword (account_id, generation, word, ham, spam)"  # noqa: S608 # the words are a parameter
        f" SELECT %s, %s, listed.word, %s, %s FROM ({_LISTED[connection.vendor]}) AS listed WHERE true"
        " ON CONFLICT (account_id, generation, word) DO UPDATE"
        " SET ham = junk_junkword.ham + excluded.ham, spam = junk_junkword.spam + excluded.spam",
        [account_id, generation, int(not junk), int(junk), _array(words)],
    )


def take(account_id: int, generation: int, words: Collection[str], *, junk: bool) -> None:
    """The reverse of `add`; never below nothing, and a row that ends at nothing is deleted."""
    if not words:
        return
    array = _array(words)
    column = "spam" if junk else "ham"
    known = run(
        f"UPDATE junk_junkword SET {column} = {column} - 1 {_where()} AND {column} > 0 RETURNING 1",  # noqa: S608 # as above
        [account_id, generation, array],
    )
    if len(known) < len(words):
        log.error(
            "words of a trained message were not counted: retrain the account",
            extra={"account_id": account_id, "words": len(words), "known": len(known)},
        )
    run(f"DELETE {_of_words()} AND ham = 0 AND spam = 0", [account_id, generation, array])


def delete(account_id: int, generation: int, words: Collection[str]) -> None:
    """Forget these words."""
    run(f"DELETE {_of_words()}", [account_id, generation, _array(words)])


def _of_words() -> str:
    return f"FROM junk_junkword {_where()}"


def _where() -> str:
    return f"WHERE account_id = %s AND generation = %s AND word IN ({_LISTED[connection.vendor]})"


def _array(words: Collection[str]) -> Any:
    in_order = sorted(words)  # two who change the same words do not wait for each other in a circle
    return json.dumps(in_order) if connection.vendor == "sqlite" else in_order
