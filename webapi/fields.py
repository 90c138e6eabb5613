"""Fields of requests by the rules of the contract: strict types, names in any case, null the same as absent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from rest_framework import serializers
from rest_framework.serializers import ValidationError

MAX_DEPTH: Final = 100  # of nested lists and objects
MAX_INTEGER: Final = 1 << 63

_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_KINDS: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number with a fraction",
    list: "a list",
    dict: "an object",
}


class BadJSON(ValueError):
    """The text does not begin with a JSON value that is taken here; the message says why."""


def load(text: str) -> Any:
    """The first JSON value of a text; what follows it does not count. Raises BadJSON."""
    try:
        value, _ = _DECODER.raw_decode(text.lstrip(" \t\r\n"))
    except RecursionError:
        raise BadJSON(f"nested deeper than {MAX_DEPTH}") from None
    except ValueError as exc:  # JSONDecodeError, and what the hooks below raise
        raise BadJSON(str(exc)) from exc
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise BadJSON(f"nested deeper than {MAX_DEPTH}")
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) < 20 else MAX_INTEGER
    if not -MAX_INTEGER <= value < MAX_INTEGER:
        raise ValueError(f"number {text[:30]} is larger than 64 bits")
    return value


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=_integer, parse_constant=_no_constant)


def _depth(value: Any) -> int:
    deepest = 0
    level = [value]
    while level := [item for item in level if isinstance(item, list | dict)]:
        deepest += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _wrong(expected: str, value: Any) -> ValidationError:
    return ValidationError(f"expected {expected}, got {_KINDS.get(type(value), 'null')}")


class Object(serializers.Serializer[Any]):
    """An object whose names are matched exactly, else ignoring case; what it does not know is refused."""

    def run_validation(self, data: Any = None) -> Any:
        """None is an object without members. Raises ValidationError."""
        return super().run_validation({} if data is None or data is serializers.empty else data)

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, dict):
            raise _wrong("an object", data)
        known = self.fields
        given: dict[str, Any] = {}
        for name, value in data.items():
            field = name if name in known else self._by_lower.get(name.lower())
            if field is None:
                raise ValidationError(f'unknown field "{name[:100]}"')
            if value is None:
                given.pop(field, None)
            else:
                given[field] = value
        return super().to_internal_value(given)

    @property
    def _by_lower(self) -> dict[str, str]:
        return {str(name).lower(): str(name) for name in self.fields}


class Text(serializers.CharField):
    """A string of any characters; "" when absent."""

    def __init__(self, **options: Any) -> None:
        options = {
            "required": False,
            "default": "",
            "allow_blank": True,
            "allow_null": True,
            "trim_whitespace": False,
            **options,
        }
        super().__init__(**options)
        self.validators = []  # DRF's refuse NUL and surrogates, which are looked at where they matter

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return super().run_validation("" if data is None else data)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            raise _wrong("a string", data)
        return data if data.isascii() else _SURROGATES.sub("\ufffd", data)


class Integer(serializers.IntegerField):
    """A whole number of 64 bits; 0 when absent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "default": 0, "allow_null": True, **options})

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return super().run_validation(0 if data is None else data)

    def to_internal_value(self, data: Any) -> int:
        if type(data) is not int:
            raise _wrong("a whole number", data)
        return data


class Flag(serializers.BooleanField):
    """true or false; false when absent, or as the default says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "default": False, "allow_null": True, **options})

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            raise _wrong("a boolean", data)
        return data


class Moment(serializers.DateTimeField):
    """A time in RFC 3339, aware; None when absent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"required": False, "default": None, "allow_null": True, **options})

    def to_internal_value(self, data: Any) -> datetime:
        if not isinstance(data, str):
            raise _wrong("a time as a string", data)
        match = _MOMENT.fullmatch(data)
        try:
            if match is None:
                raise ValueError("no match")
            moment = datetime.fromisoformat(f"{match[1]}.{(match[2] or '0')[:6]:0<6}{match[3].replace('Z', '+00:00')}")
            moment.astimezone(UTC)  # within the years that there are
        except (ValueError, OverflowError):
            raise ValidationError(f'"{data[:60]}" is no time as RFC 3339 has it, 2026-01-31T09:00:00Z') from None
        return moment


class ListOf(serializers.ListField):
    """A list; empty when absent."""

    def __init__(self, child: serializers.Field[Any, Any, Any, Any], **options: Any) -> None:
        super().__init__(child=child, **{"required": False, "default": list, "allow_null": True, **options})

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return super().run_validation([] if data is None else data)

    def to_internal_value(self, data: Any) -> list[Any]:
        if not isinstance(data, list):
            raise _wrong("a list", data)
        return list(super().to_internal_value(data))


class PairOfTexts(ListOf):
    """A list of two strings."""

    def __init__(self, **options: Any) -> None:
        super().__init__(Text(), min_length=2, max_length=2, **options)

    def to_internal_value(self, data: Any) -> list[Any]:
        if isinstance(data, list) and len(data) != 2:
            raise ValidationError(f"expected a list of two strings, got {len(data)}")
        return super().to_internal_value(data)


class TextByName(serializers.DictField):
    """An object with a string for each name; empty when absent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(child=Text(), **{"required": False, "default": dict, "allow_null": True, **options})

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return super().run_validation({} if data is None else data)

    def to_internal_value(self, data: Any) -> dict[str, str]:
        if not isinstance(data, dict):
            raise _wrong("an object", data)
        found: dict[str, str] = super().to_internal_value(data)
        return {_SURROGATES.sub("\ufffd", name): value for name, value in found.items()}
