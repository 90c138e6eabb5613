"""What must hold of a junk filter: its counts are those of the messages that were trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from accounts.models import Account
from store import checks, content
from store.errors import ContentError
from store.models import Message

from .content import words_of
from .models import JunkFilter, JunkWord
from .training import grams_of
from .words import WORDS_VERSION


@checks.register
def word_counts(account: Account) -> Iterator[str]:
    """Counts all words again: as much work as training the account anew."""
    found = JunkFilter.objects.filter(pk=account.pk).first()
    trained = Message.objects.filter(account=account, trained_junk__isnull=False)
    if found is None:
        if trained.exists():
            yield "messages are marked as trained, and there is no junk filter"
        return
    if found.words_version != WORDS_VERSION:
        return  # it is about to be trained anew
    ham: Counter[str] = Counter()
    spam: Counter[str] = Counter()
    messages = {True: 0, False: 0}
    columns = ("pk", "trained_junk", "mail_from", "blob_id", "blob__size", "blob__data", "blob__storage_name")
    for pk, junk, mail_from, *blob, structure in trained.values_list(*columns, "blob__structure").iterator(500):
        messages[bool(junk)] += 1
        try:
            with content.blob_reader(*blob) as reader:
                words = words_of(reader, structure, grams_of(found), mail_from)
        except ContentError as exc:
            yield f"message {pk} was trained and cannot be read: {exc}"
            return
        (spam if junk else ham).update(words)
    if (found.hams, found.spams) != (messages[False], messages[True]):
        yield (
            f"junk filter counts {found.hams} ham and {found.spams} spam,"
            f" and {messages[False]} and {messages[True]} messages were trained"
        )
    counted = {word: (of_ham, of_spam) for word, of_ham, of_spam in _words(account, found)}
    expected = {word: (ham[word], spam[word]) for word in ham.keys() | spam.keys()}
    for word in sorted(expected.keys() | counted.keys()):
        if counted.get(word) != expected.get(word):
            yield f"junk filter: word {word!r} is counted {counted.get(word)}, the messages say {expected.get(word)}"


def _words(account: Account, found: JunkFilter) -> Iterator[tuple[str, int, int]]:
    rows = JunkWord.objects.filter(account=account, generation=found.generation)
    yield from rows.values_list("word", "ham", "spam").iterator(2000)
