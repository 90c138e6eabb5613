"""Tag lists, the form of DKIM signatures and records (RFC 6376 section 3.2), and the encodings of their values."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from .errors import DkimError, ErrorKind

_FOLDING: Final = " \t\r\n"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ESCAPE: Final = re.compile(rb"=([0-9A-F]{2})")
_WHITE_SPACE: Final = re.compile(rb"[ \t\r\n]+")
_SAFE: Final = frozenset(range(0x21, 0x7F)) - {ord(";"), ord("=")}  # dkim-safe-char, RFC 6376 2.11


def parse_tags(text: str, kind: ErrorKind) -> dict[str, str]:
    """The tags of a list in their order, values without the white space around them.

    Values outside ASCII are let through: RFC 8616 has them in ``i=``. Raises DkimError of the given kind for a name
    that is none, a control character, or a tag given twice: then nothing of the list counts.
    """
    if _CONTROL.search(text):
        raise DkimError(kind, "control character in tag list")
    tags: dict[str, str] = {}
    *specs, last = text.split(";")
    if last.strip(_FOLDING):
        specs.append(last)
    for spec in specs:
        name, equals, value = spec.partition("=")
        name = name.strip(_FOLDING)
        if not equals or _NAME.fullmatch(name) is None:
            raise DkimError(kind, f"expected tag=value, found {spec.strip(_FOLDING)[:60]!r}")
        if name in tags:
            raise DkimError(kind, f"tag {name}= given twice")
        tags[name] = value.strip(_FOLDING)
    return tags


def blank_tag(field: bytes, name: bytes) -> bytes:
    """A field with the value of a tag deleted: what is hashed for a signature is the field with an empty ``b=``.

    All that is between the equals sign and the next semicolon goes (RFC 6376 section 3.5), nothing else changes.
    """
    head, colon, value = field.partition(b":")
    specs = value.split(b";")
    for index, spec in enumerate(specs):
        tag, equals, _ = spec.partition(b"=")
        if equals and tag.strip(b" \t\r\n") == name:
            specs[index] = tag + equals
            break
    return head + colon + b";".join(specs)


def split_list(value: str) -> tuple[str, ...]:
    """The items of a colon-separated value, without the white space around them."""
    return tuple(item.strip(_FOLDING) for item in value.split(":"))


def decode_base64(value: str, kind: ErrorKind, name: str) -> bytes:
    """The bytes of a base64 value, which may be folded anywhere. Raises DkimError."""
    try:
        return base64.b64decode("".join(value.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as exc:
        raise DkimError(kind, f"bad base64 in {name}=: {exc}") from exc


def encode_quoted_printable(text: str, *, utf8: bool = False) -> str:
    """dkim-quoted-printable (RFC 6376 section 2.11); with ``utf8`` what is not ASCII stays (RFC 8616 section 4)."""
    if utf8:
        return "".join(c if ord(c) in _SAFE or c >= "\x80" else f"={ord(c):02X}" for c in text)
    return "".join(chr(byte) if byte in _SAFE else f"={byte:02X}" for byte in text.encode())


def decode_quoted_printable(value: str) -> str:
    """The text of dkim-quoted-printable, white space left out; what is no escape stays as it is."""
    data = _WHITE_SPACE.sub(b"", value.encode())
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), data).decode("utf-8", "replace")
