"""Every parser, with whatever comes."""

from __future__ import annotations

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from . import dkim, dsn, imap, messages, names, policies, sasl, smtp

pytestmark = pytest.mark.fuzz

MAX_LONG = 100  # inputs of 64 KiB

TARGETS = {
    target.name: target
    for module in (messages, names, smtp, imap, dkim, sasl, dsn, policies)
    for target in module.TARGETS
}


@pytest.mark.parametrize("name", TARGETS)
@given(st.data())
def test_anything_is_read_or_refused(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.check(data.draw(target.inputs()))


@pytest.mark.parametrize("name", TARGETS)
# Making a slow input smaller would take hours.
@settings(max_examples=MAX_LONG, deadline=None, phases=[Phase.generate])
@given(st.data())
def test_it_takes_time_by_the_length(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target.check_time(data.draw(target.long_inputs()))
