"""TLS client keys: who has one logs in to IMAP without a password.

key = add_key("me@example.org", pem, name="laptop")
find_key(fingerprint)

A certificate is only the envelope of the key: its names and dates are ignored.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

from server import clientkeys

from .accounts import ConfigurationError
from .addresses import resolve_login
from .models import Account, TLSPublicKey

NAME_MAX: Final = 256  # characters
PEM_MAX: Final = 100_000  # characters: a certificate has a few thousand

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,64})-----([^-]*)-----END \1-----")


def add_key(login_address: str, pem: str, *, name: str = "", no_imap_preauth: bool = False) -> TLSPublicKey:
    """Register the key of a certificate in PEM for the account of an address. Raises ConfigurationError.

    ``name`` is the certificate's common name where none is given. With ``no_imap_preauth`` a client that has the key
    still has to log in with it (AUTHENTICATE EXTERNAL): some do not know PREAUTH.
    """
    address = resolve_login(login_address)
    if address is None:
        raise ConfigurationError(f"unknown address {login_address}: it must be one that an account logs in with")
    certificate = _certificate(pem)
    fingerprint = clientkeys.fingerprint(certificate)
    known = find_key(fingerprint)
    if known is not None:
        raise ConfigurationError(f"the key is registered already, for account {known.account}: remove it there first")
    return TLSPublicKey.objects.create(
        account=address.account,
        login_address=str(address),
        name=(name or _common_name(certificate))[:NAME_MAX],
        type=_key_type(certificate),
        fingerprint=fingerprint,
        no_imap_preauth=no_imap_preauth,
        created=datetime.now(UTC),
    )


def remove_key(fingerprint: str) -> TLSPublicKey:
    """Forget a key; sessions that used it go on. Raises ConfigurationError."""
    key = find_key(fingerprint)
    if key is None:
        raise ConfigurationError(f"no key has the fingerprint {fingerprint}: mox config tlspubkey list shows all")
    TLSPublicKey.objects.filter(pk=key.pk).delete()
    return key


def keys(account: Account | None = None) -> list[TLSPublicKey]:
    """The keys of an account, or of all, by account and name."""
    found = TLSPublicKey.objects.select_related("account").order_by("account__name", "name", "pk")
    return list(found if account is None else found.filter(account=account))


def find_key(fingerprint: str) -> TLSPublicKey | None:
    return TLSPublicKey.objects.filter(fingerprint=fingerprint).select_related("account").first()


def any_key() -> bool:
    """Whether clients need to be asked for a key at all: where none is registered, nobody is bothered."""
    return clientkeys.supported() and TLSPublicKey.objects.exists()


def _certificate(pem: str) -> x509.Certificate:
    blocks = _BLOCK.findall(pem[:PEM_MAX])
    if not blocks:
        raise ConfigurationError("no pem data found: give the certificate as it is in its file")
    kind, body = blocks[0]
    if kind != "CERTIFICATE":
        raise ConfigurationError(f'unexpected type "{kind}", need CERTIFICATE')
    if len(blocks) > 1 or pem.count("-----BEGIN ") > 1:
        raise ConfigurationError("only single pem block allowed")
    try:
        return x509.load_der_x509_certificate(base64.b64decode("".join(body.split()), validate=True))
    except (ValueError, binascii.Error) as exc:
        raise ConfigurationError(f"certificate cannot be read: {exc}") from exc


def _common_name(certificate: x509.Certificate) -> str:
    try:
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value).replace("\0", "\ufffd") if names else ""


def _key_type(certificate: x509.Certificate) -> str:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "unknown"
    match key:
        case ec.EllipticCurvePublicKey():
            return f"ecdsa-{key.curve.name}"
        case rsa.RSAPublicKey() | dsa.DSAPublicKey():
            return f"{'rsa' if isinstance(key, rsa.RSAPublicKey) else 'dsa'}-{key.key_size}"
        case ed25519.Ed25519PublicKey():
            return "ed25519"
        case ed448.Ed448PublicKey():
            return "ed448"
    return "unknown"
