"""What is kept of a password, and for how long a verified one is known without hashing it again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from accounts.models import Account, Credential
from accounts.passwords import CACHE_LIFETIME, PasswordRejected, VerifiedPasswords, check_password, set_password

pytestmark = pytest.mark.database


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("password", "text"),
    [
        ("1234567", "shorter than 8 characters"),
        ("e\u0301" * 7, "shorter than 8 characters"),
        ("", "empty"),
        ("tab\there12", r"U\+0009 at position 4"),
        ("x" * 5000, "longer than 4096 bytes"),
    ],
)
def test_unfit_passwords_are_rejected_with_the_reason(account: Account, password: str, text: str) -> None:
    with pytest.raises(PasswordRejected, match=text):
        set_password(account, password)


def test_no_stored_column_holds_the_password(account: Account) -> None:
    set_password(account, "plain to see")
    row = Credential.objects.filter(account=account).values().get()
    for value in row.values():
        assert b"plain to see" not in (bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode())
    assert row["password_hash"].startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")
    assert (row["scram_sha1_iterations"], row["scram_sha256_iterations"]) == (8192, 4096)
    assert (len(row["scram_sha1_salt"]), len(row["scram_sha256_salt"])) == (16, 16)


def test_setting_the_same_password_again_changes_every_salt(account: Account) -> None:
    set_password(account, "plain to see")
    before = Credential.objects.get(account=account)
    set_password(account, "plain to see")
    after = Credential.objects.get(account=account)
    assert before.pk == after.pk
    for column in ("password_hash", "scram_sha1_salt", "scram_sha256_salt", "scram_sha256_stored_key"):
        assert getattr(before, column) != getattr(after, column)


def test_an_account_without_a_password_and_an_unknown_login_have_none_that_fits(account: Account) -> None:
    address = account.addresses.first()
    assert address is not None
    Credential.objects.filter(account=account).delete()
    assert not check_password(address, "plain to see")
    assert not check_password(None, "plain to see")


def test_a_verified_password_is_known_for_15_minutes() -> None:
    clock = Clock()
    verified = VerifiedPasswords(clock=clock)
    assert not verified.knows("jo@example.org", "hash", "plain to see")
    verified.add("jo@example.org", "hash", "plain to see")
    clock.now += CACHE_LIFETIME - 1
    assert verified.knows("jo@example.org", "hash", "plain to see")
    clock.now += 1
    assert not verified.knows("jo@example.org", "hash", "plain to see")
    assert len(verified) == 0


def test_another_address_hash_or_password_is_not_known() -> None:
    verified = VerifiedPasswords()
    verified.add("jo@example.org", "hash", "plain to see")
    assert not verified.knows("al@example.org", "hash", "plain to see")
    assert not verified.knows("jo@example.org", "new hash", "plain to see")
    assert not verified.knows("jo@example.org", "hash", "plain to hear")


def test_short_passwords_are_not_kept_and_the_cache_is_bounded() -> None:
    verified = VerifiedPasswords(max_entries=10)
    verified.add("jo@example.org", "hash", "1234567")
    assert len(verified) == 0
    for number in range(11):
        verified.add(f"{number}@example.org", "hash", "plain to see")
        assert verified.knows("0@example.org", "hash", "plain to see")
    assert len(verified) == 10
    assert not verified.knows("1@example.org", "hash", "plain to see")


def test_another_process_has_another_key() -> None:
    verified = VerifiedPasswords()
    verified.add("jo@example.org", "hash", "plain to see")
    verified.reset()
    assert not verified.knows("jo@example.org", "hash", "plain to see")
