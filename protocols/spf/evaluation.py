"""Whether a domain lets a client send for it: check_host() of RFC 7208 section 4, over a resolver.

result = await verify(resolver, SpfArgs(remote_ip, mail_from, hello, hostname))
result.status, result.domain
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final, TypeVar

from protocols import metrics
from protocols.dns import MX, Answer, DNSError, ErrorKind, IPAddress, Resolver
from protocols.names import Domain, IPDomain, address_literal
from protocols.smtpsyntax import POSTMASTER, Path

from .errors import BadRecord
from .macros import MacroString, parse_explanation, usable_name
from .record import Kind, Mechanism, Qualifier, SpfRecord, is_spf, parse_record

TIMEOUT: Final = 20.0  # seconds for all of it, RFC 7208 4.6.4
MAX_LOOKUPS: Final = 10  # terms that make lookups, RFC 7208 4.6.4
MAX_VOID: Final = 2  # lookups of names that are not there, RFC 7208 4.6.4
MAX_MX: Final = 10  # names of one mx, RFC 7208 4.6.4
MAX_PTR: Final = 10  # names of the client, RFC 7208 4.6.4
MAX_EXPLANATION: Final = 500  # characters, to leave room in a reply
MAX_MECHANISM: Final = 200  # characters that are shown; a macro may make it long

T = TypeVar("T")


class SpfStatus(StrEnum):
    """RFC 7208 section 2.6."""

    NONE = "none"
    NEUTRAL = "neutral"
    PASS = "pass"  # noqa: S105 # a result
    FAIL = "fail"
    SOFTFAIL = "softfail"
    TEMPERROR = "temperror"
    PERMERROR = "permerror"


class Identity(StrEnum):
    """What was checked (RFC 7208 sections 2.3 and 2.4)."""

    MAIL_FROM = "mailfrom"
    HELO = "helo"


@dataclass(frozen=True, slots=True)
class SpfArgs:
    """One transaction: who sends what to whom."""

    remote_ip: IPAddress
    mail_from: Path
    """The reverse path; with the null path the HELO name is checked (RFC 7208 section 2.4)."""
    helo: IPDomain
    local_hostname: Domain


@dataclass(frozen=True, slots=True)
class SpfResult:
    """What was found. ``error``, when there is one, is a line of ASCII."""

    status: SpfStatus
    identity: Identity
    domain: Domain | None = None
    """Whose policy was asked for; None when there was no name to ask."""
    mechanism: str = ""
    """What matched, without its qualifier; "default" if nothing did, "" without a policy."""
    explanation: str = ""
    """The domain's own words for a fail: printable ASCII of a stranger. Empty if it has none."""
    authentic: bool = False
    """Whether DNSSEC has verified everything that the status depends on."""
    error: str = ""
    dns_lookups: int = 0
    void_lookups: int = 0


async def verify(
    resolver: Resolver,
    args: SpfArgs,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 # it ends in a result, not in an exception
    *,
    single_label: bool = False,
) -> SpfResult:
    """Check the reverse path's domain, or the HELO name. Never raises for what others have done.

    ``single_label``: a name without a dot, such as localhost, may have a policy too (against RFC 7208 section 4.3).
    """
    start = time.monotonic()
    result = await _verify(resolver, args, timeout, single_label=single_label)
    metrics.observe("mox_spf_verify_duration_seconds", time.monotonic() - start, {"status": result.status.value})
    return result


def verify_sync(resolver: Resolver, args: SpfArgs, timeout: float = TIMEOUT) -> SpfResult:
    """`verify` where there is no event loop."""
    return asyncio.run(verify(resolver, args, timeout))


async def _verify(
    resolver: Resolver,
    args: SpfArgs,
    timeout: float,  # noqa: ASYNC109 # as above
    *,
    single_label: bool,
) -> SpfResult:
    identity = Identity.HELO if args.mail_from.is_null else Identity.MAIL_FROM
    place = args.helo if identity is Identity.HELO else args.mail_from.domain
    domain = place.domain
    if domain is None:
        return SpfResult(SpfStatus.NONE, identity, error="no domain to check")
    if not _is_checkable(domain, single_label=single_label):
        return SpfResult(SpfStatus.NONE, identity, domain, error="not a name that can have a policy")
    evaluation = _Evaluation(resolver, args, domain)
    deadline = asyncio.get_running_loop().time() + timeout
    status, mechanism, error, explanation = SpfStatus.TEMPERROR, "", "", ""
    try:
        async with asyncio.timeout_at(deadline):
            outcome = await evaluation.check_host(domain.ascii)
        status, mechanism, error = outcome.status, outcome.mechanism, outcome.error
        if status is SpfStatus.FAIL:
            explanation = await _explain(evaluation, outcome, deadline)
    except TimeoutError:
        error, evaluation.authentic = f"no result within {timeout:g} seconds", False
    except _Failed as exc:
        status, error = exc.status, str(exc)
    return SpfResult(
        status,
        identity,
        domain,
        mechanism[:MAX_MECHANISM],
        explanation,
        evaluation.authentic,
        error,
        evaluation.lookups,
        evaluation.voids,
    )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of check_host(). ``domain`` and ``record``: whose mechanism matched."""

    status: SpfStatus
    mechanism: str = ""
    domain: str = ""
    record: SpfRecord | None = None
    error: str = ""


class _Failed(Exception):
    """Evaluation ends here."""

    def __init__(self, status: SpfStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


_RESULTS: Final = {
    Qualifier.PASS: SpfStatus.PASS,
    Qualifier.FAIL: SpfStatus.FAIL,
    Qualifier.SOFTFAIL: SpfStatus.SOFTFAIL,
    Qualifier.NEUTRAL: SpfStatus.NEUTRAL,
}


class _Evaluation:
    """One check, with what it has counted and learned so far."""

    def __init__(self, resolver: Resolver, args: SpfArgs, domain: Domain) -> None:
        self._resolver = resolver
        # RFC 7208 section 5: a mapped address is the IPv4 address.
        mapped = args.remote_ip.ipv4_mapped if isinstance(args.remote_ip, IPv6Address) else None
        self._ip: IPAddress = mapped or args.remote_ip
        self._localpart = args.mail_from.localpart or POSTMASTER  # RFC 7208 4.3
        self._sender_domain = domain.ascii
        self._helo = _helo_text(args.helo)
        self._receiver = args.local_hostname.ascii
        self._names: list[str] | None = None
        self._validated: dict[str, bool] = {}
        self.lookups = 0
        self.voids = 0
        self.authentic = True

    async def check_host(self, domain: str) -> _Outcome:
        """The result for the policy of a domain (RFC 7208 section 4). Raises _Failed."""
        record = await self._record(domain)
        if record is None:
            return _Outcome(SpfStatus.NONE, domain=domain, error="no spf record")
        for mechanism in record.mechanisms:
            if await self._matches(mechanism, domain):
                return _Outcome(_RESULTS[mechanism.qualifier], mechanism.text, domain, record)
        if record.redirect is None:
            return _Outcome(SpfStatus.NEUTRAL, "default", domain, record)
        self._count()
        return await self._check_other(record.redirect, domain, "redirect")

    async def explanation(self, outcome: _Outcome) -> str:
        """The text of ``exp=`` in the record that matched; "" for any trouble with it (RFC 7208 section 6.2)."""
        if outcome.record is None or outcome.record.explanation is None:
            return ""
        try:
            name = await self._expanded(outcome.record.explanation, outcome.domain)
            if name is None:
                return ""
            answer = await self._resolver.txt(_absolute(name))
            (text,) = answer.records
            macros = parse_explanation(text.decode("ascii"))
            expanded = macros.expand(await self._values(macros, outcome.domain))
        except (DNSError, _Failed, BadRecord, ValueError):
            return ""
        return "".join(c if " " <= c <= "~" else "?" for c in expanded[:MAX_EXPLANATION] if c >= " ").strip()

    async def _check_other(self, target: MacroString, domain: str, term: str) -> _Outcome:
        """The outcome of another domain's policy, which must exist (RFC 7208 sections 5.2 and 6.1)."""
        name = await self._expanded(target, domain)
        outcome = None if name is None or "." not in name else await self.check_host(name)
        if outcome is None or outcome.status is SpfStatus.NONE:
            raise _Failed(SpfStatus.PERMERROR, f"{domain}: no spf record at {term} {(name or target.text)[:100]}")
        return outcome

    async def _record(self, domain: str) -> SpfRecord | None:
        try:
            answer = await self._noted(self._resolver.txt(_absolute(domain)))
        except DNSError:
            return None
        texts = [txt for txt in answer.records if is_spf(txt)]
        if len(texts) > 1:
            raise _Failed(SpfStatus.PERMERROR, f"{domain}: several spf records")
        try:
            return parse_record(texts[0]) if texts else None
        except BadRecord as exc:
            raise _Failed(SpfStatus.PERMERROR, f"{domain}: {exc}") from exc

    async def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        kind = mechanism.kind
        if kind is Kind.ALL:
            return True
        if mechanism.network is not None:
            return self._ip in mechanism.network
        self._count()
        if kind is Kind.INCLUDE:
            assert mechanism.domain is not None
            return (await self._check_other(mechanism.domain, domain, "include")).status is SpfStatus.PASS
        name = domain if mechanism.domain is None else await self._expanded(mechanism.domain, domain)
        if name is None:  # RFC 7208 4.8: as a name that is not there
            return False
        if kind is Kind.A:
            return self._contains(mechanism, await self._addresses(_absolute(name)))
        if kind is Kind.MX:
            return await self._matches_mx(mechanism, name)
        if kind is Kind.PTR:
            return await self._matches_ptr(name)
        return await self._exists(name)

    async def _matches_mx(self, mechanism: Mechanism, name: str) -> bool:
        try:
            answer: Answer[MX] = await self._noted(self._resolver.mx(_absolute(name)))
        except DNSError as exc:
            self._count_void(exc)
            return False
        hosts = sorted(answer.records, key=lambda mx: (mx.preference, mx.host))
        for mx in hosts[:MAX_MX]:
            if mx.host != "." and self._contains(mechanism, await self._addresses(mx.host)):
                return True
        if len(hosts) > MAX_MX:
            raise _Failed(SpfStatus.PERMERROR, f"{name}: more than {MAX_MX} mx records")
        return False

    async def _matches_ptr(self, target: str) -> bool:
        for name in await self._client_names():
            if _is_within(name, target.lower()) and await self._is_validated(name):
                return True
        return False

    async def _exists(self, name: str) -> bool:
        try:
            await self._noted(self._resolver.a(_absolute(name)))  # type A for IPv6 clients too, RFC 7208 5.7
        except DNSError as exc:
            self._count_void(exc)
            return False
        return True

    async def _addresses(self, name: str) -> Sequence[IPAddress]:
        """The addresses of an absolute name in the client's family."""
        try:
            return await self._lookup_addresses(name)
        except DNSError as exc:
            # Addresses of the other family only are no mistake of the domain's owner; any name that is not there is.
            if exc.kind is not ErrorKind.NOTFOUND:
                self._count_void(exc)
            return ()

    async def _lookup_addresses(self, name: str, *, fatal: bool = True) -> Sequence[IPAddress]:
        """As `_addresses`, with errors as in `_noted`."""
        if isinstance(self._ip, IPv4Address):
            return (await self._noted(self._resolver.a(name), fatal=fatal)).records
        return (await self._noted(self._resolver.aaaa(name), fatal=fatal)).records

    def _contains(self, mechanism: Mechanism, addresses: Sequence[IPAddress]) -> bool:
        shift = 32 - mechanism.prefix4 if isinstance(self._ip, IPv4Address) else 128 - mechanism.prefix6
        prefix = int(self._ip) >> shift
        return any(int(address) >> shift == prefix for address in addresses)

    async def _client_names(self) -> list[str]:
        """The first names that the client's address has, in lower case without final dot (RFC 7208 section 5.5)."""
        if self._names is None:
            self._names = []
            try:
                answer = await self._noted(self._resolver.ptr(self._ip), fatal=False)
            except DNSError as exc:
                self._count_void(exc)
            else:
                self._names = [name.removesuffix(".").lower() for name in answer.records[:MAX_PTR]]
        return self._names

    async def _is_validated(self, name: str) -> bool:
        """Whether a name of the client has its address. Voids don't count: whoever sends spam chooses the names."""
        if name not in self._validated:
            try:
                self._validated[name] = self._ip in await self._lookup_addresses(f"{name}.", fatal=False)
            except DNSError:
                self._validated[name] = False
        return self._validated[name]

    async def _client_name(self, domain: str) -> str:
        """The value of ``%{p}``: the domain itself, else a name under it, else any validated name (section 7.3)."""
        if self._names is None:
            self._count()
        names = await self._client_names()
        for name in sorted(names, key=lambda name: (name != domain, not _is_within(name, domain))):
            if await self._is_validated(name):
                return name
        return "unknown"

    async def _expanded(self, macros: MacroString, domain: str) -> str | None:
        if len(macros.pieces) == 1 and isinstance(macros.pieces[0], str):
            return usable_name(macros.pieces[0])
        return macros.expand_name(await self._values(macros, domain))

    async def _values(self, macros: MacroString, domain: str) -> dict[str, str]:
        """The values of the macro's letters (RFC 7208 section 7.2)."""
        v4 = isinstance(self._ip, IPv4Address)
        values = {
            "s": f"{self._localpart}@{self._sender_domain}",
            "l": self._localpart,
            "o": self._sender_domain,
            "d": domain,
            "i": str(self._ip) if v4 else ".".join(f"{int(self._ip):032X}"),
            "v": "in-addr" if v4 else "ip6",
            "h": self._helo,
            "c": str(self._ip),
            "r": self._receiver,
            "t": str(int(time.time())),
        }
        if "p" in macros.letters:
            values["p"] = await self._client_name(domain.lower())
        return values

    async def _noted(self, lookup: Awaitable[Answer[T]], *, fatal: bool = True) -> Answer[T]:
        """The answer; what it says of DNSSEC counts. Raises _Failed for a temporary error that is fatal; DNSError."""
        try:
            answer = await lookup
        except DNSError as exc:
            self.authentic = self.authentic and (exc.authentic or exc.kind is ErrorKind.INVALID)
            if exc.is_temporary and fatal:
                raise _Failed(SpfStatus.TEMPERROR, str(exc)) from exc
            raise
        self.authentic = self.authentic and answer.authentic
        return answer

    def _count(self) -> None:
        """Another term that makes lookups."""
        self.lookups += 1
        if self.lookups > MAX_LOOKUPS:
            raise _Failed(SpfStatus.PERMERROR, "too many dns requests")

    def _count_void(self, error: DNSError) -> None:
        if not error.is_not_found:
            return
        self.voids += 1
        if self.voids > MAX_VOID:
            raise _Failed(SpfStatus.PERMERROR, "too many void lookups")


async def _explain(evaluation: _Evaluation, outcome: _Outcome, deadline: float) -> str:
    """The explanation, if it can be had in time; it has no say in the verdict and in whether that is authentic."""
    authentic, lookups, voids = evaluation.authentic, evaluation.lookups, evaluation.voids
    try:
        async with asyncio.timeout_at(deadline):
            return await evaluation.explanation(outcome)
    except TimeoutError:
        return ""
    finally:
        evaluation.authentic, evaluation.lookups, evaluation.voids = authentic, lookups, voids


def _is_checkable(domain: Domain, *, single_label: bool) -> bool:
    """RFC 7208 4.3: a name of several labels that DNS can hold."""
    return ("." in domain.ascii or single_label) and len(domain.ascii) <= 253 and usable_name(domain.ascii) is not None


def _is_within(name: str, domain: str) -> bool:
    return name == domain or name.endswith(f".{domain}")


def _absolute(name: str) -> str:
    r"""The name in the form that resolvers take, in which a backslash begins an escape (RFC 1035 5.1)."""
    return name.replace("\\", "\\\\") + "."


def _helo_text(helo: IPDomain) -> str:
    if helo.ip is not None:
        return address_literal(helo.ip)
    return helo.domain.ascii if helo.domain is not None else "unknown"
