"""The test suite of ValiMail for ARC (tests/conformance/arc): each message through `verify` and `seal`."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from protocols import arc
from protocols.arc.verification import sealed_data
from protocols.dkim import HeaderSection, Selector, load_private_key
from protocols.dkim.keys import make_signature
from protocols.dkim.section import read_header_section
from protocols.dns import MockResolver
from protocols.message.source import BytesSource
from protocols.names import parse_domain

SUITE: Final = Path(__file__).parent.parent / "conformance" / "arc"

# The suite leaves the result open where a seal says that the chain had failed before: RFC 8617 section 5.2 steps 1 and
# 3 make these chains fail.
OPEN: Final = {"cv_fail_i1_as_cv_fail", "cv_fail_i2_as2_fail", "cv_fail_i2_as1_fail"}


@dataclass(frozen=True)
class Case:
    name: str
    test: dict[str, Any]
    scenario: dict[str, Any]

    @property
    def message(self) -> bytes:
        text: str = self.test["message"]
        return text.replace("\n", "\r\n").encode()

    @property
    def resolver(self) -> MockResolver:
        records = self.scenario["txt-records"] or {}
        return MockResolver({f"txt {name}.": [text.replace("\n", "")] for name, text in records.items()})


def cases(name: str) -> Iterator[Case]:
    for scenario in yaml.load_all((SUITE / name).read_text(), yaml.CSafeLoader):  # C: several times as fast
        for test_name, test in scenario["tests"].items():
            yield Case(test_name, test, scenario)


VALIDATION: Final = list(cases("arc-draft-validation-tests.yml"))
SIGNING: Final = list(cases("arc-draft-sign-tests.yml"))


def test_the_suite_is_whole() -> None:
    print(f"ARC suite: {len(VALIDATION)} validation cases, {len(SIGNING)} signing cases")
    assert (len(VALIDATION), len(SIGNING)) == (171, 17)


@pytest.mark.parametrize("case", VALIDATION, ids=lambda case: case.name)
def test_it_judges_a_chain_as_the_suite_does(case: Case) -> None:
    expected = (case.test["cv"] or "").strip().lower()
    assert (expected == "") is (case.name in OPEN)
    result = arc.verify_sync(case.resolver, case.message)
    assert result.status.value == (expected or "fail"), result.error
    assert (result.error == "") is (expected in ("pass", "none"))


@pytest.mark.parametrize("case", SIGNING, ids=lambda case: case.name)
def test_it_seals_as_the_suite_does(case: Case) -> None:
    chain = arc.verify_sync(case.resolver, case.message)
    key = load_private_key(case.scenario["privatekey"])
    selector = Selector(
        parse_domain(case.scenario["sel"]),
        key,
        header_relaxed=True,
        body_relaxed=True,
        headers=tuple(case.test["sig-headers"].split(":")),
        seal_headers=False,
    )
    sealed = arc.seal(
        case.message,
        selector,
        parse_domain(case.scenario["domain"]),
        case.test["srv-id"],
        auth_results(case),
        chain,
        now=int(case.test["t"]),
    )
    if not case.test["AS"].strip():
        assert sealed == b""
        return
    (seal,) = HeaderSection(sealed).named("arc-seal")
    (signature,) = HeaderSection(sealed).named("arc-message-signature")
    (results,) = HeaderSection(sealed).named("arc-authentication-results")
    assert " ".join(results.text().split()) == " ".join(case.test["AAR"].split())
    assert tags(signature.text()) == tags(case.test["AMS"])
    expected = tags(case.test["AS"])
    assert {**tags(seal.text()), "b": ""} == {**expected, "b": ""}

    # The suite's seals cover the signature field as it was before its b= was folded; ours covers what is sent.
    unfolded = re.sub(rb"(\tb=)([^;]*)", lambda match: match[1] + b"".join(match[2].split()), sealed)
    header = HeaderSection(unfolded)
    own = [
        header.raw(header.named(f"arc-{kind}")[0]) for kind in ("authentication-results", "message-signature", "seal")
    ]
    before = sets_of(case.message) if chain.status is arc.ArcStatus.PASS else []
    assert base64.b64encode(make_signature(key, sealed_data([*before, own]))).decode() == expected["b"]

    again = arc.verify_sync(case.resolver, sealed + case.message)
    if chain.status is arc.ArcStatus.FAIL:
        assert again.error == f"instance {len(again.sets)}: chain had failed before"
    else:
        assert (again.status, len(again.sets)) == (arc.ArcStatus.PASS, len(chain.sets) + 1)


def auth_results(case: Case) -> str:
    """What the server of the test has found: the methods of its own Authentication-Results."""
    methods = []
    section, _ = read_header_section(BytesSource(case.message))
    for field in HeaderSection(section).named("authentication-results"):
        authserv_id, _, text = field.text().partition(";")
        if authserv_id.strip() == case.test["srv-id"]:
            methods.append(text.strip())
    return "; ".join(methods)


def sets_of(message: bytes) -> list[list[bytes]]:
    """The fields of the sets of a message, in the order in which a seal covers them."""
    section, _ = read_header_section(BytesSource(message))
    header = HeaderSection(section)
    kinds = ("arc-authentication-results", "arc-message-signature", "arc-seal")
    by_kind = [[header.raw(field) for field in reversed(header.named(kind))] for kind in kinds]
    return [list(fields) for fields in zip(*by_kind, strict=True)]


def tags(text: str) -> dict[str, str]:
    pairs = (spec.partition("=") for spec in text.split(";") if spec.strip())
    return {name.strip(): "".join(value.split()) for name, _, value in pairs}
