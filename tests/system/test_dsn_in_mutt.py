"""A notification as mutt takes it apart: text, status, and the header of the original."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocols.dsn import compose
from tests.system.imap.programs import in_terminal, needs
from tests.unit.test_dsn_composing import DSN, INTERNATIONAL


@needs("mutt", "mutt")
@pytest.mark.parametrize(
    ("message", "subject"),
    [
        (compose(DSN, False), "lunch"),
        (compose(INTERNATIONAL, False), "Grüße"),
        (compose(INTERNATIONAL, True), "Grüße"),
    ],
    ids=["ascii", "escaped", "utf8"],
)
def test_mutt_finds_three_parts(message: bytes, subject: str, tmp_path: Path) -> None:
    mailbox = tmp_path / "mailbox"
    mailbox.write_bytes(b"From x@y.example Mon Mar  3 09:00:00 2031\n" + message.replace(b"\r\n", b"\n"))
    take = "<next-entry>".join(f"<pipe-entry>cat > {tmp_path}/{number}<enter>" for number in range(1, 4))
    settings = f"set quit=yes wait_key=no folder={tmp_path}"
    keys = f'push "<view-attachments><first-entry>{take}<exit><quit>"'
    screen = in_terminal(
        ["mutt", "-n", "-F", "/dev/null", "-R", "-f", str(mailbox), "-e", settings, "-e", keys],
        {"TERM": "xterm", "HOME": str(tmp_path), "LANG": "C.UTF-8"},
    )
    text, status, original = ((tmp_path / str(number)).read_text() for number in range(1, 4))
    assert "zugestellt" in text or "Delivery has failed" in text, screen
    assert status.startswith("Reporting-MTA: dns; mail.example"), screen
    assert f"Subject: {subject}" in original, screen
