"""Clients that show a key in the TLS handshake: logged in from the start, or by AUTHENTICATE EXTERNAL."""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from accounts import tlskeys
from accounts.models import TLSPublicKey
from server.models import LoginAttempt, LoginResult
from tests.system.imap.conftest import User, tls_context
from tests.system.imap.test_capabilities import LOGGED_IN, TLS13, greeting
from tests.system.imap.wire import Wire
from tests.unit.certificates import certify
from tests.unit.test_client_keys import write

pytestmark = pytest.mark.database

ASKED_WITHIN = 10.0  # seconds after which connections are asked for a key, once one is registered


@pytest.fixture
def key(imap_user: User, tmp_path: Path) -> Iterator[TLSPublicKey]:
    """The registered key of a user, whose certificate and key are in client.pem."""
    certified = certify("client", usage=None, days=(-400, -300))
    write(tmp_path, certified, "client")
    key = tlskeys.add_key(imap_user.address, certified.pem)
    yield key
    TLSPublicKey.objects.filter(pk=key.pk).delete()


@pytest.fixture
def connect(imap_user: User, tmp_path: Path, key: TLSPublicKey) -> Callable[..., Wire]:
    """Connects with TLS, showing a key; the server asks for keys soon after the first one is registered."""

    def context(name: str, version: ssl.TLSVersion) -> ssl.SSLContext:
        made = tls_context(imap_user.server, version)
        if name:
            made.load_cert_chain(tmp_path / f"{name}.pem")
        return made

    def make(name: str = "client", *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, plain: bool = False) -> Wire:
        server = imap_user.server
        if plain:
            wire = Wire(server.ip, server.imap_port)
            wire.ok("STARTTLS")
            wire.socket = context(name, version).wrap_socket(wire.socket, server_hostname=server.ip)
        else:
            wire = Wire(server.ip, server.imaps_port, tls=context(name, version))
        imap_user.connections.append(wire)
        return wire

    deadline = time.monotonic() + ASKED_WITHIN
    while make().greeting.name != "PREAUTH":  # type: ignore[union-attr] # it was read
        assert time.monotonic() < deadline, "clients are not asked for a key"
    return make


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_with_the_key_a_session_starts_logged_in(
    imap_user: User, key: TLSPublicKey, connect: Callable[..., Wire], version: ssl.TLSVersion
) -> None:
    wire = connect(version=version)
    assert greeting(wire) == f"* PREAUTH [CAPABILITY {LOGGED_IN}] mox imap\r\n".encode()
    wire.ok("SELECT Inbox")
    wire.bad(f"LOGIN {imap_user.address} {imap_user.password}")
    deadline = time.monotonic() + ASKED_WITHIN
    attempts = LoginAttempt.objects.filter(account_name=imap_user.account.name, result=LoginResult.OK)
    while not attempts.filter(client_key_fingerprint=key.fingerprint, mechanism="external").exists():
        assert time.monotonic() < deadline, "the login was not recorded with the key"


def test_without_preauth_it_logs_in_by_external(
    imap_user: User, key: TLSPublicKey, connect: Callable[..., Wire]
) -> None:
    TLSPublicKey.objects.filter(pk=key.pk).update(no_imap_preauth=True)
    for plain in (False, True):
        wire = connect(plain=plain)
        assert wire.ok("CAPABILITY").one("CAPABILITY").raw == f"* CAPABILITY {TLS13} AUTH=EXTERNAL\r\n".encode()
        wire.no("AUTHENTICATE EXTERNAL bm9ib2R5QGxvY2FsaG9zdA==", code="AUTHORIZATIONFAILED")
        name = base64.b64encode(imap_user.address.encode()).decode()
        answer = wire.ok(f"AUTHENTICATE EXTERNAL {name if plain else '='}")
        assert answer.tagged.code == ["CAPABILITY", *LOGGED_IN.split()]
    wire = connect()
    wire.send(b"x AUTHENTICATE EXTERNAL\r\n")
    assert wire.read().tag == "+"
    wire.send(b"\r\n")
    assert wire.answer("x").status == "OK"


def test_an_unknown_key_is_nobody(
    imap_user: User, key: TLSPublicKey, connect: Callable[..., Wire], tmp_path: Path
) -> None:
    write(tmp_path, certify("stranger", usage=None), "stranger")
    wire = connect("stranger")
    assert greeting(wire) == f"* OK [CAPABILITY {TLS13} AUTH=EXTERNAL] mox imap\r\n".encode()
    wire.no("AUTHENTICATE EXTERNAL =", code="AUTHENTICATIONFAILED")
    wire.login(imap_user.address, imap_user.password)
    wire = connect("")
    assert greeting(wire) == f"* OK [CAPABILITY {TLS13}] mox imap\r\n".encode()
    wire.no("AUTHENTICATE EXTERNAL =")
    tlskeys.remove_key(key.fingerprint)
    assert connect().greeting.name == "OK"  # type: ignore[union-attr] # it was read


def test_with_the_key_of_another_account_nobody_logs_in(
    key: TLSPublicKey, connect: Callable[..., Wire], new_imap_user: Callable[[], User]
) -> None:
    TLSPublicKey.objects.filter(pk=key.pk).update(no_imap_preauth=True)
    other = new_imap_user()
    wire = connect()
    wire.no(f"LOGIN {other.address} {other.password}", code="AUTHORIZATIONFAILED")
    wire.ok("AUTHENTICATE EXTERNAL =")
