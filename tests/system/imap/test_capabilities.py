"""What the server says that it can, byte for byte: clients rely on each word."""

from __future__ import annotations

import ssl

import pytest

from accounts.models import Account
from tests.system.imap.conftest import User, tls_context
from tests.system.imap.wire import Wire

pytestmark = pytest.mark.database

BASE = (
    "IMAP4rev2 IMAP4rev1 ENABLE LITERAL+ IDLE SASL-IR BINARY UNSELECT UIDPLUS ESEARCH SEARCHRES MOVE UTF8=ACCEPT "
    "LIST-EXTENDED SPECIAL-USE CREATE-SPECIAL-USE LIST-STATUS ID APPENDLIMIT=9223372036854775807 CONDSTORE QRESYNC "
    "STATUS=SIZE QUOTA QUOTA=RES-STORAGE NAMESPACE MULTIAPPEND REPLACE WITHIN SAVEDATE PREVIEW INPROGRESS "
    "METADATA LIST-METADATA NOTIFY MULTISEARCH UIDONLY UNAUTHENTICATE "
    "SORT SORT=DISPLAY THREAD=ORDEREDSUBJECT THREAD=REFERENCES ESORT PARTIAL OBJECTID"
)
LOGGED_IN = f"{BASE} COMPRESS=DEFLATE"
PLAIN_START = f"{BASE} AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-1 AUTH=CRAM-MD5 STARTTLS AUTH=PLAIN"
TLS12 = (
    f"{BASE} AUTH=SCRAM-SHA-256-PLUS AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-1-PLUS AUTH=SCRAM-SHA-1 AUTH=CRAM-MD5 AUTH=PLAIN"
)
TLS13 = f"{BASE} AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-1 AUTH=CRAM-MD5 AUTH=PLAIN"


def announced(wire: Wire) -> bytes:
    answer = wire.ok("CAPABILITY")
    return answer.one("CAPABILITY").raw


def greeting(wire: Wire) -> bytes:
    assert wire.greeting is not None
    return wire.greeting.raw


def test_it_greets_with_its_capabilities(imap_user: User) -> None:
    wire = imap_user.connect()
    assert greeting(wire) == f"* OK [CAPABILITY {PLAIN_START}] mox imap\r\n".encode()
    assert announced(wire) == f"* CAPABILITY {PLAIN_START}\r\n".encode()


@pytest.mark.parametrize(
    ("version", "words"), [(ssl.TLSVersion.TLSv1_2, TLS12), (ssl.TLSVersion.TLSv1_3, TLS13)], ids=["1.2", "1.3"]
)
def test_it_announces_by_tls_version(imap_user: User, version: ssl.TLSVersion, words: str) -> None:
    wire = imap_user.connect_tls(version)
    assert greeting(wire) == f"* OK [CAPABILITY {words}] mox imap\r\n".encode()
    assert announced(wire) == f"* CAPABILITY {words}\r\n".encode()


def test_after_starttls_the_client_has_to_ask(imap_user: User) -> None:
    wire = imap_user.connect()
    wire.start_tls(tls_context(imap_user.server, ssl.TLSVersion.TLSv1_3))
    assert announced(wire) == f"* CAPABILITY {TLS13}\r\n".encode()
    assert wire.bad("STARTTLS").untagged == []


def test_tls_before_1_2_is_refused(imap_user: User) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Wire(imap_user.server.ip, imap_user.server.imaps_port, tls=context)


def test_after_login_no_mechanisms_are_left(imap_user: User) -> None:
    wire = imap_user.connect()
    answer = wire.login(imap_user.address, imap_user.password)
    assert answer.tagged.code == ["CAPABILITY", *LOGGED_IN.split()]
    assert announced(wire) == f"* CAPABILITY {LOGGED_IN}\r\n".encode()
    wire.compress()
    assert announced(wire) == f"* CAPABILITY {BASE}\r\n".encode()


def test_an_account_may_hide_capabilities_from_broken_clients(imap_user: User) -> None:
    Account.objects.filter(pk=imap_user.account.pk).update(imap_capabilities_disabled=["QRESYNC", "CONDSTORE", "IDLE"])
    wire = imap_user.session()
    left = " ".join(word for word in LOGGED_IN.split() if word not in ("QRESYNC", "CONDSTORE", "IDLE"))
    assert announced(wire) == f"* CAPABILITY {left}\r\n".encode()
    assert wire.ok("ENABLE QRESYNC IMAP4rev2").one("ENABLED").data == ("IMAP4rev2",)


def test_enable_names_what_it_enabled_as_the_client_wrote_it(imap_user: User) -> None:
    wire = imap_user.session()
    assert wire.ok("ENABLE X-NOTHING").one("ENABLED").raw == b"* ENABLED\r\n"
    assert wire.ok("ENABLE imap4REV2 imap4REV2 IDLE").one("ENABLED").raw == b"* ENABLED imap4REV2\r\n"
    assert sorted(wire.ok("ENABLE QRESYNC").one("ENABLED").data) in (["CONDSTORE", "QRESYNC"], ["QRESYNC"])
    wire.bad("ENABLE")
    wire.ok("SELECT Inbox")
    wire.ok("ENABLE CONDSTORE")


def test_namespace(imap_user: User) -> None:
    assert imap_user.session().ok("NAMESPACE").one("NAMESPACE").raw == b'* NAMESPACE (("" "/")) NIL NIL\r\n'


def test_commands_belong_to_states(imap_user: User) -> None:
    wire = imap_user.connect()
    for command in ("SELECT Inbox", 'LIST "" *', "FETCH 1 FLAGS", "IDLE", "ENABLE CONDSTORE", "NAMESPACE", "CLOSE"):
        wire.bad(command)
    wire.ok("NOOP")
    wire.login(imap_user.address, imap_user.password)
    for command in ("LOGIN a b", "AUTHENTICATE PLAIN", "STARTTLS", "FETCH 1 FLAGS", "EXPUNGE", "CLOSE", "UNSELECT"):
        wire.bad(command)
    wire.ok("NOOP")
    wire.bad("NOSUCHCOMMAND")
