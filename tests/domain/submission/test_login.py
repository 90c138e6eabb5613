"""AUTH on the submission ports: mechanisms by TLS state, refusals, limits."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import re
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.test import override_settings

from accounts.models import Account, Credential
from protocols.sasl import SERVER_MECHANISMS
from protocols.sasl.channel_binding import ChannelBinding
from protocols.sasl.client import Plain, Scram, client_mechanism
from protocols.sasl.scram import ScramHash
from server import login_attempts
from server.logs import TRACE, TRACEAUTH
from server.models import LoginAttempt, LoginResult, TLSMode
from server.ratelimit import Limit, Limiter, LimitTable
from tests.domain.smtp_service import Service, running
from tests.system.conftest import MailboxUser, make_user
from tests.system.servers import source_ip
from tests.system.smtp_wire import Wire, play

pytestmark = pytest.mark.database

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
BOTH_VERSIONS = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["1.2", "1.3"])
WITHOUT_PLUS = [name for name in SERVER_MECHANISMS if not name.endswith("-PLUS")]


@pytest.fixture(scope="module")
def service(database: None) -> Iterator[Service]:
    """As on a public server: nothing without TLS."""
    with running(name="submission", listener={"submission_no_require_starttls": False}) as started:
        yield started


@pytest.fixture(scope="module")
def open_service(database: None) -> Iterator[Service]:
    """As in localserve: passwords and mail in the clear are fine."""
    with running(name="submission") as started:
        yield started


@pytest.fixture
def certificate() -> Path:
    return Path(settings.MOX.data_dir) / "localhost.crt"


@pytest.fixture
def wire(open_service: Service) -> Iterator[Wire]:
    with open_service.connect() as connected:
        yield connected.hello()


@pytest.fixture
def user(new_account: Callable[[], Account]) -> MailboxUser:
    return make_user(new_account)


def under_tls(service: Service, certificate: Path, version: ssl.TLSVersion | None = None) -> Wire:
    wire = service.connect().hello()
    assert wire.command("STARTTLS").startswith("220 ")
    wire.start_tls(certificate, version)
    assert wire.command("EHLO client.example").startswith("250 ")
    return wire


def extensions(wire: Wire) -> list[str]:
    wire.send("EHLO client.example\r\n")
    return [line[4:] for line in wire.reply()[1:]]


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextlib.contextmanager
def environment(**changes: Any) -> Iterator[None]:
    with override_settings(MOX=dataclasses.replace(settings.MOX, **changes)):
        yield


# What is offered.


def test_without_tls_no_mechanism_is_offered_where_tls_is_needed(service: Service) -> None:
    with service.connect() as wire:
        wire.reply()
        assert [line for line in extensions(wire) if line.startswith(("AUTH", "STARTTLS"))] == ["STARTTLS", "AUTH "]


@pytest.mark.parametrize(
    ("version", "mechanisms"),
    [(TLS12, list(SERVER_MECHANISMS)), (TLS13, WITHOUT_PLUS), (None, WITHOUT_PLUS)],
    ids=["1.2", "1.3", "none"],
)
def test_what_ehlo_lists(
    open_service: Service, certificate: Path, version: ssl.TLSVersion | None, mechanisms: list[str]
) -> None:
    with open_service.connect().hello() if version is None else under_tls(open_service, certificate, version) as wire:
        lines = extensions(wire)
    assert lines.pop(2) == ("STARTTLS" if version is None else "REQUIRETLS")
    future_release = lines.pop(3)
    assert lines == [
        "PIPELINING",
        "SIZE 104857600",
        f"AUTH {' '.join(mechanisms)}",
        "ENHANCEDSTATUSCODES",
        "8BITMIME",
        "LIMITS RCPTMAX=1000",
        "SMTPUTF8",
    ]
    match = re.fullmatch(r"FUTURERELEASE 5184000 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)", future_release)
    assert match is not None
    ahead = datetime.fromisoformat(match[1]) - datetime.now(UTC)
    assert abs(ahead - timedelta(days=60)) < timedelta(minutes=1)


def test_without_certificates_there_is_no_starttls(database: None) -> None:
    with running(name="submission", listener={"tls_mode": TLSMode.NONE}) as service, service.connect() as wire:
        wire.reply()
        assert "STARTTLS" not in extensions(wire)
        assert wire.command("STARTTLS").startswith("503 5.5.1 ")


# Logging in.


@pytest.mark.parametrize("name", WITHOUT_PLUS)
@pytest.mark.parametrize("initial", [True, False], ids=["initial", "asked"])
def test_each_mechanism_logs_in(wire: Wire, user: MailboxUser, name: str, initial: bool) -> None:
    assert wire.authenticate(client_mechanism(name, user.address, user.password), initial=initial) == (
        "235 2.7.0 logged in"
    )
    assert wire.command(f"MAIL FROM:<{user.address}>").startswith("250 2.1.0 ")


@BOTH_VERSIONS
@pytest.mark.parametrize("hash_", list(ScramHash))
def test_a_client_that_binds_to_the_channel_is_verified(
    service: Service, certificate: Path, user: MailboxUser, hash_: ScramHash, version: ssl.TLSVersion
) -> None:
    """Announced under TLS 1.2 only, but verified under 1.3 too."""
    with under_tls(service, certificate, version) as wire:
        for plus in (True, False):
            mechanism = Scram(hash_, user.address, user.password, channel=wire.channel_binding(), plus=plus)
            wrong = Scram(hash_, user.address, "wrong-password", channel=wire.channel_binding(), plus=plus)
            assert wire.authenticate(wrong).startswith("535 5.7.8 ")
            if plus == (version == TLS12):
                assert wire.authenticate(mechanism).startswith("235 ")
                break


@BOTH_VERSIONS
def test_a_wrong_channel_binding_fails(
    service: Service, certificate: Path, user: MailboxUser, version: ssl.TLSVersion
) -> None:
    """As with somebody in between who ends TLS and begins it anew."""
    with under_tls(service, certificate, version) as wire:
        other = ChannelBinding(tls_unique=None, tls_server_end_point=b"x" * 32, announce_plus=True)
        for plus in (True, False):
            mechanism = Scram(ScramHash.SHA_256, user.address, user.password, channel=other, plus=plus)
            assert wire.authenticate(mechanism).startswith("535 5.7.7 ")
        assert wire.command("NOOP").startswith("250 ")


def test_flag_y_is_a_downgrade_only_where_plus_was_announced(
    service: Service, certificate: Path, user: MailboxUser
) -> None:
    def reply(wire: Wire) -> str:
        with wire:
            return wire.authenticate(Scram(ScramHash.SHA_256, user.address, user.password, flag="y"))

    assert reply(under_tls(service, certificate, TLS12)).startswith("535 5.7.7 ")
    assert reply(under_tls(service, certificate, TLS13)).startswith("235 ")
    assert reply(service.connect().hello()).startswith("235 ")


@pytest.mark.parametrize("name", WITHOUT_PLUS)
def test_an_unknown_user_and_a_wrong_password_are_answered_alike(wire: Wire, user: MailboxUser, name: str) -> None:
    mechanisms = [
        client_mechanism(name, user.address, "wrong-password"),
        client_mechanism(name, "nobody-of-that-name@localhost", user.password),
        client_mechanism(name, "nobody@elsewhere.example", user.password),
        client_mechanism(name, "postmaster@localhost", user.password),
    ]
    replies = {wire.authenticate(mechanism) for mechanism in mechanisms}
    assert len(replies) == 1
    assert replies.pop().startswith("535 5.7.8 bad user name or password (")


def test_separator_variants_and_other_case_log_in(open_service: Service, user: MailboxUser) -> None:
    localpart, _, domain = user.address.partition("@")
    for login in (f"{localpart}+sales@{domain}", user.address.upper()):
        with open_service.connect() as wire:
            assert wire.hello().authenticate(Plain(login, user.password)).startswith("235 ")


def test_a_disabled_account_is_told_why(wire: Wire, user: MailboxUser) -> None:
    Account.objects.filter(pk=user.account.pk).update(login_disabled="unpaid bills")
    assert wire.authenticate(Plain(user.address, "wrong-password")).startswith("535 5.7.8 ")
    assert wire.authenticate(Plain(user.address, user.password)).startswith("525 5.7.13 login disabled: unpaid bills (")
    assert wire.command(f"MAIL FROM:<{user.address}>").startswith("530 5.7.0 ")


def test_without_the_secrets_of_a_mechanism_another_will_do(wire: Wire, user: MailboxUser) -> None:
    Credential.objects.filter(account=user.account).update(scram_sha256_stored_key=b"", cram_md5_inner=b"")
    for name in ("SCRAM-SHA-256", "CRAM-MD5") * 2:
        assert wire.authenticate(client_mechanism(name, user.address, user.password)).startswith("454 4.3.0 ")
    assert wire.authenticate(client_mechanism("SCRAM-SHA-1", user.address, user.password)).startswith("235 ")


# What is not right about AUTH.


def test_cleartext_passwords_need_tls_where_that_is_required(
    service: Service, certificate: Path, user: MailboxUser
) -> None:
    with service.connect() as wire:
        wire.hello()
        for name in ("PLAIN", "LOGIN"):
            assert wire.authenticate(client_mechanism(name, user.address, user.password)).startswith("538 5.7.11 ")
            assert wire.command(f"AUTH {name}").startswith("538 5.7.11 ")
        assert wire.command(f"MAIL FROM:<{user.address}>").startswith("530 5.7.0 STARTTLS ")
        # The proof of a password may come in the clear, mail may not.
        assert wire.authenticate(client_mechanism("CRAM-MD5", user.address, user.password)).startswith("235 ")
        assert wire.command(f"MAIL FROM:<{user.address}>").startswith("530 5.7.0 STARTTLS ")
        assert wire.command("STARTTLS").startswith("503 5.5.1 ")
    with under_tls(service, certificate) as wire:
        assert wire.authenticate(client_mechanism("LOGIN", user.address, user.password)).startswith("235 ")
        assert wire.command(f"MAIL FROM:<{user.address}>").startswith("250 ")


def test_plus_needs_tls(wire: Wire) -> None:
    assert wire.command("AUTH SCRAM-SHA-256-PLUS").startswith("538 5.7.11 ")
    assert wire.command("AUTH scram-sha-1-plus").startswith("538 5.7.11 ")


def test_auth_out_of_order(open_service: Service, user: MailboxUser) -> None:
    plain = encoded(f"\0{user.address}\0{user.password}")
    with open_service.connect() as wire:
        play(
            wire,
            f"""
            S: 220 localhost ESMTP mox
            C: AUTH PLAIN {plain}
            S: 503 5.5.1 ...
            C: EHLO client.example
            S: 250-localhost
            S: ...
            C: MAIL FROM:<{user.address}>
            S: 530 5.7.0 log in first ...
            C: RCPT TO:<{user.address}>
            S: 530 5.7.0 ...
            C: DATA
            S: 530 5.7.0 ...
            C: AUTH
            S: 501 5.5.2 ...
            C: AUTH GSSAPI
            S: 504 5.5.4 ...
            C: AUTH a.b
            S: 501 5.5.2 ...
            C: AUTH PLAIN !!!
            S: 501 5.5.2 ...
            C: AUTH PLAIN AG1v
            S: 501 5.5.4 ...
            C: AUTH PLAIN =
            S: 501 5.5.4 ...
            C: AUTH PLAIN
            S: 334 ...
            C: *
            S: 501 5.5.0 ...
            C: AUTH PLAIN
            S: 334 ...
            C: {plain[:-1]}
            S: 501 5.5.2 ...
            C: AUTH LOGIN {encoded(user.address)}
            S: 334 UGFzc3dvcmQ6
            C: {encoded("wrong-password")}
            S: 535 5.7.8 ...
            C: AUTH LOGIN
            S: 334 VXNlcm5hbWU6
            C: {encoded(user.address)}
            S: 334 UGFzc3dvcmQ6
            C: {encoded(user.password)}
            S: 235 2.7.0 ...
            C: AUTH PLAIN {plain}
            S: 503 5.5.1 ...
            C: STARTTLS
            S: 503 5.5.1 ...
            C: MAIL FROM:<{user.address}>
            S: 250 2.1.0 ...
            C: AUTH PLAIN {plain}
            S: 503 5.5.1 ...
            C: EHLO client.example
            S: 250-localhost
            S: ...
            C: MAIL FROM:<{user.address}>
            S: 250 2.1.0 ...
            """,
        )


def test_several_spaces_before_the_initial_response(
    open_service: Service, new_account: Callable[[], Account], user: MailboxUser
) -> None:
    plain = encoded(f"\0{user.address}\0{user.password}")
    with open_service.connect() as wire:
        assert wire.hello().command(f"AUTH PLAIN   {plain}").startswith("235 ")
    with running(name="submission", server={"pedantic": True}) as strict, strict.connect() as wire:
        assert wire.hello().command(f"AUTH PLAIN   {plain}").startswith("501 5.5.2 ")
        assert wire.command(f"AUTH PLAIN {plain}").startswith("235 ")


def test_malformed_scram_and_foreign_roles(wire: Wire, user: MailboxUser) -> None:
    assert wire.command(f"AUTH SCRAM-SHA-256 {encoded('nonsense')}").startswith("501 5.7.0 ")
    assert wire.command(f"AUTH SCRAM-SHA-256 {encoded(f'n,,n={user.address},r=rOprNGfwEbeRWgbN')}").startswith("334 ")
    assert wire.command(encoded("c=nonsense")).startswith("535 5.7.0 ")
    assert wire.command(f"AUTH CRAM-MD5 {encoded('x')}").startswith("501 5.5.4 ")
    other = Plain(user.address, user.password, authzid="mox@localhost")
    assert wire.authenticate(other).startswith("535 5.7.8 ")
    assert wire.authenticate(Plain(user.address, user.password, authzid=user.address)).startswith("235 ")


def test_scram_ends_only_with_the_clients_empty_response(wire: Wire, user: MailboxUser) -> None:
    client = Scram(ScramHash.SHA_256, user.address, user.password)
    first = client.next(None).data
    assert first is not None
    challenge = wire.command(f"AUTH SCRAM-SHA-256 {base64.b64encode(first).decode()}")
    final = client.next(base64.b64decode(challenge[4:])).data
    assert final is not None
    assert wire.command(base64.b64encode(final).decode()).startswith("334 ")
    assert wire.command(encoded("more")).startswith("535 5.7.0 ")


@pytest.mark.parametrize("size", [12_288, 100_000])
def test_a_response_of_more_than_12288_bytes_ends_the_connection(wire: Wire, size: int) -> None:
    assert wire.command("AUTH PLAIN").startswith("334 ")
    wire.send("A" * 12_284 + "\r\n")  # as much base64 as a line may have
    assert wire.reply()[0].startswith("501 5.5.4 ")
    assert wire.command("AUTH PLAIN").startswith("334 ")
    wire.send("A" * size + "\r\n")
    assert wire.reply()[0].startswith("500 5.5.0 line of more than 12288 bytes")
    assert wire.is_closed()


def test_a_command_line_of_more_than_2048_bytes_ends_the_connection_with_auth_too(wire: Wire) -> None:
    wire.send("AUTH PLAIN " + "A" * 2036 + "\r\n")
    assert wire.reply()[0].startswith("500 5.5.0 ")
    assert wire.is_closed()


def test_an_answer_that_never_comes_is_not_waited_for_at_shutdown(database: None) -> None:
    with running(name="submission") as service, service.connect() as wire:
        assert wire.hello().command("AUTH LOGIN").startswith("334 ")
        service.stop()
        assert wire.reply()[0].startswith("421 4.3.2 ")
        assert wire.is_closed()


def test_a_client_that_falls_silent_within_a_login_is_cut_off(open_service: Service) -> None:
    with environment(smtp_idle_timeout=timedelta(seconds=0.3)), open_service.connect() as wire:
        assert wire.hello().command("AUTH LOGIN").startswith("334 ")
        assert wire.is_closed()


@pytest.mark.parametrize(("level", "told"), [(TRACE, False), (TRACEAUTH, True)])
def test_what_proves_a_password_is_logged_at_traceauth_only(
    open_service: Service, user: MailboxUser, caplog: pytest.LogCaptureFixture, level: int, told: bool
) -> None:
    caplog.set_level(level)
    secret = encoded(f"\0{user.address}\0wrong-password")
    with open_service.connect() as wire:
        wire.hello()
        assert wire.command(f"AUTH PLAIN {secret}").startswith("535 ")
        assert wire.command(f"auth  plain {secret}").startswith("501 ")
        assert wire.command(f"AUTH\tPLAIN {secret}").startswith("500 ")
        assert wire.command("AUTH PLAIN").startswith("334 ")
        assert wire.command(secret).startswith("535 ")
        assert wire.command(f"MAIL FROM:<{user.address}>").startswith("530 ")
    logged = "\n".join(str(vars(record)) for record in caplog.records)
    assert f"MAIL FROM:<{user.address}>" in logged
    assert "wrong-password" not in logged
    assert (secret in logged) is told


# Attempts.


def test_each_attempt_is_recorded(wire: Wire, user: MailboxUser) -> None:
    wire.authenticate(Plain(user.address, "wrong-password"))
    wire.authenticate(Scram(ScramHash.SHA_1, user.address, user.password))
    login_attempts.recorder().flush()
    rows = LoginAttempt.objects.filter(login_address=user.address).values_list("protocol", "mechanism", "result")
    assert set(rows) == {
        ("submission", "plain", LoginResult.BADPASSWORD),
        ("submission", "scram-sha-1", LoginResult.OK),
    }


def test_after_wrong_passwords_everything_is_slow_until_a_right_one(open_service: Service, user: MailboxUser) -> None:
    right, wrong = Plain(user.address, user.password), Plain(user.address, "wrong-password")
    with (
        environment(smtp_bad_client_delay=timedelta(seconds=0.02), smtp_auth_fail_delay=timedelta(seconds=0.3)),
        open_service.connect() as wire,
    ):
        wire.hello()
        for _ in range(3):
            assert wire.authenticate(wrong).startswith("535 ")
        began = time.monotonic()
        assert wire.authenticate(wrong).startswith("535 5.7.8 ")  # a byte at a time
        assert time.monotonic() - began > 0.02 * 40
        began = time.monotonic()
        assert wire.authenticate(right).startswith("235 ")
        assert time.monotonic() - began > 0.3
        began = time.monotonic()
        for _ in range(20):
            wire.command("NOOP")
        assert time.monotonic() - began < 0.4


def test_a_client_that_leaves_when_it_sees_the_error_has_failed_too(open_service: Service, user: MailboxUser) -> None:
    """Whoever cancels after ``e=invalid-proof`` gets no more tries than others."""
    with environment(smtp_auth_fail_delay=timedelta(seconds=0.3)), open_service.connect() as wire:
        wire.hello()
        for _ in range(4):
            client = Scram(ScramHash.SHA_256, user.address, "wrong-password")
            first = client.next(None).data
            assert first is not None
            challenge = wire.command(f"AUTH SCRAM-SHA-256 {base64.b64encode(first).decode()}")
            final = client.next(base64.b64decode(challenge[4:])).data
            assert final is not None
            assert base64.b64decode(wire.command(base64.b64encode(final).decode())[4:]) == b"e=invalid-proof"
            assert wire.command("*").startswith("501 5.5.0 ")
        began = time.monotonic()
        assert wire.authenticate(Plain(user.address, user.password)).startswith("235 ")
        assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("name", ["submission", "submissions"])
def test_a_network_with_too_many_failed_logins_is_refused_when_it_connects(
    user: MailboxUser, certificate: Path, name: str
) -> None:
    once = Limit(60, 3, 9, 27)
    limiter = Limiter(settings.MOX_CACHE_URL, LimitTable(failed_logins=(once,)))
    source = source_ip()
    with running(name=name, limiter=limiter) as service:

        def connect(source: str | None) -> Wire:
            wire = service.connect(source)
            return wire.start_tls(certificate) if name == "submissions" else wire

        for _ in range(3):
            limiter.count_failed_login(source)
        with connect(source) as wire:
            assert wire.reply()[0].startswith("421 4.7.0 too many failed logins ")
            assert wire.is_closed()
        with connect(None) as wire:
            assert wire.hello().authenticate(Plain(user.address, user.password)).startswith("235 ")
