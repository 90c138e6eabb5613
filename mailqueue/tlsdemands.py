"""How a connection to a recipient domain's host is to be secured: MTA-STS, DANE, and what the sender wants.

| situation                            | TLS           | certificate      | where TLS fails          |
|--------------------------------------|---------------|------------------|--------------------------|
| no policy, MTA-STS testing           | opportunistic | anything         | once more, in the clear  |
| MTA-STS enforce                      | required      | for the MX host  | the next host            |
| TLSA records that can be used        | required      | as these say     | the next host            |
| TLSA records, none that can be used  | required      | anything         | the next host            |
| both enforce and TLSA                | required      | as both say      | the next host            |
| TLS-Required: No (RFC 8689)          | opportunistic | anything         | once more, in the clear  |
| REQUIRETLS (RFC 8689)                | required      | as there is a policy, which there must be | the next host |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from protocols.dane import DANE, TlsaLookup
from protocols.mtasts import Mode
from protocols.mtasts import Policy as STSPolicy
from protocols.names import Domain, IPDomain
from protocols.pkix import Roots, TLSProblem
from protocols.smtpclient import PKIX, CertificateCheck, Session, SMTPError, TLSFailure, TLSMode, TLSPolicy
from protocols.smtpclient.tlspolicy import handshake_problem, starttls_problem
from protocols.tlsrpt import FailureDetail, Policy, Result

PKIX_NAME = "pkix"
DANE_NAME = "dane"


@dataclass(frozen=True, slots=True)
class Demands:
    """What a connection must be like. ``dane``, ``mtasts``: policies of the domain that were taken into account."""

    tls: TLSPolicy
    dane: bool = False
    mtasts: Mode | None = None

    @property
    def falls_back(self) -> bool:
        """Whether the message may go out in the clear where TLS fails (RFC 7435)."""
        return self.tls.mode is TLSMode.OPPORTUNISTIC


def demands(
    host: IPDomain,
    names: Sequence[Domain],
    tlsa: TlsaLookup | None,
    sts: STSPolicy | None,
    roots: Roots,
    *,
    require_tls: bool | None,
) -> Demands:
    """What a host's connection must be like.

    ``names``: those that a certificate under a DANE-TA record may have, the first one to be asked for; ``tlsa``: None
    where DANE is out of the question. A TLSA lookup that failed asks for nothing here.
    """
    required: list[CertificateCheck] = []
    observed: list[CertificateCheck] = []
    dane = tlsa is not None and tlsa.dane and tlsa.error is None
    enforced = sts is not None and sts.mode is Mode.ENFORCE
    if tlsa is not None and dane and tlsa.records:
        required.append(DANE(tlsa.records, tuple(names)))
    if host.domain is not None and sts is not None and sts.mode is not Mode.NONE:
        (required if enforced else observed).append(PKIX(host.domain, roots, PKIX_NAME))
    mode = TLSMode.REQUIRED if dane or enforced else TLSMode.OPPORTUNISTIC
    if require_tls is False:
        # RFC 8689 section 5: what the recipient's domain asks for is no reason not to deliver.
        mode, required, observed = TLSMode.OPPORTUNISTIC, [], required + observed
    sni = names[0].ascii if names else ""
    policy = TLSPolicy(mode, sni, tuple(required), tuple(observed))
    return Demands(policy, dane, sts.mode if sts is not None else None)


@dataclass(slots=True)
class Tally:
    """The sessions of an attempt under one policy, for TLS reports."""

    policy: Policy
    successes: int = 0
    details: list[FailureDetail] = field(default_factory=list)

    def failed(self, failure: tuple[str, str], *, host: str = "", remote_ip: str = "", local_ip: str = "") -> None:
        result_type, reason = failure
        self.details.append(
            FailureDetail(
                result_type,
                reason,
                sending_mta_ip=local_ip,
                receiving_mx_hostname=host,
                receiving_ip=remote_ip,
            )
        )

    @property
    def is_empty(self) -> bool:
        return not self.successes and not self.details

    def result(self) -> Result:
        return Result(self.policy, self.successes, len(self.details), tuple(self.details))


def count_session(
    session: Session, error: SMTPError | None, of_domain: Tally, of_host: Tally, *, host: str, counts_for_host: bool
) -> None:
    """Count one session, which is ready or has ended in an error, in the results of domain and host.

    ``counts_for_host``: its success is one under the host's policy, too.
    """
    ends = {"host": host, "remote_ip": session.stream.remote_ip, "local_ip": session.stream.local_ip}
    problem = session_problem(session, error)
    by_check = {result.name: result.problem for result in session.tls_results}
    if isinstance(error, TLSFailure) and error.results:
        by_check = {result.name: result.problem for result in error.results}
        problem = None  # each check tells its own
    elif problem is None and session.tls is None:
        return  # it never came to that
    for tally, check in ((of_domain, PKIX_NAME), (of_host, DANE_NAME)):
        found = problem or by_check.get(check)
        if found is not None:
            tally.failed((found.result_type, found.reason), **ends)
        elif tally is of_domain or counts_for_host:
            tally.successes += 1


def session_problem(session: Session, error: SMTPError | None) -> TLSProblem | None:
    """What kept a session from TLS, whatever the certificate."""
    if isinstance(error, TLSFailure):
        return error.problem
    if error is not None and error.command == "starttls":
        return handshake_problem("timeout" if "timeout" in str(error) else "eof")
    if error is None and session.tls is None:
        return starttls_problem(0, announced=False)
    return None
