"""Bytes to text by the charset that mail names, never with an error; and the cleaning that stored text needs."""

from __future__ import annotations

import codecs
import hashlib
import re
from functools import lru_cache
from typing import Final

INDEX_TEXT_MAX: Final = 512  # characters; PostgreSQL refuses index entries of about 2.7 kB
INDEX_TEXT_KEPT: Final = 440  # characters before ":" and the 64 hex digits of the sha256
CHARSET_NAME_MAX: Final = 60  # characters; longer names are garbage

# What mail means by a label, after the WHATWG Encoding Standard: the superset that senders really use.
_ALIASES: Final = {
    "": "utf-8",
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "ansi_x3.4-1968": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "iso_8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "l1": "cp1252",
    "x-cp1252": "cp1252",
    "iso-8859-9": "cp1254",
    "latin5": "cp1254",
    "iso-8859-11": "cp874",
    "tis-620": "cp874",
    "gb2312": "gb18030",
    "gb_2312-80": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "cp936": "gb18030",
    "ks_c_5601-1987": "cp949",
    "ks_c_5601-1989": "cp949",
    "ks_c_5601": "cp949",
    "ksc5601": "cp949",
    "ksc_5601": "cp949",
    "euc-kr": "cp949",
    "windows-949": "cp949",
    "big5": "cp950",
    "x-x-big5": "cp950",
    "big5-hkscs": "big5hkscs",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "ms_kanji": "cp932",
    "windows-31j": "cp932",
    "iso-2022-jp": "iso2022_jp_ext",
    "iso-8859-8-i": "iso8859_8",
    "iso-8859-8-e": "iso8859_8",
    "unicode-1-1-utf-7": "utf-7",
    "unicode-1-1-utf-8": "utf-8",
    "utf8": "utf-8",
    "macintosh": "mac_roman",
    "x-mac-roman": "mac_roman",
    "x-mac-cyrillic": "mac_cyrillic",
    "koi8-ru": "koi8_u",
    "unknown-8bit": "",
    "x-unknown": "",
    "unknown": "",
    "default": "",
    "binary": "",
    "8bit": "",
}
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def decode_bytes(data: bytes, charset: str) -> str:
    """The text of `data`; what the charset cannot say is U+FFFD. An unknown charset: UTF-8 if it is, else Latin-1."""
    if data.isascii() and not _needs_codec(charset):
        return data.decode("ascii")
    codec = _codec(charset)
    if codec == "utf-8" or not codec or codec == "cp1252":
        try:
            # Mail that says ASCII or Latin-1 and holds valid UTF-8 is UTF-8.
            return data.decode("utf-8")
        except UnicodeDecodeError:
            if codec == "utf-8":
                return data.decode("utf-8", "replace")
            return data.decode("cp1252", "replace")
    try:
        text = codecs.decode(data, codec, "replace")
    except (UnicodeError, ValueError, AssertionError):
        text = data.decode("latin-1")
    return _SURROGATES.sub("\ufffd", text)


def clean_text(text: str) -> str:
    """The text without U+0000 and with U+FFFD for lone surrogates: what every database column takes."""
    if text.isascii():
        return text.replace("\0", "") if "\0" in text else text
    return _SURROGATES.sub("\ufffd", text.replace("\0", ""))


def index_text(text: str) -> str:
    """The text for an indexed column: above 512 characters its first 440, ":" and the sha256 of all of it in hex."""
    if len(text) > INDEX_TEXT_MAX or not text.isascii() or "\0" in text:
        text = clean_text(text)
    if len(text) <= INDEX_TEXT_MAX:
        return text
    return f"{text[:INDEX_TEXT_KEPT]}:{hashlib.sha256(text.encode()).hexdigest()}"


@lru_cache(maxsize=512)
def _needs_codec(charset: str) -> bool:
    """Whether bytes below 0x80 may mean something else than ASCII in it."""
    name = _codec(charset)
    return name.startswith(("utf-16", "utf-32", "utf-7", "iso2022", "hz", "utf_16", "utf_32", "utf_7"))


@lru_cache(maxsize=512)
def _codec(charset: str) -> str:
    """The name of Python's codec, "" when there is none for text."""
    name = charset.strip().strip("\"'").lower().partition("*")[0]  # a language may follow, RFC 2231 section 5
    if len(name) > CHARSET_NAME_MAX or not name.isascii() or "\0" in name:
        return ""
    name = _ALIASES.get(name, name)
    if not name:
        return ""
    for candidate in (name, name.removeprefix("x-"), name.replace("windows-", "cp"), name.replace("_", "-")):
        try:
            info = codecs.lookup(candidate)
        except (LookupError, ValueError):
            continue
        # Python also has codecs that are no charsets: zip, rot13, punycode, idna, unicode_escape.
        if getattr(info, "_is_text_encoding", False) and info.name not in _NOT_CHARSETS:
            return _ALIASES.get(info.name, info.name)
    return ""


_NOT_CHARSETS: Final = frozenset(
    {"idna", "punycode", "unicode-escape", "unicode_escape", "raw-unicode-escape", "raw_unicode_escape", "undefined"}
    | {"mbcs", "oem", "palmos", "charmap"}
)
