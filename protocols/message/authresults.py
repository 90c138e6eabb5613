"""The Authentication-Results header (RFC 8601): writing our own, reading anybody's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocols.errors import ProtocolError
from protocols.names import Domain

from .headerwriter import HeaderWriter, comment, quoted
from .valuereader import ValueReader

MAX_VALUE: Final = 64 * 1024  # characters of a header value that is read; real ones have less than 4 kB

_VALUE: Final = re.compile(r"[^\x00-\x20()<>@,;:\\\"/\[\]?=\x7f]+")  # a token of RFC 2045 5.1, or UTF-8 in its place
_ADDRESS: Final = re.compile(r'(?:"(?:[^"\\]|\\.)*+"@)?[^\s();"\\]+')
_KEYWORD: Final = re.compile(r"[A-Za-z0-9_-]+")


class BadAuthResults(ProtocolError, ValueError):
    """A value is not that of an Authentication-Results header."""


@dataclass(frozen=True, slots=True)
class AuthProp:
    """What a result was found for, as in `header.d=example.org`; `type` is "" where others leave it out."""

    type: str
    property: str
    value: str
    is_addr: bool = False
    """Whether the value is written as the address that it is, not quoted."""
    comment: str = ""

    @classmethod
    def of_domain(cls, type: str, property: str, domain: Domain, *, smtputf8: bool) -> AuthProp:
        """A domain: in U-labels with its A-labels as the comment, or in A-labels."""
        is_international = smtputf8 and bool(domain.unicode)
        return cls(type, property, domain.xname(smtputf8), comment=domain.ascii if is_international else "")


@dataclass(frozen=True, slots=True)
class AuthMethod:
    """The result of one method, such as "pass" of "dkim"."""

    method: str
    result: str
    version: str = ""
    comment: str = ""
    reason: str = ""
    props: Sequence[AuthProp] = ()


@dataclass(frozen=True, slots=True)
class AuthResults:
    """Results and who found them: `hostname` is the authserv-id. No methods: nothing was checked."""

    hostname: str
    comment: str = ""
    methods: Sequence[AuthMethod] = ()

    def compose(self) -> bytes:
        """The header field, a line for each method. Raises BadHeaderText for a line end in a value."""
        writer = HeaderWriter("Authentication-Results:")
        start = [_value(self.hostname), comment(self.comment)] if self.comment else [_value(self.hostname)]
        start[-1] += ";"
        writer.add(" ", *start)
        if not self.methods:
            writer.add(" ", "none")
        for number, method in enumerate(self.methods, start=1):
            texts = _method_texts(method)
            if number < len(self.methods):
                texts[-1] += ";"
            writer.newline()
            writer.add("", texts[0])
            writer.add(" ", *texts[1:])
        return writer.bytes()


def parse_auth_results(text: str) -> AuthResults:
    """The results of an unfolded header value. Raises BadAuthResults.

    Takes what occurs: a semicolon at the end, comments anywhere, properties without a type (`action=none`).
    """
    if len(text) > MAX_VALUE:
        raise BadAuthResults(f"longer than {MAX_VALUE} characters")
    reader = ValueReader(text, BadAuthResults)
    said = reader.comments()
    hostname = reader.value("authserv-id")
    said += reader.comments()
    version = reader.match(_KEYWORD)  # of the header's syntax; there is one
    if version and not version.isdecimal():
        raise BadAuthResults(f"expected a version, not {version[:64]!r}")
    said += reader.comments()
    methods: list[AuthMethod] = []
    while not reader.at_end:
        reader.expect(";")
        before = reader.comments()
        if not reader.at_end and (method := _read_method(reader, before)):
            methods.append(method)
    return AuthResults(hostname, " ".join(said), tuple(methods))


def _method_texts(method: AuthMethod) -> list[str]:
    """The pieces between which a line may be folded."""
    version = f"/{method.version}" if method.version else ""
    texts = [f"{_value(method.method)}{version}={_value(method.result)}"]
    if method.comment:
        texts += comment(method.comment).split(" ")
    if method.reason:
        texts.append(f"reason={quoted(method.reason)}")
    for prop in method.props:
        value = prop.value if prop.is_addr and _ADDRESS.fullmatch(prop.value) else _value(prop.value)
        texts.append(f"{prop.type}.{prop.property}={value}" if prop.type else f"{prop.property}={value}")
        if prop.comment:
            texts += comment(prop.comment).split(" ")
    return texts


def _value(text: str) -> str:
    return text if _VALUE.fullmatch(text) else quoted(text)


def _read_method(reader: ValueReader, said: list[str]) -> AuthMethod | None:
    """One method with its result; None for `none`, which says that there are no results."""
    name = reader.require(_KEYWORD, "method")
    said = said + reader.comments()
    if name.lower() == "none" and reader.at_end_of_item:
        return None
    version = ""
    if reader.take("/"):
        reader.comments()
        version = reader.require(_KEYWORD, "method version")
        reader.comments()
    reader.expect("=")
    said += reader.comments()
    result = reader.require(_KEYWORD, "result").lower()
    said += reader.comments()
    reason = ""
    props: list[AuthProp] = []
    while not reader.at_end_of_item:
        type_ = reader.require(_KEYWORD, "property")
        prop = ""
        reader.comments()
        if reader.take("."):
            reader.comments()
            prop = reader.require(_KEYWORD, "property")
            reader.comments()
        reader.expect("=")
        reader.comments()
        if type_.lower() == "reason" and not prop:
            reason = reader.value("reason")
            said += reader.comments()
            continue
        value, is_addr = reader.property_value()
        after = " ".join(reader.comments())
        props.append(AuthProp(type_ if prop else "", prop or type_, value, is_addr, after))
    return AuthMethod(name.lower(), result, version, " ".join(said), reason, tuple(props))
