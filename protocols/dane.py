"""DANE for SMTP (RFC 6698, 7671, 7672): certificates that a domain vouches for in DNS, in place of authorities.

    found = await gather_tlsa(resolver, host, expanded_host, expanded_authentic)
    result = verify(found.records, peer_chain(ssl_object), [found.base_domain, recipient_domain])

Whether the addresses and the MX records that have led to a host are authentic, too, is for the caller to see to.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from protocols import metrics
from protocols.dns import TLSA, DNSError, Resolver
from protocols.dns import ErrorKind as DNSErrorKind
from protocols.names import Domain
from protocols.pkix import MAX_CERTIFICATES, MAX_CHAIN, Roots, TLSProblem, parse_chain, server_problem

PKIX_TA, PKIX_EE, DANE_TA, DANE_EE = range(4)  # RFC 7218
FULL, SHA_256, SHA_512 = range(3)
CERTIFICATE, PUBLIC_KEY = range(2)

SMTP_USAGES: Final = frozenset({DANE_TA, DANE_EE})  # RFC 7672 section 3.1.3
TIMEOUT: Final = 30.0  # seconds for the lookups of one host
MAX_ERRORS: Final = 10  # that are told; a domain may have any number of records

_DIGESTS: Final = {SHA_256: 32, SHA_512: 64}  # bytes


@dataclass(frozen=True, slots=True)
class DaneResult:
    """Whether a chain is one that the records vouch for."""

    verified: bool
    record: TLSA | None = None
    """The one that does."""
    errors: tuple[str, ...] = ()
    """One line each: why nothing matched, and what was wrong with chains of which a certificate did."""


@dataclass(frozen=True, slots=True)
class TlsaLookup:
    """What DNS says of a host's certificates."""

    dane: bool
    """Whether TLS is required: there are records, or an answer could not be had (``error``)."""
    base_domain: Domain
    """The name that has the records (RFC 7672 section 2.2.3): for SNI, and in certificates."""
    records: tuple[TLSA, ...] = ()
    """Those that can be used. None, though ``found`` has some: any certificate will do (RFC 7672 section 2.2)."""
    found: tuple[TLSA, ...] = ()
    """All of them."""
    error: DNSError | None = None
    """Nothing may be delivered until there is an answer."""
    reason: str = ""
    """Why it is not DANE."""


@dataclass(frozen=True, slots=True)
class DANE:
    """The check of a server's certificates for `protocols.smtpclient`."""

    records: tuple[TLSA, ...]
    allowed: tuple[Domain, ...]
    """The names of which a certificate must have one where an authority has made it (RFC 7672 section 3.2.3)."""
    name: str = field(default="dane", init=False)

    def problem(self, chain: Sequence[bytes]) -> TLSProblem | None:
        """What is wrong with the chain that the server presented (DER, its own certificate first), or None."""
        result = verify(self.records, chain, self.allowed)
        if result.verified:
            return None
        reason = "dane-no-match" if result.errors == (_NO_MATCH,) else "dane-no-match+errors"
        return TLSProblem("validation-failure", reason, "; ".join(result.errors))


_NO_MATCH: Final = "no match between certificate and tlsa records"
_NO_RECORDS: Final = "no tlsa records"
_INSECURE: Final = "dns lookups insecure"


async def gather_tlsa(
    resolver: Resolver,
    host: Domain,
    expanded_host: Domain,
    expanded_authentic: bool,
    *,
    port: int = 25,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
) -> TlsaLookup:
    """The records for a host: those of the end of its CNAMEs if these are authentic, else its own (RFC 7672 2.2.2).

    To be called only when the host's addresses were had, and are authentic: some name servers never answer for TLSA.
    """
    bases = [expanded_host, host] if expanded_authentic and expanded_host != host else [host]
    base, reason = host, _NO_RECORDS
    try:
        async with asyncio.timeout(timeout):
            for base in bases:
                try:
                    answer = await resolver.tlsa(_tlsa_name(base, port))
                except DNSError as exc:
                    if exc.is_temporary:
                        return TlsaLookup(True, base, error=exc)
                    reason = _NO_RECORDS if exc.authentic else _INSECURE
                    continue
                if answer.authentic:
                    usable = tuple(record for record in answer.records if is_usable(record))
                    return TlsaLookup(True, base, usable, answer.records)
                reason = _INSECURE
    except TimeoutError:
        return TlsaLookup(True, base, error=DNSError(DNSErrorKind.TIMEOUT, _tlsa_name(base, port), "tlsa"))
    return TlsaLookup(False, base, reason=reason)


def is_usable(record: TLSA, usages: Collection[int] = SMTP_USAGES) -> bool:
    """Whether a record has a meaning here, and its data the right form."""
    if record.usage not in usages or record.selector not in (CERTIFICATE, PUBLIC_KEY):
        return False
    if record.matching != FULL:
        return len(record.data) == _DIGESTS.get(record.matching, -1)
    if record.selector == CERTIFICATE:
        return not isinstance(parse_chain([record.data]), TLSProblem)
    try:
        load_der_public_key(record.data)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def verify(
    records: Sequence[TLSA],
    chain: Sequence[bytes],
    allowed: Sequence[Domain],
    *,
    usages: Collection[int] = SMTP_USAGES,
    roots: Roots | None = None,
    now: datetime | None = None,
) -> DaneResult:
    """Whether one of the records vouches for a chain (DER, the server's own certificate first).

    ``allowed``: the names of which the certificate must have one, but for usage 3. ``roots``: for the usages 0 and 1,
    which are passed over without. ``now``: another time, for usage 2.
    """
    start = time.monotonic()
    usable = [record for record in records if is_usable(record, usages)]
    if not usable:
        result = DaneResult(False, errors=(_NO_RECORDS,))
    elif not chain or len(chain) > MAX_CERTIFICATES or sum(map(len, chain)) > MAX_CHAIN:
        result = DaneResult(False, errors=(str(parse_chain(chain)),))
    else:
        result = _verify(usable, _Chain(chain), allowed, roots, now)
    metrics.observe("mox_dane_verify_total", time.monotonic() - start, {})
    if not result.verified:
        metrics.observe("mox_dane_verify_errors_total", time.monotonic() - start, {})
    return result


class _Chain:
    """The certificates that a server presented, and what records may have of them."""

    def __init__(self, ders: Sequence[bytes]) -> None:
        self._ders = ders
        self._matchable: dict[tuple[int, int], list[bytes | None]] = {}
        self.certificates = [_load(der) for der in ders]
        """None for one that cannot be read."""

    @property
    def leaf(self) -> x509.Certificate | None:
        return self.certificates[0]

    @property
    def readable(self) -> list[x509.Certificate]:
        return [certificate for certificate in self.certificates if certificate is not None]

    def matching(self, record: TLSA) -> list[int]:
        """The numbers of the certificates that a record matches."""
        key = record.selector, record.matching
        if key not in self._matchable:
            self._matchable[key] = [
                _matchable(der, certificate, record)
                for der, certificate in zip(self._ders, self.certificates, strict=True)
            ]
        return [number for number, data in enumerate(self._matchable[key]) if data == record.data]


def _verify(
    records: Sequence[TLSA], chain: _Chain, allowed: Sequence[Domain], roots: Roots | None, now: datetime | None
) -> DaneResult:
    problems: dict[str, None] = {}
    # Those that need no authority first: they are cheap, and do not expire.
    for record in sorted(records, key=lambda record: -record.usage):
        matching = chain.matching(record)
        if record.usage == DANE_EE:
            # RFC 7671 section 5.1: neither name nor dates count, DNS says it all.
            if 0 in matching:
                return DaneResult(True, record)
            continue
        if record.usage == DANE_TA:
            problem = _anchored_problem(record, matching, chain, allowed, now)
        else:
            problem = _pkix_problem(record, matching, chain, allowed, roots)
        if problem is None:
            return DaneResult(True, record)
        problems[problem] = None
    told = tuple(problem for problem in problems if problem != _NO_MATCH)
    return DaneResult(False, errors=(_NO_MATCH, *told[:MAX_ERRORS]))


def _anchored_problem(
    record: TLSA, matching: list[int], chain: _Chain, allowed: Sequence[Domain], now: datetime | None
) -> str | None:
    """Usage 2: why the chain does not lead to a certificate that the record has or matches; None if it does."""
    anchors = [certificate for number in matching if (certificate := chain.certificates[number]) is not None]
    if not anchors and record.matching == FULL:  # what the server need not send (RFC 7671 section 5.2)
        if record.selector == CERTIFICATE:
            anchors = [certificate for certificate in [_load(record.data)] if certificate is not None]
        else:
            key = load_der_public_key(record.data)
            anchors = [certificate for certificate in chain.readable if _is_signed_by(certificate, key)]
    if not anchors or chain.leaf is None:
        return _NO_MATCH
    problem = Roots.only(anchors, now).problem(chain.readable) or server_problem(chain.leaf, allowed)
    return None if problem is None else _text(problem)


def _pkix_problem(
    record: TLSA, matching: list[int], chain: _Chain, allowed: Sequence[Domain], roots: Roots | None
) -> str | None:
    """Usages 0 and 1: as usage 2 and 3, and there must be a path to trusted roots (RFC 6698 section 2.1.1)."""
    if chain.leaf is None or roots is None or (record.usage == PKIX_EE and 0 not in matching):
        return _NO_MATCH
    path = roots.path(chain.readable)
    if isinstance(path, TLSProblem):
        return _text(path)
    if record.usage == PKIX_TA:
        ders = [certificate.public_bytes(Encoding.DER) for certificate in path[1:]]
        if not ders or not _Chain(ders).matching(record):
            return _NO_MATCH
    problem = server_problem(chain.leaf, allowed)
    return None if problem is None else _text(problem)


def _tlsa_name(base: Domain, port: int) -> str:
    return f"_{port}._tcp.{base.ascii}."


def _text(problem: TLSProblem) -> str:
    return f"openssl {problem.openssl} {problem.text}" if problem.openssl else problem.text


def _load(der: bytes) -> x509.Certificate | None:
    certificates = parse_chain([der])
    return None if isinstance(certificates, TLSProblem) else certificates[0]


def _matchable(der: bytes, certificate: x509.Certificate | None, record: TLSA) -> bytes | None:
    """What the data of a record with this selector and matching type is, if it is for this certificate."""
    if record.selector == PUBLIC_KEY:
        if certificate is None:
            return None
        der = subject_public_key_info(certificate.tbs_certificate_bytes)
    if record.matching == FULL:
        return der
    return hashlib.sha256(der).digest() if record.matching == SHA_256 else hashlib.sha512(der).digest()


def _is_signed_by(certificate: x509.Certificate, key: PublicKeyTypes) -> bool:
    signature, tbs = certificate.signature, certificate.tbs_certificate_bytes
    try:
        parameters, digest = certificate.signature_algorithm_parameters, certificate.signature_hash_algorithm
        if isinstance(key, rsa.RSAPublicKey) and isinstance(parameters, AsymmetricPadding) and digest is not None:
            key.verify(signature, tbs, parameters, digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(parameters, ec.ECDSA):
            key.verify(signature, tbs, parameters)
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, tbs)
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


def subject_public_key_info(tbs: bytes) -> bytes:
    """The SubjectPublicKeyInfo as it stands in a TBSCertificate (RFC 5280 section 4.1), of whatever kind the key is."""
    ((start, _, end),) = _elements(tbs, 0, len(tbs))
    elements = list(_elements(tbs, start, end))
    number = 6 if tbs[elements[0][1]] == 0xA0 else 5  # [0] version, serial, algorithm, issuer, validity, subject
    return tbs[elements[number][1] : elements[number][2]]


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Where the content of each DER element begins, where the element itself does, and where it ends."""
    while at < end:
        first = at
        length = data[at + 1]
        at += 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        yield at, first, at + length
        at += length
