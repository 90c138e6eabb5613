"""Verifying chains (RFC 8617 section 5.2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final, TypeAlias

from protocols.dkim.canonicalization import Canonicalization, canonical_field
from protocols.dkim.errors import DkimError, ErrorKind
from protocols.dkim.keys import PublicKey
from protocols.dkim.lookup import TIMEOUT, LookupResult, lookup_all
from protocols.dkim.results import one_line
from protocols.dkim.section import HeaderSection, read_header_section
from protocols.dkim.signature import Hash, Signature
from protocols.dkim.tags import blank_tag
from protocols.dkim.verification import (
    HASHED_IN_PLACE,
    BodyForm,
    body_hashes,
    check_parameters,
    check_signature,
    in_thread_if,
    key_of,
)
from protocols.dns import Resolver
from protocols.message.source import Readable, as_source
from protocols.names import Domain
from protocols.publicsuffix import is_public_suffix

from .chain import ArcResult, ArcSet, ArcStatus, BrokenChain, SetFields, has_sets, read_chain

LOOKUPS_AT_ONCE: Final = 10  # a chain names up to 100 keys, wherever its writer wants questions to be sent

Records: TypeAlias = Mapping[tuple[Domain, Domain], LookupResult]


async def verify(
    resolver: Resolver,
    message: Readable,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
    public_suffix: Callable[[Domain], bool] = is_public_suffix,
    now: float | None = None,
) -> ArcResult:
    """Whether the chain of a message is unbroken: its newest signature and every seal are right.

    Whatever the message or DNS has gives a result, never an exception; a failure of DNS is a fail. ``timeout``:
    seconds for all lookups; ``public_suffix``: whether a domain is too high up to sign; ``now``: Unix time in seconds.

    The body is read once, and not at all unless the newest signature over the header is right. A large one is read in
    a thread: nothing else may read the same file meanwhile.
    """
    source = as_source(message)
    try:
        section, body_at = read_header_section(source)
    except DkimError as exc:
        return ArcResult(ArcStatus.FAIL, error=one_line(str(exc)))
    if b"arc-" not in section.lower():
        return ArcResult(ArcStatus.NONE)
    header = await in_thread_if(len(section) > HASHED_IN_PLACE, lambda: HeaderSection(section))
    if not has_sets(header):
        return ArcResult(ArcStatus.NONE)
    try:
        header.check_line_ends()
        fields, sets = read_chain(header)
    except (DkimError, BrokenChain) as exc:
        return ArcResult(ArcStatus.FAIL, error=one_line(str(exc)))
    result = ArcResult(ArcStatus.FAIL, tuple(sets))
    if sets[-1].cv is ArcStatus.FAIL:
        return replace(result, error=f"instance {len(sets)}: chain had failed before")

    chain = _Chain(header, fields, sets, public_suffix, time.time() if now is None else now)
    ends = time.monotonic() + timeout
    records: dict[tuple[Domain, Domain], LookupResult] = {}

    async def find(signatures: Sequence[Signature]) -> None:
        names = {(sig.selector, sig.domain) for sig in signatures} - records.keys()
        left = max(0.0, ends - time.monotonic())
        records.update(await lookup_all(resolver, names, at_once=LOOKUPS_AT_ONCE, seconds=left))

    try:
        chain.check_parameters()
        await find([sets[-1].message_signature])
        await in_thread_if(len(header) > HASHED_IN_PLACE, lambda: chain.check_header(records))
        forms = {(arc_set.message_signature.canon_body, str(Hash.SHA256)) for arc_set in sets}
        digests = await body_hashes(source, body_at, forms)
        chain.check_body(digests)
        await find([arc_set.seal for arc_set in sets])
        await in_thread_if(len(header) * len(sets) > HASHED_IN_PLACE, lambda: chain.check_seals(records))
    except BrokenChain as exc:
        return replace(result, error=one_line(str(exc)))
    authentic = all(found.authentic for found in records.values())
    await find([arc_set.message_signature for arc_set in sets])
    oldest = await in_thread_if(len(header) * len(sets) > HASHED_IN_PLACE, lambda: chain.oldest_pass(records, digests))
    return replace(result, status=ArcStatus.PASS, oldest_pass=oldest, authentic=authentic)


def verify_sync(
    resolver: Resolver,
    message: Readable,
    *,
    timeout: float = TIMEOUT,
    public_suffix: Callable[[Domain], bool] = is_public_suffix,
    now: float | None = None,
) -> ArcResult:
    """`verify` where there is no event loop."""
    return asyncio.run(verify(resolver, message, timeout=timeout, public_suffix=public_suffix, now=now))


def sealed_data(sets: Sequence[Sequence[bytes]]) -> bytes:
    """What the last seal of these sets covers: all their fields in order, its own with an empty ``b=``.

    Each set: ARC-Authentication-Results, ARC-Message-Signature, ARC-Seal (RFC 8617 section 5.1.1).
    """
    fields = [field for arc_set in sets for field in arc_set]
    fields[-1] = blank_tag(fields[-1], b"b")
    return b"".join(canonical_field(field, Canonicalization.RELAXED) for field in fields).removesuffix(b"\r\n")


class _Chain:
    """The checks of one chain. All but `oldest_pass` raise BrokenChain."""

    def __init__(
        self,
        header: HeaderSection,
        fields: Sequence[SetFields],
        sets: Sequence[ArcSet],
        public_suffix: Callable[[Domain], bool],
        now: float,
    ) -> None:
        self._header = header
        self._fields = fields
        self._sets = sets
        self._public_suffix = public_suffix
        self._now = now

    def check_parameters(self) -> None:
        """What can be said without keys, of what has to be right."""
        newest = self._sets[-1]
        with _told_of(newest, "signature"):
            self._check_parameters(newest.message_signature)
        for arc_set in self._sets:
            with _told_of(arc_set, "seal"):
                self._check_parameters(arc_set.seal)

    def check_header(self, records: Records) -> None:
        """The newest signature."""
        with _told_of(self._sets[-1], "signature"):
            self._check_header(self._sets[-1], records)

    def check_body(self, digests: Mapping[BodyForm, bytes]) -> None:
        """The body hash of the newest signature."""
        if not _is_body(self._sets[-1], digests):
            raise BrokenChain(f"instance {len(self._sets)}: signature: body hash does not match")

    def check_seals(self, records: Records) -> None:
        """All of them, the newest first: those of strangers far back may well be what is wrong."""
        raw = [[self._header.raw(field) for field in fields] for fields in self._fields]
        for arc_set in reversed(self._sets):
            with _told_of(arc_set, "seal"):
                key = _key(records, arc_set.seal)
                check_signature(key, sealed_data(raw[: arc_set.instance]), arc_set.seal)

    def oldest_pass(self, records: Records, digests: Mapping[BodyForm, bytes]) -> int:
        """RFC 8617 section 5.2 step 5."""
        for arc_set in reversed(self._sets[:-1]):
            try:
                self._check_parameters(arc_set.message_signature)
                self._check_header(arc_set, records)
            except DkimError:
                return arc_set.instance + 1
            if not _is_body(arc_set, digests):
                return arc_set.instance + 1
        return 0

    def _check_parameters(self, sig: Signature) -> None:
        check_parameters(sig, self._public_suffix, self._now)
        if sig.algorithm_hash == Hash.SHA1:
            raise DkimError(ErrorKind.POLICY, "sha1 is not acceptable")

    def _check_header(self, arc_set: ArcSet, records: Records) -> None:
        sig = arc_set.message_signature
        key = _key(records, sig)
        field = self._fields[arc_set.instance - 1].message_signature
        unsigned = blank_tag(self._header.raw(field), b"b")
        check_signature(
            key, self._header.signed_data(sig.signed_headers, sig.canon_header, unsigned, without=field), sig
        )


@contextmanager
def _told_of(arc_set: ArcSet, what: str) -> Iterator[None]:
    try:
        yield
    except DkimError as exc:
        raise BrokenChain(f"instance {arc_set.instance}: {what}: {exc}") from exc


def _key(records: Records, sig: Signature) -> PublicKey:
    found = records[sig.selector, sig.domain]
    if found.record is None:
        raise DkimError(found.error_kind or ErrorKind.NO_RECORD, found.error)
    return key_of(found.record, sig)


def _is_body(arc_set: ArcSet, digests: Mapping[BodyForm, bytes]) -> bool:
    sig = arc_set.message_signature
    return digests[sig.canon_body, sig.algorithm_hash] == sig.body_hash
