"""A password typed anywhere is the same password: PRECIS OpaqueString."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.precis import PrecisError, opaque_string


@pytest.mark.parametrize(
    ("typed", "prepared"),
    [
        ("correct horse battery staple", "correct horse battery staple"),
        ("Correct Horse Battery Staple", "Correct Horse Battery Staple"),
        ("πßå", "πßå"),
        ("Jack of ♦s", "Jack of ♦s"),
        ("foo\u1680bar", "foo bar"),
    ],
)
def test_rfc8265_section_4_3_accepts(typed: str, prepared: str) -> None:
    assert opaque_string(typed) == prepared


@pytest.mark.parametrize("typed", ["", "my cat is a \u0009by"])
def test_rfc8265_section_4_3_refuses(typed: str) -> None:
    with pytest.raises(PrecisError):
        opaque_string(typed)


def test_composed_and_decomposed_input_are_the_same_password() -> None:
    assert opaque_string("e\u0301te\u0301") == opaque_string("été")
    assert opaque_string("\u1112\u1161\u11ab") == opaque_string("\ud55c")


@pytest.mark.parametrize(
    "typed", ["l·l", "\u0375α", "א\u05f3", "カ・カ", "क\u094d\u200d", "\u0661\u0662", "\u06f1\u06f2"]
)
def test_characters_that_depend_on_context_are_accepted_in_it(typed: str) -> None:
    assert opaque_string(typed) == typed


@pytest.mark.parametrize(
    "typed",
    ["a·b", "·", "\u0375a", "\u05f3א", "a・b", "a\u200db", "\u200c", "\u0661\u06f1", "\u0640", "\u302e"],
)
def test_characters_that_depend_on_context_are_refused_outside_it(typed: str) -> None:
    with pytest.raises(PrecisError):
        opaque_string(typed)


@pytest.mark.parametrize("point", [0x00, 0x1F, 0x7F, 0xAD, 0x200B, 0xE000, 0xFEFF, 0xFFFF, 0xD800, 0x1100, 0xE0001])
def test_controls_and_invisible_characters_are_refused_by_name(point: int) -> None:
    with pytest.raises(PrecisError, match=f"U\\+{point:04X} at position 4"):
        opaque_string(f"abc{chr(point)}")


@given(st.text())
def test_only_the_declared_error_and_applying_it_twice_changes_nothing(typed: str) -> None:
    try:
        prepared = opaque_string(typed)
    except PrecisError:
        return
    assert opaque_string(prepared) == prepared


@pytest.mark.parametrize("unit", ["\u0661", "・カ", "l·", "é", "a\u0301"])
def test_time_grows_with_length_only(unit: str) -> None:
    def least(count: int) -> float:
        times = []
        for _ in range(5):
            start = time.process_time()
            opaque_string(unit * count + "l")
            times.append(time.process_time() - start)
        return min(times)

    assert least(16_000) < 20 * max(least(2_000), 1e-4)
