"""The words of stored and of arriving messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from protocols.message.headers import is_token, iter_headers, parse_parameterized
from protocols.message.htmltext import HTMLText, attributes
from protocols.message.source import Source
from store.text import text_parts

from .words import Grams, WordSet

HEADER_MAX: Final = 1 << 20  # bytes of a header section that are looked at
TEXT_MAX: Final = 16 << 20  # characters of text; a message with more says no more, and costs seconds

_SKIPPED: Final = frozenset({"script", "style", "svg"})


def words_of(source: Source, structure: Mapping[str, Any], grams: Grams, return_path: str = "") -> frozenset[str]:
    """The words of content with this structure. ``return_path``: the envelope's sender, "" for none.

    Raises ContentError where stored content cannot be read.
    """
    words = WordSet(grams)
    head, body = structure.get("head", 0), structure.get("body", 0)
    words.add_header(source.read_at(head, min(body - head, HEADER_MAX)), return_path)
    left = TEXT_MAX
    for subtype, texts in text_parts(source, structure):
        page = _Page() if subtype == "HTML" else None
        for text in texts:
            if words.full or left <= 0:
                break
            left -= len(text)
            words.add_text(page.feed(text) if page is not None else text)
        if page is not None:
            words.add_text(page.feed("", last=True))
        if words.full or left <= 0:
            break
    return frozenset(words.found)


def has_bad_type(source: Source, structure: Mapping[str, Any]) -> bool:
    """Whether the Content-Type of a message is none, as only programs for spam write it."""
    if (structure.get("type"), structure.get("subtype")) != ("APPLICATION", "OCTET-STREAM"):
        return False  # which a bad one is taken for
    head, body = structure.get("head", 0), structure.get("body", 0)
    for field in iter_headers(source.read_at(head, min(body - head, HEADER_MAX))):
        if field.name.lower() == "content-type" and (value := field.value()):
            kind, _, subtype = parse_parameterized(value).value.partition(b"/")
            return not (is_token(kind.rstrip()) and is_token(subtype.lstrip()))
    return False


class _Page(HTMLText):
    """What a reader sees, and the text that stands for images. Every tag ends a word."""

    def __init__(self) -> None:
        super().__init__(_SKIPPED)

    def tag(self, name: str, tag: str, words: list[str]) -> None:
        words.append(" ")
        if name == "img":
            words.extend(f"{value} " for attribute, value in attributes(tag) if attribute == "alt")
