"""The lists of capabilities in each state of a connection: what the first release has, word for word and in order."""

from __future__ import annotations

import pytest

from imap import capabilities

FIRST_RELEASE = (
    "IMAP4rev2 IMAP4rev1 ENABLE LITERAL+ IDLE SASL-IR BINARY UNSELECT UIDPLUS ESEARCH SEARCHRES MOVE UTF8=ACCEPT "
    "LIST-EXTENDED SPECIAL-USE CREATE-SPECIAL-USE LIST-STATUS ID APPENDLIMIT=9223372036854775807 CONDSTORE QRESYNC "
    "STATUS=SIZE QUOTA QUOTA=RES-STORAGE NAMESPACE MULTIAPPEND REPLACE WITHIN SAVEDATE PREVIEW INPROGRESS"
)
SCRAM_AND_CRAM = "AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-1 AUTH=CRAM-MD5"
WITH_PLUS = "AUTH=SCRAM-SHA-256-PLUS AUTH=SCRAM-SHA-256 AUTH=SCRAM-SHA-1-PLUS AUTH=SCRAM-SHA-1 AUTH=CRAM-MD5 AUTH=PLAIN"


@pytest.mark.parametrize(
    ("tls_version", "can_start_tls", "cleartext_allowed", "ending"),
    [
        (None, True, False, f"{SCRAM_AND_CRAM} STARTTLS LOGINDISABLED"),
        (None, False, True, f"{SCRAM_AND_CRAM} AUTH=PLAIN"),
        (None, True, True, f"{SCRAM_AND_CRAM} STARTTLS AUTH=PLAIN"),
        ("TLSv1.2", False, False, WITH_PLUS),
        ("TLSv1.3", False, False, f"{SCRAM_AND_CRAM} AUTH=PLAIN"),
    ],
    ids=["tls required", "no tls", "tls possible", "1.2", "1.3"],
)
def test_before_the_login(tls_version: str | None, can_start_tls: bool, cleartext_allowed: bool, ending: str) -> None:
    words = capabilities.before_login(
        append_limit=0,
        tls_version=tls_version,
        can_start_tls=can_start_tls,
        cleartext_allowed=cleartext_allowed,
        shows_key=False,
    ).decode()
    assert words.startswith(f"{FIRST_RELEASE} ")
    assert words.endswith(f" {ending}")
    assert len(words.split()) == len(set(words.split()))


def test_after_the_login() -> None:
    words = capabilities.after_login(frozenset(), append_limit=0, compressed=False).decode()
    assert words.startswith(f"{FIRST_RELEASE} ")
    assert words.endswith(" COMPRESS=DEFLATE")
    assert not {"AUTH", "STARTTLS", "LOGINDISABLED"} & {word.partition("=")[0] for word in words.split()}
    compressed = capabilities.after_login(frozenset(), append_limit=0, compressed=True).decode()
    assert f"{compressed} COMPRESS=DEFLATE" == words


def test_an_account_hides_words_or_all_that_begin_with_a_name() -> None:
    hidden = frozenset({"QUOTA", "APPENDLIMIT", "COMPRESS=DEFLATE", "LITERAL+", "IMAP4REV2"})
    words = capabilities.after_login(hidden, append_limit=5, compressed=False).decode().split()
    gone = {"IMAP4rev2", "LITERAL+", "APPENDLIMIT=5", "QUOTA", "QUOTA=RES-STORAGE", "COMPRESS=DEFLATE"}
    shown = capabilities.after_login(frozenset(), append_limit=5, compressed=False).decode().split()
    assert words == [word for word in shown if word not in gone]
