"""Log lines: one per event, quoted so that no value can break out of its line or its field."""

from __future__ import annotations

import json
import logging
from datetime import timedelta

import pytest

from server.connections import current_cid
from server.logs import TRACE, ConsoleFormatter, JSONFormatter, LogfmtFormatter


def record(message: str = "delivered", level: int = logging.INFO, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "smtp.session", "levelno": level, "msg": message, **extra})


def test_a_line_in_logfmt() -> None:
    line = LogfmtFormatter(own_time=False).format(
        record(cid=0x18BD2F3A1C7, account="mox", duration=timedelta(milliseconds=12), sizes=[1, 2])
    )
    assert line == "l=info m=delivered pkg=smtp cid=18bd2f3a1c7 account=mox duration=12ms sizes=[1,2]"


@pytest.mark.parametrize("value", ["two words", 'quo"te', "a=b", "back\\slash", "line\nfeed l=error", "héllo", ""])
def test_a_value_cannot_leave_its_field(value: str) -> None:
    line = LogfmtFormatter(own_time=False).format(record(said=value))
    assert line == f"l=info m=delivered pkg=smtp said={json.dumps(value)}"
    assert "\n" not in line


def test_the_connection_is_named_on_every_line_of_its_task() -> None:
    token = current_cid.set(255)
    try:
        assert " cid=ff" in LogfmtFormatter(own_time=False).format(record())
    finally:
        current_cid.reset(token)


def test_an_exception_is_one_line_with_its_traceback() -> None:
    try:
        raise ValueError("bad\nthing")
    except ValueError as exc:
        failed = record("failed", logging.ERROR, exc_info=(type(exc), exc, exc.__traceback__))
    line = LogfmtFormatter(own_time=False).format(failed)
    assert line.startswith('l=error m=failed pkg=smtp err="ValueError: bad\\nthing" stack="Traceback')
    assert "\n" not in line


def test_own_time_json_and_console() -> None:
    assert LogfmtFormatter(own_time=True).format(record()).startswith("t=")
    assert json.loads(JSONFormatter(own_time=False).format(record("m", TRACE, x=1))) == {
        "l": "trace",
        "m": "m",
        "pkg": "smtp",
        "x": "1",
    }
    assert ConsoleFormatter(own_time=False).format(record(err="full", disk="a")) == (
        "info: delivered: full; pkg=smtp disk=a"
    )
