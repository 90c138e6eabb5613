"""What the webapi makes of bodies and JSON: the rules that clients of the published API rely on."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from rest_framework.exceptions import ParseError, ValidationError

from webapi import openapi
from webapi.fields import BadJSON, load
from webapi.parsers import Body, FormBody, MultipartBody
from webapi.serializers import FlagsRequest, PartRequest, SendRequest

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
ABSENT = dict.fromkeys(SendRequest().fields)


def send(**values: Any) -> dict[str, Any]:
    return dict(SendRequest().run_validation(values))


def test_it_takes_every_field_as_null() -> None:
    given = send(**ABSENT)
    assert given == send()
    assert (given["To"], given["Extra"], given["RequireTLS"], given["Date"], given["SaveSent"]) == (
        [],
        {},
        None,
        None,
        False,
    )


def test_it_takes_names_in_any_case() -> None:
    given = send(to=[{"address": "a@b.example", "NAME": None}], REQUIRETLS=False)
    assert given["To"] == [{"Name": "", "Address": "a@b.example"}]
    assert given["RequireTLS"] is False


@pytest.mark.parametrize(
    "wrong",
    [
        {"Foo": 1},
        {"Subject": 1},
        {"To": {}},
        {"To": ["a@b.example"]},
        {"SaveSent": "true"},
        {"SaveSent": 1},
        {"Headers": [["a"]]},
        {"Headers": [["a", "b", "c"]]},
        {"Extra": {"a": 1}},
        {"Extra": []},
        {"Date": "yesterday"},
        {"Date": "2026-01-05 09:00:00Z"},
        {"Date": "2026-01-05T09:00:00"},
        {"Date": "0000-01-05T09:00:00Z"},
        {"Date": 12},
        {"AttachedFiles": [{"Content": ""}]},
    ],
)
def test_it_refuses_what_is_not_of_the_type(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        send(**wrong)


@pytest.mark.parametrize("wrong", ["1", 1.5, True, [], {}, 1e3])
def test_it_takes_whole_numbers_only(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        PartRequest().run_validation({"MsgID": wrong})


def test_it_refuses_what_is_no_object() -> None:
    values: list[Any] = [[], "x", 1, True]
    for value in values:
        with pytest.raises(ValidationError):
            SendRequest().run_validation(value)


def test_it_reads_times_with_offset_and_fraction() -> None:
    given = send(Date="2026-01-05T09:00:00.123456789+01:00")
    assert given["Date"].astimezone(UTC) == datetime(2026, 1, 5, 8, 0, 0, 123456, tzinfo=UTC)


def test_it_reads_the_first_value_and_the_last_of_two_names() -> None:
    assert load(' {"a": 1, "a": 2} {"b"') == {"a": 2}
    assert FlagsRequest().run_validation(load('{"Flags": [null, "\\ud800x"]}'))["Flags"] == ["", "\ufffdx"]


@pytest.mark.parametrize(
    "text",
    ["", "x", "{", "[" * 100_000, "[" * 101 + "]" * 101, "9" * 5000, str(1 << 63), "NaN", '{"a":Infinity}', '"\n"'],
)
def test_it_refuses_json_that_is_none_or_too_much(text: str) -> None:
    with pytest.raises(BadJSON):
        load(text)


def test_it_takes_a_hundred_levels_and_64_bits() -> None:
    assert load("[" * 100 + "]" * 100)
    assert load(str((1 << 63) - 1)) == (1 << 63) - 1


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (b"request=%7B%7D", "{}"),
        (b"a=b&request=x+y%2Bz&request=second", "x y+z"),
        (b"%72equest=a", "a"),
        (b"request", ""),
        (b"", ""),
        (b"other=1", ""),
        (b"request=%zz%", "%zz%"),
        (b"request=\xff", "\ufffd"),
        (b"request=" + b"%2B" * 300_000, "+" * 300_000),
    ],
)
def test_it_reads_the_field_of_a_form(form: bytes, expected: str) -> None:
    assert FormBody().parse(io.BytesIO(form)).request == expected


def multipart(*parts: tuple[str, bytes], end: bytes = b"--\r\n") -> Body:
    body = b"".join(b"--b\r\n%s\r\n\r\n%s\r\n" % (header.encode(), content) for header, content in parts)
    parsed: Body = MultipartBody().parse(io.BytesIO(body + b"--b" + end), "multipart/form-data; boundary=b")
    return parsed


REQUEST = ('Content-Disposition: form-data; name="request"', b'{"To":null}')


def test_it_keeps_the_header_of_a_file() -> None:
    settings.MOX.temporary_dir.mkdir(parents=True, exist_ok=True)  # as a server that starts
    header = (
        'Content-Disposition: form-data; name="inlinefile"; filename="C:\\\\dir\\\\lögo.png"\r\n'
        "content-id: <logo>\r\nContent-Type: image/png"
    )
    body = multipart(("Content-Disposition: form-data; name=x", b"ignored"), REQUEST, (header, b"\r\n--x" * 100_000))
    with_file = body.uploads[0]
    assert body.request == '{"To":null}'
    assert (with_file.field, with_file.name, with_file.content_type, with_file.content_id) == (
        "inlinefile",
        "lögo.png",
        "image/png",
        "<logo>",
    )
    assert with_file.file.read() == b"\r\n--x" * 100_000
    body.close()
    assert with_file.file.closed


@pytest.mark.parametrize(
    "parts",
    [
        [("Content-Disposition: form-data; name=x\r\nX-Long: " + "y" * 20_000, b"")],
        [("Content-Disposition: form-data; name=x", b"")] * 1001,
        [("no field", b"")],
    ],
)
def test_it_refuses_forms_that_are_none_or_too_much(parts: list[tuple[str, bytes]]) -> None:
    with pytest.raises(ParseError):
        multipart(*parts)


def test_it_refuses_a_form_without_boundary_or_end() -> None:
    with pytest.raises(ParseError):
        MultipartBody().parse(io.BytesIO(b"--b--\r\n"), "multipart/form-data")
    with pytest.raises(ParseError):
        multipart(REQUEST, end=b"")


def test_the_openapi_document_is_the_one_in_the_documentation() -> None:
    """Clients are made of it: no field changes unnoticed. ``make openapi`` writes it anew."""
    assert openapi.text(openapi.document()) == DOCUMENT.read_text()
