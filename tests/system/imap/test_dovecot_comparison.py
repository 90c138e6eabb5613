"""The same mail and the same questions to this server and to Dovecot: equal answers, or differences that are explained.

`dovecot-differences.txt` is the table of them; a line that is about nothing any more is an error as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests import installation
from tests.system.imap import comparison, dovecot, varied
from tests.system.imap.conftest import User

pytestmark = [
    pytest.mark.skipif(bool(dovecot.missing()), reason=dovecot.missing()),
    pytest.mark.timeout(300),  # seconds: some thousand questions
]

MAILS: Final = 300
SHOWN: Final = 40  # differences of one failure
DIFFERENCES: Final = Path(__file__).parent / "dovecot-differences.txt"
QUERIES: Final = (Path(__file__).parent / "dovecot-queries.txt").read_text().splitlines()


@pytest.mark.skipif(installation.ON_POSTGRESQL, reason="answers do not hang on the database; its other tests say so")
def test_it_answers_as_dovecot_does(imap_user: User, directory: Path) -> None:
    mails = list(varied.mails(MAILS))
    explained = comparison.table(DIFFERENCES)
    with dovecot.running(directory / "dovecot", f"127.0.{installation.worker_number()}.143") as other:
        ours, theirs = imap_user.session(), other.session()
        for wire in (ours, theirs):
            wire.ok("CREATE same")
            comparison.fill(wire, "same", mails)
            wire.ok("SELECT same")
        left = comparison.unexplained(comparison.fetches(ours, theirs, mails), explained)
        left += comparison.unexplained(comparison.searches(ours, theirs, QUERIES, mails), explained)
        theirs.close()
    assert not left, f"{len(left)} differences:\n" + "\n".join(map(str, left[:SHOWN]))
    unused = [line for line in explained if not line.used]
    assert not unused, f"no difference is like these any more: {unused}"
