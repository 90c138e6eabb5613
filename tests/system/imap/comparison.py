"""The same questions to two IMAP servers that hold the same mail, and where their answers differ.

Answers are compared as what they mean: quoted strings and literals are equal, names of types, parameters and encodings
have no case, parameters no order. A difference is about one field: "BODYSTRUCTURE[1.2] lines", "ENVELOPE from".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.system.imap.varied import Mail
from tests.system.imap.wire import Value, Wire

ITEMS_PER_FETCH: Final = 150
ENVELOPE: Final = ("date", "subject", "from", "sender", "reply-to", "to", "cc", "bcc", "in-reply-to", "message-id")
HEADERS: Final = (
    "HEADER",
    "HEADER.FIELDS (Subject FROM x-number)",
    "HEADER.FIELDS (X-Absent)",
    "HEADER.FIELDS.NOT (Received Subject)",
    "TEXT",
)


@dataclass(frozen=True, slots=True)
class Difference:
    """What two servers say differently: about a message (or "search"), in a field (or for a query)."""

    where: str
    what: str
    ours: Value
    theirs: Value

    def __str__(self) -> str:
        return f"{self.where} | {self.what}\n    ours   {shown(self.ours):.500}\n    theirs {shown(self.theirs):.500}"


@dataclass(slots=True)
class Explained:
    """A line of the table of differences: which it is about, who is right, and why they are."""

    mail: str
    field: str
    ours: str
    theirs: str
    right: str
    reason: str
    used: bool = False

    def explains(self, difference: Difference) -> bool:
        """`*` is any text; theirs may be written as ours with a line end, or but for white space."""
        if not _fits(self.mail, difference.where) or not _fits(self.field, difference.what):
            return False
        ours, theirs = shown(difference.ours), shown(difference.theirs)
        match self.theirs:
            case "ours + CRLF":
                return theirs == ours + "\\r\\n"
            case "ours - CRLF":
                return ours == theirs + "\\r\\n"
            case "ours - white space":
                return _words(difference.ours) == _words(difference.theirs)
        return _fits(self.ours, ours) and _fits(self.theirs, theirs)


def table(path: Path) -> list[Explained]:
    """The lines of a table of differences, columns between bars."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return [_explained(*(column.strip() for column in line.split(" | ", 5))) for line in lines]


def _explained(mail: str, field: str, ours: str, theirs: str, right: str, reason: str) -> Explained:
    assert right in ("ours", "dovecot", "both"), f"{right} is nobody"
    return Explained(mail, field, ours, theirs, right, reason)


def unexplained(differences: Iterable[Difference], explained: Sequence[Explained]) -> list[Difference]:
    """Those that no line of the table is about; lines that are about some are marked as used."""
    left = []
    for difference in differences:
        found = next((line for line in explained if line.explains(difference)), None)
        if found is None:
            left.append(difference)
        else:
            found.used = True
    return left


def shown(value: Value) -> str:
    """A value as the table writes it: strings bare, with escapes."""
    if value is None:
        return "NIL"
    return value.decode("latin-1").encode("unicode_escape").decode() if isinstance(value, bytes) else str(value)


def _fits(pattern: str, text: str) -> bool:
    return pattern == "*" or _expression(pattern).fullmatch(text) is not None


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.IGNORECASE | re.DOTALL)


def _words(value: Value) -> list[bytes]:
    return value.split() if isinstance(value, bytes) else []


def fill(wire: Wire, mailbox: str, mails: Sequence[Mail]) -> None:
    """Append the mail, with days and flags by its number."""
    for number, mail in enumerate(mails):
        flags = " ".join(word for step, word in FLAGS.items() if number % step == 0)
        wire.ok(f'APPEND {mailbox} ({flags}) "{date(number)}"', mail.data, nonsync=True)


FLAGS: Final = {
    2: "\\Seen",
    3: "\\Flagged",
    5: "\\Answered",
    7: "\\Draft",
    11: "\\Deleted",
    13: "$Forwarded",
    17: "todo",
}


def date(number: int) -> str:
    zone = ("+0000", "+0530", "-0800", "+1300")[number % 4]
    return f"{1 + number % 28:2}-{('Jan', 'Feb', 'Mar')[number % 3]}-2024 {number % 24:02}:{number % 60:02}:00 {zone}"


def fetches(ours: Wire, theirs: Wire, mails: Sequence[Mail]) -> Iterator[Difference]:
    """Differences of what FETCH says of the messages, whose numbers are their order."""
    items = "(RFC822.SIZE INTERNALDATE FLAGS ENVELOPE BODYSTRUCTURE BODY)"
    first, second = (wire.ok(f"FETCH 1:* {items}").fetched() for wire in (ours, theirs))
    for number, mail in enumerate(mails, 1):
        mine, other = _fields(first[number]), _fields(second[number])
        yield from _differing(mail.name, mine, other)
        paths = _parts(first[number]["BODYSTRUCTURE"]) | _parts(second[number]["BODYSTRUCTURE"])
        asked = [*_sections(paths)]
        for start in range(0, len(asked), ITEMS_PER_FETCH):
            yield from _sections_differing(ours, theirs, mail.name, number, asked[start : start + ITEMS_PER_FETCH])


def _sections_differing(
    ours: Wire, theirs: Wire, where: str, number: int, items: Sequence[str]
) -> Iterator[Difference]:
    """Ask for all items at once; where one of the servers refuses that, one by one."""
    one, two = (wire.command(f"FETCH {number} ({' '.join(items)})") for wire in (ours, theirs))
    if len(items) > 1 and not one.status == two.status == "OK":
        for item in items:
            yield from _sections_differing(ours, theirs, where, number, [item])
        return
    if one.status != two.status:
        yield Difference(where, " ".join(items), one.status, two.status)
    elif one.status == "OK":
        mine = _named(one.fetched()[number])
        yield from _differing(where, mine, _named(two.fetched()[number]))
        for name, size in mine.items():
            if name.startswith("BINARY.SIZE"):
                section = name.removeprefix("BINARY.SIZE")
                content = mine.get(f"BINARY{section}")
                assert int(size) == len(content or b""), f"{where}: {name} is {size}, BINARY is {content!r:.200}"


def searches(ours: Wire, theirs: Wire, queries: Sequence[str], mails: Sequence[Mail]) -> Iterator[Difference]:
    """Differences of what SEARCH finds: for each query, the messages that one of them has and the other has not.

    What stands in braces goes as a literal.
    """
    for query in queries:
        before, _, literal = query.partition("{")
        parts: list[str | bytes] = [
            f"SEARCH {before.rstrip()}",
            *([literal.removesuffix("}").encode()] if literal else []),
        ]
        mine, other = (set(wire.ok(*parts).numbers()) for wire in (ours, theirs))
        for number in sorted(mine ^ other):
            yield Difference(mails[number - 1].name, f"SEARCH {query}", number in mine, number in other)


def _differing(where: str, ours: dict[str, Value], theirs: dict[str, Value]) -> Iterator[Difference]:
    for what in [*ours, *(name for name in theirs if name not in ours)]:
        mine, other = ours.get(what, "(not told)"), theirs.get(what, "(not told)")
        if mine != other:
            yield Difference(where, what, mine, other)


def _named(items: dict[str, Value]) -> dict[str, Value]:
    """Sections by their name alone; what is in braces may have been quoted by the server."""
    return {name.replace('"', ""): value for name, value in items.items() if name not in ("UID", "FLAGS")}


def _fields(items: dict[str, Value]) -> dict[str, Value]:
    fields = {"RFC822.SIZE": items["RFC822.SIZE"], "INTERNALDATE": _moment(items["INTERNALDATE"])}
    fields["FLAGS"] = sorted(str(flag).lower() for flag in items["FLAGS"] if flag != "\\Recent")
    fields.update(_envelope("ENVELOPE", items["ENVELOPE"]))
    fields.update(_structure("BODYSTRUCTURE", "", items["BODYSTRUCTURE"], extended=True))
    fields.update(_structure("BODY", "", items["BODY"], extended=False))
    return fields


def _moment(value: bytes) -> datetime:
    """The moment; a server need not keep the zone that it was given in."""
    return datetime.strptime(value.decode(), "%d-%b-%Y %H:%M:%S %z").astimezone(UTC)


def _envelope(name: str, value: Value) -> dict[str, Value]:
    if value is None:
        return {name: None}
    return {f"{name} {field}": part for field, part in zip(ENVELOPE, value, strict=True)}


def _structure(name: str, path: str, value: Value, *, extended: bool) -> dict[str, Value]:
    """The fields of BODYSTRUCTURE or BODY, of each part by its number."""
    at = f"{name}[{path}]"
    fields: dict[str, Value] = {}

    def rest(values: Sequence[Value], names: Sequence[str]) -> None:
        assert extended or not values, f"{at}: extension data in BODY: {values}"
        for field, part in zip(names, values, strict=False):
            fields[f"{at} {field}"] = _extension(field, part)

    if isinstance(value[0], list):
        parts = [part for part in value if isinstance(part, list)][: _leading_lists(value)]
        for number, part in enumerate(parts, 1):
            fields.update(_structure(name, f"{path}.{number}".lstrip("."), part, extended=extended))
        fields[f"{at} type"] = "multipart/" + _lower(value[len(parts)])
        rest(value[len(parts) + 1 :], ("parameters", "disposition", "language", "location"))
        return fields
    kind = f"{_lower(value[0])}/{_lower(value[1])}"
    fields[f"{at} type"] = kind
    fields[f"{at} parameters"] = _of_type(kind, value[2])
    for field, part in zip(("id", "description", "encoding", "size"), value[3:7], strict=True):
        fields[f"{at} {field}"] = _lower(part) if field == "encoding" else part
    more = value[7:]
    if _has_message(value):
        fields.update(_envelope(f"{at} envelope", more[0]))
        inner = path or "1"
        fields.update(_structure(f"{name} message", inner, more[1], extended=extended))
        fields[f"{at} lines"] = more[2]
        more = more[3:]
    elif kind.startswith("text/"):
        fields[f"{at} lines"] = more[0]
        more = more[1:]
    rest(more, ("md5", "disposition", "language", "location"))
    return fields


def _has_message(value: Sequence[Value]) -> bool:
    """Whether a part's structure has that of a message in it."""
    if len(value) < 10 or not isinstance(value[8], list) or not isinstance(value[7], list | None):
        return False
    return isinstance(value[8][0], list) or len(value[8]) > 2  # else it is a disposition


def _leading_lists(value: Sequence[Value]) -> int:
    return next((at for at, part in enumerate(value) if not isinstance(part, list)), len(value))


def _extension(field: str, value: Value) -> Value:
    if field == "parameters":
        return _parameters(value)
    if field == "disposition" and isinstance(value, list):
        return [_lower(value[0]), _parameters(value[1])]
    if field == "language" and value is not None:
        return [_lower(word) for word in (value if isinstance(value, list) else [value])]
    return value


def _parameters(value: Value) -> Value:
    if value is None:
        return None
    return sorted((_lower(name), part) for name, part in zip(value[::2], value[1::2], strict=True))


def _of_type(kind: str, value: Value) -> Value:
    """Parameters of Content-Type: text without a charset is US-ASCII, whether that is said or not (RFC 2046 4.1.2)."""
    parameters = dict(_parameters(value) or [])
    if kind.startswith("text/"):
        parameters["charset"] = parameters.get("charset", b"us-ascii").lower()
    return sorted(parameters.items())


def _lower(value: Value) -> str:
    return (value.decode("latin-1") if isinstance(value, bytes) else str(value)).lower()


def _parts(value: Value, path: tuple[int, ...] = ()) -> set[tuple[tuple[int, ...], str]]:
    """The part numbers of a BODYSTRUCTURE, each with its type."""
    if isinstance(value[0], list):
        found = {(path, "multipart")} if path else set()
        for number in range(1, _leading_lists(value) + 1):
            found |= _parts(value[number - 1], (*path, number))
        return found
    own = path or (1,)
    kind = f"{_lower(value[0])}/{_lower(value[1])}"
    found = {(own, kind)}
    if _has_message(value):
        inner = value[8]
        found |= _parts(inner, own) if isinstance(inner[0], list) else _parts(inner, (*own, 1))
    return found


def _sections(paths: set[tuple[tuple[int, ...], str]]) -> Iterator[str]:
    yield "BODY.PEEK[]"
    yield "BODY.PEEK[]<3.50>"
    for text in HEADERS:
        yield f"BODY.PEEK[{text}]"
    seen = set()
    for path, kind in sorted(paths):
        if path in seen:
            continue
        seen.add(path)
        number = ".".join(map(str, path))
        yield f"BODY.PEEK[{number}]"
        if len(seen) == 1:
            yield f"BODY.PEEK[{number}]<2.7>"
        yield f"BODY.PEEK[{number}.MIME]"
        if kind.startswith("message/"):
            for text in HEADERS:
                yield f"BODY.PEEK[{number}.{text}]"
        elif kind != "multipart":
            yield f"BINARY.SIZE[{number}]"
            yield f"BINARY.PEEK[{number}]"
    yield "BODY.PEEK[97]"
    yield "BODY.PEEK[1.98]"
