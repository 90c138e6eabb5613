"""Logging in: every mechanism, wrong and unknown logins, limits, and what is recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from accounts.login import LoginContext, LoginExchange, LoginOutcome, LoginService
from accounts.models import Account, Address, Credential
from accounts.passwords import set_password
from protocols.sasl import SERVER_MECHANISMS, Challenge, ChannelBinding, Failure, UnknownMechanism
from protocols.sasl.client import ClientMechanism, Scram, client_mechanism
from protocols.sasl.scram import ScramHash, parse_server_first
from server import db, login_attempts
from server.login_attempts import AttemptRecorder
from server.models import LoginAttempt, LoginResult
from server.ratelimit import Limit, Limiter, LimitTable

pytestmark = pytest.mark.database

PASSWORD = "correct horse battery"
CONTEXT = LoginContext(
    protocol="imap",
    mechanism="login",
    remote_ip="192.0.2.1",
    local_ip="198.51.100.1",
    tls="TLSv1.3 TLS_AES_128_GCM_SHA256",
    user_agent="test client",
)
TLS12 = ChannelBinding(b"u" * 12, b"e" * 32, announce_plus=True)
ALLOWED_FAILURES = 3


@dataclass(frozen=True, slots=True)
class Site:
    """An account with a password, and the login service with small limits and a Redis that is away."""

    account: Account
    address: Address
    service: LoginService
    limiter: Limiter
    recorder: AttemptRecorder

    @property
    def login(self) -> str:
        return self.address.canonical

    def attempts(self) -> list[LoginAttempt]:
        self.recorder.flush()
        return list(LoginAttempt.objects.filter(account_name__in=(self.account.name, "-")).order_by("pk"))

    def plain(self, password: str, login: str | None = None) -> LoginOutcome:
        return self.service.login_plain(self.login if login is None else login, "", password, CONTEXT)

    def exchange(self, mechanism: str) -> LoginExchange:
        return self.service.exchange(
            mechanism, CONTEXT, channel=TLS12, plus_announced=True, hostname="mail.example.org"
        )


@pytest.fixture
def site(account: Account) -> Iterator[Site]:
    with db.write():
        LoginAttempt.objects.all().delete()
    set_password(account, PASSWORD)
    address = account.addresses.select_related("domain").first()
    assert address is not None
    small = Limit(60, ALLOWED_FAILURES, 10, 10)
    limiter = Limiter("unix:///nowhere/redis.sock", LimitTable(failed_logins=(small,)), clock=lambda: 1e9)
    recorder = AttemptRecorder(background=False)
    yield Site(account, address, LoginService(limiter, recorder), limiter, recorder)
    with db.write():
        LoginAttempt.objects.all().delete()


def converse(exchange: LoginExchange, client: ClientMechanism) -> LoginOutcome:
    step = exchange.start(client.next(None).data)
    while isinstance(step, Challenge):
        step = exchange.respond(b"" if step.data.startswith(b"e=") else client.next(step.data).data or b"")
    return step


@pytest.mark.parametrize("mechanism", SERVER_MECHANISMS)
def test_every_mechanism_lets_the_owner_in(site: Site, mechanism: str) -> None:
    outcome = converse(site.exchange(mechanism), client_mechanism(mechanism, site.login, PASSWORD, TLS12))
    assert (outcome.result, outcome.account_id, outcome.address_id) == (
        LoginResult.OK,
        site.account.pk,
        site.address.pk,
    )
    assert [(row.result, row.mechanism, row.login_address) for row in site.attempts()] == [
        ("ok", mechanism.lower(), site.login)
    ]


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5", "PLAIN"])
def test_spellings_of_the_address_that_deliver_to_it_log_in_too(site: Site, mechanism: str) -> None:
    localpart, _, domain = site.login.partition("@")
    spelling = f"{localpart.upper()}+lists@{domain.upper()}"
    assert converse(site.exchange(mechanism), client_mechanism(mechanism, spelling, PASSWORD)).ok


@pytest.mark.parametrize("mechanism", SERVER_MECHANISMS)
@pytest.mark.parametrize("known", [True, False])
def test_wrong_password_and_unknown_user_are_refused_and_counted(site: Site, mechanism: str, known: bool) -> None:
    login = site.login if known else f"nobody-{site.login}"
    outcome = converse(site.exchange(mechanism), client_mechanism(mechanism, login, "another password", TLS12))
    expected = LoginResult.BADPASSWORD if mechanism in ("PLAIN", "LOGIN") else LoginResult.BADCREDS
    assert outcome.result is (expected if known else LoginResult.BADUSER)
    assert outcome.failure is Failure.CREDENTIALS
    assert outcome.account_id is None
    assert site.limiter.login_allowance(CONTEXT.remote_ip).has_failures
    assert [row.account_name for row in site.attempts()] == [site.account.name if known else "-"]


def test_scram_shows_an_unknown_user_the_same_as_a_known_one(site: Site) -> None:
    def shown(login: str) -> bytes:
        exchange = site.exchange("SCRAM-SHA-1")
        challenge = exchange.start(Scram(ScramHash.SHA_1, login, "any password").next(None).data)
        assert isinstance(challenge, Challenge)
        message = parse_server_first(challenge.data)
        assert message.iterations == 8192
        assert len(message.salt) == 16
        return message.salt

    domain = site.login.partition("@")[2]
    assert shown(site.login) == shown(site.login.upper())
    assert shown(f"nobody@{domain}") == shown(f"NOBODY+x@{domain}")
    assert shown(f"nobody@{domain}") != shown(f"somebody@{domain}")
    assert shown("not an address") == shown("not an address")


def test_the_password_is_the_same_in_every_unicode_spelling(site: Site) -> None:
    set_password(site.account, "pa\u00dfwort \u00e9t\u00e9")
    assert site.plain("pa\u00dfwort\u00a0e\u0301te\u0301").ok
    assert not site.plain("passwort \u00e9t\u00e9").ok
    client = Scram(ScramHash.SHA_256, site.login, "pa\u00dfwort e\u0301te\u0301")
    assert converse(site.exchange("SCRAM-SHA-256"), client).ok


def test_an_old_password_ends_at_once(site: Site) -> None:
    assert site.plain(PASSWORD).ok
    assert site.plain(PASSWORD).ok
    set_password(site.account, "another good password")
    assert site.plain(PASSWORD).result is LoginResult.BADPASSWORD
    assert site.plain("another good password").ok


def test_a_disabled_login_is_told_why_after_the_right_password_only(site: Site) -> None:
    with db.write():
        Account.objects.filter(pk=site.account.pk).update(login_disabled="moved to the new server")
    for mechanism in ("PLAIN", "SCRAM-SHA-256"):
        outcome = converse(site.exchange(mechanism), client_mechanism(mechanism, site.login, PASSWORD))
        assert outcome.result is LoginResult.LOGINDISABLED
        assert outcome.disabled_text == "moved to the new server"
    wrong = site.plain("another password")
    assert (wrong.result, wrong.disabled_text) == (LoginResult.BADPASSWORD, "")


def test_an_account_without_a_password_is_no_failed_login_for_scram(site: Site) -> None:
    with db.write():
        Credential.objects.filter(account=site.account).delete()
    outcome = converse(site.exchange("SCRAM-SHA-256"), client_mechanism("SCRAM-SHA-256", site.login, PASSWORD))
    assert (outcome.result, outcome.failure) == (LoginResult.ERROR, Failure.NO_SECRETS)
    assert not site.limiter.login_allowance(CONTEXT.remote_ip).has_failures
    assert site.plain(PASSWORD).result is LoginResult.BADPASSWORD


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "CRAM-MD5"])
def test_after_too_many_failures_even_the_right_password_is_not_looked_at(site: Site, mechanism: str) -> None:
    for _ in range(ALLOWED_FAILURES):
        assert not converse(site.exchange(mechanism), client_mechanism(mechanism, site.login, "another password")).ok
    outcome = converse(site.exchange(mechanism), client_mechanism(mechanism, site.login, PASSWORD))
    assert outcome.result is LoginResult.RATELIMITED
    assert "ratelimited" in [row.result for row in site.attempts()]


def test_a_success_clears_the_failures_before(site: Site) -> None:
    for _ in range(3):
        for _ in range(ALLOWED_FAILURES - 1):
            assert not site.plain("another password").ok
        assert site.plain(PASSWORD).ok


def test_a_client_that_leaves_when_it_sees_the_error_is_counted(site: Site) -> None:
    for _ in range(ALLOWED_FAILURES):
        exchange, client = site.exchange("SCRAM-SHA-256"), Scram(ScramHash.SHA_256, site.login, "another password")
        first = exchange.start(client.next(None).data)
        assert isinstance(first, Challenge)
        final = exchange.respond(client.next(first.data).data or b"")
        assert final == Challenge(b"e=invalid-proof", final.failure if isinstance(final, Challenge) else None)
        assert exchange.abort().result is LoginResult.BADCREDS
    assert not site.limiter.login_allowance(CONTEXT.remote_ip).allowed
    assert [row.count for row in site.attempts()] == [ALLOWED_FAILURES]


def test_giving_up_is_recorded_and_not_counted(site: Site) -> None:
    exchange = site.exchange("LOGIN")
    exchange.start(None)
    assert exchange.abort().result is LoginResult.ABORTED
    assert not site.limiter.login_allowance(CONTEXT.remote_ip).has_failures
    assert [row.result for row in site.attempts()] == ["aborted"]


def test_acting_as_somebody_else_is_refused(site: Site) -> None:
    outcome = site.service.login_plain(site.login, f"x{site.login}", PASSWORD, CONTEXT)
    assert (outcome.result, outcome.failure) == (LoginResult.BADCREDS, Failure.AUTHORIZATION)
    assert site.service.login_plain(site.login, site.login, PASSWORD, CONTEXT).ok


def test_a_man_in_the_middle_is_noticed(site: Site) -> None:
    other_channel = ChannelBinding(b"U" * 12, b"E" * 32, announce_plus=True)
    client = Scram(ScramHash.SHA_256, site.login, PASSWORD, channel=other_channel, plus=True)
    outcome = converse(site.exchange("SCRAM-SHA-256-PLUS"), client)
    assert (outcome.result, outcome.failure) == (LoginResult.BADCHANBIND, Failure.CHANNEL_BINDING)


def test_an_unknown_mechanism_is_recorded_without_its_name(site: Site) -> None:
    with pytest.raises(UnknownMechanism):
        site.exchange("X-MADE-UP")
    assert [(row.mechanism, row.result) for row in site.attempts()] == [("(unrecognized)", "badprotocol")]


@pytest.mark.parametrize("login", ["", "@", "x", "a\0b@example.org", "\udcff@example.org", "x" * 5000, "a@b@c", '"'])
def test_hostile_login_names_are_unknown_users(site: Site, login: str) -> None:
    assert site.plain(PASSWORD, login).result is LoginResult.BADUSER
    assert len(site.attempts()) == 1


@pytest.mark.parametrize("password", ["", "\0", "tab\there1", "\udcff", "x" * 100_000])
def test_hostile_passwords_are_wrong(site: Site, password: str) -> None:
    assert site.plain(password).result is LoginResult.BADPASSWORD


def test_equal_attempts_are_one_row_and_no_password_is_in_it(site: Site) -> None:
    for _ in range(2):
        site.plain("wrong-pass-word")
    first = site.attempts()
    site.plain("wrong-pass-word-again")
    rows = site.attempts()
    assert [(row.count, row.result, row.user_agent) for row in rows] == [(3, "badpassword", "test client")]
    assert rows[0].first == first[0].first
    assert rows[0].last > first[0].last
    assert "wrong-pass" not in str(LoginAttempt.objects.values().get(pk=rows[0].pk))


def test_a_client_may_say_after_the_login_what_it_is(site: Site) -> None:
    for _ in range(2):
        assert site.plain(PASSWORD).ok
    site.recorder.flush()
    for agent in ("name=Mail", "name=Mail", "name=Phone"):
        attempt = site.plain(PASSWORD).attempt
        assert attempt is not None
        site.recorder.flush()
        named = site.service.identify(attempt, agent)
        assert site.service.identify(named, agent) == named
    rows = {row.user_agent: row.count for row in site.attempts()}
    assert rows == {"test client": 2, "name=Mail": 2, "name=Phone": 1}
    # Within the moment in which attempts are collected, too.
    attempt = site.plain(PASSWORD).attempt
    assert attempt is not None
    site.service.identify(site.service.identify(attempt, "name=Phone"), "name=Phone os=7")
    assert {row.user_agent: row.count for row in site.attempts()} == {**rows, "name=Phone os=7": 1}


def test_only_so_many_failed_rows_are_kept_per_account(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(login_attempts, "MAX_FAILED_ROWS", 5)
    address = site.login
    for number in range(12):
        context = LoginContext("imap", "login", f"203.{number}.113.1", "198.51.100.1")
        site.service.login_plain(address, "", "another password", context)
        site.recorder.flush()
    assert site.plain(PASSWORD).ok
    rows = site.attempts()
    assert sorted(row.remote_ip for row in rows if row.result != "ok") == sorted(f"203.{n}.113.1" for n in range(7, 12))
    assert sum(row.result == "ok" for row in rows) == 1


def test_recording_happens_behind_the_login(site: Site) -> None:
    service = LoginService(site.limiter, AttemptRecorder())
    assert service.login_plain(site.login, "", PASSWORD, CONTEXT).ok
    deadline = time.monotonic() + 20
    while not LoginAttempt.objects.filter(account_name=site.account.name).exists():
        assert time.monotonic() < deadline, "the attempt was never written"
        time.sleep(0.05)
