"""The ARC sets of a message (RFC 8617 section 4.2): reading them, and what verifying them gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocols.dkim.errors import DkimError
from protocols.dkim.parsing import SignatureTags, message_signature
from protocols.dkim.results import one_line
from protocols.dkim.section import HeaderSection
from protocols.dkim.signature import Signature
from protocols.errors import ProtocolError
from protocols.message.authresults import AuthMethod, AuthResults, BadAuthResults, parse_auth_results
from protocols.message.headers import HeaderField

MAX_SETS: Final = 50  # RFC 8617 section 4.2.1

AUTH_RESULTS: Final = "ARC-Authentication-Results"
MESSAGE_SIGNATURE: Final = "ARC-Message-Signature"
SEAL: Final = "ARC-Seal"
FIELDS: Final = (AUTH_RESULTS, MESSAGE_SIGNATURE, SEAL)  # in the order in which a seal covers them

_INSTANCE: Final = re.compile(r"[0-9]{1,2}")
_AUTH_RESULTS_INSTANCE: Final = re.compile(r"[ \t]*i[ \t]*=[ \t]*([0-9]{1,2})[ \t]*;")


class ArcStatus(StrEnum):
    """RFC 8617 section 4.4."""

    NONE = "none"
    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class ArcSet:
    """What one forwarder has added."""

    instance: int
    seal: Signature
    """Without signed headers and body hash: it covers the sets."""
    message_signature: Signature
    auth_results: AuthResults | None
    """None: not in the form of RFC 8601. What they say is worth what the sealer is worth."""
    cv: ArcStatus
    """How the chain was before this set, as its sealer says."""


@dataclass(frozen=True, slots=True)
class ArcResult:
    """What is known of a chain."""

    status: ArcStatus
    sets: tuple[ArcSet, ...] = ()
    """In the order of their instances; () when the fields are no chain."""
    oldest_pass: int = 0
    """The oldest instance whose signature over the message is still right, as all later ones are; 0: all are."""
    authentic: bool = False
    """Whether DNSSEC has verified every record that was looked up."""
    error: str = ""
    """One short line of ASCII, fit for a header."""


class BrokenChain(ProtocolError):
    """The ARC fields of a message are no chain, or their signatures are wrong; the text says why."""


@dataclass(frozen=True, slots=True)
class SetFields:
    """The fields of a set, as they stand in the message."""

    auth_results: HeaderField
    message_signature: HeaderField
    seal: HeaderField

    def __iter__(self) -> Iterator[HeaderField]:
        """In the order in which a seal covers them."""
        return iter((self.auth_results, self.message_signature, self.seal))


def auth_method(result: ArcResult) -> AuthMethod:
    """The result for Authentication-Results."""
    instance = f"i={result.sets[-1].instance}" if result.sets else ""
    return AuthMethod("arc", result.status, comment=instance, reason=result.error)


def has_sets(header: HeaderSection) -> bool:
    return any(header.named(name.lower()) for name in FIELDS)


def read_chain(header: HeaderSection) -> tuple[list[SetFields], list[ArcSet]]:
    """The sets, from the first. Raises BrokenChain for anything but one field of each kind from 1 to the newest."""
    by_kind = [_by_instance(header, name) for name in FIELDS]
    newest = max(max(fields) for fields in by_kind if fields)
    found: list[SetFields] = []
    for instance in range(1, newest + 1):
        for name, fields in zip(FIELDS, by_kind, strict=True):
            if instance not in fields:
                raise BrokenChain(f"instance {instance}: {name} is missing")
        found.append(SetFields(*(fields[instance] for fields in by_kind)))
    sets = [_read_set(header, instance, fields) for instance, fields in enumerate(found, start=1)]
    for arc_set in sets[:-1]:
        _check_cv(arc_set)
    if sets[-1].cv is not ArcStatus.FAIL:
        _check_cv(sets[-1])
    return found, sets


def newest_instance(header: HeaderSection) -> int:
    """The highest instance of any field, 0 without one; fields that have none are passed over."""
    instances = [0]
    for name in FIELDS:
        for field in header.named(name.lower()):
            try:
                instances.append(_instance(header, field))
            except BrokenChain:
                continue
    return max(instances)


def is_marked_failed(header: HeaderSection) -> bool:
    """Whether a seal says that the chain had failed: such a chain is not extended (RFC 8617 section 5.1.2)."""
    for field in header.named(SEAL.lower()):
        try:
            tags = _tags(header, field)
        except BrokenChain:
            continue
        if "cv" in tags and tags.require("cv").lower() == ArcStatus.FAIL:
            return True
    return False


def _instance(header: HeaderSection, field: HeaderField) -> int:
    """Raises BrokenChain."""
    if field.name.lower() == AUTH_RESULTS.lower():
        match = _AUTH_RESULTS_INSTANCE.match(field.value()[:100].decode("ascii", "replace"))
        text = match[1] if match else ""
    else:
        tags = _tags(header, field)
        text = tags.require("i") if "i" in tags else ""
    instance = int(text) if _INSTANCE.fullmatch(text) else 0
    if not 1 <= instance <= MAX_SETS:
        raise BrokenChain(f"{field.name}: no instance from 1 to {MAX_SETS}")
    return instance


def _by_instance(header: HeaderSection, name: str) -> dict[int, HeaderField]:
    fields = header.named(name.lower())
    if len(fields) > MAX_SETS:
        raise BrokenChain(f"more than {MAX_SETS} sets")
    found: dict[int, HeaderField] = {}
    for field in fields:
        instance = _instance(header, field)
        if found.setdefault(instance, field) is not field:
            raise BrokenChain(f"instance {instance}: several {name}")
    return found


def _read_set(header: HeaderSection, instance: int, fields: SetFields) -> ArcSet:
    try:
        signature = message_signature(_tags(header, fields.message_signature), arc=True)
        if SEAL.lower() in map(str.lower, signature.signed_headers):
            raise BrokenChain(f"instance {instance}: {MESSAGE_SIGNATURE} covers a seal")  # RFC 8617 section 4.1.2
        tags = _tags(header, fields.seal)
        if "h" in tags:
            raise BrokenChain(f"instance {instance}: {SEAL} has h=")  # RFC 8617 section 4.1.3
        algorithm_sign, algorithm_hash = tags.algorithm()
        selector, domain = tags.key_names()
        sign_time, expire_time = tags.times()
        seal = Signature(
            domain=domain,
            selector=selector,
            algorithm_sign=algorithm_sign,
            algorithm_hash=algorithm_hash,
            signed_headers=(),
            body_hash=b"",
            signature=tags.binary("b"),
            sign_time=sign_time,
            expire_time=expire_time,
        )
        cv = ArcStatus(tags.require("cv").lower())
    except DkimError as exc:
        raise BrokenChain(one_line(f"instance {instance}: {exc}")) from exc
    except ValueError:
        raise BrokenChain(f"instance {instance}: cv= is none of none, pass and fail") from None
    return ArcSet(instance, seal, signature, _auth_results(fields.auth_results), cv)


def _check_cv(arc_set: ArcSet) -> None:
    """RFC 8617 section 5.2 step 3: there is nothing before the first set, and a chain goes on only when it passes."""
    expected = ArcStatus.NONE if arc_set.instance == 1 else ArcStatus.PASS
    if arc_set.cv is not expected:
        raise BrokenChain(f"instance {arc_set.instance}: cv={arc_set.cv}, must be {expected}")


def _auth_results(field: HeaderField) -> AuthResults | None:
    try:
        return parse_auth_results(field.value().decode("utf-8", "replace").partition(";")[2])
    except BadAuthResults:
        return None


def _tags(header: HeaderSection, field: HeaderField) -> SignatureTags:
    try:
        return SignatureTags(header.raw(field), utf8=True)
    except DkimError as exc:
        raise BrokenChain(one_line(f"{field.name}: {exc}")) from exc
