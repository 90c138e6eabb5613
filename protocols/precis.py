"""PRECIS OpaqueString (RFC 8265 section 4.2): the one form of a password that is hashed and compared."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final


class PrecisError(ValueError):
    """The string is empty or has a character that a password may not have; the text names it."""


def opaque_string(password: str) -> str:
    """The password with other spaces made U+0020 and in NFC, letter case kept. Raises PrecisError.

    RFC 8265 section 4.2.2. The characters are checked after normalization, so that decomposed Hangul (as some
    systems type it) is the same password as composed.
    """
    if password.isascii() and password.isprintable() and password:
        return password  # what nearly every password is
    spaces_mapped = "".join(" " if unicodedata.category(char) == "Zs" else char for char in password)
    normalized = unicodedata.normalize("NFC", spaces_mapped)
    if not normalized:
        raise PrecisError("the password is empty: choose one with at least one character")
    for position, char in enumerate(normalized):
        if not _is_freeform(normalized, position, char):
            raise PrecisError(
                f"U+{ord(char):04X} at position {position + 1} cannot be part of a password: use letters, digits, "
                "punctuation, symbols and spaces"
            )
    if _mixes_scripts(frozenset(normalized)):
        raise PrecisError("the password mixes two kinds of Arabic digits, or has a katakana dot without Japanese text")
    return normalized


def _is_freeform(text: str, position: int, char: str) -> bool:
    """Whether the character may stand here in the FreeformClass (RFC 8264 sections 4.3 and 8, in its order)."""
    if (rule := _CONTEXT_RULES.get(char)) is not None:
        return rule(text, position)
    if char in _EXCEPTIONS_DISALLOWED:
        return False
    point = ord(char)
    if any(point in jamo for jamo in _OLD_HANGUL_JAMO) or any(point in ignorable for ignorable in _DEFAULT_IGNORABLE):
        return False
    return unicodedata.category(char) in _FREEFORM_CATEGORIES


# Letters and digits, spaces, symbols, punctuation (RFC 8264 section 9).
# Missing: controls, formats, surrogates, private use, unassigned.
_FREEFORM_CATEGORIES: Final = frozenset(
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Zs Sm Sc Sk So Pc Pd Ps Pe Pi Pf Po".split()  # noqa: SIM905 # reads as the RFC's list does
)

# RFC 8264 section 9.6, with those of RFC 5892 section 2.6 that are refused.
_EXCEPTIONS_DISALLOWED: Final = frozenset("\u0640\u07fa\u302e\u302f\u3031\u3032\u3033\u3034\u3035\u303b")

# RFC 8264 section 9.9: Hangul_Syllable_Type L, V or T.
_OLD_HANGUL_JAMO: Final = (range(0x1100, 0x1200), range(0xA960, 0xA97D), range(0xD7B0, 0xD7FC))

# RFC 8264 section 9.13: Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.
# Noncharacters are category Cn already.
_DEFAULT_IGNORABLE: Final = (
    range(0x00AD, 0x00AE),
    range(0x034F, 0x0350),
    range(0x061C, 0x061D),
    range(0x115F, 0x1161),
    range(0x17B4, 0x17B6),
    range(0x180B, 0x1810),
    range(0x200B, 0x2010),
    range(0x202A, 0x202F),
    range(0x2060, 0x2070),
    range(0x3164, 0x3165),
    range(0xFE00, 0xFE10),
    range(0xFEFF, 0xFF00),
    range(0xFFA0, 0xFFA1),
    range(0xFFF0, 0xFFF9),
    range(0x1BCA0, 0x1BCA4),
    range(0x1D173, 0x1D17B),
    range(0xE0000, 0xE1000),
)


def _after_virama(text: str, position: int) -> bool:
    # RFC 5892 A.1 and A.2. The joining types that would also allow a non-joiner are in no table of Python's: refused.
    return position > 0 and unicodedata.combining(text[position - 1]) == 9


def _between_l(text: str, position: int) -> bool:
    return 0 < position < len(text) - 1 and text[position - 1] == text[position + 1] == "l"  # RFC 5892 A.3


def _before_greek(text: str, position: int) -> bool:
    return position + 1 < len(text) and unicodedata.name(text[position + 1], "").startswith("GREEK ")  # RFC 5892 A.4


def _after_hebrew(text: str, position: int) -> bool:
    return position > 0 and unicodedata.name(text[position - 1], "").startswith("HEBREW ")  # RFC 5892 A.5, A.6


def _mixes_scripts(characters: frozenset[str]) -> bool:
    """Whether a rule about all of the string is broken: RFC 5892 A.7 (katakana dot), A.8, A.9 (Arabic digits)."""
    if "\u30fb" in characters and not any(unicodedata.name(char, "").startswith(_JAPANESE) for char in characters):
        return True
    return not _ARABIC_INDIC_DIGITS.isdisjoint(characters) and not _EXTENDED_ARABIC_INDIC_DIGITS.isdisjoint(characters)


_JAPANESE: Final = ("HIRAGANA ", "KATAKANA LETTER", "CJK UNIFIED IDEOGRAPH")
_ARABIC_INDIC_DIGITS: Final = frozenset(map(chr, range(0x0660, 0x066A)))
_EXTENDED_ARABIC_INDIC_DIGITS: Final = frozenset(map(chr, range(0x06F0, 0x06FA)))

_CONTEXT_RULES: Final[dict[str, Callable[[str, int], bool]]] = {
    "\u200c": _after_virama,
    "\u200d": _after_virama,
    "\u00b7": _between_l,
    "\u0375": _before_greek,
    "\u05f3": _after_hebrew,
    "\u05f4": _after_hebrew,
}
