"""TLS client keys: registering and removing them, and logging in with one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from accounts import tlskeys
from accounts.accounts import ConfigurationError
from accounts.login import LoginContext, LoginExchange, LoginOutcome, LoginService
from accounts.models import Account, TLSPublicKey
from accounts.passwords import set_password
from protocols.sasl import Challenge, Failure, UnknownMechanism
from server.login_attempts import AttemptRecorder
from server.models import LoginAttempt, LoginResult
from server.ratelimit import Limiter
from tests.unit.certificates import certify

pytestmark = pytest.mark.database


@pytest.fixture
def account(new_account: Callable[[], Account]) -> Iterator[Account]:
    account = new_account()
    yield account
    TLSPublicKey.objects.filter(account=account).delete()


@pytest.fixture
def recorder() -> AttemptRecorder:
    return AttemptRecorder(background=False)


@pytest.fixture
def service(recorder: AttemptRecorder) -> LoginService:
    return LoginService(Limiter("redis://127.0.0.1:1/0"), recorder)


def context(fingerprint: str) -> LoginContext:
    return LoginContext("imap", "external", "192.0.2.1", "192.0.2.2", client_key_fingerprint=fingerprint)


def outcome(exchange: LoginExchange, response: bytes | None) -> LoginOutcome:
    step = exchange.start(response)
    assert isinstance(step, LoginOutcome)
    return step


def test_a_key_is_registered_for_the_account_of_its_address(account: Account) -> None:
    certified = certify("laptop", common_name="my laptop")
    key = tlskeys.add_key(f"{account}@localhost", f"Some text\n{certified.pem}")
    assert (key.account, key.name, key.type, key.no_imap_preauth) == (account, "my laptop", "ecdsa-secp256r1", False)
    again = certify("other", key=certified.key)
    with pytest.raises(ConfigurationError, match=f"registered already, for account {account}"):
        tlskeys.add_key(f"{account}@localhost", again.pem)
    assert tlskeys.keys(account) == [key]
    assert tlskeys.remove_key(key.fingerprint) == key
    with pytest.raises(ConfigurationError, match="no key has the fingerprint"):
        tlskeys.remove_key(key.fingerprint)


@pytest.mark.parametrize(
    ("pem", "text"),
    [
        ("", "no pem data found"),
        ("-----BEGIN CERTIFICATE-----", "no pem data found"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", 'unexpected type "PRIVATE KEY", need CERT'),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "cannot be read"),
        ("-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", "cannot be read"),
        (certify("a").pem * 2, "only single pem block allowed"),
    ],
    ids=range(6),
)
def test_what_is_no_certificate_is_refused(account: Account, pem: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        tlskeys.add_key(f"{account}@localhost", pem)


def test_an_unknown_address_has_no_keys(account: Account) -> None:
    with pytest.raises(ConfigurationError, match="unknown address"):
        tlskeys.add_key("nobody@elsewhere.example", certify("a").pem)


def test_who_shows_the_key_is_logged_in(account: Account, service: LoginService, recorder: AttemptRecorder) -> None:
    key = tlskeys.add_key(f"{account}@localhost", certify("a").pem)
    shown = context(key.fingerprint)
    for response in (b"", f"{account}@localhost".encode()):
        found = outcome(service.exchange("EXTERNAL", shown), response)
        assert (found.result, found.account_id) == (LoginResult.OK, account.pk)
    exchange = service.exchange("external", shown)
    assert exchange.start(None) == Challenge(b"")
    step = exchange.respond(b"")
    assert isinstance(step, LoginOutcome)
    assert step.ok
    recorder.flush()
    attempt = LoginAttempt.objects.get(account_name=account.name, result=LoginResult.OK)
    assert (attempt.client_key_fingerprint, attempt.mechanism, attempt.count) == (key.fingerprint, "external", 3)


def test_others_are_not(account: Account, new_account: Callable[[], Account], service: LoginService) -> None:
    key = tlskeys.add_key(f"{account}@localhost", certify("a").pem)
    other = new_account()
    found = outcome(service.exchange("EXTERNAL", context("unknown" * 6)), b"")
    assert (found.ok, found.failure) == (False, Failure.CREDENTIALS)
    found = outcome(service.exchange("EXTERNAL", context(key.fingerprint)), f"{other}@localhost".encode())
    assert (found.ok, found.failure) == (False, Failure.AUTHORIZATION)
    found = outcome(service.exchange("EXTERNAL", context(key.fingerprint)), b"a\0b")
    assert found.failure is Failure.MALFORMED
    with pytest.raises(UnknownMechanism):
        service.exchange("EXTERNAL", context(""))
    Account.objects.filter(pk=account.pk).update(login_disabled="moved")
    assert outcome(service.exchange("EXTERNAL", context(key.fingerprint)), b"").result is LoginResult.LOGINDISABLED


def test_another_mechanism_must_be_for_the_account_of_the_key(
    account: Account, new_account: Callable[[], Account], service: LoginService
) -> None:
    key = tlskeys.add_key(f"{account}@localhost", certify("a").pem)
    other = new_account()
    set_password(other, "correct horse")
    shown = replace(context(key.fingerprint), mechanism="plain")
    found = service.login_plain(f"{other}@localhost", "", "correct horse", shown)
    assert (found.ok, found.failure) == (False, Failure.AUTHORIZATION)
    assert service.login_plain(f"{other}@localhost", "", "correct horse", context("somebody's")).ok


def test_the_command_adds_lists_and_removes(account: Account, tmp_path: Path) -> None:
    def config(*words: str) -> str:
        output = io.StringIO()
        call_command("config", "tlspubkey", *words, stdout=output)
        return output.getvalue()

    file = tmp_path / "client.crt"
    file.write_text(certify("a", common_name="phone").pem)
    assert "added for account" in config("add", f"{account}@localhost", str(file), "--no-imap-preauth")
    (key,) = json.loads(config("list", account.name, "--json"))
    assert (key["name"], key["login_address"], key["no_imap_preauth"]) == ("phone", f"{account}@localhost", True)
    assert key["fingerprint"] in config("list")
    assert "removed" in config("rm", key["fingerprint"])
    with pytest.raises(CommandError, match="no key has"):
        config("rm", key["fingerprint"])
