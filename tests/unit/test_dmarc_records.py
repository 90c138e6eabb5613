"""DMARC records: read as RFC 7489 says they must be, with all that is wrong with records in use; and written."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.dmarc import AlignmentMode, BadRecord, DmarcPolicy, DmarcRecord, ReportURI, parse_record
from protocols.names import Address, Domain

NONE, QUARANTINE, REJECT = DmarcPolicy
RUA = (ReportURI("mailto:d@example.org"),)


@pytest.mark.parametrize(
    ("text", "record"),
    [
        ("v=DMARC1;p=none", DmarcRecord()),
        ("v=DMARC1; p=reject", DmarcRecord(REJECT)),
        (" v = DMARC1 ;\tp = Quarantine ; ", DmarcRecord(QUARANTINE)),
        ("v=DMARC1; P=reject; SP=none", DmarcRecord(REJECT, NONE)),
        ("v=DMARC1; p=none; x-other=1; y=", DmarcRecord()),
        (
            (
                "v=DMARC1;p=reject;sp=quarantine;rua=mailto:d@example.org;ruf=mailto:f@example.org;adkim=s;aspf=S;ri=3600;"
                "fo=0:1:d:s;rf=afrf:iodef;pct=50"
            ),
            DmarcRecord(
                REJECT,
                QUARANTINE,
                RUA,
                (ReportURI("mailto:f@example.org"),),
                AlignmentMode.STRICT,
                AlignmentMode.STRICT,
                3600,
                ("0", "1", "d", "s"),
                ("afrf", "iodef"),
                50,
            ),
        ),
        (
            "v=DMARC1; p=none; rua=mailto:a@example.org!10m , https://b.example/r!2G,mailto:c@example.org!50",
            DmarcRecord(
                rua=(
                    ReportURI("mailto:a@example.org", 10, "m"),
                    ReportURI("https://b.example/r", 2, "g"),
                    ReportURI("mailto:c@example.org", 50),
                )
            ),
        ),
        ("v=DMARC1; p=none; rua=nonsense, mailto:d@example.org!x, mailto:d@example.org", DmarcRecord(rua=RUA)),
        ("v=DMARC1; p=none; rua=mailto:d@example.org!00m", DmarcRecord(rua=RUA)),
        # RFC 7489 section 6.6.3, step 6
        ("v=DMARC1; rua=mailto:d@example.org", DmarcRecord(rua=RUA)),
        ("v=DMARC1; p=block; rua=mailto:d@example.org", DmarcRecord(rua=RUA)),
        ("v=DMARC1; p=reject; sp=block; rua=mailto:d@example.org", DmarcRecord(rua=RUA)),
        # RFC 7489 section 6.3: errors in the rest are as if it were not there
        ("v=DMARC1; p=reject; pct=101; ri=x; adkim=x; aspf=; fo=2; rf=a b", DmarcRecord(REJECT)),
        ("v=DMARC1; p=reject; pct=0; ri=99999999999999999999", DmarcRecord(REJECT, pct=0)),
    ],
)
def test_it_reads_records(text: str, record: DmarcRecord) -> None:
    assert parse_record(text.encode()) == record
    assert parse_record(record.compose().encode()) == record


@pytest.mark.parametrize(
    ("txt", "claims_dmarc"),
    [
        (b"", False),
        (b"v=", False),
        (b"v=DMARC1", False),
        (b"v=dmarc1; p=none", False),
        (b"V=DMARC1; p=none", False),
        (b"v=DMARC12; p=none", False),
        (b"v=DMARC1 p=none", False),
        (b"p=none; v=DMARC1", False),
        (b"v=spf1 -all", False),
        (b"v=DMARC1;", True),
        (b"v=DMARC1;;p=none", True),
        (b"v=DMARC1; p", True),
        (b"v=DMARC1; p=none; =x", True),
        (b"v=DMARC1; sp=none; p=none", True),
        (b"v=DMARC1; p=none; p=none", True),
        (b"v=DMARC1; p=none; pct=1; PCT=2", True),
        (b"v=DMARC1; p=block", True),
        (b"v=DMARC1; p=none; sp=block", True),
        (b"v=DMARC1; p=block; rua=nonsense", True),
        (b"v=DMARC1; p=none; x=\xff", True),
        (b"v=DMARC1; p=none; x=" + b"x" * 9000, True),
    ],
)
def test_it_tells_a_bad_record_from_one_that_is_no_dmarc_record(txt: bytes, claims_dmarc: bool) -> None:
    with pytest.raises(BadRecord) as caught:
        parse_record(txt)
    assert caught.value.claims_dmarc is claims_dmarc
    assert str(caught.value).isascii()


def test_records_that_accept_reports_need_no_policy() -> None:
    assert parse_record(b"v=DMARC1;", required=False) == DmarcRecord()
    assert parse_record(b"v=DMARC1; rua=mailto:d@example.org", required=False) == DmarcRecord(rua=RUA)
    assert parse_record(b"v=DMARC1", required=False) == DmarcRecord()  # as the examples of RFC 7489, erratum 5440


def test_addresses_for_reports_are_escaped_and_had_back() -> None:
    address = Address("a!b,c;d%é", Domain("example.org"))
    uri = ReportURI.of_mailbox(address, 10, "m")
    assert str(uri) == "mailto:%22a%21b%2Cc%3Bd%25%C3%A9%22@example.org!10m"
    assert uri.max_bytes == 10 * 2**20
    (back,) = parse_record(DmarcRecord(rua=(uri,)).compose().encode()).rua
    assert back == uri
    assert back.mailbox == address
    assert ReportURI("mailto:d@example.org?subject=x").mailbox == Address("d", Domain("example.org"))
    for other in ("https://example.org/", "mailto:", "mailto:nobody", "mailto:%ff@example.org"):
        assert ReportURI(other).mailbox is None


PIECES = st.sampled_from(
    [
        "v=",
        "DMARC1",
        ";",
        "p=",
        "none",
        "reject",
        "sp=",
        "rua=",
        "mailto:a@b.example",
        ",",
        "!",
        "10m",
        "pct=",
        "fo=0:1",
        "ri=",
        " ",
        "=",
        "x",
    ]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join) | st.text(), st.booleans())
def test_any_text_is_a_record_or_a_bad_record(text: str, required: bool) -> None:
    for txt in (text.encode(), b"v=DMARC1;p=none;" + text.encode()):
        try:
            record = parse_record(txt, required=required)
        except BadRecord as exc:
            assert str(exc).isascii()  # noqa: PT017 # most texts are bad, some are not
        else:
            assert parse_record(record.compose().encode()) == record
            assert all(uri.mailbox is None or uri.mailbox.domain for uri in record.rua)


@pytest.mark.parametrize(
    "text", ["a=1;" * 2000, "rua=" + "mailto:" * 1100, "rua=" + "a+" * 4000, ";" * 8000, "fo=" + "0:" * 4000]
)
def test_hostile_records_cost_little(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(BadRecord):
        parse_record(b"v=DMARC1;p=none;" + text.encode())
    assert time.process_time() - started < 0.2
