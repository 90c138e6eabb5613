"""The text of HTML, for previews and for searching: linear and forgiving, nothing to do with showing it."""

from __future__ import annotations

import re
from html import unescape
from typing import Final

QUOTE_MARK: Final = ">"
"""What stands on a line of its own for a quotation that was left out."""

_BLOCK_TAGS: Final = frozenset(
    (
        *("address", "article", "aside", "blockquote", "body", "br", "center", "dd", "div", "dl", "dt", "fieldset"),
        *("figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "html", "li", "main", "nav"),
        *("ol", "option", "p", "pre", "section", "table", "tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul"),
    )
)
_SKIPPED: Final = {
    name: re.compile(rf"</{name}(?![a-z])", re.IGNORECASE) for name in ("script", "style", "noscript", "template")
}
_TITLE_END: Final = re.compile(r"</title(?![a-z])", re.IGNORECASE)
_TAG_NAME: Final = re.compile(r"/?[A-Za-z][A-Za-z0-9:-]{0,30}")
_TAG_MARKS: Final = re.compile(r"""["'>]""")
_SPACES: Final = re.compile(r"[ \t\r\n\f\u00a0]+")
_LONG_NUMBER: Final = re.compile(r"&#[0-9]{8,};?")  # no character, and costly to read as a number


def html_text(html: str, *, attributes: bool = False, quotations: bool = True) -> str:
    """The text with its blocks on lines of their own; scripts and styles left out.

    `attributes` adds the values of quoted attributes (for searching: addresses of links, titles) and the title.
    Without `quotations` each blockquote becomes one line with `QUOTE_MARK`.
    """
    return _Converter(html, attributes, quotations).text()


class _Converter:
    def __init__(self, html: str, attributes: bool, quotations: bool) -> None:
        self.html = html
        self.attributes = attributes
        self.quotations = quotations
        self.out: list[str] = []
        self.quote_depth = 0
        self.missing: set[str] = set()  # marks of which none follow: they are not looked for again

    def text(self) -> str:
        html = self.html
        position = 0
        while position < len(html):
            start = self._find("<", position)
            if start < 0:
                break
            self._add(html[position:start])
            position = self._markup(start)
        self._add(html[position:])
        return "".join(self.out)

    def _markup(self, start: int) -> int:
        """Deal with what the < at `start` begins; gives the offset after it."""
        html = self.html
        if html.startswith("<!--", start):
            end = self._find("-->", start + 4)
            return end + 3 if end >= 0 else len(html)
        match = _TAG_NAME.match(html, start + 1)
        if match is None:
            if html.startswith(("<!", "<?"), start):
                end = self._find(">", start)
                return end + 1 if end >= 0 else len(html)
            self._add("<")
            return start + 1
        end = self._tag_end(match.end())
        name = match[0].lower()
        if name in _SKIPPED or (name == "title" and not self.attributes):
            closing = (_SKIPPED.get(name) or _TITLE_END).search(html, end)
            return closing.start() if closing else len(html)
        plain = name.removeprefix("/")
        if plain == "blockquote" and not self.quotations:
            self._quotation(opens=plain == name)
        if plain in _BLOCK_TAGS:
            self.out.append("\n")
        return end

    def _tag_end(self, position: int) -> int:
        """The offset after the tag whose attributes begin at `position`."""
        html = self.html
        while match := _TAG_MARKS.search(html, position):
            mark = match[0]
            if mark == ">":
                return match.end()
            position = match.end()
            if html[match.start() - 1] != "=":
                continue  # a stray quote
            closing = self._find(mark, position)
            if closing < 0:
                continue
            if self.attributes and not self.quote_depth:
                self.out.append(f" {unescape(_LONG_NUMBER.sub('', html[position:closing]))} ")
            position = closing + 1
        return len(html)

    def _quotation(self, *, opens: bool) -> None:
        if opens:
            if not self.quote_depth:
                self.out.append(f"\n{QUOTE_MARK}\n")
            self.quote_depth += 1
        elif self.quote_depth:
            self.quote_depth -= 1

    def _add(self, text: str) -> None:
        if text and not self.quote_depth:
            if "&" in text:
                text = unescape(_LONG_NUMBER.sub("\ufffd", text))
            self.out.append(_SPACES.sub(" ", text))

    def _find(self, mark: str, position: int) -> int:
        if mark in self.missing:
            return -1
        found = self.html.find(mark, position)
        if found < 0:
            self.missing.add(mark)
        return found
