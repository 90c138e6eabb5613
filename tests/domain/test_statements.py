"""Statements made once find what the query that they were made from finds, whatever the order of its conditions."""

from __future__ import annotations

import pytest

from accounts.models import Account, Address
from server.statements import ModelStatement, Statement, together
from store.models import Mailbox

pytestmark = pytest.mark.database

by_name = ModelStatement(
    Mailbox, lambda name, account_id: Mailbox.objects.filter(name=name, account_id=account_id, expunged=False)
)
addresses = Statement(lambda *ids: Address.objects.filter(pk__in=ids).order_by("pk").values_list("pk", "canonical"))
labelled = Statement(lambda pk: Account.objects.filter(pk=pk, name="somebody").values_list("name"))


def test_parameters_go_where_they_belong_and_rows_are_models(account: Account) -> None:
    inbox = Mailbox.objects.get(account=account, name="Inbox")
    for _ in range(2):  # made, and then kept
        found = by_name.row("Inbox", account.pk)
        assert found is not None
        assert (found, found.keywords, found.uidvalidity) == (inbox, [], inbox.uidvalidity)
        assert by_name.row("Inbox", 0) is None


def test_lists_of_different_lengths(account: Account) -> None:
    (address,) = account.addresses.all()
    for ids in ([address.pk], [0, address.pk, -1], [*range(-200, 0), address.pk]):
        assert list(addresses.rows(*ids)) == [(address.pk, address.canonical)]


def test_a_query_with_a_value_of_its_own_is_refused(account: Account) -> None:
    with pytest.raises(TypeError, match="parameters of its own"):
        labelled.rows(account.pk)


def test_statements_asked_together_give_what_each_gives(account: Account) -> None:
    by_name: Statement[tuple[int, str]] = Statement(
        lambda name: Account.objects.filter(name=name).values_list("pk", "name")
    )
    by_id: Statement[tuple[int, str]] = Statement(lambda pk: Account.objects.filter(pk=pk).values_list("pk", "name"))
    mine = (account.pk, account.name)
    assert together([(by_name, (account.name,)), (by_id, (-1,)), (by_id, (account.pk,))]) == [[mine], [], [mine]]
    assert together([]) == []
