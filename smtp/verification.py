"""What can be known of who sent a message: iprev, SPF and DKIM, asked at the same time, and DMARC from both.

verification = await verify(resolver, peer, reverse_path, content, author)
verification.header(hostname)       # Authentication-Results and Received-SPF
verification.refusal()              # why the sender's domain wants it refused, or None
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Final

from protocols import dkim, dmarc, spf
from protocols.dkim import DkimResult, DkimStatus
from protocols.dmarc import Alignment, DmarcResult, DmarcStatus
from protocols.dns import Resolver
from protocols.iprev import IprevResult, iprev
from protocols.message.authresults import AuthMethod, AuthProp, AuthResults
from protocols.message.source import Readable
from protocols.names import Address, Domain
from protocols.publicsuffix import is_public_suffix, organizational_domain
from protocols.smtpsyntax import Path
from protocols.spf import Identity, SpfArgs, SpfResult, SpfStatus
from store.models import Validation

from .transaction import Peer

TIMEOUT: Final = 60.0  # seconds for each of iprev, SPF and DKIM, which run at the same time
KNOWN_ADDRESSES: Final = 4096  # clients that are remembered: they send more than one message
LOCALHOST: Final = Domain("localhost")  # may sign in localserve, although it is a top-level domain

_SPF_VALIDATION: Final = {
    SpfStatus.NONE: Validation.NONE,
    SpfStatus.NEUTRAL: Validation.NEUTRAL,
    SpfStatus.PASS: Validation.PASS,
    SpfStatus.FAIL: Validation.FAIL,
    SpfStatus.SOFTFAIL: Validation.SOFTFAIL,
    SpfStatus.TEMPERROR: Validation.TEMPERROR,
    SpfStatus.PERMERROR: Validation.PERMERROR,
}


@dataclass(frozen=True, slots=True)
class Verification:
    """The results for one message. ``author`` is its single From address; without one ``dmarc`` is None too."""

    iprev: IprevResult
    spf_args: SpfArgs
    spf: SpfResult
    dkim: Sequence[DkimResult]
    author: Address | None
    dmarc: DmarcResult | None

    def header(self, hostname: Domain, *, smtputf8: bool, override: str = "") -> bytes:
        """The fields that tell it, for people and for the programs behind this server (RFC 8601, RFC 7208 9.1).

        ``override``: why the verdict for a recipient does not follow the policy (RFC 7489 section 6.6.2).
        """
        methods = [self._iprev_method()]
        methods += dkim.auth_methods(self.dkim, smtputf8=smtputf8)
        methods.append(spf.auth_method(self.spf, self.spf_args, smtputf8=smtputf8))
        if self.dmarc is not None:
            assert self.author is not None, "a policy is that of an author"
            overrides = self._overrides(override)
            methods.append(dmarc.auth_method(self.dmarc, self.author.domain, overrides=overrides, smtputf8=smtputf8))
        else:
            methods.append(AuthMethod("dmarc", DmarcStatus.NONE, reason="no single From address"))
        results = AuthResults(hostname.xname(smtputf8), methods=tuple(methods))
        return results.compose() + spf.received_spf_header(self.spf, self.spf_args, smtputf8=smtputf8)

    def _overrides(self, override: str) -> list[str]:
        """Why a policy that is against the message was not followed."""
        assert self.dmarc is not None, "a policy is overridden"
        found = [override] if override and self.dmarc.status is not DmarcStatus.PASS else []
        return [*found, "sampled_out"] if self.dmarc.sampled_out else found

    def _iprev_method(self) -> AuthMethod:
        comment = f"{'with' if self.iprev.authentic else 'without'} dnssec"
        prop = AuthProp("policy", "iprev", str(self.spf_args.remote_ip))
        return AuthMethod("iprev", self.iprev.status, comment=comment, reason=self.iprev.error, props=(prop,))

    @property
    def dkim_domains(self) -> tuple[str, ...]:
        """The domains with a signature that passes, in Unicode, each once."""
        return tuple(dict.fromkeys(domain.name() for domain in self.signed_by))

    @property
    def signed_by(self) -> list[Domain]:
        """The domains of the signatures that pass."""
        return [result.sig.domain for result in self.dkim if result.status is DkimStatus.PASS and result.sig]

    def origin(self) -> dict[str, Any]:
        """The columns of a message that tell how its names were validated."""
        status = _SPF_VALIDATION[self.spf.status]
        which = "ehlo" if self.spf.identity is Identity.HELO else "mail_from"
        validation = self._author_validation()
        author = self.author.domain if self.author is not None else None
        return {
            f"{which}_validation": status,
            f"{which}_validated": status is Validation.PASS,
            "msg_from_org_domain": organizational_domain(author).name() if author is not None else "",
            "msg_from_validation": validation,
            "msg_from_validated": validation in (Validation.STRICT, Validation.DMARC, Validation.RELAXED),
        }

    def _author_validation(self) -> Validation:
        """How the From domain is tied to a domain that SPF or DKIM vouch for."""
        if self.author is None:
            return Validation.NONE
        vouched = self.signed_by
        if self.spf.status is SpfStatus.PASS and self.spf.domain is not None:
            vouched.append(self.spf.domain)
        alignments = {dmarc.alignment(self.author.domain, domain) for domain in vouched}
        if Alignment.STRICT in alignments:
            return Validation.STRICT
        if Alignment.RELAXED in alignments:
            passed = self.dmarc is not None and self.dmarc.status is DmarcStatus.PASS
            return Validation.DMARC if passed else Validation.RELAXED
        return Validation.NONE

    @property
    def author_is_vouched_for(self) -> bool:
        """Whether SPF or DKIM pass for a name aligned with From, as closely as the policy of the From domain asks."""
        if self.dmarc is not None and self.dmarc.record is not None:
            return self.dmarc.aligned_spf or self.dmarc.aligned_dkim
        return self._author_validation() in (Validation.STRICT, Validation.DMARC, Validation.RELAXED)

    def policy_refusal(self) -> str:
        """Why the sender's domain asks for messages like this to be refused (RFC 7489 section 6.6.2); "" if not."""
        if self.dmarc is None or not self.dmarc.use or not self.dmarc.reject:
            return ""
        return f"message is refused by the DMARC policy of {self.dmarc.domain.name()}"


async def verify(
    resolver: Resolver,
    peer: Peer,
    reverse_path: Path,
    content: Readable,
    author: Address | None,
    *,
    smtputf8: bool,
    localserve: bool,
    spf_known: SpfResult | None = None,
) -> Verification:
    """Ask for everything about a message. ``spf_known``: what SPF said at RCPT. Never raises for what others did."""
    args = spf_args(peer, reverse_path)
    client, sender, signatures = await asyncio.gather(
        iprev(resolver, args.remote_ip, TIMEOUT),
        _known(spf_known) if spf_known is not None else spf.verify(resolver, args, TIMEOUT, single_label=localserve),
        dkim.verify(
            resolver,
            content,
            smtputf8=smtputf8,
            timeout=TIMEOUT,
            public_suffix=_is_suffix_but_localhost if localserve else is_public_suffix,
        ),
    )
    policy = None
    if author is not None:
        policy = await dmarc.verify(resolver, author.domain, signatures, sender)
    return Verification(client, args, sender, signatures, author, policy)


def spf_args(peer: Peer, reverse_path: Path) -> SpfArgs:
    """The question that SPF answers about a client and its MAIL FROM."""
    return SpfArgs(_address(peer.remote_ip), reverse_path, peer.hello.name, peer.hostname)


_address: Final = lru_cache(maxsize=KNOWN_ADDRESSES)(ip_address)


async def _known(result: SpfResult) -> SpfResult:
    return result


def _is_suffix_but_localhost(domain: Domain) -> bool:
    return domain != LOCALHOST and is_public_suffix(domain)
