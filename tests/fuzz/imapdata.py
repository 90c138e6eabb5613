"""Reading IMAP data as a client does (RFC 9051 section 9), whatever it was made of."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(rb'\(|\)| |"(?:[^"\\\r\n\0]|\\["\\])*+"|NIL|[0-9]+|~?\{([0-9]+)\}\r\n')


def read_data(data: bytes) -> None:
    """Assert that it is strings, numbers, NIL and lists of them, with single spaces between them."""
    position = 0
    depth = 0
    while position < len(data):
        token = _TOKEN.match(data, position)
        assert token is not None, f"no IMAP data: {data[position : position + 60]!r}"
        position = token.end() + int(token[1] or 0)
        assert position <= len(data), "a literal without its bytes"
        depth += {b"(": 1, b")": -1}.get(token[0], 0)
        assert depth >= 0, "a list is closed that was not opened"
    assert depth == 0, "a list is not closed"
