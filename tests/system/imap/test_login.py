"""Logging in: each mechanism with clients that are not ours where there is one, and what happens to wrong passwords."""

from __future__ import annotations

import base64
import imaplib
import shutil
import ssl
import subprocess
import time

import pytest

from accounts.models import Account
from protocols.sasl.channel_binding import ChannelBinding, channel_binding
from protocols.sasl.client import Plain, Scram, client_mechanism
from protocols.sasl.scram import ScramHash
from server.models import LoginAttempt
from tests.system.imap.conftest import User
from tests.system.imap.wire import Closed, Wire
from tests.system.servers import source_ip

pytestmark = pytest.mark.database

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])


def bindings(wire: Wire) -> ChannelBinding:
    assert isinstance(wire.socket, ssl.SSLSocket)
    return channel_binding(wire.socket, wire.socket.getpeercert(binary_form=True))


def logged_in(wire: Wire) -> bool:
    return wire.command("SELECT Inbox").status == "OK"


@pytest.mark.parametrize("name", ["PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
@pytest.mark.parametrize("initial", [True, False], ids=["initial", "asked"])
def test_each_mechanism_logs_in(imap_user: User, name: str, initial: bool) -> None:
    wire = imap_user.connect()
    answer = wire.authenticate(client_mechanism(name, imap_user.address, imap_user.password), initial=initial)
    assert answer.status == "OK", answer.tagged
    assert answer.code[0] == "CAPABILITY"
    assert logged_in(wire)


@pytest.mark.parametrize("name", ["PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_wrong_credentials_look_the_same(imap_user: User, name: str) -> None:
    wire = imap_user.connect()
    for username, password in (
        (imap_user.address, "wrong-password"),
        ("nobody@localhost", imap_user.password),
    ):
        answer = wire.authenticate(client_mechanism(name, username, password))
        assert str(answer.tagged).split(" ", 1)[1] == "NO [AUTHENTICATIONFAILED] bad credentials" or (
            answer.status == "NO" and answer.code == ["AUTHENTICATIONFAILED"]
        ), answer.tagged
    assert wire.authenticate(client_mechanism(name, imap_user.address, imap_user.password)).status == "OK"


def test_imaplib_logs_in_by_login_plain_and_cram_md5(imap_user: User) -> None:
    for method in ("login", "plain", "cram"):
        client = imaplib.IMAP4(imap_user.server.ip, imap_user.server.imap_port, timeout=20)
        if method == "login":
            client.login(imap_user.address, imap_user.password)
        elif method == "plain":
            client.authenticate("PLAIN", lambda _: f"\0{imap_user.address}\0{imap_user.password}".encode())
        else:
            client.login_cram_md5(imap_user.address, imap_user.password)
        assert client.select("INBOX") == ("OK", [b"0"])
        client.logout()


@VERSIONS
@pytest.mark.parametrize("hash_", list(ScramHash))
def test_a_client_that_binds_to_the_channel_is_verified(
    imap_user: User, hash_: ScramHash, version: ssl.TLSVersion
) -> None:
    """Announced under TLS 1.2 only, but verified under 1.3 too."""
    wire = imap_user.connect_tls(version)
    plus = version == ssl.TLSVersion.TLSv1_2
    mechanism = Scram(hash_, imap_user.address, imap_user.password, channel=bindings(wire), plus=plus)
    assert wire.authenticate(mechanism).status == "OK"
    assert logged_in(wire)


@VERSIONS
def test_a_wrong_channel_binding_fails(imap_user: User, version: ssl.TLSVersion) -> None:
    wire = imap_user.connect_tls(version)
    other = ChannelBinding(tls_unique=None, tls_server_end_point=b"x" * 32, announce_plus=True)
    plus = version == ssl.TLSVersion.TLSv1_2
    mechanism = Scram(ScramHash.SHA_256, imap_user.address, imap_user.password, channel=other, plus=plus)
    assert wire.authenticate(mechanism).status == "NO"
    assert wire.login(imap_user.address, imap_user.password).status == "OK"


def test_flag_y_is_a_downgrade_only_where_plus_was_announced(imap_user: User) -> None:
    for wire, status in (
        (imap_user.connect_tls(ssl.TLSVersion.TLSv1_2), "NO"),
        (imap_user.connect_tls(ssl.TLSVersion.TLSv1_3), "OK"),
        (imap_user.connect(), "OK"),
    ):
        mechanism = Scram(ScramHash.SHA_256, imap_user.address, imap_user.password, flag="y")
        assert wire.authenticate(mechanism).status == status


NEEDS_GSASL = pytest.mark.skipif(shutil.which("gsasl") is None, reason="gsasl is missing (Debian package gsasl)")


@NEEDS_GSASL
@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_gsasl_logs_in(imap_user: User, mechanism: str) -> None:
    gsasl(imap_user, mechanism, "--no-starttls")


@NEEDS_GSASL
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_gsasl_logs_in_after_starttls(imap_user: User, mechanism: str) -> None:
    """Under TLS 1.3, where gsasl cannot bind: there is no tls-unique, and it does not know tls-server-end-point."""
    gsasl(imap_user, mechanism, "--starttls", "--no-cb")


@NEEDS_GSASL
@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
def test_gsasl_binds_to_the_channel_under_tls_1_2(imap_user: User, mechanism: str) -> None:
    gsasl(imap_user, mechanism, "--starttls", "--priority=NORMAL:-VERS-ALL:+VERS-TLS1.2")


def gsasl(user: User, mechanism: str, *options: str) -> None:
    done = subprocess.run(
        [
            "gsasl",
            "--client",
            "--imap",
            f"--connect={user.server.ip}:{user.server.imap_port}",
            f"--mechanism={mechanism}",
            f"--authentication-id={user.address}",
            f"--authorization-id={user.address}",
            f"--password={user.password}",
            f"--x509-ca-file={user.server.certificate}",
            *options,
        ],
        input="",
        text=True,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_plain_needs_three_fields_and_no_foreign_role(imap_user: User) -> None:
    wire = imap_user.connect()
    for raw in (b"", b"a", f"{imap_user.address}\0{imap_user.password}".encode(), b"\0a\0b\0c"):
        encoded = base64.b64encode(raw).decode() or "="
        wire.bad(f"AUTHENTICATE PLAIN {encoded}")
    other = Plain(imap_user.address, imap_user.password, authzid="mox@localhost")
    answer = wire.authenticate(other)
    assert (answer.status, answer.code) == ("NO", ["AUTHORIZATIONFAILED"])
    own = Plain(imap_user.address, imap_user.password, authzid=imap_user.address)
    assert wire.authenticate(own).status == "OK"


def test_an_exchange_can_be_cancelled(imap_user: User) -> None:
    wire = imap_user.connect()
    for mechanism in ("PLAIN", "CRAM-MD5", "SCRAM-SHA-256"):
        tag = wire.tag()
        wire.send(f"{tag} AUTHENTICATE {mechanism}\r\n".encode())
        assert wire.read().tag == "+"
        wire.send(b"*\r\n")
        assert wire.answer(tag).status == "BAD"
    wire.bad("AUTHENTICATE PLAIN !!!")
    wire.no("AUTHENTICATE NOSUCH")
    wire.bad("AUTHENTICATE")
    assert wire.login(imap_user.address, imap_user.password).status == "OK"


def test_a_space_without_an_initial_response_is_none(imap_user: User) -> None:
    """What mutt sends for CRAM-MD5."""
    wire = imap_user.connect()
    mechanism = client_mechanism("CRAM-MD5", imap_user.address, imap_user.password)
    tag = wire.tag()
    wire.send(f"{tag} AUTHENTICATE CRAM-MD5 \r\n".encode())
    challenge = wire.read()
    assert challenge.tag == "+"
    response = mechanism.next(base64.b64decode(challenge.text)).data
    assert response is not None
    wire.send(base64.b64encode(response) + b"\r\n")
    assert wire.answer(tag).status == "OK"


def test_the_name_may_come_as_literals(imap_user: User) -> None:
    assert imap_user.connect().ok("LOGIN", imap_user.address.encode(), imap_user.password.encode()).status == "OK"
    wire = imap_user.connect()
    assert wire.ok("LOGIN", imap_user.address.encode(), imap_user.password.encode(), nonsync=True).status == "OK"


def test_after_ten_wrong_passwords_in_a_minute_the_address_is_turned_away(imap_user: User) -> None:
    """Windows are fixed: when the minute turns meanwhile, the counting begins again."""
    source = source_ip()
    failures = 0
    while True:
        wire = Wire(imap_user.server.ip, imap_user.server.imap_port, source=source)
        imap_user.connections.append(wire)
        assert wire.greeting is not None
        if wire.greeting.name == "BYE":
            break
        for _ in range(2):
            wire.no(f"LOGIN {imap_user.address} wrong-password", code="AUTHENTICATIONFAILED")
        failures += 2
        assert failures <= 20
    assert failures >= 10
    assert wire.greeting.raw == b"* BYE too many auth failures\r\n"
    with pytest.raises(Closed):
        wire.read()
    imap_user.session()  # others are not concerned


def test_a_disabled_account_is_told_why(imap_user: User) -> None:
    Account.objects.filter(pk=imap_user.account.pk).update(login_disabled="unpaid bills")
    answer = imap_user.connect().no(f"LOGIN {imap_user.address} {imap_user.password}")
    assert answer.code == []
    assert "unpaid bills" in answer.tagged.text


def test_the_list_of_logins_shows_what_the_client_says_that_it_is(imap_user: User) -> None:
    wire = imap_user.session()
    wire.ok('ID ("name" "Post" "version" "7")')
    wire.ok('ID ("name" "Post" "version" "8" "os" NIL)')
    deadline = time.monotonic() + 20
    shown: list[tuple[str, int]] = []
    while shown != [("name=Post version=8", 1)]:  # they are written within seconds
        assert time.monotonic() < deadline, shown
        time.sleep(0.1)
        rows = LoginAttempt.objects.filter(account_name=imap_user.account.name)
        shown = list(rows.values_list("user_agent", "count"))
