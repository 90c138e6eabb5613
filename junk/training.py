"""Teaching the content filter of an account what its user calls junk, after the fact and exactly.

A message's flags are the truth: only $Junk is junk, only $NotJunk is ham, else it is not trained, nor is one that was
expunged. ``trained_junk`` says what it was counted as. Where the two differ a worker takes out what was counted and
counts anew; both change in one transaction, so counts always equal what the trained messages say.

    train_due()                # of all accounts; found by index
    retrain(account_id)        # all anew; classification sees the old counts until the new ones are complete
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import Q

from accounts.models import JunkFilterConfig
from server import db
from store import content
from store.errors import ContentError
from store.models import JUDGED, TRAINING_DUE, Message

from . import counts
from .content import words_of
from .models import JunkFilter, JunkWord
from .words import WORDS_VERSION, Grams

log = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 50  # read together, and trained in one transaction
BATCH_SECONDS: Final = 0.2  # of reading before what was read is written: on SQLite other writers wait
BATCH_WORDS: Final = 5000  # of a transaction, for the same reason
LEASE: Final = timedelta(seconds=120)  # for one batch; renewed with each
IDS_AT_ONCE: Final = 500  # databases bound the parameters of a statement
DELETED_AT_ONCE: Final = 10_000  # words of an old generation

_JUNK, _HAM = Q(junk=True, notjunk=False), Q(notjunk=True, junk=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to train an account, for a while."""

    account_id: int
    token: uuid.UUID


class LostLease(Exception):
    """Somebody else trains the account by now."""


class ErasedMeanwhile(Exception):
    """A message that was trained anew is gone by now: its words cannot be taken out again."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a retraining came to."""

    ham: int
    spam: int


@dataclass(frozen=True, slots=True)
class _Row:
    pk: int
    wanted: bool | None
    trained: bool | None
    words: frozenset[str]


_COLUMNS: Final = (
    "pk", "junk", "notjunk", "expunged", "trained_junk", "mail_from",
    "blob_id", "blob__size", "blob__data", "blob__storage_name", "blob__structure",
)  # fmt: skip


def train_due(limit: int = 5000) -> int:
    """Train up to so many messages whose flags and training differ; returns how many. One worker per account."""
    done = 0
    accounts = (
        Message.objects.filter(TRAINING_DUE).order_by("account_id").values_list("account_id", flat=True).distinct()
    )
    for account_id in accounts:
        with contextlib.suppress(LostLease), leased(account_id) as lease:
            if lease is not None:
                done += train_account(lease, limit - done)
        if done >= limit:
            break
    return done


def wanted_state(*, junk: bool, notjunk: bool, expunged: bool) -> bool | None:
    """What a message should be trained as: True for junk, False for ham, None for neither."""
    return None if expunged or junk == notjunk else junk


def grams_of(found: JunkFilter) -> Grams:
    """Which words the counts of a filter are of."""
    return Grams(found.onegrams, found.twograms, found.threegrams)


def train_account(lease: Lease, limit: int) -> int:
    found = JunkFilter.objects.get(pk=lease.account_id)
    if found.words_version != WORDS_VERSION:
        anew = _retrain(lease, None)
        return anew.ham + anew.spam
    grams = grams_of(found)
    done = last = 0
    while done < limit:
        rows = list(
            Message.objects.filter(TRAINING_DUE, account_id=lease.account_id, pk__gt=last)
            .order_by("pk")
            .values_list(*_COLUMNS)[:BATCH_MESSAGES]
        )
        if not rows:
            break
        read = _read(rows, grams)
        last = read[-1].pk
        done += db.retrying(functools.partial(_apply, lease, found.generation, read))
    return done


def _read(rows: Sequence[tuple[Any, ...]], grams: Grams) -> list[_Row]:
    """Messages with their words; fewer than asked for once they have many words, or took long to read."""
    read: list[_Row] = []
    deadline = time.monotonic() + BATCH_SECONDS
    words = 0
    for pk, junk, notjunk, expunged, trained, mail_from, blob_id, *blob in rows:
        size, data, storage_name, structure = blob
        wanted = wanted_state(junk=junk, notjunk=notjunk, expunged=expunged)
        found: frozenset[str] = frozenset()
        try:
            with content.blob_reader(blob_id, size, data, storage_name) as reader:
                found = words_of(reader, structure, grams, mail_from)
        except ContentError as exc:
            # With no words it counts as trained, and is not tried for ever.
            log.error("message cannot be read to be trained", extra={"message_id": pk, "err": str(exc)})
        read.append(_Row(pk, wanted, trained, found))
        words += len(found)
        if words > BATCH_WORDS or time.monotonic() > deadline:
            break
    return read


def _apply(lease: Lease, generation: int, rows: Sequence[_Row]) -> int:
    """Count these messages as they should be. What changed since they were read is left for the next time."""
    done = hams = spams = 0
    with db.write(durable=False):
        _renew(lease)
        for row in rows:
            now_as_read = Message.objects.filter(_is_wanted(row.wanted), pk=row.pk, trained_junk=row.trained)
            if not now_as_read.update(trained_junk=row.wanted):
                continue
            done += 1
            if row.trained is not None:
                counts.take(lease.account_id, generation, row.words, junk=row.trained)
                hams, spams = hams - (not row.trained), spams - row.trained
            if row.wanted is not None:
                counts.add(lease.account_id, generation, row.words, junk=row.wanted)
                hams, spams = hams + (not row.wanted), spams + row.wanted
        _count(lease.account_id, hams, spams)
    return done


def _is_wanted(state: bool | None) -> Q:
    if state is None:
        return Q(expunged=True) | Q(junk=True, notjunk=True) | Q(junk=False, notjunk=False)
    return Q(_JUNK if state else _HAM, expunged=False)


def _count(account_id: int, hams: int, spams: int) -> None:
    found = JunkFilter.objects.get(pk=account_id)
    found.hams, found.spams = max(0, found.hams + hams), max(0, found.spams + spams)
    found.save(update_fields=["hams", "spams"])


# Everything anew.


def retrain(account_id: int, progress: Callable[[int], None] | None = None) -> Trained:
    """Forget what the filter of an account learnt, and learn it from the flags of all its messages.

    ``progress`` is told how many messages were read. Raises LostLease if somebody else is at it.
    """
    with leased(account_id) as lease:
        if lease is None:
            raise LostLease("the filter of this account is being trained right now, try again later")
        return _retrain(lease, progress)


def _retrain(lease: Lease, progress: Callable[[int], None] | None) -> Trained:
    while True:
        try:
            return _anew(lease, progress)
        except ErasedMeanwhile:
            log.info("a trained message was removed meanwhile, once again", extra={"account_id": lease.account_id})


def _anew(lease: Lease, progress: Callable[[int], None] | None) -> Trained:
    account_id = lease.account_id
    config = JunkFilterConfig.objects.filter(account_id=account_id).first() or JunkFilterConfig()
    grams = Grams(config.onegrams, config.twograms, config.threegrams)
    old = JunkFilter.objects.get(pk=account_id).generation
    new = old + 1
    delete_words(account_id, Q(generation__gte=new))  # of an earlier try that was interrupted
    states: dict[int, bool] = {}
    last = 0
    flagged = Message.objects.filter(JUDGED, account_id=account_id, expunged=False)
    while rows := list(flagged.filter(pk__gt=last).order_by("pk").values_list(*_COLUMNS)[:BATCH_MESSAGES]):
        read = _read(rows, grams)
        last = read[-1].pk
        db.retrying(functools.partial(_add_anew, lease, new, read))
        states.update((row.pk, bool(row.wanted)) for row in read)
        if progress is not None:
            progress(len(states))
    spams = sum(states.values())
    with db.write():
        _renew(lease)
        _switch(account_id, states)
        JunkFilter.objects.filter(pk=account_id).update(
            generation=new,
            hams=len(states) - spams,
            spams=spams,
            onegrams=grams.one,
            twograms=grams.two,
            threegrams=grams.three,
            words_version=WORDS_VERSION,
        )
    delete_words(account_id, Q(generation__lt=new))
    return Trained(ham=len(states) - spams, spam=spams)


def _add_anew(lease: Lease, generation: int, rows: Sequence[_Row]) -> None:
    with db.write():
        _renew(lease)
        for row in rows:
            counts.add(lease.account_id, generation, row.words, junk=bool(row.wanted))


def _switch(account_id: int, states: dict[int, bool]) -> None:
    """Have the messages say what the new counts are of. Raises ErasedMeanwhile."""
    trained = Message.objects.filter(account_id=account_id, trained_junk__isnull=False)
    before: dict[int, bool | None] = dict(trained.values_list("pk", "trained_junk"))
    changes: dict[bool | None, list[int]] = {None: [pk for pk in before if pk not in states], True: [], False: []}
    for pk, state in states.items():
        if before.get(pk) is not state:
            changes[state].append(pk)
    for new, ids in changes.items():
        for start in range(0, len(ids), IDS_AT_ONCE):
            part = ids[start : start + IDS_AT_ONCE]
            changed = Message.objects.filter(pk__in=part, erased=False).update(trained_junk=new)
            # What is trained already is not erased before it was taken out.
            if changed < len(part):
                raise ErasedMeanwhile


def delete_words(account_id: int, which: Q) -> None:
    """Delete those words of a filter, in batches."""
    while True:
        words = JunkWord.objects.filter(which, account_id=account_id).values_list("generation", "word")
        part = list(words[:DELETED_AT_ONCE])
        if not part:
            return
        with db.write():
            for generation in {generation for generation, _ in part}:
                counts.delete(account_id, generation, [word for number, word in part if number == generation])


# One worker for an account at a time.


@contextlib.contextmanager
def leased(account_id: int) -> Iterator[Lease | None]:
    """The lease of an account, or None while somebody else has it."""
    lease = Lease(account_id, uuid.uuid4())
    with db.write():
        JunkFilter.objects.get_or_create(pk=account_id, defaults=_new_filter(account_id))
        free = Q(lease_until__isnull=True) | Q(lease_until__lt=db.now())
        taken = JunkFilter.objects.filter(free, pk=account_id).update(
            lease_token=lease.token, lease_until=db.now() + LEASE
        )
    if not taken:
        yield None
        return
    try:
        yield lease
    finally:
        with db.write():
            JunkFilter.objects.filter(pk=account_id, lease_token=lease.token).update(lease_token=None, lease_until=None)


def _new_filter(account_id: int) -> dict[str, bool]:
    config = JunkFilterConfig.objects.filter(account_id=account_id).first() or JunkFilterConfig()
    return {name: getattr(config, name) for name in ("onegrams", "twograms", "threegrams")}


def _renew(lease: Lease) -> None:
    """Raises LostLease."""
    mine = JunkFilter.objects.filter(pk=lease.account_id, lease_token=lease.token)
    if not mine.update(lease_until=datetime.now(UTC) + LEASE):
        raise LostLease("the lease ran out")
