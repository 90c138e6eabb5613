"""Reading TLS reports that others have sent (RFC 8460 sections 3 to 5), with bounds on what they may cost."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

from protocols.errors import ProtocolError
from protocols.message import Part, Readable, as_source, clean_text, ensure_part

from .report import FailureDetail, Policy, Report, Result

MAX_MESSAGE: Final = 15 * 2**20  # bytes of a message that is looked into
MAX_REPORT: Final = 20 * 2**20  # bytes of JSON
MAX_DEPTH: Final = 20  # of JSON; a report needs 5
MAX_VALUES: Final = 1_000_000  # of JSON: each takes far more memory than its text
MAX_POLICIES: Final = 10_000  # that are kept
MAX_DETAILS: Final = 10_000  # of one policy that are kept
MAX_STRING: Final = 4096  # bytes of a text that are kept
MAX_COUNT: Final = 2**53 - 1  # sessions; what every reader of JSON has
MAX_PARTS: Final = 100  # of a message that are looked at

_STRUCTURE: Final = re.compile(r'"(?:[^"\\]++|\\(?:.|\Z))*+(?:"|\Z)|[\[{]|[\]}]|,', re.DOTALL)
_DIGITS: Final = re.compile(r"[0-9]{1,16}", re.ASCII)
_OWN_TYPES: Final = frozenset({"application/tlsrpt+json", "application/tlsrpt+gzip"})
_TYPES: Final = _OWN_TYPES | {"application/json", "application/gzip", "application/x-gzip"}


class BadReport(ProtocolError, ValueError):
    """There is no TLS report, or it cannot be read; the text is one line of ASCII."""


def parse_message(source: Readable) -> Report:
    """The first report in a message. Raises BadReport."""
    source = as_source(source)
    if source.size > MAX_MESSAGE:
        raise BadReport("report message too large")
    message, _ = ensure_part(source)
    is_report = _media_type(message) == "multipart/report"
    if is_report and message.params.get("report-type", "").lower() != "tlsrpt":
        raise BadReport("unknown report-type parameter")
    for part in islice(message.walk(), MAX_PARTS):
        if _media_type(part) in (_TYPES if is_report else _OWN_TYPES):
            return parse_report(b"".join(_bounded(part.reader(source))))
    raise BadReport("no tls report found in message")


def parse_report(data: bytes) -> Report:
    """The report in JSON, which may be compressed with gzip; what follows it is passed over. Raises BadReport."""
    if data.startswith(b"\x1f\x8b"):
        data = _inflated(data)
    if len(data) > MAX_REPORT:
        raise BadReport("report too large")
    text = data.decode("utf-8-sig", "replace").lstrip()
    _check_structure(text)
    try:
        value, _ = json.JSONDecoder().raw_decode(text)
    except ValueError as exc:  # also for numbers of thousands of digits
        raise BadReport(f"report is not json: {exc}".encode("ascii", "replace").decode("ascii")[:200]) from exc
    report = _object(value, "report")
    dates = _object(report.get("date-range"), "date-range")
    policies = _list(report.get("policies"), "policies")[:MAX_POLICIES]
    return Report(
        _text(report.get("organization-name")),
        _time(dates.get("start-datetime"), "start-datetime"),
        _time(dates.get("end-datetime"), "end-datetime"),
        _text(report.get("contact-info")),
        _text(report.get("report-id")),
        tuple(parse_result(_object(policy, "policies")) for policy in policies),
    )


def parse_result(value: dict[str, Any]) -> Result:
    """A result as `Result.to_json` gives it. Raises BadReport."""
    policy = _object(value.get("policy"), "policy")
    summary = _object(value.get("summary") or {}, "summary")
    details = _list(value.get("failure-details") or [], "failure-details")[:MAX_DETAILS]
    return Result(
        Policy(
            _text(policy.get("policy-type")),
            _text(policy.get("policy-domain")),
            _texts(policy.get("policy-string")),
            _texts(policy.get("mx-host")),
        ),
        _count(summary.get("total-successful-session-count")),
        _count(summary.get("total-failure-session-count")),
        tuple(_detail(_object(detail, "failure-details")) for detail in details),
    )


def _detail(value: dict[str, Any]) -> FailureDetail:
    return FailureDetail(
        _text(value.get("result-type")),
        _text(value.get("failure-reason-code")),
        _text(value.get("sending-mta-ip")),
        _text(value.get("receiving-mx-hostname")),
        _text(value.get("receiving-mx-helo")),
        _text(value.get("receiving-ip")),
        _text(value.get("additional-information")),
        _count(value.get("failed-session-count")),
    )


def _media_type(part: Part) -> str:
    return f"{part.media_type}/{part.media_subtype}".lower()


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > MAX_REPORT:
            raise BadReport("report too large")
        yield piece


def _inflated(data: bytes) -> bytes:
    try:
        inflated = zlib.decompressobj(wbits=31).decompress(data, MAX_REPORT + 1)
    except zlib.error as exc:
        raise BadReport("report is not gzip") from exc
    if len(inflated) > MAX_REPORT:
        raise BadReport("report too large after decompression")
    return inflated


def _check_structure(text: str) -> None:
    """Bound depth and number of values, before they are made."""
    depth = values = 0
    for match in _STRUCTURE.finditer(text):
        character = match[0]
        if character in "[{":
            depth += 1
            values += 1
            if depth > MAX_DEPTH:
                raise BadReport("report nested too deep")
        elif character in "]}":
            depth -= 1
            if depth <= 0:
                return
        elif character == ",":
            values += 1
        if values > MAX_VALUES:
            raise BadReport("report with too many values")


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadReport(f"{name} is missing or no object")
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadReport(f"{name} is missing or no list")
    return value


def _text(value: object) -> str:
    """A text that any column takes; "" for what is none."""
    if not isinstance(value, str):
        return ""
    return clean_text(value[:MAX_STRING]).encode()[:MAX_STRING].decode("utf-8", "ignore")


def _texts(value: object) -> tuple[str, ...]:
    """Texts, of which others send one alone as it is, or null."""
    if isinstance(value, str):
        return (_text(value),)
    return (
        tuple(_text(text) for text in value[:MAX_DETAILS] if isinstance(text, str)) if isinstance(value, list) else ()
    )


def _count(value: object) -> int:
    """A number of sessions, which may come as text; 0 for what is none."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return min(max(value, 0), MAX_COUNT) if isinstance(value, int) else 0


def _time(value: object, name: str) -> datetime:
    """A time in whole seconds, of which others leave out the zone: then it is UTC."""
    try:
        time = datetime.fromisoformat(value if isinstance(value, str) else "")
        return time.replace(microsecond=0, tzinfo=time.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadReport(f"bad {name} {_text(value)[:40]!a}") from None
