"""Sealing messages that are sent on (RFC 8617 section 5.1)."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable
from typing import Final

from protocols.dkim.canonicalization import BodyHashes
from protocols.dkim.keys import make_signature
from protocols.dkim.section import HeaderSection, check_start, read_header_section
from protocols.dkim.signing import Selector, check_length
from protocols.message.headerwriter import HeaderWriter
from protocols.message.source import Readable, as_source, chunks
from protocols.names import Domain

from .chain import (
    AUTH_RESULTS,
    MAX_SETS,
    MESSAGE_SIGNATURE,
    SEAL,
    ArcResult,
    ArcStatus,
    is_marked_failed,
    newest_instance,
    read_chain,
)
from .verification import sealed_data

BASE64_WIDTH: Final = 72  # characters of a line of a signature's value


def seal(
    message: Readable,
    selector: Selector,
    domain: Domain,
    authserv_id: str,
    auth_results: str,
    chain: ArcResult,
    *,
    now: int | None = None,
) -> bytes:
    """The fields of the next ARC set, to put in front of a message: ARC-Seal, signature, authentication results.

    ``message`` is what is sent on, with the sets it came with; ``chain`` is what `verify` said of it as it came;
    ``authserv_id``: who found ``auth_results``, methods as in Authentication-Results (``spf=pass ...; dkim=pass ...``);
    ``now``: Unix time in seconds. The message's signature is made with the header fields and the canonical forms of
    the selector, without ARC fields. Of a chain that has failed only the own set is sealed, with ``cv=fail``.

    b"" when nothing can be added: the newest seal says already that the chain has failed, or there are 50 sets.
    Raises DkimError for a header section that is malformed, over 1 MiB or of too many fields to sign, or a selector
    that cannot be signed with; BrokenChain when the sets are not those of ``chain``; BadHeaderText for results that
    cannot be in a header.
    """
    selector.check()
    source = as_source(message)
    section, body_at = read_header_section(source)
    header = HeaderSection(section)
    header.check_line_ends()
    check_start(section)
    instance = newest_instance(header) + 1
    if instance > MAX_SETS or is_marked_failed(header):
        return b""
    before = []
    if chain.status is ArcStatus.PASS:
        before = [[header.raw(field) for field in fields] for fields in read_chain(header)[0]]
    sign_time = int(time.time()) if now is None else now

    results = HeaderWriter(f"{AUTH_RESULTS}:")
    results.add(" ", f"i={instance};")
    results.words(" ".join(f"{authserv_id}; {auth_results}".split()))
    results_field = results.bytes()

    canon_header, canon_body = selector.canonicalizations
    hashes = BodyHashes([(canon_body, selector.hash)])
    for block in chunks(source, body_at, source.size):
        hashes.update(block)
    (body_hash,) = hashes.finish().values()
    names = [name for name in selector.signed_headers(header) if not name.lower().startswith("arc-")]
    h = re.findall(r":?[^:]+", f"h={':'.join(names)};")  # folded before colons
    tags = [
        (f"bh={base64.b64encode(body_hash).decode('ascii')};",),
        (f"c={canon_header}/{canon_body};",),
        (f"d={domain.ascii};",),
        tuple(h),
        (f"i={instance};",),
        (f"s={selector.name.ascii};",),
        (f"t={sign_time}",),
    ]
    data = header.signed_data(names, canon_header, _field(MESSAGE_SIGNATURE, selector, b"", tags))
    signature_field = check_length(_field(MESSAGE_SIGNATURE, selector, make_signature(selector.key, data), tags))

    tags = [(f"cv={chain.status};",), (f"d={domain.ascii};",), *tags[4:]]
    own = [results_field, signature_field, _field(SEAL, selector, b"", tags)]
    seal_field = _field(SEAL, selector, make_signature(selector.key, sealed_data([*before, own])), tags)
    return seal_field + signature_field + results_field


def _field(name: str, selector: Selector, signature: bytes, tags: Iterable[tuple[str, ...]]) -> bytes:
    """A field with tags in alphabetic order; each is given in pieces between which it may be folded.

    The signature is on lines of its own, so that the others are the same before it is made.
    """
    field = HeaderWriter(f"{name}:")
    field.add(" ", f"a={selector.key_type}-{selector.hash};")
    field.newline()
    text = f"b={base64.b64encode(signature).decode('ascii')};"
    for at in range(0, len(text), BASE64_WIDTH):
        field.add("", text[at : at + BASE64_WIDTH])
        field.newline()
    for number, (first, *more) in enumerate(tags):
        field.add(" " if number else "", first)
        field.add("", *more)
    return field.bytes()
