"""Telling the sender of a message that some recipients get of those who do not: a DSN in the same transaction.

The reply to DATA can say one thing only: that the message was taken. Whom it failed for is said in a DSN
(mailqueue.bounces), or nobody gets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from mailqueue import bounces
from mailqueue.bounces import Failure, Received
from mailqueue.submit import Prepared
from protocols.message import header_section
from protocols.names import address_literal
from protocols.smtpreply import Reply
from protocols.smtpsyntax import Path
from store import blobs, content

from . import metrics
from .judging import Case

HEADER_MAX: Final = 64 * 1024  # bytes of a header that are looked at for sending it back

Failed = tuple[Path, Reply]


def prepare(case: Case, smtputf8: bool, require_tls: bool, failed: Sequence[Failed]) -> Prepared | None:
    """The DSN about these recipients, for a pool thread; None where nobody can be told."""
    hello, envelope = case.peer.hello.name, case.blob.part.envelope
    received = Received(
        sender=case.reverse_path,
        hello=hello.domain.ascii if hello.domain is not None else address_literal(hello.ip) if hello.ip else "",
        remote_ip=ip_address(case.peer.remote_ip),
        arrival=case.received,
        message_id=envelope.message_id if envelope is not None else "",
        header=_header(case.blob),
        smtputf8=smtputf8,
        require_tls=require_tls,
    )
    prepared = bounces.prepare(
        received, [Failure(path, reply.code, reply.enhanced, reply.text) for path, reply in failed]
    )
    if prepared is None:
        metrics.errors.labels("queuedsn").inc()
    return prepared


def _header(blob: blobs.PreparedBlob) -> bytes:
    with content.blob_reader(0, blob.size, blob.data, blob.storage_name) as reader:
        section, _ = header_section(reader, HEADER_MAX)
    return section
