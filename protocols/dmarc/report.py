"""Reading DMARC aggregate reports that others have sent (RFC 7489 section 7.2, appendix C), with bounds on their cost.

report = parse_message(content)
report.policy.domain, report.metadata.end
"""

from __future__ import annotations

import io
import re
import xml.parsers.expat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from protocols.errors import ProtocolError
from protocols.message import Part, Readable, as_source, clean_text, ensure_part

MAX_MESSAGE: Final = 15 * 2**20  # bytes of a message that is looked into
MAX_REPORT: Final = 20 * 2**20  # bytes of XML
MAX_DEPTH: Final = 16  # elements; a report needs 6
MAX_RECORDS: Final = 100_000
MAX_DETAILS: Final = 100  # reasons and results of one record that are kept
MAX_TEXT: Final = 4096  # bytes of a value that are kept
MAX_PARTS: Final = 100  # of a message that are looked at
MAX_COUNT: Final = 2**53 - 1
SNIFFED: Final = 512  # bytes by which content without a telling type is recognized

_ARCHIVES: Final = frozenset(
    {"application/zip", "application/x-zip-compressed", "application/gzip", "application/x-gzip"}
)
_XML: Final = frozenset({"text/xml", "application/xml"})
_UNTOLD: Final = frozenset({"application/octet-stream", "/"})
_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK\x03\x04"
_XML_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|feedback|[a-z0-9]{1,20}:feedback)", re.IGNORECASE)
_DIGITS: Final = re.compile(r"[0-9]{1,16}")


class BadReport(ProtocolError, ValueError):
    """There is no aggregate report, or it cannot be read; the text is one line of ASCII."""


@dataclass(frozen=True, slots=True)
class ReportMetadata:
    """Who reports about when: seconds since 1970."""

    org_name: str = ""
    email: str = ""
    extra_contact_info: str = ""
    report_id: str = ""
    begin: int = 0
    end: int = 0
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyPublished:
    """The policy that the reporter found; values as it wrote them."""

    domain: str = ""
    adkim: str = ""
    aspf: str = ""
    p: str = ""
    sp: str = ""
    pct: int = 0
    fo: str = ""


@dataclass(frozen=True, slots=True)
class OverrideReason:
    type: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class ReportedDkim:
    domain: str = ""
    selector: str = ""
    result: str = ""
    human_result: str = ""


@dataclass(frozen=True, slots=True)
class ReportedSpf:
    domain: str = ""
    scope: str = ""
    result: str = ""


@dataclass(frozen=True, slots=True)
class ReportRecord:
    """Messages from one address with the same results."""

    source_ip: str = ""
    count: int = 0
    disposition: str = ""
    dkim: str = ""
    spf: str = ""
    reasons: tuple[OverrideReason, ...] = ()
    envelope_to: str = ""
    envelope_from: str = ""
    header_from: str = ""
    dkim_results: tuple[ReportedDkim, ...] = ()
    spf_results: tuple[ReportedSpf, ...] = ()


@dataclass(frozen=True, slots=True)
class Feedback:
    """A report. What is missing is "" or 0, and values that no RFC knows are kept."""

    version: str
    metadata: ReportMetadata
    policy: PolicyPublished
    records: tuple[ReportRecord, ...]


def parse_message(source: Readable) -> Feedback:
    """The first report in a message, whatever its structure. Raises BadReport."""
    source = as_source(source)
    if source.size > MAX_MESSAGE:
        raise BadReport("report message too large")
    message, _ = ensure_part(source)
    for part in islice(message.walk(), MAX_PARTS):
        kind = f"{part.media_type}/{part.media_subtype}".lower()
        if kind in _ARCHIVES or kind in _XML or kind in _UNTOLD:
            data = b"".join(_bounded(part, source))
            if _is_report(data):
                return parse_report(data)
    raise BadReport("no dmarc aggregate report found in message")


def parse_report(data: bytes) -> Feedback:
    """The report in XML, which may be compressed with gzip, or the one file of a zip archive. Raises BadReport."""
    if data.startswith(_GZIP):
        data = _gunzipped(data)
    elif data.startswith(_ZIP):
        data = _unzipped(data)
    return _Reader().read(data)


def _bounded(part: Part, source: Any) -> Iterator[bytes]:
    size = 0
    for piece in part.reader(source):
        size += len(piece)
        if size > MAX_REPORT:
            raise BadReport("report too large")
        yield piece


def _is_report(data: bytes) -> bool:
    return data.startswith((_GZIP, _ZIP)) or _XML_START.match(data[:SNIFFED]) is not None


def _gunzipped(data: bytes) -> bytes:
    try:
        inflated = zlib.decompressobj(wbits=31).decompress(data, MAX_REPORT + 1)
    except zlib.error as exc:
        raise BadReport("report is not gzip") from exc
    if len(inflated) > MAX_REPORT:
        raise BadReport("report too large after decompression")
    return inflated


def _unzipped(data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) != 1:
                raise BadReport(f"zip contains {len(entries)} files, expected 1")
            if entries[0].flag_bits & 0x1:
                raise BadReport("zip is encrypted")
            with archive.open(entries[0]) as file:
                inflated = file.read(MAX_REPORT + 1)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError) as exc:
        if isinstance(exc, BadReport):
            raise
        raise BadReport("report is not a zip archive that can be read") from exc
    if len(inflated) > MAX_REPORT:
        raise BadReport("report too large after decompression")
    return inflated


@dataclass(slots=True)
class _Values:
    """What an element had in it: texts by name, and the elements of which there may be several."""

    texts: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    reasons: list[OverrideReason] = field(default_factory=list)
    dkim: list[ReportedDkim] = field(default_factory=list)
    spf: list[ReportedSpf] = field(default_factory=list)


class _Reader:
    """One pass over the XML, without a tree. Names of elements count without their namespace."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._text: list[str] = []
        self._length = 0
        self._version = ""
        self._metadata, self._policy, self._record, self._inner = _Values(), _Values(), _Values(), _Values()
        self._records: list[ReportRecord] = []

    def read(self, data: bytes) -> Feedback:
        parser = xml.parsers.expat.ParserCreate()
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = _refuse("xml doctype not allowed")
        parser.EntityDeclHandler = _refuse("xml entity declarations not allowed")
        parser.ProcessingInstructionHandler = _refuse("xml processing instructions not allowed")
        self._done = False
        try:
            parser.Parse(_in_a_known_encoding(data), True)
        except xml.parsers.expat.ExpatError as exc:
            if not self._done:  # what follows the root is passed over
                text = f"report is not xml: {xml.parsers.expat.ErrorString(exc.code)}, line {exc.lineno}"
                raise BadReport(text) from exc
        if not self._done:
            raise BadReport("report has no feedback element")
        return Feedback(
            self._version,
            _metadata(self._metadata),
            _policy(self._policy.texts),
            tuple(self._records),
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2].lower()
        if not self._path and name != "feedback":
            raise BadReport("report has no feedback element")
        self._path.append(name)
        if len(self._path) > MAX_DEPTH:
            raise BadReport("xml too deep")
        self._text, self._length = [], 0
        if self._path == ["feedback", "record"]:
            self._record = _Values()
        elif name in ("reason", "dkim", "spf"):
            self._inner = _Values()

    def _characters(self, text: str) -> None:
        if self._length < MAX_TEXT:
            self._text.append(text[: MAX_TEXT - self._length])
            self._length += len(text)

    def _end(self, name: str) -> None:
        text = _clean("".join(self._text))
        self._text, self._length = [], 0
        match self._path:
            case ["feedback"]:
                self._done = True
            case ["feedback", "version"]:
                self._version = text
            case ["feedback", "report_metadata", "error"]:
                _add(self._metadata.errors, text)
            case ["feedback", "report_metadata", *_, leaf]:
                self._metadata.texts[leaf] = text
            case ["feedback", "policy_published", leaf]:
                self._policy.texts[leaf] = text
            case ["feedback", "record"]:
                self._finish_record()
            case ["feedback", "record", "row", "policy_evaluated", "reason"]:
                found = self._inner.texts
                _add(self._record.reasons, OverrideReason(found.get("type", ""), found.get("comment", "")))
            case ["feedback", "record", "auth_results", "dkim"]:
                found = self._inner.texts
                names = ("domain", "selector", "result", "human_result")
                _add(self._record.dkim, ReportedDkim(*(found.get(each, "") for each in names)))
            case ["feedback", "record", "auth_results", "spf"]:
                found = self._inner.texts
                _add(self._record.spf, ReportedSpf(*(found.get(each, "") for each in ("domain", "scope", "result"))))
            case ["feedback", "record", "row", "policy_evaluated", "reason", leaf]:
                self._inner.texts[leaf] = text
            case ["feedback", "record", "auth_results", "dkim" | "spf", leaf]:
                self._inner.texts[leaf] = text
            case ["feedback", "record", "row" | "identifiers", *_, leaf]:
                self._record.texts[leaf] = text
            case _:
                pass  # an element that is not known here
        self._path.pop()

    def _finish_record(self) -> None:
        if len(self._records) >= MAX_RECORDS:
            raise BadReport("too many records")
        found = self._record.texts
        self._records.append(
            ReportRecord(
                source_ip=found.get("source_ip", ""),
                count=_count(found.get("count", "")),
                disposition=found.get("disposition", ""),
                dkim=found.get("dkim", ""),
                spf=found.get("spf", ""),
                reasons=tuple(self._record.reasons),
                envelope_to=found.get("envelope_to", ""),
                envelope_from=found.get("envelope_from", ""),
                header_from=found.get("header_from", ""),
                dkim_results=tuple(self._record.dkim),
                spf_results=tuple(self._record.spf),
            )
        )


def _metadata(values: _Values) -> ReportMetadata:
    found = values.texts
    return ReportMetadata(
        found.get("org_name", ""),
        found.get("email", ""),
        found.get("extra_contact_info", ""),
        found.get("report_id", ""),
        _count(found.get("begin", "")),
        _count(found.get("end", "")),
        tuple(values.errors),
    )


def _policy(found: dict[str, str]) -> PolicyPublished:
    return PolicyPublished(
        found.get("domain", ""),
        found.get("adkim", ""),
        found.get("aspf", ""),
        found.get("p", ""),
        found.get("sp", ""),
        _count(found.get("pct", "")),
        found.get("fo", ""),
    )


def _refuse(text: str) -> Callable[..., None]:
    def refuse(*_: object) -> None:
        raise BadReport(text)

    return refuse


def _in_a_known_encoding(data: bytes) -> bytes:
    """Expat reads UTF-8, UTF-16, ISO-8859-1 and ASCII; what Windows calls its own is made UTF-8."""
    declared = re.match(rb"\s*<\?xml[^>]{0,200}?encoding=[\"'](windows-125[0-9]|cp125[0-9])[\"'][^>]{0,200}\?>", data)
    if declared is None:
        return data
    return data[declared.end() :].decode(declared[1].decode(), "replace").encode()


def _add(values: list[Any], value: Any) -> None:
    if len(values) < MAX_DETAILS:
        values.append(value)


def _clean(text: str) -> str:
    return clean_text(text.strip()).encode()[:MAX_TEXT].decode("utf-8", "ignore")


def _count(text: str) -> int:
    return min(int(text), MAX_COUNT) if _DIGITS.fullmatch(text) else 0
