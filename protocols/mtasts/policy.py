"""Policies (RFC 8461 section 3.2): which hosts take a domain's mail, and whether that is to be insisted on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from protocols.names import BadDomain, Domain, parse_domain_lax

from .errors import ErrorKind, StsError

VERSION: Final = "STSv1"
MAX_POLICY: Final = 64 * 1024  # bytes, RFC 8461 section 3.3
MAX_AGE: Final = 31_557_600  # seconds; RFC 8461 section 3.2: more is taken for this

_LINE_END: Final = re.compile(r"\r?\n")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_AGE: Final = re.compile(r"[0-9]{1,10}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


class Mode(StrEnum):
    ENFORCE = "enforce"
    TESTING = "testing"
    """Failures are reported, mail is delivered all the same."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class MxPattern:
    """A host, or with ``wildcard`` every host with one label more."""

    domain: Domain
    wildcard: bool = False

    def matches(self, host: Domain) -> bool:
        name = host.ascii.partition(".")[2] if self.wildcard else host.ascii
        return name == self.domain.ascii

    def __str__(self) -> str:
        return f"*.{self.domain.ascii}" if self.wildcard else self.domain.ascii


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. ``max_age`` in seconds."""

    mode: Mode
    mx: tuple[MxPattern, ...]
    max_age: int
    extensions: tuple[tuple[str, str], ...] = ()
    version: str = VERSION

    def matches(self, host: Domain) -> bool:
        """Whether mail may go to this host."""
        return any(pattern.matches(host) for pattern in self.mx)

    def text(self) -> str:
        """The policy as it is served."""
        lines = [("version", self.version), ("mode", self.mode), ("max_age", str(self.max_age))]
        lines += [("mx", str(pattern)) for pattern in self.mx]
        return "".join(f"{name}: {value}\r\n" for name, value in (*lines, *self.extensions))


def parse_policy(text: str) -> Policy:
    """The policy in the text that a domain serves; of fields other than mx the first counts.

    Raises StsError (policy-syntax).
    """
    if len(text) > MAX_POLICY:
        raise _bad(f"longer than {MAX_POLICY} bytes")
    fields: dict[str, str] = {}
    mx: list[MxPattern] = []
    for line in _LINE_END.split(text):
        if not line.strip(" \t"):
            continue
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not _NAME.fullmatch(name) or not value or _CONTROL.search(value):
            raise _bad(f"expected name: value, found {line[:60]!a}")
        if name == "mx":
            mx.append(_pattern(value))
        else:
            fields.setdefault(name, value)
    for name in ("version", "mode", "max_age"):
        if name not in fields:
            raise _bad(f"{name} is missing")
    version, mode, max_age = fields.pop("version"), fields.pop("mode"), fields.pop("max_age")
    if version != VERSION:
        raise _bad(f"unknown version {version[:20]!a}")
    if mode not in list(Mode):
        raise _bad(f"unknown mode {mode[:20]!a}")
    if not _AGE.fullmatch(max_age):
        raise _bad(f"bad max_age {max_age[:20]!a}")
    if not mx and mode != Mode.NONE:
        raise _bad("mx is missing")
    return Policy(Mode(mode), tuple(mx), min(int(max_age), MAX_AGE), tuple(fields.items()))


def _pattern(value: str) -> MxPattern:
    wildcard = value.startswith("*.")
    try:
        return MxPattern(parse_domain_lax(value.removeprefix("*.")), wildcard)
    except BadDomain as exc:
        raise _bad(f"bad mx {value[:100]!a}") from exc


def _bad(text: str) -> StsError:
    return StsError(ErrorKind.POLICY_SYNTAX, f"policy: {text}")
