"""The content filter learns what flags say, exactly, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from accounts.models import Account, JunkFilterConfig
from junk import counts, training
from junk.classifying import score, settings_of
from junk.models import JunkFilter, JunkWord
from protocols.message.source import BytesSource
from store import blobs, checks, cleanup, mailboxes, messages
from store.db import write_tx
from store.flags import JUNK, NOTJUNK, Flags
from store.messages import FlagMode, NewMessage
from store.models import TRAINING_DUE, Message

pytestmark = pytest.mark.database


def put(account: Account, text: str, bits: int = 0) -> int:
    """A message in Inbox, which by itself marks nothing as junk or ham; its UID."""
    prepared = blobs.prepare(f"Subject: about\r\n\r\n{text}\r\n".encode())
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        uid = messages.add(mine, mailboxes.get(mine, "Inbox"), NewMessage(prepared)).uid
    if bits:
        mark(account, [uid], bits)
    return uid


def mark(account: Account, uids: Sequence[int], bits: int) -> None:
    """Have these messages of Inbox these flags and no others."""
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        messages.set_flags(mine, mailboxes.get(mine, "Inbox"), uids, FlagMode.REPLACE, Flags(bits, ()))


def train(account: Account) -> None:
    training.train_due()
    assert not Message.objects.filter(TRAINING_DUE, account=account).exists()
    assert checks.check_account(account) == []


def known(account: Account) -> dict[str, tuple[int, int]]:
    found = JunkFilter.objects.get(pk=account.pk)
    rows = JunkWord.objects.filter(account=account, generation=found.generation)
    return {row.word: (row.ham, row.spam) for row in rows}


def totals(account: Account) -> tuple[int, int]:
    found = JunkFilter.objects.get(pk=account.pk)
    return found.hams, found.spams


def test_flags_are_learnt_and_forgotten_again(account: Account) -> None:
    ham = put(account, "lunch tomorrow", NOTJUNK)
    spam = put(account, "watches tomorrow", JUNK)
    both = put(account, "neither", JUNK | NOTJUNK)
    train(account)
    assert totals(account) == (1, 1)
    assert known(account)["tomorrow"] == (1, 1)
    assert known(account)["watches"] == (0, 1)
    assert known(account)["Subject:about"] == (1, 1)
    assert "neither" not in known(account)

    mark(account, [spam], NOTJUNK)
    mark(account, [both], JUNK)
    train(account)
    assert totals(account) == (2, 1)
    assert known(account)["tomorrow"] == (2, 0)

    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        messages.expunge_all(mine, mailboxes.get(mine, "Inbox"))
    assert ham in Message.objects.filter(account=account, expunged=True).values_list("uid", flat=True)
    train(account)
    assert totals(account) == (0, 0)
    assert known(account) == {}, "rows of words that no message has any more are gone"


def test_what_is_expunged_keeps_its_content_until_it_is_unlearnt(account: Account) -> None:
    uid = put(account, "lunch", NOTJUNK)
    train(account)
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        messages.expunge_all(mine, mailboxes.get(mine, "Inbox"))
    Message.objects.filter(account=account, uid=uid).update(expunged_at="2020-01-01T00:00:00Z")
    cleanup.erase_tombstones()
    assert not Message.objects.get(account=account, uid=uid).erased
    train(account)
    cleanup.erase_tombstones()
    assert Message.objects.get(account=account, uid=uid).erased


def test_only_one_worker_trains_an_account(account: Account) -> None:
    put(account, "lunch", NOTJUNK)
    with training.leased(account.pk) as mine:
        assert mine is not None
        with pytest.raises(training.LostLease):
            training.retrain(account.pk)
        training.train_due()
        assert totals(account) == (0, 0)
    train(account)
    assert totals(account) == (1, 0)


def test_a_worker_whose_lease_ran_out_changes_nothing(account: Account) -> None:
    put(account, "lunch", NOTJUNK)
    with training.leased(account.pk) as mine:
        assert mine is not None
        JunkFilter.objects.filter(pk=account.pk).update(lease_token=None, lease_until=None)
        with pytest.raises(training.LostLease):
            training.train_account(mine, 100)
    train(account)
    assert totals(account) == (1, 0)


def test_learning_anew_gives_what_learning_bit_by_bit_gave(account: Account) -> None:
    chance = random.Random(7)
    words = ["lunch", "plan", "watches", "casino", "meeting", "prize"]
    uids = [put(account, " ".join(chance.sample(words, 3)), chance.choice([0, JUNK, NOTJUNK])) for _ in range(40)]
    for _ in range(4):
        mark(account, chance.sample(uids, 10), chance.choice([0, JUNK, NOTJUNK, JUNK | NOTJUNK]))
        train(account)
    before = known(account), totals(account)
    result = training.retrain(account.pk)
    assert (known(account), totals(account)) == before
    assert (result.ham, result.spam) == totals(account)
    assert checks.check_account(account) == []
    assert not JunkWord.objects.filter(account=account, generation=0).exists(), "the old words are gone"


def test_other_words_count_from_the_next_learning_anew(account: Account) -> None:
    first = put(account, "quick brown foxes", NOTJUNK)
    train(account)
    JunkFilterConfig.objects.filter(account=account).update(twograms=True)
    mark(account, [first], 0)
    train(account)  # what was counted is taken out, and no more
    assert known(account) == {}
    mark(account, [first], NOTJUNK)
    training.retrain(account.pk)
    train(account)
    assert known(account)["quick brown"] == (1, 0)


def test_an_interrupted_learning_anew_leaves_no_traces(account: Account) -> None:
    put(account, "lunch", NOTJUNK)
    train(account)
    counts.add(account.pk, 1, ["half-done"], junk=False)
    training.retrain(account.pk)
    assert set(known(account)) == {"lunch", "Subject:about"}
    assert checks.check_account(account) == []


def test_a_trained_filter_tells_spam_from_ham(account: Account) -> None:
    for number in range(60):
        put(account, f"meeting about the plan number{number:o} for lunch", NOTJUNK)
        put(account, f"cheap watches and casino prize number{number:o}", JUNK)
    train(account)

    def probability(text: str) -> float:
        content = f"Subject: x\r\n\r\n{text}\r\n".encode()
        prepared = blobs.prepare(content)
        learnt = settings_of(account.pk).filter
        assert learnt is not None
        found = score(account.pk, learnt, BytesSource(content), prepared.structure, "")
        assert found.significant
        return found.probability

    assert probability("a plan for the meeting") < 0.05
    assert probability("win a casino prize, cheap") > 0.95
    assert probability("words that nobody wrote before") == 0.5


def test_what_is_to_be_trained_is_found_by_its_index(account: Account) -> None:
    query = str(Message.objects.filter(TRAINING_DUE, account_id=account.pk).order_by("pk").values("pk").query)
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {query}")
        else:
            cursor.execute("SET LOCAL enable_seqscan = off")
            cursor.execute(f"EXPLAIN {query}")
        plan = " ".join(str(row) for row in cursor.fetchall())
    assert "message_training_due" in plan, plan


def test_the_checker_sees_counts_that_are_off(account: Account) -> None:
    uid = put(account, "lunch", NOTJUNK)
    train(account)
    JunkWord.objects.filter(account=account, word="lunch").update(ham=2)
    assert any("'lunch' is counted (2, 0)" in problem for problem in checks.check_account(account))
    mark(account, [uid], 0)
    training.train_due()
    training.retrain(account.pk)


def test_the_commands_train_and_judge_collections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, text in (("ham", "meeting plan lunch"), ("spam", "casino watches prize")):
        (tmp_path / kind / "cur").mkdir(parents=True)
        for number in range(20):
            name = tmp_path / kind / "cur" / f"{number}:2,S"
            # As files are: lines end in LF, and some begin with what a mailbox in a file has between messages.
            mark = "From x Mon Mar 2 10:00:00 2026\n" if number % 2 else ""
            name.write_bytes(f"{mark}Date: Mon, 2 Mar 2026 10:{number}:00 +0000\n\n{text} word{number:o}\n".encode())
    ham, spam, filter_file = str(tmp_path / "ham"), str(tmp_path / "spam"), f"--filter={tmp_path / 'filter'}"

    call_command("junk", "train", ham, spam, filter_file)
    assert "20 ham and 20 spam are trained" in capsys.readouterr().out
    call_command("junk", "check", str(tmp_path / "spam" / "cur" / "3:2,S"), filter_file)
    assert float(capsys.readouterr().out) > 0.95
    call_command("junk", "test", ham, spam, filter_file)
    assert "ham: 20 right, 0 wrong; spam: 20 right, 0 wrong" in capsys.readouterr().out
    call_command("junk", "analyze", ham, spam, "--seed=1", "--train-ratio=0.5")
    assert "ham: 10 right, 0 wrong; spam: 10 right, 0 wrong" in capsys.readouterr().out
    call_command("junk", "play", ham, spam)
    assert "accuracy 0.9" in capsys.readouterr().out  # the first of either kind nobody could know
    with pytest.raises(CommandError, match="made with other words"):
        call_command("junk", "test", ham, spam, filter_file, "--twograms")
    with pytest.raises(CommandError, match="is not a directory"):
        call_command("junk", "analyze", ham, str(tmp_path / "none"))


def test_retrain_says_what_it_did(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    put(account, "lunch", NOTJUNK)
    put(account, "watches", JUNK)
    call_command("retrain", account.name)
    assert capsys.readouterr().out == f"{account.name}: 2 messages trained, 1 ham, 1 spam\n"
    with pytest.raises(CommandError, match="account nobody does not exist"):
        call_command("retrain", "nobody")
