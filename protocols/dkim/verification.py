"""Verifying signatures (RFC 6376 section 6, RFC 8301, RFC 8463, RFC 8616)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final, TypeAlias, TypeVar

from protocols import metrics
from protocols.dns import Resolver
from protocols.message.headers import HeaderField
from protocols.message.source import Readable, Source, as_source, chunks
from protocols.names import Domain, parse_domain_lax
from protocols.publicsuffix import is_public_suffix

from .canonicalization import BodyHashes, Canonicalization
from .errors import DkimError, ErrorKind
from .keys import PublicKey, is_signature
from .lookup import TIMEOUT, LookupResult, lookup_all
from .parsing import parse_signature
from .record import DkimRecord
from .results import DkimResult, DkimStatus, one_line
from .section import HeaderSection, read_header_section
from .signature import Hash, KeyType, Signature
from .tags import blank_tag

MAX_SIGNATURES: Final = 10  # verified of one message; real ones have up to four
HASHED_IN_PLACE: Final = 128 * 1024  # bytes; what is longer is hashed in a thread, not on the event loop
BODY_BLOCK: Final = 128 * 1024  # bytes of a body at once: the canonical form of a block holds up other threads

Policy: TypeAlias = Callable[[Signature], str]
"""Says why a signature is not acceptable whatever its key says, "" when it is."""
BodyForm: TypeAlias = tuple[Canonicalization, str]
"""A canonical form of a body, and the hash to take of it."""
T = TypeVar("T")

_STATUSES: Final = {
    ErrorKind.POLICY: DkimStatus.POLICY,
    ErrorKind.SIGNATURE_MISMATCH: DkimStatus.FAIL,
    ErrorKind.BODY_HASH_MISMATCH: DkimStatus.FAIL,
}
_KEY_TYPES: Final = frozenset(KeyType)
_HASHES: Final = frozenset(Hash)
_ALGORITHMS: Final = frozenset({"rsa-sha256", "rsa-sha1", "ed25519-sha256"})


def default_policy(sig: Signature) -> str:
    """Subject must be signed, since it is what people see and trust; SHA-1 proves nothing (RFC 8301 section 3.1)."""
    if sig.algorithm_hash == Hash.SHA1:
        return "sha1 is not acceptable"
    if not any(name.lower() == "subject" for name in sig.signed_headers):
        return "subject header is not signed"
    return ""


async def verify(
    resolver: Resolver,
    message: Readable,
    *,
    smtputf8: bool = False,
    policy: Policy = default_policy,
    ignore_test_mode: bool = False,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
    public_suffix: Callable[[Domain], bool] = is_public_suffix,
    now: float | None = None,
) -> list[DkimResult]:
    """A result for each DKIM-Signature field, from the top; [] when there is none. One for a header over 1 MiB.

    Whatever the message or DNS has gives a result, never an exception. ``smtputf8``: the message is
    internationalized, so that signatures may have U-labels; ``ignore_test_mode``: a failure is one although the
    record says that the domain is testing; ``timeout``: seconds for all lookups; ``public_suffix``: whether a domain
    is too high up to sign; ``now``: Unix time in seconds.

    The body is read once, in blocks, and only if the signature over the header is right. A large one is read in a
    thread: nothing else may read the same file meanwhile.
    """
    began = time.monotonic()
    source = as_source(message)
    try:
        section, body_at = read_header_section(source)
    except DkimError as exc:
        return [failed(exc)]
    if b"dkim-signature" not in section.lower():
        return []
    # Short fields by the hundred thousand take a second.
    header = await in_thread_if(len(section) > HASHED_IN_PLACE, lambda: HeaderSection(section))
    fields = header.named("dkim-signature")
    if not fields:
        return []
    try:
        header.check_line_ends()
    except DkimError as exc:
        return [failed(exc)] * len(fields)

    verifications = [_Verification(header, field) for field in fields[:MAX_SIGNATURES]]
    for verification in verifications:
        verification.read(policy, public_suffix, time.time() if now is None else now, smtputf8=smtputf8)
    names = [(sig.selector, sig.domain) for verification in verifications if (sig := verification.open)]
    records = await lookup_all(resolver, names, at_once=MAX_SIGNATURES, seconds=timeout)

    def check_headers() -> None:
        for verification in verifications:
            verification.check_header(records)

    await in_thread_if(len(header) * len(names) > HASHED_IN_PLACE, check_headers)
    wanted = {(sig.canon_body, sig.algorithm_hash) for verification in verifications if (sig := verification.open)}
    digests = await body_hashes(source, body_at, wanted)
    results = [verification.finish(digests, ignore_test_mode=ignore_test_mode) for verification in verifications]
    for result in results:
        _observe(result, time.monotonic() - began)
    return results + [_TOO_MANY] * (len(fields) - len(results))


def verify_sync(
    resolver: Resolver,
    message: Readable,
    *,
    smtputf8: bool = False,
    policy: Policy = default_policy,
    ignore_test_mode: bool = False,
    timeout: float = TIMEOUT,
    public_suffix: Callable[[Domain], bool] = is_public_suffix,
    now: float | None = None,
) -> list[DkimResult]:
    """`verify` where there is no event loop."""
    return asyncio.run(
        verify(
            resolver,
            message,
            smtputf8=smtputf8,
            policy=policy,
            ignore_test_mode=ignore_test_mode,
            timeout=timeout,
            public_suffix=public_suffix,
            now=now,
        )
    )


def check_parameters(sig: Signature, public_suffix: Callable[[Domain], bool], now: float) -> None:
    """What can be said without the key, of any signature. Raises DkimError."""
    if sig.algorithm_sign not in _KEY_TYPES:
        raise DkimError(ErrorKind.UNKNOWN_ALGORITHM, f"unknown algorithm {sig.algorithm[:40]}")
    if sig.algorithm_hash not in _HASHES or (sig.algorithm_sign, sig.algorithm_hash) == (KeyType.ED25519, Hash.SHA1):
        raise DkimError(ErrorKind.UNKNOWN_HASH, f"unknown hash in {sig.algorithm[:40]}")
    if sig.query_methods and "dns/txt" not in map(str.lower, sig.query_methods):
        raise DkimError(ErrorKind.QUERY_METHOD, "q= does not allow dns/txt")
    if sig.expire_time is not None and sig.expire_time < now:
        raise DkimError(ErrorKind.EXPIRED, "signature has expired")
    if public_suffix(sig.domain):
        raise DkimError(ErrorKind.TOP_LEVEL_DOMAIN, "d= is a public suffix")
    if sig.length is not None:
        # To verify the first part of a body only would vouch for whatever somebody puts after it.
        raise DkimError(ErrorKind.POLICY, "l= for length not acceptable")


def key_of(record: DkimRecord, sig: Signature) -> PublicKey:
    """The key, if the record lets it be used for this signature. Raises DkimError (RFC 6376 section 6.1.2)."""
    if record.hashes and sig.algorithm_hash not in record.hashes:
        raise DkimError(ErrorKind.HASH_NOT_ALLOWED, f"record does not allow hash {sig.algorithm_hash}")
    if record.key_type != sig.algorithm_sign:
        raise DkimError(ErrorKind.ALGORITHM_MISMATCH, f"record is for another algorithm than {sig.algorithm_sign}")
    if not record.service_allowed("email"):
        raise DkimError(ErrorKind.KEY_NOT_FOR_EMAIL, "record does not allow service email")
    domain = parse_domain_lax(sig.identity.rpartition("@")[2]) if sig.identity is not None else sig.domain
    if "s" in record.flags and domain != sig.domain:
        raise DkimError(ErrorKind.IDENTITY_MISMATCH, "record wants domain of i= to be that of d=")
    return record.key()


def check_signature(key: PublicKey, data: bytes, sig: Signature) -> None:
    """Raises DkimError."""
    if not is_signature(key, data, sig.signature, sha1=sig.algorithm_hash == Hash.SHA1):
        raise DkimError(ErrorKind.SIGNATURE_MISMATCH, "signature does not match the header")


async def body_hashes(source: Source, body_at: int, wanted: Collection[BodyForm]) -> Mapping[BodyForm, bytes]:
    """The digests of a body, read once and in a thread if it is large; not at all if none is wanted."""
    if not wanted:
        return {}
    hashes = BodyHashes(wanted)
    blocks = chunks(source, body_at, source.size, BODY_BLOCK)

    def add_block() -> bool:
        block = next(blocks, b"")
        hashes.update(block)
        return bool(block)

    # A block at a time, so that a cancelled verification goes no further.
    while await in_thread_if(source.size - body_at > HASHED_IN_PLACE, add_block):
        pass
    return hashes.finish()


async def in_thread_if(large: bool, work: Callable[[], T]) -> T:
    """What work gives; large work is done in a thread, so that the event loop goes on."""
    return await asyncio.to_thread(work) if large else work()


class _Verification:
    """One signature on its way; ``error`` ends it."""

    def __init__(self, header: HeaderSection, field: HeaderField) -> None:
        self._header = header
        self._field = field
        self._found = LookupResult(DkimStatus.NEUTRAL)
        self.sig: Signature | None = None
        self.error: DkimResult | None = None

    @property
    def open(self) -> Signature | None:
        return self.sig if self.error is None else None

    def read(self, policy: Policy, public_suffix: Callable[[Domain], bool], now: float, *, smtputf8: bool) -> None:
        try:
            self.sig = sig = parse_signature(self._header.raw(self._field), smtputf8=smtputf8)
            if not any(name.lower() == "from" for name in sig.signed_headers):
                raise DkimError(ErrorKind.FROM_NOT_SIGNED, "from header is not signed")
            check_parameters(sig, public_suffix, now)
            if reason := policy(sig):
                raise DkimError(ErrorKind.POLICY, reason)
        except DkimError as exc:
            self.error = failed(exc)

    def check_header(self, records: Mapping[tuple[Domain, Domain], LookupResult]) -> None:
        sig = self.open
        if sig is None:
            return
        self._found = found = records[sig.selector, sig.domain]
        if found.record is None:
            self.error = DkimResult(found.status, error_kind=found.error_kind, error=found.error)
            return
        try:
            key = key_of(found.record, sig)
            unsigned = blank_tag(self._header.raw(self._field), b"b")
            data = self._header.signed_data(sig.signed_headers, sig.canon_header, unsigned, without=self._field)
            check_signature(key, data, sig)
        except DkimError as exc:
            self.error = failed(exc)

    def finish(self, digests: Mapping[BodyForm, bytes], *, ignore_test_mode: bool) -> DkimResult:
        sig = self.open
        if sig is not None and digests[sig.canon_body, sig.algorithm_hash] != sig.body_hash:
            self.error = failed(DkimError(ErrorKind.BODY_HASH_MISMATCH, "body hash does not match"))
        record, authentic = self._found.record, self._found.authentic
        if self.error is None:
            return DkimResult(DkimStatus.PASS, self.sig, record, authentic)
        result = replace(self.error, sig=self.sig, record=record, authentic=authentic)
        if record is not None and "y" in record.flags and not ignore_test_mode:
            # RFC 6376 section 3.6.1: no different from a message without signature.
            return replace(result, status=DkimStatus.NONE)
        return result


def failed(error: DkimError) -> DkimResult:
    """The result of a signature that an error ends."""
    status = _STATUSES.get(error.kind, DkimStatus.PERMERROR)
    return DkimResult(status, error_kind=error.kind, error=one_line(str(error)))


_TOO_MANY: Final = DkimResult(DkimStatus.POLICY, error_kind=ErrorKind.POLICY, error="too many signatures")


def _observe(result: DkimResult, seconds: float) -> None:
    algorithm = result.sig.algorithm if result.sig is not None else ""
    labels = {"algorithm": algorithm if algorithm in _ALGORITHMS else "unknown", "status": str(result.status)}
    metrics.observe("mox_dkim_verify_duration_seconds", seconds, labels)
