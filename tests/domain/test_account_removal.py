"""An account that is removed goes with all that it has, in steps that survive anything, and takes nothing of others."""

from __future__ import annotations

import io
import json
import zipfile
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.apps import apps
from django.core.files.storage import storages
from django.core.management import CommandError, call_command
from django.db.models import ForeignKey

from accounts import removal
from accounts.accounts import ConfigurationError, add_address, create_account, find_account
from accounts.addresses import AddressError, resolve
from accounts.aliases import add_alias, members_of
from accounts.models import Account, AccountRemoval, Domain
from junk.models import JunkWord
from mailqueue.models import QueueMessage, State
from protocols.names import parse_domain
from server import db, faults
from server.models import ServerSettings
from store import blobs, cleanup, index, mailboxes, messages, reading, text
from store.db import write_tx
from store.errors import MailboxGone
from store.imports import jobs
from store.messages import NewMessage
from store.models import Blob, ChangeEvent, Mailbox, Message
from tests.domain.queueing import send

pytestmark = pytest.mark.database

LARGE = b"Subject: large\r\n\r\n" + b"0123456789abcde\r\n" * 5000


@pytest.fixture
def doomed(database: None) -> Account:
    """An account that a test removes."""
    number = AccountRemoval.objects.count() + Account.objects.count()
    return create_account(f"doomed{number}a", f"doomed{number}a", Domain.objects.get(name="localhost"))


def remove(account: Account) -> None:
    with hidden():
        removal.order(account)
        assert removal.work()["done"] == 1


def hidden() -> AbstractContextManager[None]:
    """The workers of a server that runs beside the tests see nothing of an order before it is done."""
    return db.write()


def put(account: Account, blob_id: int | None = None, content: bytes = b"Subject: x\r\n\r\n") -> Message:
    prepared = blobs.prepare(io.BytesIO(content))
    with write_tx(account.pk) as tx:
        mine = tx.account(account.pk)
        placed = messages.add(mine, mailboxes.get(mine, "Inbox"), NewMessage(prepared), blob_id)
    return Message.objects.get(pk=placed.message_id)


def rows_left(account_id: int) -> dict[str, int]:
    """How many rows of each table refer to an account."""
    left = {}
    for model in apps.get_models():
        for field in model._meta.local_concrete_fields:
            if isinstance(field, ForeignKey) and field.related_model is Account:
                count = model._default_manager.filter(**{field.attname: account_id}).count()
                if count:
                    left[model.__name__] = count
    return left


def test_nothing_of_it_remains(doomed: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "BATCH", 2)
    with write_tx(doomed.pk) as tx:
        mine = tx.account(doomed.pk)
        mailboxes.create(mine, "a/b/c")
        mailboxes.rename(mine, "a/b", "z")
    for _ in range(5):
        put(doomed)
    with write_tx(doomed.pk) as tx:
        mine = tx.account(doomed.pk)
        inbox = mailboxes.get(mine, "Inbox")
        messages.copy(mine, inbox, [1, 2], mailboxes.get(mine, "Sent"))
        messages.move(mine, inbox, [2, 3], mailboxes.get(mine, "Archive"))
    account_id, name = doomed.pk, doomed.name
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("Lists.mbox", "From a@x Mon Jan  1 00:00:00 2024\nSubject: x\n\nbody\n")
    archive.seek(0)
    job = jobs.import_archive(doomed.pk, archive)
    JunkWord.objects.create(account=doomed, generation=0, word="buy", ham=1, spam=2)
    Blob.objects.exclude(messages__account=doomed).update(text_due=False)  # what other tests left
    text.make_due()
    assert index.build_segment(doomed.pk, least=1)
    remove(doomed)
    assert not storages["messages"].exists(job.source)
    assert rows_left(account_id) == {}
    assert not Account.objects.filter(name=name).exists()
    assert AccountRemoval.objects.get(name=name).finished is not None


def test_it_leaves_its_aliases(doomed: Account, account: Account) -> None:
    team = add_alias(f"team-{doomed}@localhost", [f"{doomed.name}@localhost", f"{account.name}@localhost"])
    remove(doomed)
    assert [str(member) for member in members_of(team)] == [f"{account.name}@localhost"]


def test_from_the_order_on_it_cannot_be_used(doomed: Account) -> None:
    message = put(doomed)
    with hidden():
        removal.order(doomed)
        with pytest.raises(AddressError):
            resolve(doomed.name, parse_domain("localhost"))
        with pytest.raises(MailboxGone), write_tx(doomed.pk) as tx:
            tx.account(doomed.pk)
        with pytest.raises(MailboxGone):
            reading.mailboxes(doomed.pk)
        with pytest.raises(ConfigurationError, match="is being removed"):
            find_account(doomed.name)
        with pytest.raises(ConfigurationError, match="is being removed"):
            add_address(doomed, "another", Domain.objects.get(name="localhost"))
        with pytest.raises(ConfigurationError, match="is being removed already"):
            removal.order(doomed)
        with pytest.raises(ConfigurationError, match="still being removed"):
            create_account(doomed.name.upper(), "other", Domain.objects.get(name="localhost"))
        assert Message.objects.filter(pk=message.pk).exists(), "data goes in the background"
        removal.work()


def test_the_name_starts_anew_with_higher_uidvalidities(doomed: Account) -> None:
    with write_tx(doomed.pk) as tx:
        for number in range(50):
            mailboxes.create(tx.account(doomed.pk), f"box{number}")
    put(doomed)
    used = max(Mailbox.objects.filter(account=doomed).values_list("uidvalidity", flat=True))
    remove(doomed)
    again = create_account(doomed.name, doomed.name, Domain.objects.get(name="localhost"))
    listing = reading.mailboxes(again.pk)
    assert all(view.uidvalidity > used and not view.messages for view in listing.views)
    remove(again)
    removal.forget_done(datetime.now(UTC) + timedelta(days=60))
    assert not AccountRemoval.objects.filter(name=doomed.name).exists()


def test_content_that_others_have_stays(doomed: Account, account: Account) -> None:
    shared, own = (put(doomed, content=LARGE).blob for _ in range(2))
    assert shared is not None
    assert own is not None
    put(account, shared.pk, LARGE)
    remove(doomed)
    cleanup.collect_blobs(datetime.now(UTC) + timedelta(hours=2))
    assert Blob.objects.filter(pk=shared.pk).exists()
    assert not Blob.objects.filter(pk=own.pk).exists()


@pytest.mark.parametrize("deliver", [False, True])
def test_what_it_sent_fails_or_is_delivered_as_the_order_says(doomed: Account, deliver: bool) -> None:
    with hidden():
        waiting, busy = send(doomed, "bo@remote.example", "al@other.example")
        queued = QueueMessage.objects.filter(pk__in=(waiting, busy))
        queued.filter(pk=busy).update(state=State.DELIVERING)
        removal.order(doomed, deliver_queued=deliver)
        if deliver:
            assert removal.work()["done"] == 1
            assert list(queued.values_list("account", flat=True)) == [None, None]
        else:
            assert removal.work()["waiting"] == 1, "one is being delivered at this moment"
            assert list(queued.values_list("pk", flat=True)) == [busy]
            queued.update(state=State.QUEUED)
            assert removal.work()["done"] == 1
        queued.delete()


class _Stop(BaseException):
    """In place of the end of the process."""


def test_it_goes_on_after_any_step(doomed: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "BATCH", 1)
    account_id = doomed.pk
    for _ in range(3):
        put(doomed)

    def die(name: str) -> None:
        raise _Stop(name)

    with hidden():
        send(doomed, "bo@remote.example")
        removal.order(doomed)
        seen = [sum(rows_left(account_id).values())]
        with monkeypatch.context() as patched:
            patched.setattr(faults, "point", die)
            at = ""
            while at != "accounts.removal_end":
                with pytest.raises(_Stop) as stopped:
                    removal.work()
                at = str(stopped.value)
                seen.append(sum(rows_left(account_id).values()))
        assert len(seen) > 10
        assert seen == sorted(seen, reverse=True)
        assert rows_left(account_id) == {"AccountRemoval": 1, "JunkFilter": 1}, "which nobody can train"
        assert Account.objects.filter(pk=account_id).exists(), "its name is not free yet"
        assert removal.work()["done"] == 1
    assert not Account.objects.filter(pk=account_id).exists()


def test_an_account_that_is_needed_is_not_removed(account: Account) -> None:
    settings = ServerSettings.objects.get()
    postmaster = Account.objects.get(name=settings.postmaster_account)
    with pytest.raises(ConfigurationError, match="is the postmaster: choose another account"):
        removal.order(postmaster)
    domain = Domain.objects.create(name="reports.example", dmarc_account=account)
    with pytest.raises(ConfigurationError, match=r"DMARC reports of reports.example: choose another account in domain"):
        removal.order(account)
    domain.delete()
    assert not AccountRemoval.objects.filter(account=account).exists()


def test_the_command_says_what_goes(doomed: Account, capsys: pytest.CaptureFixture[str]) -> None:
    put(doomed)
    add_address(doomed, f"{doomed.name}second", Domain.objects.get(name="localhost"))
    with hidden():
        call_command("config", "account", "rm", doomed.name, "--json")
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert said["removed"] == {"addresses": 2, "mailboxes": 6, "messages": 1, "messages in the queue": 0}
        call_command("config", "account", "list")
        listed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith(doomed.name))
        assert "being removed" in listed
        with pytest.raises(CommandError, match="is being removed"):
            call_command("config", "account", "rm", doomed.name)
        removal.work()
    with pytest.raises(CommandError, match="does not exist"):
        call_command("config", "account", "rm", doomed.name)
    assert not ChangeEvent.objects.filter(account_id=doomed.pk).exists()
