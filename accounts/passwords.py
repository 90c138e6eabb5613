"""Passwords of accounts: what is kept of them when they are set, and whether one that is given fits."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from django.contrib.auth.hashers import Argon2PasswordHasher

from protocols.md5state import hmac_md5_states
from protocols.precis import PrecisError, opaque_string
from protocols.sasl import ScramHash, derive_scram_keys
from protocols.sasl.scram import SALT_SIZE
from server import db

from . import sessions
from .models import Account, Address, Credential, LoginSession

MIN_PASSWORD_LENGTH: Final = 8  # characters
MAX_PASSWORD_SIZE: Final = 4096  # bytes that are looked at; far more than anybody types
SCRAM_ITERATIONS: Final = {ScramHash.SHA_1: 8192, ScramHash.SHA_256: 4096}
CACHE_LIFETIME: Final = 15 * 60  # seconds that a verified password is not hashed again
CACHE_ENTRIES: Final = 10_000  # about 2 MB; the longest unused goes
MIN_CACHED_SIZE: Final = 8  # bytes: shorter ones could be found by trying, from a dump of this process's memory


class PasswordRejected(ValueError):
    """The password cannot be set; the text says why and what to do."""


class MailPasswordHasher(Argon2PasswordHasher):
    """argon2id at the size that OWASP recommends for servers: 19 MiB, two passes, one lane.

    Django's default takes 100 MiB in eight lanes per login: a few clients that try passwords at once would fill the
    memory of a small server. Reads hashes of any size, since each says its own.
    """

    time_cost = 2
    memory_cost = 19 * 1024  # KiB
    parallelism = 1


_hasher = MailPasswordHasher()


def set_password(account: Account, password: str, *, keep: LoginSession | None = None) -> None:
    """Store what every login mechanism needs of a new password, never the password. Raises PasswordRejected.

    All earlier verifiers of the account are replaced. Its web sessions end, except ``keep``: the one in which its owner
    made the change. Open IMAP and SMTP connections stay.
    """
    prepared = prepare_new(password)
    md5_states = hmac_md5_states(prepared.encode())
    sha1, sha256 = (
        derive_scram_keys(hash_, prepared, secrets.token_bytes(SALT_SIZE), SCRAM_ITERATIONS[hash_])
        for hash_ in (ScramHash.SHA_1, ScramHash.SHA_256)
    )
    verifiers = {
        "password_hash": _hasher.encode(prepared, _hasher.salt()),
        "cram_md5_inner": md5_states.inner,
        "cram_md5_outer": md5_states.outer,
        "scram_sha1_salt": sha1.salt,
        "scram_sha1_iterations": sha1.iterations,
        "scram_sha1_stored_key": sha1.stored_key,
        "scram_sha1_server_key": sha1.server_key,
        "scram_sha256_salt": sha256.salt,
        "scram_sha256_iterations": sha256.iterations,
        "scram_sha256_stored_key": sha256.stored_key,
        "scram_sha256_server_key": sha256.server_key,
    }
    with db.write():
        Credential.objects.update_or_create(account=account, defaults=verifiers)
        sessions.end_all(account, but=keep)


def prepare_new(password: str) -> str:
    """The form in which a new password is hashed (RFC 8265 OpaqueString). Raises PasswordRejected."""
    prepared = prepare(password)
    if prepared is None:
        try:
            opaque_string(password)
        except PrecisError as exc:
            raise PasswordRejected(str(exc)) from exc
        raise PasswordRejected(f"the password is longer than {MAX_PASSWORD_SIZE} bytes: choose a shorter one")
    if len(prepared) < MIN_PASSWORD_LENGTH:
        raise PasswordRejected(f"the password is shorter than {MIN_PASSWORD_LENGTH} characters: choose a longer one")
    return prepared


def check_password(address: Address | None, password: str) -> bool:
    """Whether the password is that of the account of the address; None stands for an unknown login, and takes as long.

    For any thread; a verified password is known again for 15 minutes without the cost of hashing.
    """
    # The query is made for an unknown login too, so that both take the same way.
    stored = (
        Credential.objects.filter(account_id=address.account_id if address is not None else 0)
        .values_list("password_hash", flat=True)
        .first()
    )
    prepared = prepare(password)
    if address is None or not stored or prepared is None:
        hash_for_nobody()
        return False
    if verified.knows(address.canonical, stored, prepared):
        return True
    if not _hasher.verify(prepared, stored):
        return False
    verified.add(address.canonical, stored, prepared)
    return True


def hash_for_nobody() -> None:
    """Take the time of a check where there is nothing to check, so that unknown names cannot be told by it."""
    _hasher.encode(_DUMMY_PASSWORD, _DUMMY_SALT)


_DUMMY_PASSWORD: Final = "a password for nobody"  # noqa: S105 # opens nothing
_DUMMY_SALT: Final = "a salt for nobody at all"


def prepare(password: str) -> str | None:
    """The form that is hashed; None if no password can be like this."""
    try:
        if len(password.encode()) > MAX_PASSWORD_SIZE:
            return None
        return opaque_string(password)
    except (PrecisError, UnicodeEncodeError):
        return None


class VerifiedPasswords:
    """Passwords that were right a short while ago, as keyed hashes under a key that only this process has, in memory.

    A key covers the stored hash, so that a new password makes the old one unknown.
    """

    def __init__(self, max_entries: int = CACHE_ENTRIES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Forget all, and take a new key: also what a forked process does."""
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)
        self._expires: OrderedDict[bytes, float] = OrderedDict()  # the longest unused first

    def knows(self, address: str, stored_hash: str, password: str) -> bool:
        """Whether this password was added for this address and hash in the last 15 minutes."""
        key = self._entry_key(address, stored_hash, password)
        with self._lock:
            expires = self._expires.get(key)
            if expires is None:
                return False
            if expires <= self._clock():
                del self._expires[key]
                return False
            self._expires.move_to_end(key)
            return True

    def add(self, address: str, stored_hash: str, password: str) -> None:
        """Remember a password that was just verified against its hash; a short one is not."""
        if len(password.encode()) < MIN_CACHED_SIZE:
            return
        key = self._entry_key(address, stored_hash, password)
        with self._lock:
            self._expires[key] = self._clock() + CACHE_LIFETIME
            self._expires.move_to_end(key)
            while len(self._expires) > self._max_entries:
                self._expires.popitem(last=False)

    def __len__(self) -> int:
        return len(self._expires)

    def _entry_key(self, address: str, stored_hash: str, password: str) -> bytes:
        # None of the three can contain NUL: canonical address, encoded hash, OpaqueString.
        return hmac.digest(self._key, "\0".join((address, stored_hash, password)).encode(), hashlib.sha256)


verified = VerifiedPasswords()
os.register_at_fork(after_in_child=verified.reset)
