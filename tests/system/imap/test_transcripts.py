"""Plays each conversation of transcripts/ against the server; the format is described in `transcript`."""

from __future__ import annotations

from typing import Final

import pytest

from tests.system.imap import transcript
from tests.system.imap.conftest import User

pytestmark = pytest.mark.database

FOLDER: Final = transcript.FOLDER / "transcripts"
EXPECTED_FAILURES: Final = transcript.FOLDER / "expected-failures.txt"
REASONS: Final = dict(
    line.split(": ", 1) for line in EXPECTED_FAILURES.read_text().splitlines() if line and not line.startswith("#")
)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.txt")))
def test_it_answers_as_in(name: str, imap_user: User, request: pytest.FixtureRequest) -> None:
    if name in REASONS:
        request.applymarker(pytest.mark.xfail(reason=REASONS[name], strict=True, raises=AssertionError))
    conversation = transcript.load(FOLDER / f"{name}.txt")
    transcript.Player(conversation, imap_user.connect, imap_user.address, imap_user.password).play()


def test_expected_failures_name_transcripts() -> None:
    assert all((FOLDER / f"{name}.txt").exists() for name in REASONS)
