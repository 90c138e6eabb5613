"""Received-SPF and the SPF method of Authentication-Results: what is written, and what others have written is read."""

from __future__ import annotations

import contextlib
import time
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.message.authresults import AuthResults
from protocols.names import Domain, IPDomain, parse_domain
from protocols.smtpsyntax import Path
from protocols.spf import (
    BadReceivedSpf,
    Identity,
    SpfArgs,
    SpfResult,
    SpfStatus,
    auth_method,
    parse_received_spf,
    received_spf_header,
)

NEWS = Path("news", IPDomain(domain=Domain("sender.example")))
HELO = IPDomain(domain=Domain("mx1.sender.example"))
ARGS = SpfArgs(ip_address("198.51.100.9"), NEWS, HELO, Domain("mail.example.net"))
PASS = SpfResult(SpfStatus.PASS, Identity.MAIL_FROM, Domain("sender.example"), "ip4:198.51.100.0/24", authentic=True)


def test_it_writes_what_was_checked_and_found() -> None:
    assert received_spf_header(PASS, ARGS).decode() == (
        "Received-SPF: pass (domain sender.example) client-ip=198.51.100.9;\r\n"
        '\tenvelope-from="news@sender.example"; helo=mx1.sender.example;\r\n'
        '\tmechanism="ip4:198.51.100.0/24"; receiver=mail.example.net; identity=mailfrom\r\n'
    )


def test_a_problem_is_cut_to_its_line() -> None:
    error = 'sender.example: cannot read "%" ' + "x" * 100
    result = SpfResult(SpfStatus.PERMERROR, Identity.HELO, Domain("mx1.sender.example"), error=error)
    args = SpfArgs(ip_address("2001:db8::9"), Path(), HELO, Domain("mail.example.net"))
    field = received_spf_header(result, args).decode()
    assert field == (
        'Received-SPF: permerror (domain mx1.sender.example) client-ip="2001:db8::9";\r\n'
        '\tenvelope-from=""; helo=mx1.sender.example;\r\n'
        '\tproblem="sender.example: cannot read \\"%\\" xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";\r\n'
        "\treceiver=mail.example.net; identity=helo\r\n"
    )
    assert max(map(len, field.split("\r\n"))) <= 78


def test_international_names_are_for_messages_that_are() -> None:
    domain = parse_domain("bücher.example")
    args = SpfArgs(ARGS.remote_ip, Path("jürgen", IPDomain(domain=domain)), HELO, ARGS.local_hostname)
    result = SpfResult(SpfStatus.NONE, Identity.MAIL_FROM, domain, error="no spf record")
    field = received_spf_header(result, args, smtputf8=True).decode()
    assert "none (domain bücher.example) " in field
    assert 'envelope-from="jürgen@bücher.example"' in field
    assert b"xn--bcher-kva.example" in received_spf_header(result, args)
    methods = (auth_method(result, args, smtputf8=True),)
    field = AuthResults("mx", methods=methods).compose().decode()
    assert "smtp.mailfrom=bücher.example\r\n\t (xn--bcher-kva.example)" in field


@pytest.mark.parametrize(
    ("result", "args", "line"),
    [
        (PASS, ARGS, "spf=pass (with dnssec) smtp.mailfrom=sender.example"),
        (
            SpfResult(SpfStatus.TEMPERROR, Identity.HELO, Domain("mx1.sender.example"), error='dns: "x"'),
            ARGS,
            'spf=temperror (without dnssec) reason="dns: \\"x\\""\r\n\t smtp.helo=mx1.sender.example',
        ),
        (
            SpfResult(SpfStatus.NONE, Identity.HELO, error="no domain to check"),
            SpfArgs(ARGS.remote_ip, Path(), IPDomain(ip=ip_address("198.51.100.9")), ARGS.local_hostname),
            'spf=none (without dnssec) reason="no domain to check"\r\n\t smtp.helo="[198.51.100.9]"',
        ),
        (
            SpfResult(SpfStatus.NONE, Identity.MAIL_FROM, error="no domain to check"),
            SpfArgs(ARGS.remote_ip, Path("postmaster"), HELO, ARGS.local_hostname),
            'spf=none (without dnssec) reason="no domain to check"',
        ),
    ],
    ids=["pass", "helo", "literal", "no domain"],
)
def test_it_gives_the_method_of_authentication_results(result: SpfResult, args: SpfArgs, line: str) -> None:
    field = AuthResults("mx", methods=(auth_method(result, args),)).compose().decode()
    assert field == f"Authentication-Results: mx;\r\n\t{line}\r\n"


def test_it_reads_what_it_writes() -> None:
    text = received_spf_header(PASS, ARGS).decode().partition(": ")[2].replace("\r\n", "")
    said = parse_received_spf(text)
    assert (said.status, said.comment) == (SpfStatus.PASS, "domain sender.example")
    assert said.values == {
        "client-ip": "198.51.100.9",
        "envelope-from": "news@sender.example",
        "helo": "mx1.sender.example",
        "mechanism": "ip4:198.51.100.0/24",
        "receiver": "mail.example.net",
        "identity": "mailfrom",
    }


@pytest.mark.parametrize(
    ("text", "status", "values"),
    [
        (
            # RFC 7208 section 9.1
            (
                "pass (mybox.example.org: domain of myname@example.com designates 192.0.2.1 as permitted sender) "
                "receiver=mybox.example.org; client-ip=192.0.2.1; "
                'envelope-from="myname@example.com"; helo=foo.example.com;'
            ),
            "pass",
            {
                "receiver": "mybox.example.org",
                "client-ip": "192.0.2.1",
                "envelope-from": "myname@example.com",
                "helo": "foo.example.com",
            },
        ),
        (
            "Pass (google.com: domain of a@b.example designates 2a00::1 as permitted sender) client-ip=2a00::1;",
            "pass",
            {"client-ip": "2a00::1"},
        ),
        ("None (protection.outlook.com: b.example does not designate permitted sender hosts)", "none", {}),
        (
            " (a (b) c) SoftFail x = (y) z;; envelope-from=<a@b.example> ; helo=; helo=second",
            "softfail",
            {"x": "z", "envelope-from": "<a@b.example>", "helo": ""},
        ),
        ("neutral", "neutral", {}),
    ],
    ids=["rfc", "google", "outlook", "odd", "bare"],
)
def test_it_reads_what_others_write(text: str, status: str, values: dict[str, str]) -> None:
    said = parse_received_spf(text)
    assert (said.status, said.values) == (status, values)


@pytest.mark.parametrize(
    "text", ["", "maybe", "pass (", "pass x", 'pass x="', "pass =x", "pass x=(", "pass " + "x" * 20_000]
)
def test_it_refuses_what_is_no_result(text: str) -> None:
    with pytest.raises(BadReceivedSpf):
        parse_received_spf(text)


@given(st.text(alphabet='ps=;()" \\x', max_size=40).map(lambda text: f"pass {text}") | st.text())
def test_any_value_is_read_or_refused(text: str) -> None:
    try:
        parse_received_spf(text)
    except BadReceivedSpf:
        return


@given(
    st.text(min_size=1, max_size=40, alphabet=st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])),
    st.text(max_size=200, alphabet=st.characters(min_codepoint=32, max_codepoint=126)),
    st.text(max_size=200, alphabet=st.characters(min_codepoint=33, max_codepoint=126)),
)
def test_what_is_written_comes_back(localpart: str, error: str, mechanism: str) -> None:
    path = Path(localpart, NEWS.domain)
    result = SpfResult(SpfStatus.FAIL, Identity.MAIL_FROM, Domain("sender.example"), mechanism, error=error)
    field = received_spf_header(result, SpfArgs(ARGS.remote_ip, path, HELO, ARGS.local_hostname), smtputf8=True)
    said = parse_received_spf(field.decode().removeprefix("Received-SPF: ").replace("\r\n", ""))
    assert said.values.get("mechanism", "") == mechanism
    assert error.startswith(said.values.get("problem", ""))
    assert said.values["identity"] == "mailfrom"


@pytest.mark.parametrize(
    "text", ["pass " + "(" * 8000, "pass " + "((a)" * 4000, "pass " + "a=b;" * 4000, 'pass x="' + "\\" * 15_000]
)
def test_long_values_cost_little(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(BadReceivedSpf):
        parse_received_spf(text)
    assert time.process_time() - started < 0.5
