"""Reading DMARC aggregate reports, of any shape that senders give them, and what others would do with that."""

from __future__ import annotations

import base64
import gzip
import io
import time
import zipfile

import pytest

from protocols.dmarc.report import (
    MAX_REPORT,
    BadReport,
    OverrideReason,
    ReportedDkim,
    ReportedSpf,
    parse_message,
    parse_report,
)

RECORD = """<record><row><source_ip>192.0.2.1</source_ip><count>3</count>
<policy_evaluated><disposition>none</disposition>
<dkim>pass</dkim><spf>fail</spf><reason><type>forwarded</type><comment>known</comment></reason></policy_evaluated></row>
<identifiers><header_from>example.org</header_from><envelope_from>list.example</envelope_from></identifiers>
<auth_results><dkim><domain>example.org</domain><selector>s1</selector><result>pass</result></dkim>
<spf><domain>list.example</domain><scope>mfrom</scope><result>fail</result></spf></auth_results></record>"""
REPORT = f"""<?xml version="1.0" encoding="UTF-8" ?>
<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0"><version>1.0</version>
<report_metadata><org_name>Bücher &amp; Co</org_name><email>dmarc@reporter.example</email><report_id>r1</report_id>
<date_range><begin>1700000000</begin><end>1700086400</end></date_range><error>slow dns</error></report_metadata>
<policy_published><domain>example.org</domain><adkim>r</adkim><aspf>s</aspf><p>reject</p><sp>none</sp><pct>100</pct>
</policy_published>{RECORD}</feedback>
trailing""".encode()


def zipped(*files: tuple[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return made.getvalue()


def mail(data: bytes, content_type: str) -> bytes:
    body = base64.encodebytes(data).replace(b"\n", b"\r\n")
    return f"Content-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode() + body


def test_it_reads_all_that_a_report_says() -> None:
    report = parse_report(REPORT)
    assert report.version == "1.0"
    assert (report.metadata.org_name, report.metadata.report_id) == ("Bücher & Co", "r1")
    assert (report.metadata.begin, report.metadata.end) == (1_700_000_000, 1_700_086_400)
    assert report.metadata.errors == ("slow dns",)
    assert (report.policy.domain, report.policy.p, report.policy.sp, report.policy.pct) == (
        "example.org",
        "reject",
        "none",
        100,
    )
    (record,) = report.records
    assert (record.source_ip, record.count, record.disposition) == ("192.0.2.1", 3, "none")
    assert (record.dkim, record.spf, record.header_from) == ("pass", "fail", "example.org")
    assert record.reasons == (OverrideReason("forwarded", "known"),)
    assert record.dkim_results == (ReportedDkim("example.org", "s1", "pass"),)
    assert record.spf_results == (ReportedSpf("list.example", "mfrom", "fail"),)


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (REPORT, "text/xml"),
        (REPORT, "application/octet-stream"),
        (gzip.compress(REPORT), "application/gzip"),
        (gzip.compress(REPORT), "application/octet-stream; name=x.xml.gz"),
        (zipped(("dir/", b""), ("r.xml", REPORT)), "application/zip"),
        (zipped(("r.xml", REPORT)), "application/x-zip-compressed"),
    ],
)
def test_it_finds_a_report_in_a_message(data: bytes, content_type: str) -> None:
    assert len(parse_message(mail(data, content_type)).records) == 1
    inner = mail(data, content_type)
    outer = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nhello\r\n--x\r\n" + inner + b"\r\n--x--\r\n"
    assert len(parse_message(outer).records) == 1


def test_it_reads_what_windows_calls_an_encoding_and_passes_over_what_it_does_not_know() -> None:
    text = REPORT.decode().replace("UTF-8", "windows-1252").replace("<version>", "<new><a>1</a></new><version>")
    assert parse_report(text.encode("cp1252")).metadata.org_name == "Bücher & Co"
    odd = REPORT.replace(b"<count>3<", b"<count>-3<").replace(b"<dkim>pass<", b"<dkim>wonderful<")
    (record,) = parse_report(odd).records
    assert (record.count, record.dkim) == (0, "wonderful")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"<feedback>", "report is not xml: no element found"),
        (b"<html></html>", "report has no feedback element"),
        (b"", "report is not xml"),
        (b'<!DOCTYPE f [<!ENTITY a "x">]><feedback>&a;</feedback>', "xml doctype not allowed"),
        (b"<feedback><?php x?></feedback>", "xml processing instructions not allowed"),
        (b"<feedback>" + b"<a>" * 20 + b"</a>" * 20 + b"</feedback>", "xml too deep"),
        (b"\x1f\x8bnonsense", "report is not gzip"),
        (b"PK\x03\x04nonsense", "report is not a zip archive"),
        (zipped(("a", REPORT), ("b", REPORT)), "zip contains 2 files, expected 1"),
        (zipped(), "report is not"),
        (gzip.compress(b" " * (MAX_REPORT + 1)), "too large after decompression"),
        (zipped(("r.xml", b" " * (MAX_REPORT + 1))), "too large after decompression"),
    ],
)
def test_what_is_no_report_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(BadReport, match=problem):
        parse_report(data)


def test_too_many_records_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.dmarc.report.MAX_RECORDS", 10)
    with pytest.raises(BadReport, match="too many records"):
        parse_report(b"<feedback>" + b"<record/>" * 11 + b"</feedback>")


def test_a_message_without_one_and_one_too_large_are_refused() -> None:
    with pytest.raises(BadReport, match="no dmarc aggregate report found"):
        parse_message(b"Content-Type: text/plain\r\n\r\n<feedback/>\r\n")
    with pytest.raises(BadReport, match="no dmarc aggregate report found"):
        parse_message(mail(b"<html/>", "text/xml"))
    with pytest.raises(BadReport, match="report message too large"):
        parse_message(b"Content-Type: text/xml\r\n\r\n" + b"x" * (15 << 20))


def test_long_values_are_cut_and_cost_no_more_than_their_length() -> None:
    def seconds(size: int) -> float:
        data = REPORT.replace(b"slow dns", b"&amp;x" * size)
        began = time.process_time()
        (error,) = parse_report(data).metadata.errors
        assert len(error) == 4096
        return time.process_time() - began

    seconds(10_000)
    assert seconds(400_000) < 30 * max(seconds(40_000), 0.001)
