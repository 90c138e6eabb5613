"""Removing an account with all that it has: an order, and the work in small steps that go on after any crash.

    order(find_account("bob"))      # logins, sessions and new mail end with this transaction
    work()                          # a worker's: whatever is ordered, until it is done

Packages above register what they do at the order, and how they delete their own rows, 500 at a time, the highest
package first. The account's row goes last: until then nobody can have its name.
"""

from __future__ import annotations

import enum
import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from django.apps import apps
from django.db.models import CASCADE, F, ForeignKey, Model, Q

from server import db, faults
from server.models import ServerSettings

from .accounts import ConfigurationError, changing, leave_aliases
from .models import Account, AccountRemoval, Address, Credential, Domain, LoginSession, TLSPublicKey

log = logging.getLogger(__name__)

BATCH: Final = 500  # rows of a transaction: on SQLite every other account waits for it
KEPT: Final = timedelta(days=30)  # a removal that is done, for whoever asks what became of an account


class Step(enum.Enum):
    """How a package stands after a step: there is more, it is done, or something else must come to an end first."""

    MORE = "more"
    DONE = "done"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Remover:
    """What a package does to an account that is removed. ``account_id`` stays valid until the end.

    ``begin`` runs in the transaction of the order. ``step`` deletes at most 500 rows, in a transaction of its own, and
    is called until it is done. ``counts`` says in words what there is to remove.
    """

    begin: Callable[[AccountRemoval], None]
    step: Callable[[AccountRemoval, int], Step]
    counts: Callable[[int], Mapping[str, int]]


_removers: list[Remover] = []


def register(remover: Remover) -> None:
    """Called by packages as their applications get ready: lower ones before higher ones."""
    if remover not in _removers:
        _removers.append(remover)


def order(account: Account, *, deliver_queued: bool = False) -> AccountRemoval:
    """Have an account removed. Raises ConfigurationError while something needs it.

    Its addresses, password and sessions in browsers go at once, and nothing can be added to it any more.
    ``deliver_queued``: what it sent and still waits is delivered, instead of failed without a notice.
    """
    with changing():
        # A delivery under way holds the account's state, which is locked below, and refers to this row.
        account = Account.objects.select_for_update(no_key=True).get(pk=account.pk)
        _check_not_needed(account)
        if AccountRemoval.objects.filter(account=account).exists():
            raise ConfigurationError(f"account {account} is being removed already")
        removal = AccountRemoval.objects.create(
            account=account, name=account.name, deliver_queued=deliver_queued, requested=datetime.now(UTC)
        )
        leave_aliases(account.addresses.all())
        for model in (Address, Credential, LoginSession, TLSPublicKey):
            model._default_manager.filter(account=account).delete()
        Account.objects.filter(pk=account.pk).update(version=F("version") + 1)
        for remover in reversed(_removers):
            remover.begin(removal)
    faults.point("accounts.removal_ordered")
    log.info("account is being removed", extra={"account": account.name})
    return removal


def counts(account: Account) -> dict[str, int]:
    """What will be removed with an account, in words."""
    found = {"addresses": account.addresses.count()}
    for remover in _removers:
        found.update(remover.counts(account.pk))
    return found


def work() -> Counter[str]:
    """Go on with all removals. Gives how many are done, and how many wait for something."""
    outcomes: Counter[str] = Counter()
    for removal in AccountRemoval.objects.filter(finished=None).order_by("pk"):
        outcomes["done" if _work_on(removal) else "waiting"] += 1
    return outcomes


def _work_on(removal: AccountRemoval) -> bool:
    account_id = removal.account_id
    if account_id is not None:
        for remover in (*reversed(_removers), _own):
            while (step := db.retrying(functools.partial(remover.step, removal, account_id))) is Step.MORE:
                faults.point("accounts.removal_step")
            if step is Step.WAIT:
                return False
    faults.point("accounts.removal_end")
    with db.write():
        # Its name is free from here on.
        if account_id is not None:
            Account.objects.filter(pk=account_id).delete()
        AccountRemoval.objects.filter(pk=removal.pk).update(finished=datetime.now(UTC))
    log.info("account is removed", extra={"account": removal.name})
    return True


def remove_rows(app_label: str, account_id: int) -> bool:
    """Delete up to 500 rows of one kind that belong to an account; False when an application has none left.

    Rows belong to it that would be deleted with the account's (CASCADE). What refers to others goes before them.
    """
    for model, column in _owned(app_label):
        ids = list(model._base_manager.filter(**{column: account_id}).values_list("pk", flat=True)[:BATCH])
        if ids:
            with db.write():
                model._base_manager.filter(pk__in=ids).delete()
            return True
    return False


@functools.cache
def _owned(app_label: str) -> tuple[tuple[type[Model], str], ...]:
    """The models of an application with a foreign key to Account that owns, those that refer to others first."""
    columns: dict[type[Model], str] = {}
    for model in apps.get_app_config(app_label).get_models():
        for field in model._meta.local_concrete_fields:
            if isinstance(field, ForeignKey) and field.related_model is Account and _cascades(field):
                columns[model] = field.attname
    ordered: list[type[Model]] = []
    while left := [model for model in columns if model not in ordered]:
        # One that no other of the remaining models refers to; where they refer to each other, cascading settles it.
        referred = {
            field.related_model
            for model in left
            for field in model._meta.local_concrete_fields
            if isinstance(field, ForeignKey) and field.related_model is not model
        }
        ordered.append(next((model for model in left if model not in referred), left[0]))
    return tuple((model, columns[model]) for model in ordered)


def _cascades(field: ForeignKey[Model, Model]) -> bool:
    on_delete = getattr(field.remote_field, "on_delete", None)
    return on_delete is CASCADE


_own: Final = Remover(
    begin=lambda removal: None,
    step=lambda removal, account_id: Step.MORE if remove_rows("accounts", account_id) else Step.DONE,
    counts=lambda account_id: {},
)


def _check_not_needed(account: Account) -> None:
    settings = ServerSettings.current()
    for role, name in (
        ("postmaster", settings.postmaster_account),
        ("account for TLS reports about the server", settings.host_tlsrpt_account),
    ):
        if name == account.name:
            raise ConfigurationError(
                f"account {account} is the {role}: choose another account in the server settings first"
            )
    for domain in Domain.objects.filter(Q(dmarc_account=account) | Q(tlsrpt_account=account)).order_by("name"):
        kind = "DMARC" if domain.dmarc_account_id == account.pk else "TLS"
        raise ConfigurationError(
            f"account {account} gets the {kind} reports of {domain}: choose another account in domain {domain} first"
        )


def forget_done(now: datetime) -> None:
    """Drop removals that were done long ago; for the daily clean-up.

    One stays for as long as a new account could have a UIDVALIDITY that the removed one had (store.mailboxes).
    """
    done = AccountRemoval.objects.filter(finished__lt=now - KEPT, next_uidvalidity__lte=int(now.timestamp()) // 2)
    with db.write():
        done.delete()
