"""Keys: making them, PKCS8 PEM, and the bytes that records publish (RFC 6376, RFC 8463)."""

from __future__ import annotations

from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key

from .errors import DkimError, ErrorKind

RSA_BITS: Final = 2048  # of keys made here: 4096 bits do not fit one TXT string and are refused by some
RSA_BITS_MIN: Final = 1024  # RFC 8301 section 3.2
RSA_BITS_MAX: Final = 8192  # more costs a verifier too much
RSA_EXPONENT_MAX: Final = 1 << 32  # as some verifiers have it; 65537 is what all use, and a large one costs too much
ED25519_SIZE: Final = 32  # bytes of a public key, RFC 8463 section 4

PrivateKey: TypeAlias = RSAPrivateKey | Ed25519PrivateKey
PublicKey: TypeAlias = RSAPublicKey | Ed25519PublicKey


def generate_rsa(bits: int = RSA_BITS) -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=bits)


def generate_ed25519() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def load_private_key(pem: str | bytes) -> PrivateKey:
    """A key from PEM without a passphrase. Raises DkimError: not a key, another algorithm, RSA of a bad size."""
    data = pem.encode() if isinstance(pem, str) else pem
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise DkimError(ErrorKind.BAD_KEY, f"private key is not PKCS8 PEM without passphrase: {exc}") from exc
    if not isinstance(key, RSAPrivateKey | Ed25519PrivateKey):
        raise DkimError(ErrorKind.UNKNOWN_ALGORITHM, f"private key is {type(key).__name__}, must be RSA or Ed25519")
    check_size(key)
    return key


def private_key_pem(key: PrivateKey) -> str:
    """The key as PKCS8 PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")


def public_key_data(key: PrivateKey | PublicKey) -> bytes:
    """What a record publishes in ``p=``: for RSA the SubjectPublicKeyInfo, for Ed25519 the 32 bytes themselves."""
    public = key.public_key() if isinstance(key, RSAPrivateKey | Ed25519PrivateKey) else key
    if isinstance(public, Ed25519PublicKey):
        return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_public_key(key_type: str, data: bytes) -> PublicKey:
    """The key of a record. Raises DkimError: unknown type, bytes that are no such key, RSA of a bad size."""
    if key_type == "ed25519":
        if len(data) != ED25519_SIZE:
            raise DkimError(ErrorKind.RECORD_SYNTAX, f"ed25519 key of {len(data)} bytes, must be {ED25519_SIZE}")
        return Ed25519PublicKey.from_public_bytes(data)
    if key_type != "rsa":
        raise DkimError(ErrorKind.UNKNOWN_ALGORITHM, f"unknown key type {key_type!r}")
    try:
        # RFC 6376 section 3.6.1 speaks of RSAPublicKey, records hold SubjectPublicKeyInfo: both are read.
        key = serialization.load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise DkimError(ErrorKind.RECORD_SYNTAX, f"no RSA key in record: {exc}") from exc
    if not isinstance(key, RSAPublicKey):
        raise DkimError(ErrorKind.ALGORITHM_MISMATCH, f"record says rsa and holds {type(key).__name__}")
    check_size(key)
    return key


def check_size(key: PrivateKey | PublicKey) -> None:
    """Raises DkimError for an RSA key that is too small to trust or too large to compute with."""
    if not isinstance(key, RSAPrivateKey | RSAPublicKey):
        return
    if not RSA_BITS_MIN <= key.key_size <= RSA_BITS_MAX:
        raise DkimError(ErrorKind.WEAK_KEY, f"RSA key of {key.key_size} bits, must be {RSA_BITS_MIN} to {RSA_BITS_MAX}")
    public = key.public_key() if isinstance(key, RSAPrivateKey) else key
    if public.public_numbers().e >= RSA_EXPONENT_MAX:
        raise DkimError(ErrorKind.WEAK_KEY, "RSA key with an exponent of more than 32 bits")


def make_signature(key: PrivateKey, data: bytes) -> bytes:
    """rsa-sha256 or ed25519-sha256 over data in canonical form (RFC 6376 section 3.3.2, RFC 8463 section 3)."""
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(_sha256(data))
    return key.sign(data, padding.PKCS1v15(), hashes.SHA256())


def is_signature(key: PublicKey, data: bytes, signature: bytes, *, sha1: bool = False) -> bool:
    """Whether the signature is the key's over this data, with SHA-256 (or SHA-1, of RSA keys only)."""
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, _sha256(data))
        else:
            # SHA-1 only for callers whose policy lets it through: RFC 8301 section 3.1 does not.
            hash_algorithm = hashes.SHA1() if sha1 else hashes.SHA256()  # noqa: S303
            key.verify(signature, data, padding.PKCS1v15(), hash_algorithm)
    except InvalidSignature:
        return False
    return True


def _sha256(data: bytes) -> bytes:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(data)
    return digest.finalize()
