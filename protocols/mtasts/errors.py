"""Why there is no MTA-STS policy."""

from __future__ import annotations

from enum import StrEnum

from protocols.errors import ProtocolError
from protocols.pkix import TLSProblem


class ErrorKind(StrEnum):
    """The reasons that callers tell apart."""

    NO_RECORD = "no-record"  # the domain does not do MTA-STS
    MULTIPLE_RECORDS = "multiple-records"
    DNS = "dns"  # the record may be there: a temporary error
    RECORD_SYNTAX = "record-syntax"
    NO_POLICY = "no-policy"  # the policy host says so
    POLICY_FETCH = "policy-fetch"
    POLICY_SYNTAX = "policy-syntax"


class StsError(ProtocolError):
    """There is no policy, or none that can be used; the text is one line of ASCII."""

    def __init__(self, kind: ErrorKind, text: str, problem: TLSProblem | None = None) -> None:
        super().__init__(kind, text, problem)
        self.kind = kind
        self.problem = problem
        """What is wrong with the certificate of the policy host."""

    @property
    def failure(self) -> tuple[str, str]:
        """Result type and failure reason for TLS reports (RFC 8460 section 4.3); empty where nothing has failed."""
        if self.problem is not None:
            parts = [self.problem.result_type, self.problem.reason]
            return "sts-webpki-invalid", "+".join(filter(None, parts))
        return _FAILURES[self.kind]

    def __str__(self) -> str:
        return str(self.args[1])


_FETCH_ERROR = "sts-policy-fetch-error"
_FAILURES = {
    ErrorKind.NO_RECORD: ("", ""),
    ErrorKind.MULTIPLE_RECORDS: (_FETCH_ERROR, "multiple-mta-sts-records"),
    ErrorKind.DNS: (_FETCH_ERROR, "dns-lookup"),
    ErrorKind.RECORD_SYNTAX: (_FETCH_ERROR, "record-syntax-error"),
    ErrorKind.NO_POLICY: (_FETCH_ERROR, "no-policy-served"),
    ErrorKind.POLICY_FETCH: (_FETCH_ERROR, "cannot-fetch-policy"),
    ErrorKind.POLICY_SYNTAX: ("sts-policy-invalid", "policy-syntax-error"),
}
