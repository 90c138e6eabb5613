"""DKIM keys of domains: the four of a new one, what signs, and that a replaced key is used at once."""

from __future__ import annotations

import itertools
from datetime import timedelta

import dkim as dkimpy
import pytest

from accounts import dkim
from accounts.domains import create_domain
from accounts.models import DKIMSelector, Domain
from mox_project import localserve
from protocols import dkim as protocol
from protocols.names import parse_domain
from server import db

pytestmark = pytest.mark.database

MESSAGE = b"From: <a@keys.example>\r\nTo: <b@far.example>\r\nSubject: hello\r\n\r\nhello\r\n"
KEYS = dkim.new_keys(2026)

_numbers = itertools.count(1)


@pytest.fixture
def domain(database: None) -> Domain:
    with db.write():
        made = create_domain(f"keys{next(_numbers)}.example")
        dkim.add_selectors(made, KEYS)
    return made


def test_a_new_domain_has_four_keys_of_which_two_sign(domain: Domain) -> None:
    rows = DKIMSelector.objects.filter(domain=domain).order_by("name")
    assert [(row.name, row.algorithm, row.sign, row.expiration) for row in rows] == [
        ("2026a", "ed25519", True, timedelta(hours=72)),
        ("2026b", "rsa", True, timedelta(hours=72)),
        ("2026c", "ed25519", False, timedelta(hours=72)),
        ("2026d", "rsa", False, timedelta(hours=72)),
    ]


def test_signatures_of_what_is_stored_fit_the_published_keys(domain: Domain) -> None:
    selectors = dkim.signing_selectors(domain)
    assert [selector.name.ascii for selector in selectors] == ["2026a", "2026b"]
    signed = protocol.sign(MESSAGE, "a", parse_domain(domain.name), selectors) + MESSAGE
    records = {
        f"{new.selector}._domainkey.{domain.name}.".encode(): protocol.DkimRecord.for_key(new.key).compose().encode()
        for new in KEYS
    }
    verifier = dkimpy.DKIM(signed)
    for number in range(2):
        assert verifier.verify(number, dnsfunc=lambda name, timeout=5: records[name])


def test_keys_are_encrypted_in_the_database(domain: Domain) -> None:
    selector = DKIMSelector.objects.filter(domain=domain, name="2026b").annotate(stored=dkim._stored_key).get()
    assert selector.private_key.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert b"PRIVATE KEY" not in bytes(selector.stored)


def test_a_replaced_key_signs_at_once(domain: Domain) -> None:
    before = dkim.signing_selectors(domain)[0].key
    assert dkim.signing_selectors(domain)[0].key is before, "the key is read once, not for every message"
    row = DKIMSelector.objects.get(domain=domain, name="2026a")
    row.private_key = protocol.private_key_pem(protocol.generate_ed25519()).encode()
    row.save()
    after = dkim.signing_selectors(domain)[0].key
    assert protocol.public_key_data(after) != protocol.public_key_data(before)


def test_localserve_signs_with_one_key(database: None) -> None:
    (selector,) = dkim.signing_selectors(Domain.objects.get(name=localserve.DOMAIN))
    assert selector.name.ascii == "localserve"
    assert selector.expiration == timedelta(hours=72)
