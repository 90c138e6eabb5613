"""Address lists of header fields (RFC 5322 3.4, with the obsolete forms of 4.4): groups, comments, routes, garbage."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from .encodedwords import decode_header, one_line

MAX_ADDRESSES: Final = 10_000  # of one field; what follows is ignored, so that a header of 1 MiB stays cheap
MAX_TOKENS: Final = 100_000  # of one field, 10 for each address; garbage has one in each byte

_ATOM: Final = re.compile(rb'[^\x00-\x20"(),:;<>@\[\]\\]+')
_WHITE_SPACE: Final = re.compile(rb"[\x00-\x20]+")
_COMMENT_MARKS: Final = re.compile(rb"[()\\]")
_QUOTE_MARKS: Final = re.compile(rb'["\\]')
_PLAIN_ADDRESS: Final = re.compile(rb'[^\x00-\x20"(),:;<>@\[\]\\]{1,256}@[^\x00-\x20"(),:;<>@\[\]\\]{1,256}')
# Senders put commas and spaces into encoded words, which no atom may hold.
_LAX_ENCODED_WORD: Final = re.compile(rb"=\?[^?\s]{1,100}\?[bBqQ]\?[^?\r\n<>]{0,1000}\?=")


@dataclass(frozen=True, slots=True)
class EnvAddress:
    """One entry of an envelope's address list.

    A group is an entry with its name in `user` and None in `host`, its members, and an entry with None in both.
    What is no address has its text in `name`, and empty `user` and `host`.
    """

    name: str = ""
    user: str | None = ""
    host: str | None = ""
    adl: str = ""
    """Source route, as in `@a.example,@b.example`."""
    name_raw: bytes = b""
    """The name as sent, encoded words and all, without quotes."""

    def is_mailbox(self) -> bool:
        """Whether it is an address rather than a mark of a group or text that is no address."""
        return bool(self.user is not None and self.host)


def parse_addresses(value: bytes) -> list[EnvAddress]:
    """The addresses of an unfolded header value, in order. Never fails."""
    if not value:
        return []
    if _PLAIN_ADDRESS.fullmatch(value):
        user, _, host = value.partition(b"@")
        return [EnvAddress("", _text(user), _text(host))]
    return _Parser().parse(_tokens(value))


class _Kind(Enum):
    WORD = "word"
    QUOTED = "quoted"
    COMMENT = "comment"
    LITERAL = "literal"
    SPECIAL = "special"


class _Token(NamedTuple):
    kind: _Kind
    text: bytes
    spaced: bool  # white space stands before it


_SPECIALS: Final = {
    (character, spaced): _Token(_Kind.SPECIAL, bytes([character]), spaced)
    for character in b",:;<>@)]\\"
    for spaced in (False, True)
}


def _tokens(value: bytes) -> list[_Token]:
    tokens: list[_Token] = []
    position = 0
    size = len(value)
    spaced = False
    while position < size and len(tokens) < MAX_TOKENS:
        character = value[position]
        if character <= 0x20:
            match = _WHITE_SPACE.match(value, position)
            position = match.end() if match else position + 1
            spaced = True
            continue
        if special := _SPECIALS.get((character, spaced)):
            tokens.append(special)
            position += 1
        elif character == 0x3D and (word := _LAX_ENCODED_WORD.match(value, position)):
            tokens.append(_Token(_Kind.WORD, word[0], spaced))
            position = word.end()
        elif character == 0x22:
            text, position = _delimited(value, position + 1, 0x22)
            tokens.append(_Token(_Kind.QUOTED, text, spaced))
        elif character == 0x28:
            text, position = _comment(value, position + 1)
            tokens.append(_Token(_Kind.COMMENT, text, spaced))
        elif character == 0x5B:
            end = value.find(b"]", position) + 1 or size
            tokens.append(_Token(_Kind.LITERAL, value[position:end], spaced))
            position = end
        else:
            atom = _ATOM.match(value, position)
            end = atom.end() if atom else position + 1
            tokens.append(_Token(_Kind.WORD, value[position:end], spaced))
            position = end
        spaced = False
    return tokens


def _delimited(value: bytes, position: int, closing: int) -> tuple[bytes, int]:
    """The text of a quoted-string whose content starts at `position`, and the offset after it."""
    pieces: list[bytes] = []
    while match := _QUOTE_MARKS.search(value, position):
        pieces.append(value[position : match.start()])
        if value[match.start()] == closing:
            return b"".join(pieces), match.end()
        pieces.append(value[match.end() : match.end() + 1])
        position = match.end() + 1
    pieces.append(value[position:])
    return b"".join(pieces), len(value)


def _comment(value: bytes, position: int) -> tuple[bytes, int]:
    """The text of a comment whose content starts at `position`, nested ones included, and the offset after it."""
    start = position
    depth = 1
    while match := _COMMENT_MARKS.search(value, position):
        position = match.end()
        mark = value[match.start()]
        if mark == 0x5C:
            position += 1
        elif mark == 0x28:
            depth += 1
        else:
            depth -= 1
            if not depth:
                return value[start : match.start()], position
    return value[start:], len(value)


class _Parser:
    """Walks the tokens once; what belongs to no address is passed over."""

    def __init__(self) -> None:
        self.addresses: list[EnvAddress] = []
        self.words: list[_Token] = []
        self.comment = b""
        self.in_group = False
        self.after_angle = False

    def parse(self, tokens: list[_Token]) -> list[EnvAddress]:
        position = 0
        while position < len(tokens) and len(self.addresses) < MAX_ADDRESSES:
            token = tokens[position]
            position += 1
            if token.kind is _Kind.COMMENT:
                self.comment = token.text
            elif token.kind is not _Kind.SPECIAL or token.text == b"@":
                self.words.append(token)
            elif token.text == b"<":
                position = self._angle(tokens, position)
            elif token.text == b",":
                self._finish()
            elif token.text == b";":
                self._finish()
                self._end_group()
            elif token.text == b":" and not self.in_group and not self.after_angle:
                group = one_line(_phrase(self.words).decode("utf-8", "replace"))
                self.addresses.append(EnvAddress("", group, None))
                self.in_group = True
                self._reset()
        self._finish()
        self._end_group()
        return self.addresses

    def _angle(self, tokens: list[_Token], position: int) -> int:
        """The address in angle brackets that begins at `position`; gives the position after it."""
        if self.after_angle:
            self._finish()  # a comma is missing
        inside: list[_Token] = []
        is_route = position < len(tokens) and tokens[position].text == b"@"
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if token.kind is _Kind.SPECIAL:
                if token.text == b">":
                    break
                if token.text == b"<" or (token.text == b"," and not is_route):
                    position -= 1  # the closing bracket is missing
                    break
            if token.kind is not _Kind.COMMENT:
                inside.append(token)
        adl = b""
        if is_route:
            colon = next((i for i, t in enumerate(inside) if t.kind is _Kind.SPECIAL and t.text == b":"), -1)
            if colon >= 0:
                adl = b"".join(t.text for t in inside[:colon])
                inside = inside[colon + 1 :]
        user, host = _addr_spec(inside)
        name = _phrase(self.words)
        self.addresses.append(EnvAddress(decode_header(name), user, host, _text(adl), name))
        self._reset()
        self.after_angle = True
        return position

    def _finish(self) -> None:
        """An address without angle brackets ends here, or the rest after one with them."""
        if self.words and not self.after_angle:
            user, host = _addr_spec(self.words)
            if host:
                # The old form of a name: user@host (Name).
                name = self.comment.replace(b"\\", b"")
                self.addresses.append(EnvAddress(decode_header(name), user, host, "", name))
            else:
                name = _phrase(self.words)
                self.addresses.append(EnvAddress(decode_header(name), "", "", "", name))
        self._reset()

    def _end_group(self) -> None:
        if self.in_group:
            self.addresses.append(EnvAddress("", None, None))
            self.in_group = False

    def _reset(self) -> None:
        self.words = []
        self.comment = b""
        self.after_angle = False


def _addr_spec(tokens: list[_Token]) -> tuple[str, str]:
    """Localpart without quotes, and domain, which a word alone ("root") lacks; both empty when it is no address."""
    at = next((i for i in range(len(tokens) - 1, -1, -1) if _is_at(tokens[i])), -1)
    if at < 0:
        return (_text(tokens[0].text), "") if len(tokens) == 1 else ("", "")
    if at == len(tokens) - 1:
        return "", ""
    user = b"".join(t.text for t in tokens[:at])
    host = b"".join(t.text for t in tokens[at + 1 :])
    return _text(user), _text(host)


def _is_at(token: _Token) -> bool:
    return token.kind is _Kind.SPECIAL and token.text == b"@"


def _phrase(tokens: list[_Token]) -> bytes:
    pieces: list[bytes] = []
    for token in tokens:
        if token.spaced and pieces:
            pieces.append(b" ")
        pieces.append(token.text)
    return b"".join(pieces)


def _text(raw: bytes) -> str:
    return one_line(raw.decode("ascii") if raw.isascii() else raw.decode("utf-8", "replace"))
