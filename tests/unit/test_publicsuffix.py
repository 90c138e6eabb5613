"""Organizational domains: the suite of publicsuffix.org where its rules are ICANN's, and both forms of IDNs."""

from __future__ import annotations

import re
from importlib import resources

import idna
import pytest

from protocols.names import Domain, parse_domain
from protocols.publicsuffix import is_public_suffix, organizational_domain

_CASE = re.compile(r"^checkPublicSuffix\('([^.'][^']*)', (?:null|'([^']*)')\);", re.M)
_SUITE = (resources.files("publicsuffixlist") / "test_psl.txt").read_text("utf-8")
_LIST = (resources.files("publicsuffixlist") / "public_suffix_list.dat").read_text("utf-8")
_PRIVATE_RULES = ("uk.com",)  # of the rules that the suite uses, those of the private section
CASES = [case for case in _CASE.findall(_SUITE) if not case[0].endswith(_PRIVATE_RULES)]


def test_the_suite_is_there() -> None:
    print(f"public suffix list: {len(CASES)} cases; left out, being of its private section: {_PRIVATE_RULES}")
    assert len(CASES) >= 65


@pytest.mark.parametrize(("name", "registered"), CASES)
def test_it_agrees_with_the_suite(name: str, registered: str) -> None:
    domain = parse_domain(name)
    found = organizational_domain(domain)
    if registered:
        assert found == parse_domain(registered)
        assert not is_public_suffix(domain)
    else:
        assert found == domain
        assert is_public_suffix(domain)


def test_the_private_section_does_not_count() -> None:
    assert organizational_domain(parse_domain("me.github.io")) == parse_domain("github.io")
    assert organizational_domain(parse_domain("a.example.uk.com")) == parse_domain("uk.com")


def test_u_labels_stay_beside_a_labels() -> None:
    found = organizational_domain(parse_domain("www.食狮.公司.cn"))
    assert (found.ascii, found.unicode) == ("xn--85x722f.xn--55qx5d.cn", "食狮.公司.cn")
    found = organizational_domain(parse_domain("bücher.example.com"))
    assert (found.ascii, found.unicode) == ("example.com", "")
    # A name that came in A-labels alone gives no U-labels, whatever was looked up before.
    assert organizational_domain(Domain("www.xn--85x722f.xn--55qx5d.cn")).unicode == ""


@pytest.mark.parametrize("name", ["localhost", "com", "co.uk", "kobe.jp", "a.kobe.jp"])
def test_a_name_at_or_above_a_suffix_is_its_own(name: str) -> None:
    domain = parse_domain(name)
    assert organizational_domain(domain) == domain


def test_every_rule_is_found_in_a_labels() -> None:
    """The list has U-labels; the package makes A-labels of them by older rules than ours, with the same result."""
    icann = _LIST.split("===BEGIN ICANN DOMAINS===")[1].split("// ===END ICANN")[0]
    rules = [line for line in icann.splitlines()[1:] if line and not line.startswith("//") and not line.isascii()]
    assert len(rules) > 100
    for rule in rules:
        suffix = rule.removeprefix("*.").removeprefix("!")
        assert is_public_suffix(Domain(idna.encode(suffix, uts46=True).decode("ascii"))), rule
