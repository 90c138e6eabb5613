"""The one login service for SMTP, IMAP and the web: from what a client sent to an account, a limit, or a refusal.

Every attempt is counted, logged and recorded here. Waiting after failures is left to the interfaces.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, replace
from typing import Final, TypeAlias, assert_never

from django.db import DatabaseError
from django.utils.crypto import salted_hmac
from prometheus_client import Counter

from protocols.md5state import STATE_SIZE, HmacMd5States
from protocols.names import BadAddress, parse_address
from protocols.sasl import (
    Authenticated,
    Challenge,
    ChannelBinding,
    CredentialKind,
    CredentialsNeeded,
    ExternalClaimed,
    ExternalServer,
    Failed,
    Failure,
    PasswordGiven,
    ScramHash,
    ScramKeys,
    ServerMechanism,
    Step,
    UnknownMechanism,
    server_mechanism,
)
from protocols.sasl.scram import SALT_SIZE
from protocols.sasl.server import Credentials, nfc
from server import login_attempts, ratelimit
from server.db import DatabaseBusy
from server.login_attempts import UNKNOWN_ACCOUNT, Attempt, AttemptRecorder
from server.models import LoginResult
from server.ratelimit import Allowance, Limiter

from . import tlskeys
from .addresses import canonical_address, resolve_login
from .models import Account, Address, Credential, Domain
from .passwords import SCRAM_ITERATIONS, check_password

log = logging.getLogger(__name__)

UNRECOGNIZED_MECHANISM: Final = "(unrecognized)"

authentication_total = Counter("mox_authentication", "Login attempts.", ["kind", "variant", "result"])
authentication_ratelimited_total = Counter(
    "mox_authentication_ratelimited", "Login attempts refused for too many failures before.", ["kind"]
)


@dataclass(frozen=True, slots=True)
class LoginContext:
    """Where a login comes from, as it is recorded."""

    protocol: str  # submission, imap, webmail, webaccount, webadmin, webapi
    mechanism: str  # plain, login, weblogin, httpbasic ...; an exchange fills in its own
    remote_ip: str
    local_ip: str
    tls: str = ""  # version and cipher; empty without TLS
    user_agent: str = ""  # HTTP header or IMAP ID
    client_key_fingerprint: str = ""  # of the key that a TLS client showed


@dataclass(frozen=True, slots=True)
class LoginOutcome:
    """How a login ended. ``failure`` and ``reason`` (for logs only) say more where it failed."""

    result: LoginResult
    login_address: str  # as the client wrote it, NFC
    account_id: int | None = None  # set with OK and LOGINDISABLED
    account_name: str = UNKNOWN_ACCOUNT
    address_id: int | None = None
    user_id: int | None = None  # set with OK for an admin user, who is no account
    disabled_text: str = ""  # with LOGINDISABLED: what the operator wants the user to read
    failure: Failure | None = None
    reason: str = ""
    attempt: Attempt | None = None  # as it was recorded

    @property
    def ok(self) -> bool:
        return self.result is LoginResult.OK

    @property
    def is_failed_login(self) -> bool:
        """Whether it counts as a failed login, towards the limits and the delays of the connection."""
        return self.result in _COUNTED


_COUNTED: Final = frozenset(
    {
        LoginResult.BADUSER,
        LoginResult.BADPASSWORD,
        LoginResult.BADCREDS,
        LoginResult.BADCHANBIND,
        LoginResult.BADPROTOCOL,
    }
)

_RESULTS: Final = {
    Failure.MALFORMED: LoginResult.BADPROTOCOL,
    Failure.MALFORMED_FIRST: LoginResult.BADPROTOCOL,
    Failure.MALFORMED_FINAL: LoginResult.BADPROTOCOL,
    Failure.AUTHORIZATION: LoginResult.BADCREDS,
    Failure.CREDENTIALS: LoginResult.BADCREDS,
    Failure.CHANNEL_BINDING: LoginResult.BADCHANBIND,
    Failure.NO_SECRETS: LoginResult.ERROR,
    Failure.UNAVAILABLE: LoginResult.ERROR,
}

ExchangeStep: TypeAlias = Challenge | LoginOutcome


def login_plain(login: str, authzid: str, password: str, context: LoginContext) -> LoginOutcome:
    """Log in with a password, with the limiter and the recorder of this process: see LoginService."""
    return login_service().login_plain(login, authzid, password, context)


def login_service() -> LoginService:
    """The service with the limiter and the recorder of this process."""
    return LoginService(ratelimit.limiter(), login_attempts.recorder())


class LoginService:
    """Logins against the accounts of this installation. For any thread."""

    def __init__(self, limiter: Limiter, recorder: AttemptRecorder) -> None:
        self._limiter = limiter
        self._recorder = recorder

    def login_plain(self, login: str, authzid: str, password: str, context: LoginContext) -> LoginOutcome:
        """Log in with a password that the client gave; ``authzid`` is empty, or the same as ``login``."""
        login = nfc(login)
        if nfc(authzid) not in ("", login):
            return self.fail(login, None, Failed(Failure.AUTHORIZATION, f"asked to act as {authzid!r}"), context)
        allowance = self.allowance(context)
        if not allowance.allowed:
            return self.refuse_too_many(login, context)
        try:
            address = resolve_login(login)
            right = check_password(address, password)
        except (DatabaseError, DatabaseBusy) as exc:
            return self.fail(login, None, Failed(Failure.UNAVAILABLE, f"database: {exc}"), context)
        if address is None or not right:
            result = LoginResult.BADUSER if address is None else LoginResult.BADPASSWORD
            wrong = Failed(Failure.CREDENTIALS, "no such login" if address is None else "wrong password")
            return self.fail(login, address, wrong, context, result)
        return self.succeed(login, address, allowance, context)

    def login_with_key(self, authzid: str, context: LoginContext) -> LoginOutcome:
        """Log in with the key that a TLS client showed; ``authzid`` is empty, or the address that the key is for."""
        allowance = self.allowance(context)
        if not allowance.allowed:
            return self.refuse_too_many(authzid, context)
        try:
            key = tlskeys.find_key(context.client_key_fingerprint)
            address = None if key is None else resolve_login(key.login_address)
            other = authzid != "" and (address is None or resolve_login(authzid) != address)
        except (DatabaseError, DatabaseBusy) as exc:
            return self.fail(authzid, None, Failed(Failure.UNAVAILABLE, f"database: {exc}"), context)
        if key is None or address is None or address.account_id != key.account_id:
            return self.fail(authzid, None, Failed(Failure.CREDENTIALS, "nobody has this key"), context)
        if other:
            refused = Failed(Failure.AUTHORIZATION, f"asked to act as {authzid!r}")
            return self.fail(key.login_address, address, refused, context)
        return self.succeed(key.login_address, address, allowance, context)

    def exchange(
        self,
        mechanism: str,
        context: LoginContext,
        *,
        channel: ChannelBinding | None = None,
        plus_announced: bool = False,
        hostname: str = "localhost",
    ) -> LoginExchange:
        """Begin a SASL exchange; parameters as for ``sasl.server_mechanism()``. Raises UnknownMechanism."""
        try:
            if mechanism.upper() == "EXTERNAL" and context.client_key_fingerprint:
                machine: ServerMechanism = ExternalServer()
            else:
                machine = server_mechanism(mechanism, channel, plus_announced, hostname)
        except UnknownMechanism:
            context = replace(context, mechanism=UNRECOGNIZED_MECHANISM)
            self._finish(LoginOutcome(LoginResult.BADPROTOCOL, "", reason="unknown mechanism"), context)
            raise
        return LoginExchange(self, machine, replace(context, mechanism=machine.name.lower()))

    # The parts that exchanges are made of.

    def allowance(self, context: LoginContext) -> Allowance:
        return self._limiter.login_allowance(context.remote_ip)

    def refuse_too_many(self, login: str, context: LoginContext) -> LoginOutcome:
        """Refuse without looking at the credentials."""
        authentication_ratelimited_total.labels(context.protocol).inc()
        outcome = LoginOutcome(LoginResult.RATELIMITED, login, reason="too many failed logins from this network")
        return self._finish(outcome, context)

    def fail(
        self,
        login: str,
        address: Address | None,
        failed: Failed,
        context: LoginContext,
        result: LoginResult | None = None,
    ) -> LoginOutcome:
        """A login that ended in failure: counted if it is the client's."""
        outcome = LoginOutcome(
            result or _RESULTS[failed.failure],
            login,
            account_name=address.account.name if address is not None else UNKNOWN_ACCOUNT,
            failure=failed.failure,
            reason=failed.reason,
        )
        return self.conclude(outcome, context)

    def succeed(self, login: str, address: Address, allowance: Allowance, context: LoginContext) -> LoginOutcome:
        """Right credentials: in, unless logins of the account are disabled, which only its owner gets to know."""
        account = address.account
        if context.client_key_fingerprint and (refused := _not_the_key_of(account, context.client_key_fingerprint)):
            return self.fail(login, address, refused, context)
        if account.login_disabled:
            outcome = LoginOutcome(
                LoginResult.LOGINDISABLED,
                login,
                account.pk,
                account.name,
                address.pk,
                disabled_text=account.login_disabled,
            )
            return self._finish(outcome, context)
        outcome = LoginOutcome(LoginResult.OK, login, account.pk, account.name, address.pk)
        return self.conclude(outcome, context, allowance)

    def abort(self, login: str, context: LoginContext) -> LoginOutcome:
        return self._finish(LoginOutcome(LoginResult.ABORTED, login, reason="the client gave up"), context)

    def conclude(
        self, outcome: LoginOutcome, context: LoginContext, allowance: Allowance | None = None
    ) -> LoginOutcome:
        """Count, log and record how a login ended that was checked elsewhere; a success clears counted failures."""
        if outcome.is_failed_login:
            self._limiter.count_failed_login(context.remote_ip)
        elif outcome.ok and allowance is not None and allowance.has_failures:
            self._limiter.clear_failed_logins(context.remote_ip)
        return self._finish(outcome, context)

    def _finish(self, outcome: LoginOutcome, context: LoginContext) -> LoginOutcome:
        authentication_total.labels(context.protocol, context.mechanism, outcome.result.value).inc()
        log.log(
            logging.ERROR if outcome.result is LoginResult.ERROR else logging.INFO,
            "login attempt",
            extra={
                "result": outcome.result.value,
                "login": outcome.login_address,
                "account": outcome.account_name,
                "protocol": context.protocol,
                "mechanism": context.mechanism,
                "remote_ip": context.remote_ip,
                "reason": outcome.reason,
            },
        )
        if outcome.result is LoginResult.BADCHANBIND:
            log.warning("channel binding failed: possibly a man in the middle", extra={"remote_ip": context.remote_ip})
        attempt = Attempt(
            result=outcome.result,
            account_name=outcome.account_name,
            login_address=_storable(outcome.login_address, 512),
            remote_ip=context.remote_ip,
            local_ip=context.local_ip,
            tls=_storable(context.tls, 128),
            client_key_fingerprint=context.client_key_fingerprint,
            protocol=context.protocol,
            user_agent=_storable(context.user_agent, 512),
            mechanism=_storable(context.mechanism, 32),
        )
        self._recorder.record(attempt)
        return replace(outcome, attempt=attempt)

    def identify(self, attempt: Attempt, user_agent: str) -> Attempt:
        """The client of an attempt says after it what it is; gives the attempt as it is recorded now. Never waits."""
        return self._recorder.identify(attempt, _storable(user_agent, 512))


class LoginExchange:
    """One SASL exchange on a connection. Methods give the challenge to send, or the outcome that ends it.

    A failure counts as soon as it is known, even if the client goes away without taking the last step.
    """

    def __init__(self, service: LoginService, machine: ServerMechanism, context: LoginContext) -> None:
        self._service = service
        self._machine = machine
        self._context = context
        self._login = ""
        self._address: Address | None = None
        self._allowance = Allowance(allowed=False, has_failures=False)
        self._settled: LoginOutcome | None = None

    @property
    def mechanism(self) -> str:
        """The registered name, e.g. ``SCRAM-SHA-256``."""
        return self._machine.name

    def start(self, initial: bytes | None) -> ExchangeStep:
        """Begin, with the decoded initial response, or None if the client sent none (b"" is an empty one)."""
        return self._advance(self._machine.start(initial))

    def respond(self, response: bytes) -> ExchangeStep:
        """Go on with the decoded response to the last challenge."""
        if self._settled is not None:
            return self._settled
        return self._advance(self._machine.next(response))

    def abort(self) -> LoginOutcome:
        """The client cancelled (``*``), sent what is not base64, or closed the connection."""
        if self._settled is None:
            self._settled = self._service.abort(self._login, self._context)
        return self._settled

    def _advance(self, step: Step) -> ExchangeStep:
        while isinstance(step, CredentialsNeeded):
            step_or_refusal = self._supply(step)
            if isinstance(step_or_refusal, LoginOutcome):
                return self._settle(step_or_refusal)
            step = step_or_refusal
        match step:
            case Challenge():
                if step.failure is not None:
                    self._settle(self._fail(step.failure))
                return step
            case PasswordGiven():
                return self._settle(self._service.login_plain(step.authcid, step.authzid, step.password, self._context))
            case ExternalClaimed():
                return self._settle(self._service.login_with_key(nfc(step.authzid), self._context))
            case Authenticated():
                if self._address is None:
                    return self._settle(self._fail(Failed(Failure.CREDENTIALS, "no such login")))
                return self._settle(self._service.succeed(self._login, self._address, self._allowance, self._context))
            case Failed():
                return self._settle(self._fail(step))
            case _:
                assert_never(step)

    def _supply(self, needed: CredentialsNeeded) -> Step | LoginOutcome:
        self._login = needed.authcid
        self._allowance = self._service.allowance(self._context)
        if not self._allowance.allowed:
            return self._service.refuse_too_many(self._login, self._context)
        try:
            self._address = resolve_login(self._login)
            credentials = stored_credentials(needed.kind, self._address)
            if self._address is None:
                credentials = made_up_credentials(needed.kind, self._login)
        except (DatabaseError, DatabaseBusy) as exc:
            return self._fail(Failed(Failure.UNAVAILABLE, f"database: {exc}"))
        if credentials is None:
            return self._fail(Failed(Failure.NO_SECRETS, f"account has no password set for {self.mechanism}"))
        return self._machine.supply(credentials)

    def _fail(self, failed: Failed) -> LoginOutcome:
        unknown = failed.failure is Failure.CREDENTIALS and self._address is None
        result = LoginResult.BADUSER if unknown else None
        return self._service.fail(self._login, self._address, failed, self._context, result)

    def _settle(self, outcome: LoginOutcome) -> LoginOutcome:
        self._settled = outcome
        return outcome


def _not_the_key_of(account: Account, fingerprint: str) -> Failed | None:
    """Who shows the key of an account logs in to that one only."""
    try:
        key = tlskeys.find_key(fingerprint)
    except (DatabaseError, DatabaseBusy) as exc:
        return Failed(Failure.UNAVAILABLE, f"database: {exc}")
    if key is None or key.account_id == account.pk:
        return None
    return Failed(Failure.AUTHORIZATION, f"the client's key is of account {key.account}")


def stored_credentials(kind: CredentialKind, address: Address | None) -> Credentials | None:
    """What is stored for a mechanism; None if nothing is. An unknown login takes the same query and time."""
    row = Credential.objects.filter(account_id=address.account_id if address is not None else 0).first()
    if row is None:
        return None
    match kind:
        case CredentialKind.CRAM_MD5:
            stored = HmacMd5States(bytes(row.cram_md5_inner), bytes(row.cram_md5_outer))
            return stored if stored.inner else None
        case CredentialKind.SCRAM_SHA_1:
            keys = ScramKeys(
                bytes(row.scram_sha1_salt),
                row.scram_sha1_iterations,
                bytes(row.scram_sha1_stored_key),
                bytes(row.scram_sha1_server_key),
            )
        case CredentialKind.SCRAM_SHA_256:
            keys = ScramKeys(
                bytes(row.scram_sha256_salt),
                row.scram_sha256_iterations,
                bytes(row.scram_sha256_stored_key),
                bytes(row.scram_sha256_server_key),
            )
    return keys if keys.stored_key else None


def made_up_credentials(kind: CredentialKind, login: str) -> Credentials:
    """Credentials that nothing fits, for a login that does not exist; its salt is the same each time."""
    if kind is CredentialKind.CRAM_MD5:
        return HmacMd5States(secrets.token_bytes(STATE_SIZE), secrets.token_bytes(STATE_SIZE))
    hash_ = ScramHash.SHA_1 if kind is CredentialKind.SCRAM_SHA_1 else ScramHash.SHA_256
    size = hash_.function(b"").digest_size
    name = _canonical_login(login)
    salt = salted_hmac("accounts.login.made_up_salt", f"{kind.value}\0{name}", algorithm="sha256").digest()[:SALT_SIZE]
    return ScramKeys(salt, SCRAM_ITERATIONS[hash_], secrets.token_bytes(size), secrets.token_bytes(size))


def _canonical_login(login: str) -> str:
    """Spellings that would be one address if it existed get one salt, as they do where it exists."""
    try:
        parsed = parse_address(login)
    except BadAddress:
        return login.lower()
    hosted = Domain.objects.filter(name=parsed.domain.ascii).first()
    if hosted is None:
        return login.lower()
    return canonical_address(parsed.localpart, hosted)


def _storable(text: str, size: int) -> str:
    """Text that fits a column, and has nothing that a database refuses."""
    return text[:size].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
