"""What a session ended in, in the terms of TLS reports (RFC 8460 section 4.3): result types and reason codes.

The terms for what goes wrong with a connection come with it: of handshakes and STARTTLS in
`protocols.smtpclient.tlspolicy`, of certificates in `protocols.pkix` and `protocols.dane`, of policies in
`protocols.mtasts`. Here are the others, and what tells of all of them. ``dane-required`` is never said: there is no
setting that demands DANE.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from protocols.dns import DNSError
from protocols.mtasts import StsError
from protocols.pkix import TLSProblem

Failure: TypeAlias = tuple[str, str]
"""Result type, and failure reason code or ""."""

MX_MISMATCH: Final = ("validation-failure", "mtasts-policy-mx-mismatch")
"""A host that the MTA-STS policy does not have."""
TLSA_UNUSABLE: Final = ("tlsa-invalid", "all-unusable-records+ignored")
"""There are TLSA records, none of a kind that counts: TLS is required, certificates are not verified."""


def failure(cause: TLSProblem | StsError | DNSError) -> Failure:
    """The terms for what was met. A DNSError is of the lookup of a host; of TLSA records it is `tlsa_failure`."""
    if isinstance(cause, TLSProblem):
        return cause.result_type, cause.reason
    if isinstance(cause, StsError):
        return cause.failure
    codes = [str(ede) for ede in cause.ede if ede.is_dnssec]
    return "validation-failure", codes[0] if codes else f"dns-{cause.kind}"


def tlsa_failure(error: DNSError) -> Failure:
    """As `failure`, for TLSA records that could not be looked up."""
    _, reason = failure(error)
    return "dnssec-invalid", reason.replace("dns-extended-error-", "extended-dns-error-")
