"""Notifications: whole ones, and the part with the status."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from protocols.dsn import DsnError, compose, decode_status, parse
from protocols.message import BadHeaderText, ensure_part
from tests.unit.test_dsn_composing import DSN, INTERNATIONAL

from .messages import MESSAGES
from .targets import Target


def notification(data: bytes) -> None:
    for strict in (False, True):
        try:
            dsn, _ = parse(data, strict=strict)
        except DsnError:
            continue
        for takes_utf8 in (False, True):
            # A message of the other side's may lack what ours must have.
            with contextlib.suppress(DsnError, BadHeaderText):
                again, _ = parse(compose(dsn, takes_utf8), strict=True)
                assert [r.action for r in again.recipients] == [r.action for r in dsn.recipients]


def status(data: bytes) -> None:
    for strict in (False, True):
        try:
            read = decode_status(data, utf8=strict, strict=strict)
        except DsnError:
            continue
        whole = replace(DSN, reporting_mta=read.reporting_mta or "x", recipients=read.recipients)
        again, _ = parse(compose(whole, False), strict=False)
        assert [(r.action, r.final) for r in again.recipients] == [(r.action, r.final) for r in read.recipients]


WHOLE = [message for message in MESSAGES if b"report-type" in message]
WHOLE += [compose(DSN, False), compose(INTERNATIONAL, True), compose(INTERNATIONAL, False)]
STATUSES = [b"".join(part.reader(message)) for message in WHOLE for part in ensure_part(message)[0].parts[1:2]]
FIELDS = [
    b"Reporting-MTA: dns; x\r\n",
    b"Final-Recipient: rfc822;",
    b"Original-Recipient: utf-8;",
    b"Action: failed\r\n",
]
FIELDS += [
    b"Status: 5.1.1 ",
    b"Remote-MTA: dns;",
    b"Diagnostic-Code: smtp; ",
    b"Arrival-Date: 3 Mar 2031 09:12:44 +0000\r\n",
]
FIELDS += [
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"(",
    b")",
    b"\\",
    b'"',
    b";",
    b"<",
    b">",
    b"@",
    b"a@b.example",
    b"\\x{e9}",
    b"\xe9",
    b"\0",
]

TARGETS = [
    Target("notification", notification, WHOLE, FIELDS),
    Target("status", status, STATUSES, FIELDS),
]
