"""Reading SMTP command lines: verbs, hello names, paths, parameters (RFC 5321 4.1, 6531, 1870, 3461, 4865, 4954, 8689).

command = parse_command(b"MAIL FROM:<jan@example.org> SIZE=1000\\r\\n")
mail = parse_mail(command.argument)
mail.reverse_path.localpart

Lines are bounded by the caller. All that a client can get wrong is a SyntaxProblem; its kind says what reply fits.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from .errors import ProtocolError
from .names import (
    BadAddress,
    BadDomain,
    Domain,
    IPDomain,
    address_literal,
    format_localpart,
    parse_domain,
    parse_domain_lax,
    parse_localpart,
)
from .sasl.encoding import decode_response

MAX_PATH: Final = 256  # octets with the brackets, RFC 5321 4.5.3.1.3
MAX_SIZE_DIGITS: Final = 20  # RFC 1870 section 3
MAX_HOLD_DIGITS: Final = 9  # RFC 4865 section 4
POSTMASTER: Final = "postmaster"
NO_DOMAIN: Final = IPDomain()

_PATH: Final = re.compile(r'<((?:[^"<>]|"(?:[^"\\]|\\.)*+")*+)>')  # possessive: one way to match, so linear
_KEYWORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*+")
_VALUE: Final = re.compile(r"[^\x00-\x20=\x7f]++")  # RFC 5321 4.1.2 esmtp-value, and RFC 6531 3.3 beyond ASCII
_XTEXT: Final = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*+")
_HEXCHAR: Final = re.compile(r"\+([0-9A-F]{2})")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_MECHANISM: Final = re.compile(r"[A-Za-z0-9_-]{1,20}")  # RFC 4422 section 3.1
_UTC_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?Z", re.ASCII | re.IGNORECASE)


class Kind(enum.Enum):
    """What is wrong with a command line."""

    SYNTAX = "syntax"
    ARGUMENT = "argument"  # a parameter given twice, say
    UNKNOWN_PARAMETER = "unknown parameter"
    PARAMETER_VALUE = "parameter value"  # a value that is not implemented
    NEEDS_SMTPUTF8 = "needs smtputf8"


class SyntaxProblem(ProtocolError, ValueError):
    """A command line cannot be used; the text says why. ``rest``: what could not be read, "" where that is secret."""

    def __init__(self, text: str, kind: Kind = Kind.SYNTAX, rest: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.rest = rest


class Body(enum.Enum):
    """What the client says about the content (RFC 6152)."""

    UNSAID = ""
    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"


@dataclass(frozen=True, slots=True)
class Command:
    """A command line. ``verb`` in upper case; ``argument``: what follows the first space, with the space before it."""

    verb: str
    argument: str
    bare_lf: bool = False


@dataclass(frozen=True, slots=True)
class Path:
    """A mailbox in angle brackets. The null path has neither; ``<postmaster>`` has a localpart and no domain."""

    localpart: str = ""
    domain: IPDomain = NO_DOMAIN

    @property
    def is_null(self) -> bool:
        return not self.localpart and self.domain == NO_DOMAIN

    def text(self, *, smtputf8: bool = False) -> str:
        """As it is written between the brackets; U-labels with ``smtputf8``."""
        if self.is_null:
            return ""
        localpart = format_localpart(self.localpart)
        if self.domain.ip is not None:
            return f"{localpart}@{address_literal(self.domain.ip)}"
        if self.domain.domain is not None:
            return f"{localpart}@{self.domain.domain.xname(smtputf8)}"
        return localpart

    def __str__(self) -> str:
        return self.text(smtputf8=True)


@dataclass(frozen=True, slots=True)
class Hold:
    """When a client wants its message to be sent (RFC 4865): after so long, or at a time; one of them is set."""

    request: str  # as DSNs give it: "for;60", "until;2031-03-01T00:00:00Z"
    duration: timedelta | None = None
    until: datetime | None = None

    def release(self, now: datetime) -> datetime:
        """The time of the first attempt, for a message that is submitted now."""
        if self.duration is not None:
            return now + self.duration
        assert self.until is not None
        return self.until


@dataclass(frozen=True, slots=True)
class Mail:
    """The arguments of MAIL. ``size`` in bytes, None when it was not declared."""

    reverse_path: Path
    size: int | None = None
    body: Body = Body.UNSAID
    smtputf8: bool = False
    require_tls: bool = False
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class Auth:
    """The arguments of AUTH: mechanism in upper case, decoded initial response, None where there is none."""

    mechanism: str
    initial: bytes | None = field(repr=False)


def parse_command(line: bytes) -> Command:
    """Verb and argument of a line with its line end. Raises SyntaxProblem for control characters in it."""
    bare_lf = not line.endswith(b"\r\n")
    line = line[:-1] if bare_lf else line[:-2]
    if _CONTROL.search(line):
        raise SyntaxProblem("control character in command")
    verb, space, argument = line.decode("utf-8", "surrogateescape").partition(" ")
    return Command(verb.upper(), space + argument, bare_lf)


def parse_hello(argument: str, *, literal: bool, strict: bool = False, untagged_ipv6: bool = False) -> IPDomain:
    """The name after EHLO (``literal``: an address literal will do as well) or HELO. Raises SyntaxProblem.

    Names are ASCII: the client cannot know yet whether we do SMTPUTF8 (RFC 6531 3.7.1). Text after a literal is
    tolerated, and an underscore in a name unless ``strict``; an IPv6 literal without its tag with ``untagged_ipv6``.
    """
    name = _one_space(argument).rstrip(" \t")
    if literal and name.startswith("["):
        end = name.find("]") + 1
        if end and (end == len(name) or name[end] == " "):
            return IPDomain(ip=_literal(name[:end], untagged_ipv6=untagged_ipv6))
        raise SyntaxProblem("bad address literal", rest=name)
    if not name.isascii():
        raise SyntaxProblem("hello name must be ASCII", rest=name)
    try:
        return IPDomain(domain=(parse_domain if strict else parse_domain_lax)(name))
    except BadDomain as exc:
        raise SyntaxProblem(f"bad hello name: {exc}", rest=name) from exc


def parse_auth(argument: str, *, strict: bool = False) -> Auth:
    """The arguments of AUTH (RFC 4954 section 4). ``strict``: one space before the initial response. SyntaxProblem."""
    mechanism, space, text = _one_space(argument).partition(" ")
    if _MECHANISM.fullmatch(mechanism) is None:
        raise SyntaxProblem("bad name of a mechanism")
    if not strict:
        text = text.strip(" ")
    if not space or (not text and not strict):
        return Auth(mechanism.upper(), None)
    initial = b"" if text == "=" else decode_response(text.encode("utf-8", "surrogateescape"))
    if initial is None or not text:
        raise SyntaxProblem("initial response is not base64")
    return Auth(mechanism.upper(), initial)


def parse_mail(argument: str, *, strict: bool = False, future_release: bool = False) -> Mail:
    """The arguments of MAIL (RFC 5321 4.1.1.2). ``strict``: nothing that the RFCs don't allow. Raises SyntaxProblem.

    ``future_release``: HOLDFOR and HOLDUNTIL are known. Which parameters are acceptable here and now (SIZE, REQUIRETLS,
    how far ahead a message is held) is the caller's to decide.
    """
    raw, rest = _raw_path(argument, "FROM:", strict)
    size: int | None = None
    body = Body.UNSAID
    hold: Hold | None = None
    smtputf8 = require_tls = False
    seen: set[str] = set()
    for keyword, value in _parameters(rest):
        if keyword in seen:
            raise SyntaxProblem(f"parameter {keyword} given twice", Kind.ARGUMENT)
        seen.add(keyword)
        if keyword == "SIZE":
            size = _size(value)
        elif keyword == "BODY":
            body = _body(value)
        elif keyword == "AUTH":
            # A claim of the client's that we have no reason to trust (RFC 4954 section 5): only looked at.
            if value != "<>":
                decode_xtext(value or "")
        elif keyword == "SMTPUTF8" and value is None:
            smtputf8 = True
        elif keyword == "REQUIRETLS" and value is None:
            require_tls = True
        elif keyword in ("SMTPUTF8", "REQUIRETLS"):
            raise SyntaxProblem(f"parameter {keyword} takes no value", rest=value or "")
        elif keyword in ("HOLDFOR", "HOLDUNTIL") and future_release:
            if hold is not None:
                raise SyntaxProblem("HOLDFOR and HOLDUNTIL exclude each other", Kind.ARGUMENT)
            hold = _hold_for(value) if keyword == "HOLDFOR" else _hold_until(value)
        else:
            raise SyntaxProblem(f"parameter {_shown(keyword)} is not implemented", Kind.UNKNOWN_PARAMETER)
    path = Path() if raw == "" else parse_mailbox(raw, smtputf8=smtputf8, strict=strict)
    return Mail(path, size, body, smtputf8, require_tls, hold)


def parse_rcpt(argument: str, *, smtputf8: bool, strict: bool = False) -> Path:
    """The forward path of RCPT (RFC 5321 4.1.1.3), ``<postmaster>`` among them. Raises SyntaxProblem."""
    raw, rest = _raw_path(argument, "TO:", strict)
    if raw.lower() == POSTMASTER:
        path = Path(raw)
    elif raw == "":
        raise SyntaxProblem("empty forward path", rest="<>")
    else:
        path = parse_mailbox(raw, smtputf8=smtputf8, strict=strict)
    for keyword, _ in _parameters(rest):
        raise SyntaxProblem(f"parameter {_shown(keyword)} is not implemented", Kind.UNKNOWN_PARAMETER)
    return path


def parse_mailbox(raw: str, *, smtputf8: bool, strict: bool = False) -> Path:
    """What stands between the brackets of a path, `localpart@domain` or `localpart@[literal]`. Raises SyntaxProblem."""
    if raw.startswith("@"):
        raw = _without_route(raw)
    localpart, at, domain = raw.rpartition("@")  # no domain or literal has an @ in it
    if not at:
        raise SyntaxProblem("address without domain", rest=raw)
    if not smtputf8 and not localpart.isascii():
        raise SyntaxProblem("localpart outside ASCII needs SMTPUTF8", Kind.NEEDS_SMTPUTF8)
    try:
        parsed = parse_localpart(localpart, strict=strict)
    except BadAddress as exc:
        raise SyntaxProblem(str(exc), rest=localpart) from exc
    if domain.startswith("["):
        return Path(parsed, IPDomain(ip=_literal(domain)))
    return Path(parsed, IPDomain(domain=_domain(domain, smtputf8)))


def decode_xtext(text: str) -> str:
    """The text that xtext stands for (RFC 3461 section 4). Raises SyntaxProblem."""
    if not text or _XTEXT.fullmatch(text) is None:
        raise SyntaxProblem("bad xtext", rest=text)
    return _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text)


def _one_space(argument: str) -> str:
    """What follows the space behind the verb."""
    if not argument.startswith(" ") or argument.isspace():
        raise SyntaxProblem("argument missing")
    return argument[1:]


def _raw_path(argument: str, keyword: str, strict: bool) -> tuple[str, str]:
    """What is between the brackets, and what follows them: the path's meaning hangs on a later SMTPUTF8."""
    rest = _one_space(argument)
    if rest[: len(keyword)].upper() != keyword:
        raise SyntaxProblem(f"expected {keyword}", rest=rest)
    rest = rest[len(keyword) :]
    if not strict:
        rest = rest.lstrip(" ")
    match = _PATH.match(rest)
    if match is None:
        raise SyntaxProblem("expected a path in angle brackets", rest=rest)
    if len(match[0].encode("utf-8", "surrogateescape")) > MAX_PATH:
        raise SyntaxProblem(f"path longer than {MAX_PATH} octets")
    return match[1], rest[match.end() :]


def _parameters(rest: str) -> list[tuple[str, str | None]]:
    rest = rest.rstrip(" \t")
    if not rest:
        return []
    if not rest.startswith(" "):
        raise SyntaxProblem("expected a space after the path", rest=rest)
    parameters: list[tuple[str, str | None]] = []
    for word in rest.split(" "):
        if not word:
            continue
        keyword, equals, value = word.partition("=")
        if _KEYWORD.fullmatch(keyword) is None:
            raise SyntaxProblem("bad parameter", rest=word)
        if not equals:
            parameters.append((keyword.upper(), None))
        elif _VALUE.fullmatch(value):
            parameters.append((keyword.upper(), value))
        else:
            raise SyntaxProblem(f"bad value of parameter {_shown(keyword)}", rest=word)
    return parameters


def _domain(name: str, smtputf8: bool) -> Domain:
    if not smtputf8 and not name.isascii():
        raise SyntaxProblem("domain outside ASCII needs SMTPUTF8", rest=name)
    try:
        return parse_domain(name)
    except BadDomain as exc:
        raise SyntaxProblem(f"bad domain: {exc}", rest=name) from exc


def _without_route(raw: str) -> str:
    """A source route is read and ignored (RFC 5321 4.1.1.3 and appendix C)."""
    route, colon, mailbox = raw.partition(":")
    if not colon:
        raise SyntaxProblem("source route without address", rest=raw)
    for hop in route.split(","):
        if not hop.startswith("@"):
            raise SyntaxProblem("bad source route", rest=hop)
        _domain(hop[1:], smtputf8=True)
    return mailbox


def _literal(text: str, *, untagged_ipv6: bool = False) -> IPv4Address | IPv6Address:
    """An address literal in its brackets (RFC 5321 4.1.3)."""
    inside = text[1:-1]
    tagged = inside[:5].upper() == "IPV6:"
    if text.endswith("]") and inside.isascii():
        try:
            if tagged or (untagged_ipv6 and ":" in inside):
                if "%" not in inside:  # a zone means nothing to us
                    return IPv6Address(inside[5:] if tagged else inside)
            else:
                return IPv4Address(inside)
        except AddressValueError:
            pass
    raise SyntaxProblem("bad address literal", rest=text)


def _size(value: str | None) -> int:
    if value is None or not value.isascii() or not value.isdigit() or len(value) > MAX_SIZE_DIGITS:
        raise SyntaxProblem(f"SIZE needs a number of at most {MAX_SIZE_DIGITS} digits", rest=value or "")
    return int(value)


def _hold_for(value: str | None) -> Hold:
    if value is None or not value.isascii() or not value.isdigit() or len(value) > MAX_HOLD_DIGITS:
        raise SyntaxProblem(f"HOLDFOR needs seconds, a number of at most {MAX_HOLD_DIGITS} digits", rest=value or "")
    return Hold(f"for;{value}", duration=timedelta(seconds=int(value)))


def _hold_until(value: str | None) -> Hold:
    match = _UTC_TIME.fullmatch(value or "")
    try:
        if match is not None:
            return Hold(f"until;{value}", until=datetime.fromisoformat(match[1].upper()).replace(tzinfo=UTC))
    except ValueError:  # 31 February, say
        pass
    raise SyntaxProblem("HOLDUNTIL needs a time like 2031-03-01T00:00:00Z, in UTC", rest=value or "")


def _body(value: str | None) -> Body:
    if value is None:
        raise SyntaxProblem("BODY needs a value")
    try:
        body = Body(value.upper())
    except ValueError:
        body = Body.UNSAID
    if body is Body.UNSAID:
        raise SyntaxProblem("BODY must be 7BIT or 8BITMIME", Kind.PARAMETER_VALUE)
    return body


def _shown(keyword: str) -> str:
    """A client's word in a reply: short."""
    return keyword if len(keyword) <= 32 else f"{keyword[:32]}..."
