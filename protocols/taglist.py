"""Lists of ``tag=value`` with semicolons between, the form of DMARC, MTA-STS and TLS reporting records.

Each of their RFCs has its own rules for names, order and duplicates; those stay with their modules.
"""

from __future__ import annotations

from typing import Final

from .errors import ProtocolError

WHITE_SPACE: Final = " \t\r\n"


class BadTagList(ProtocolError, ValueError):
    """The text is no list of tags; the error says where."""


def split_tags(text: str) -> list[tuple[str, str]]:
    """The names and values in order, without the white space around them. One semicolon may end the list.

    Raises BadTagList for an element without "=" or name.
    """
    elements = text.split(";")
    if not elements[-1].strip(WHITE_SPACE):
        elements.pop()
    tags = []
    for element in elements:
        name, equals, value = element.partition("=")
        name = name.strip(WHITE_SPACE)
        if not equals or not name:
            raise BadTagList(f"expected tag=value, found {element.strip(WHITE_SPACE)[:60]!a}")
        tags.append((name, value.strip(WHITE_SPACE)))
    return tags
