"""What threads are made of: message ids in canonical form and base subjects (RFC 5322 3.6.4, RFC 5256 2.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from protocols.names import BadAddress, format_localpart, parse_localpart

MAX_REFERENCES: Final = 1000  # ids; the last ones, which are nearest, are kept

PIECES_MAX: Final = 4 * MAX_REFERENCES  # looked at from the end, broken ones too

_WHITE_SPACE: Final = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class MessageID:
    """A Message-ID without its brackets. `raw`: it is no address form, and the value is what was sent."""

    value: str
    raw: bool = False


@dataclass(frozen=True, slots=True)
class ThreadSubject:
    """What remains of a subject without marks of replies and forwards, and whether there were any."""

    base: str
    is_response: bool


def message_id_canonical(field: str) -> MessageID:
    """The Message-ID of a field value for comparing: lower case, quotes removed where not needed; "" when not in <>."""
    text = field.strip()
    if not text.startswith("<"):
        return MessageID("")
    inner, closed, _ = text[1:].partition(">")  # what follows, comments mostly, does not count
    if not closed:
        return MessageID("")
    return _canonical(inner)


def referenced_ids(references: str, in_reply_to: str = "") -> list[str]:
    """Canonical ids of References, oldest first; of In-Reply-To when that gives none. Broken ones are skipped."""
    return list(dict.fromkeys(ids_in(references) or ids_in(in_reply_to)))


def ids_in(field: str) -> list[str]:
    """Canonical ids in a field in their order, which may have some of them several times. Broken ones are skipped."""
    ids: list[str] = []
    for piece in field.rsplit("<", PIECES_MAX)[1:]:
        inner, closed, _ = piece.partition(">")
        if closed and "@" in inner and (value := _canonical(_WHITE_SPACE.sub("", inner)).value):
            ids.append(value)
    return ids[-MAX_REFERENCES:]


def thread_subject(subject: str) -> ThreadSubject:
    """The base subject: lower case, white space as single spaces, marks such as `Re:`, `[list]` and `(fwd)` removed."""
    text = _WHITE_SPACE.sub(" ", subject).strip().lower()
    is_response = False
    while True:
        text, trailer = _without_trailers(text)
        text, leader = _without_leaders(text)
        is_response = is_response or trailer or leader
        if not (text.startswith("[fwd:") and text.endswith("]")):
            return ThreadSubject(text, is_response)
        text = text[5:-1].strip()
        is_response = True


def _canonical(inner: str) -> MessageID:
    text = _WHITE_SPACE.sub("", inner) if '"' not in inner else inner.strip()
    local, at, domain = text.rpartition("@")
    if not at:
        return MessageID(text.lower(), raw=bool(text))
    try:
        localpart = format_localpart(parse_localpart(local)) if local.startswith('"') else local
    except BadAddress:
        return MessageID(text.lower(), raw=True)
    return MessageID(f"{localpart}@{domain}".lower(), raw=not localpart or not domain)


def _without_trailers(text: str) -> tuple[str, bool]:
    end = len(text)
    found = False
    while True:
        while end and text[end - 1] == " ":
            end -= 1
        if not text.endswith("(fwd)", 0, end):
            return text[:end], found
        end -= 5
        found = True


def _without_leaders(text: str) -> tuple[str, bool]:
    """Strip `re:`, `fw:`, `fwd:`, with a tag before the colon too, and tags that leave a rest."""
    start = 0
    found = False
    while True:
        start = _skip_spaces(text, start)
        after = _reply_mark(text, start)
        if after is not None:
            start = after
            found = True
            continue
        tag_end = _tag_end(text, start)
        if tag_end is None or not text[tag_end : tag_end + 2].strip():
            return text[start:], found
        start = tag_end


def _reply_mark(text: str, start: int) -> int | None:
    """The offset after a mark of a reply or forward at `start`."""
    for word in ("re", "fwd", "fw"):
        if text.startswith(word, start):
            position = _skip_spaces(text, start + len(word))
            tag_end = _tag_end(text, position)
            if tag_end is not None:
                position = tag_end
            return position + 1 if text.startswith(":", position) else None
    return None


def _tag_end(text: str, start: int) -> int | None:
    """The offset after a `[tag]`, and the spaces after it, at `start`; `[fwd:` begins none."""
    if not text.startswith("[", start) or text.startswith("[fwd:", start):
        return None
    end = text.find("]", start)
    if end < 0 or text.find("[", start + 1, end) >= 0:
        return None
    return _skip_spaces(text, end + 1)


def _skip_spaces(text: str, start: int) -> int:
    while text.startswith(" ", start):
        start += 1
    return start
