"""DKIM keys of hosted domains: making them, and handing them to whoever signs (RFC 6376, 8463).

keys = new_keys(2026)                     # slow, and outside of any transaction
add_selectors(domain, keys)
signing_selectors(domain)                 # what protocols.dkim.sign takes
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db.models import BinaryField, ExpressionWrapper, F

from protocols import dkim, names
from server.encryption import decrypt
from server.statements import Statement

from .models import DKIMSelector, Domain

LIFETIME: Final = timedelta(hours=72)  # of a signature; longer than mail is tried for, short enough to end a replay
KEY_CACHE: Final = 1024  # keys; parsing an RSA key costs as much as signing with it
LOCALSERVE: Final = "localserve"

# A letter after the year: the first two sign, the others only have their records published, for a change of keys.
_YEARLY: Final = (
    ("a", DKIMSelector.Algorithm.ED25519, True),
    ("b", DKIMSelector.Algorithm.RSA, True),
    ("c", DKIMSelector.Algorithm.ED25519, False),
    ("d", DKIMSelector.Algorithm.RSA, False),
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that has been made and is not stored yet."""

    selector: str
    key: dkim.PrivateKey
    sign: bool

    @property
    def algorithm(self) -> DKIMSelector.Algorithm:
        is_ed25519 = isinstance(self.key, Ed25519PrivateKey)
        return DKIMSelector.Algorithm.ED25519 if is_ed25519 else DKIMSelector.Algorithm.RSA


def new_keys(year: int) -> list[NewKey]:
    """The four keys of a new domain: ``2026a`` and ``2026b`` sign, ``2026c`` and ``2026d`` are spares."""
    return [NewKey(f"{year}{letter}", _generate(algorithm), sign) for letter, algorithm, sign in _YEARLY]


def localserve_key() -> NewKey:
    """The one key of an installation for trying out."""
    return NewKey(LOCALSERVE, dkim.generate_ed25519(), sign=True)


def add_selectors(domain: Domain, keys: Iterable[NewKey]) -> list[DKIMSelector]:
    """Store keys of a domain. In a transaction of the caller."""
    return [
        DKIMSelector.objects.create(
            domain=domain,
            name=new.selector,
            algorithm=new.algorithm,
            expiration=LIFETIME,
            private_key=dkim.private_key_pem(new.key).encode(),
            sign=new.sign,
        )
        for new in keys
    ]


def signing_selectors(domain: Domain) -> list[dkim.Selector]:
    """The keys that sign mail of a domain, by name. Raises CannotDecrypt, DkimError for a key that cannot be used."""
    return [
        dkim.Selector(
            name=names.parse_domain_lax(name),
            key=_key(bytes(stored)),
            hash=dkim.Hash(hash_),
            header_relaxed=header_relaxed,
            body_relaxed=body_relaxed,
            headers=tuple(headers),
            seal_headers=seal_headers,
            expiration=expiration or timedelta(0),
        )
        for name, stored, hash_, header_relaxed, body_relaxed, headers, seal_headers, expiration in _signing.rows(
            domain.pk
        )
    ]


# The key as it is stored, encrypted: it is what the cache goes by, so a key that is replaced is another one at once.
_stored_key: Final = ExpressionWrapper(F("private_key"), output_field=BinaryField())
_signing: Final = Statement(
    lambda domain: (
        DKIMSelector.objects.filter(domain=domain, sign=True)
        .order_by("name")
        .annotate(stored=_stored_key)
        .values_list(
            "name", "stored", "hash", "header_relaxed", "body_relaxed", "headers", "seal_headers", "expiration"
        )
    )
)


@lru_cache(maxsize=KEY_CACHE)
def _key(stored: bytes) -> dkim.PrivateKey:
    return dkim.load_private_key(decrypt(stored))


def _generate(algorithm: DKIMSelector.Algorithm) -> dkim.PrivateKey:
    if algorithm == DKIMSelector.Algorithm.ED25519:
        return dkim.generate_ed25519()
    return dkim.generate_rsa()
