"""The text of HTML that comes in pieces, of any size; no tag soup stops it, and its cost is linear.

    class Words(HTMLText):
        def tag(self, name, tag, words):     # called for each tag that has a name
            words.append(" ")

    page = Words(skipped=frozenset({"script", "style"}))
    text = page.feed("<p>Hel") + page.feed("lo</p>", last=True)

There is no tree: who wants the text of a page for searching or counting words needs none.
"""

from __future__ import annotations

import html
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Final

TAG_MAX: Final = 64 * 1024  # characters of a tag; a longer one is no tag

_TAG_NAME: Final = re.compile(r"/?([a-zA-Z][a-zA-Z0-9:]*)")
_VALUE: Final = re.compile(r"""=\s?("[^"]*"|'[^']*'|[^\s"'>=]+)""")
_NAME_MAX: Final = 64  # characters before a "=" in which the attribute's name is looked for


class HTMLText(ABC):
    """One page. ``skipped``: elements whose content is no text."""

    def __init__(self, skipped: frozenset[str]) -> None:
        self._skipped = skipped
        self._rest = ""
        self._until = ""  # the end tag of a skipped element that has begun

    @abstractmethod
    def tag(self, name: str, tag: str, words: list[str]) -> None:
        """A tag with this name (lower case, also of an end tag) is met; what stands for it in the text is appended."""

    def feed(self, text: str, *, last: bool = False) -> str:
        """The text that is sure after this piece of the page; with ``last`` all that is left of it."""
        data = self._rest + text
        lower = ""  # made when a skipped element is met
        words: list[str] = []
        position = 0
        comments = True  # no use in looking for "-->" once there is none
        while position < len(data):
            if self._until:
                lower = lower or data.lower()
                end = lower.find(self._until, position)
                if end < 0:
                    position = len(data) if last else max(position, len(data) - len(self._until))
                    break
                position, self._until = end, ""
            start = data.find("<", position)
            if start < 0:
                cut = len(data) if last else _entity_safe(data, position)
                words.append(html.unescape(data[position:cut]))
                position = cut
                break
            if start > position:
                words.append(html.unescape(data[position:start]))
                position = start
            if comments and data.startswith("<!--", start):
                end = data.find("-->", start + 4)
                comments = end >= 0
                if end >= 0:
                    position = end + 3
                    continue
                if not last and len(data) - start <= TAG_MAX:
                    break
            # A ">" in an attribute's value ends the tag here: the rest of the value is found as text, no harm.
            end = data.find(">", start)
            if end < 0:
                if last or len(data) - start > TAG_MAX:
                    words.append(html.unescape(data[start:]))
                    position = len(data)
                break
            position = end + 1
            self._met(data[start + 1 : end], words)
        self._rest = data[position:]
        return "".join(words)

    def _met(self, tag: str, words: list[str]) -> None:
        match = _TAG_NAME.match(tag)
        if match is None:
            if not tag.startswith(("!", "?", "/")):
                words.append(f"<{html.unescape(tag)}>")
            return
        name = match[1].lower()
        self.tag(name, tag, words)
        if name in self._skipped and not tag.startswith("/") and not tag.endswith("/"):
            self._until = f"</{name}"


def attributes(tag: str) -> Iterator[tuple[str, str]]:
    """The attributes of a tag that have a value: names in lower case, values decoded."""
    for match in _VALUE.finditer(tag):
        before = tag[max(0, match.start() - _NAME_MAX) : match.start()].split()
        yield before[-1].lower() if before else "", html.unescape(match[1].strip("\"'"))


def _entity_safe(data: str, position: int) -> int:
    """Where text may be cut without splitting a character reference such as &amp;"""
    ampersand = data.rfind("&", max(position, len(data) - 32))
    return len(data) if ampersand < 0 or ";" in data[ampersand:] else ampersand
