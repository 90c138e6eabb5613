"""Logins whose messages have senders of their own: which may be, and that they count as they are typed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from accounts.accounts import ConfigurationError
from accounts.fromidlogins import is_login, set_logins
from accounts.models import Account, Domain, FromIDLoginAddress
from tests.domain.queueing import address_of, row, send

pytestmark = pytest.mark.database


def test_the_same_account_sends_with_and_without(account: Account) -> None:
    own = address_of(account)
    special = own.replace("@", "+fromid@")
    set_logins(account, [special])
    assert is_login(account.pk, special.replace("localhost", "LOCALHOST"))
    assert not is_login(account.pk, special.upper())
    (with_id,) = send(account, "them@far.example", login_address=special)
    (without,) = send(account, "them@far.example", login_address=own)
    assert row(with_id).sender_localpart == f"{account.name}+{row(with_id).from_id}"
    assert (row(without).from_id, row(without).sender) == ("", own)
    set_logins(account, [])
    assert not is_login(account.pk, special)


def test_what_cannot_be_one_is_refused_and_nothing_changes(
    account: Account, new_account: Callable[[], Account]
) -> None:
    bare = Domain.objects.create(name=f"bare{account.pk}.example", localpart_catchall_separators=[])
    other = address_of(new_account())
    set_logins(account, [address_of(account)])
    for login, says in (
        ("nonsense", 'invalid fromid login address "nonsense"'),
        ("a@elsewhere.example", "unknown domain in fromid login address"),
        (f"a@{bare.name}", f"localpart catchall separator not configured for domain {bare.name}"),
        (other, f'fromid login address "{other}" does not match its destination addresses'),
    ):
        with pytest.raises(ConfigurationError, match=says):
            set_logins(account, [login])
    assert [found.login for found in FromIDLoginAddress.objects.filter(account=account)] == [address_of(account)]
    bare.delete()
