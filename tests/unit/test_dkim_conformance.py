"""The test messages and keys of dkimpy (tests/conformance/dkimpy): signed by it, by Exim and by Gmail."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from protocols.dkim import DkimResult, DkimStatus, ErrorKind, Selector, Signature, load_private_key, sign, verify_sync
from protocols.dns import MockResolver
from protocols.names import parse_domain

DATA: Final = Path(__file__).parent.parent / "conformance" / "dkimpy"

GMAIL: Final = (
    "k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Kd87/UeJjenpabgbFwh+eBCsSTrqmwIYYvywlbhbqoo2DymndFkbjOVIP"
    "IldNs/m40KF+yzMn1skyoxcTUGCQs8g3FgD2Ap3ZB5DekAo5wMmk4wimDO+U8QzI3SD07y2+07wlNWwIt8svnxgdxGkVbbhzY8i+RQ9DpSVpPbF7"
    "ykQxtKXkv/ahW3KjViiAH+ghvvIhkx4xYSIc9oSwVmAl5OctMEeWUwg8Istjqz8BZeTWbf41fbNhte7Y+YqZOwq1Sd0DbvYAD9NOZK9vlfuac059"
    "8HY+vtSBczUiKERHv1yRbcaQtZFh5wtiRrN04BLUTD21MycBX5jYchHjPY/wIDAQAB"
)
NO_RSA_KEY: Final = (
    "k=rsa; p=MFwwDQYJKoZIhvNAQEBBQADSwAwSAJBANmBe10IgY+u7h3enWTukkqtUD5PR52Tb/mPfjC0QJTocVBq6Za/PlzfV+Py92VaCak19F4W"
    "rbVTK5Gg5tW220MCAwEAAQ=="
)
BRISBANE: Final = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def read(name: str) -> bytes:
    """A file, with the line ends of mail."""
    return (DATA / name).read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def record(name: str) -> str:
    return (DATA / name).read_text().strip()


def any_policy(sig: Signature) -> str:
    return ""


def verify(message: bytes, records: dict[str, str]) -> list[DkimResult]:
    resolver = MockResolver({f"txt {name}.": [text] for name, text in records.items()})
    return verify_sync(resolver, message, policy=any_policy)


def football(**records: str) -> dict[str, str]:
    return {f"{name}._domainkey.football.example.com": text for name, text in records.items()}


PASS: Final = (DkimStatus.PASS, None)


MESSAGES: Final[list[tuple[str, dict[str, str], list[tuple[DkimStatus, ErrorKind | None]]]]] = [
    ("rfc6376.signed.msg", football(brisbane=BRISBANE, test=record("test.txt")), [PASS, PASS]),
    # Bad base64, in a record that does not claim to be one of DKIM.
    (
        "rfc6376.signed.msg",
        football(brisbane=BRISBANE, test=NO_RSA_KEY),
        [PASS, (DkimStatus.TEMPERROR, ErrorKind.RECORD_SYNTAX)],
    ),
    ("rfc6376.signed.rsa.msg", football(test=record("test.txt")), [PASS]),
    ("rfc6376.signed.rsa.msg", football(test=record("test2.txt")), [PASS]),  # k= is rsa by default
    (
        "rfc6376.signed.rsa.msg",
        football(test=record("badk.txt")),
        [(DkimStatus.PERMERROR, ErrorKind.ALGORITHM_MISMATCH)],
    ),
    # "v=DKIM1:" claims nothing either.
    (
        "rfc6376.signed.rsa.msg",
        football(test=record("badversion.txt")),
        [(DkimStatus.TEMPERROR, ErrorKind.RECORD_SYNTAX)],
    ),
    (
        "rfc6376.signed.rsa.msg",
        football(test=record("test_bad.txt")),
        [(DkimStatus.PERMERROR, ErrorKind.RECORD_SYNTAX)],
    ),
    (
        "rfc6376.signed.rsa.msg",
        football(test=record("test_tlsrpt.txt")),
        [(DkimStatus.PERMERROR, ErrorKind.KEY_NOT_FOR_EMAIL)],
    ),
    # Its t= was taken out and an x= put in.
    (
        "rfc6376.signed.no_t.msg",
        football(test=record("test.txt")),
        [(DkimStatus.FAIL, ErrorKind.SIGNATURE_MISMATCH)],
    ),
    ("rfc6376.msg", {}, []),
    ("ed25519test2.msg", {"sed._domainkey.test.ex": record("eximtest.dns")}, [PASS]),
    ("test2.message", {"20120113._domainkey.gmail.com": GMAIL}, [PASS]),
    ("test.message.baddomain", {}, [(DkimStatus.PERMERROR, ErrorKind.SIGNATURE_SYNTAX)]),
]


@pytest.mark.parametrize(("name", "records", "expected"), MESSAGES)
def test_it_judges_the_messages_of_dkimpy(
    name: str, records: dict[str, str], expected: list[tuple[DkimStatus, ErrorKind | None]]
) -> None:
    results = verify(read(name), records)
    assert [(result.status, result.error_kind) for result in results] == expected, results


KEYS: Final = [
    ("test.private", "test.txt"),
    ("1024_testkey.key", "1024_testkey_wo_markers.pub.txt"),
    ("1024_testkey.key", "1024_testkey_wo_markers.pub.rsa.txt"),
    ("2048_testkey.key", "2048_testkey_wo_markers.pub.txt"),
    ("2048_testkey.key", "2048_testkey_wo_markers.pub.rsa.txt"),
    ("2048_testkey_PKCS8.key", "2048_testkey_PKCS8.key.pub.txt"),
]
UNSIGNED: Final = ("rfc6376.msg", "rfc6376.w1258.msg")


@pytest.mark.parametrize(("key", "published"), KEYS)
@pytest.mark.parametrize("message", UNSIGNED)
def test_it_takes_keys_in_each_form(key: str, published: str, message: str) -> None:
    content = read(message)
    selector = Selector(parse_domain("test"), load_private_key((DATA / key).read_bytes()))
    field = sign(content, "joe", parse_domain("football.example.com"), [selector])
    (result,) = verify(field + content, football(test=record(published)))
    assert (result.status, result.error_kind) == PASS


def test_no_message_and_no_key_of_dkimpy_is_missing() -> None:
    print(f"dkimpy: {len(MESSAGES)} messages verified, {len(KEYS) * len(UNSIGNED)} signed")
    used = {name for name, *_ in MESSAGES} | {*UNSIGNED} | {name for key in KEYS for name in key}
    records = {path.name for path in DATA.glob("*.txt")} | {"eximtest.dns", "LICENSE"}
    assert {path.name for path in DATA.iterdir()} - records <= used
