"""Log lines: one per event to standard error, in logfmt (or JSON, or for people).

    configure(Levels("info"), "logfmt", own_time=False)
    log.info("delivered", extra={"account": "mox", "duration": 0.012})
    # l=info m=delivered pkg=smtp cid=18bd2f3a1c7 account=mox duration=0.012

What a caller gives as ``extra`` becomes the fields of the line. Secrets never do: protocol traces mask them below the
level that asks for them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from .connections import current_cid

TRACE: Final = 8
TRACEAUTH: Final = 6
TRACEDATA: Final = 4

LEVELS: Final = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
    "traceauth": TRACEAUTH,
    "tracedata": TRACEDATA,
}
_NAMES: Final = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "fatal"}

# What a LogRecord has by itself; everything else in it came as `extra`.
_OWN_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[!#-<>-\[\]-~]+")  # visible ASCII but space, quote, = and backslash
# Chatter of libraries below these levels is of no use to an operator.
_LIBRARIES: Final = {
    "asyncio": logging.WARNING,
    "amqp": logging.WARNING,
    "celery": logging.WARNING,
    "kombu": logging.WARNING,
    "uvicorn": logging.ERROR,  # below that it tells of what clients did wrong
    "django": logging.WARNING,
    "django.request": logging.ERROR,  # the same
    "django.security": logging.CRITICAL,  # the same
}


@dataclass(frozen=True, slots=True)
class Levels:
    """How much is logged: a level by name, and others for packages by theirs."""

    default: str
    packages: Mapping[str, str] = field(default_factory=dict)


_set_packages: set[str] = set()  # whose levels are not the default in this process


def configure(levels: Levels, style: str, *, own_time: bool) -> None:
    """Send the log of this process to standard error. ``style``: logfmt, json or console."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_STYLES[style](own_time))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_levels(levels)
    logging.captureWarnings(capture=True)


def set_levels(levels: Levels) -> None:
    """Change how much this process logs. A level that is unknown counts as info."""
    root = logging.getLogger()
    root.setLevel(LEVELS.get(levels.default, logging.INFO))
    for name in _set_packages - levels.packages.keys():
        logging.getLogger(name).setLevel(logging.NOTSET)
    _set_packages.clear()
    for name, lowest in _LIBRARIES.items():
        logging.getLogger(name).setLevel(max(lowest, root.level))
    for name, level in levels.packages.items():
        logging.getLogger(name).setLevel(LEVELS.get(level, logging.INFO))
        _set_packages.add(name)


class LogfmtFormatter(logging.Formatter):
    """``l=info m="message" pkg=smtp cid=… key=value``; times only where asked for: journald adds its own."""

    def __init__(self, own_time: bool) -> None:
        super().__init__()
        self._own_time = own_time

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields_of(record, own_time=self._own_time))


class JSONFormatter(LogfmtFormatter):
    """The same fields as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(dict(fields_of(record, own_time=self._own_time)))


class ConsoleFormatter(LogfmtFormatter):
    """``level: message: error; key=value`` for people."""

    def format(self, record: logging.LogRecord) -> str:
        values = dict(fields_of(record, own_time=self._own_time))
        level, message, error = values.pop("l"), values.pop("m"), values.pop("err", "")
        stack = values.pop("stack", "")
        line = f"{level}: {message}" + (f": {error}" if error else "")
        rest = " ".join(f"{key}={_quoted(value)}" for key, value in values.items())
        return line + (f"; {rest}" if rest else "") + (f"\n{stack}" if stack else "")


_STYLES: Final = {"logfmt": LogfmtFormatter, "json": JSONFormatter, "console": ConsoleFormatter}


def fields_of(record: logging.LogRecord, *, own_time: bool) -> Iterator[tuple[str, str]]:
    """Level, message, package, connection id, then what the caller gave; an exception with its traceback last."""
    if own_time:
        yield "t", datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    yield "l", _NAMES.get(record.levelno, record.levelname.lower())
    yield "m", record.getMessage()
    yield "pkg", record.name.partition(".")[0]
    extra = {key: value for key, value in vars(record).items() if key not in _OWN_ATTRIBUTES}
    cid = extra.pop("cid", 0) or current_cid.get()
    if cid:
        yield "cid", f"{cid:x}"
    for key, value in extra.items():
        yield key, _text(value)
    if record.exc_info and record.exc_info[1] is not None:
        exc = record.exc_info[1]
        if "err" not in extra:
            yield "err", f"{type(exc).__name__}: {exc}"
        yield "stack", logging.Formatter().formatException(record.exc_info)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, timedelta):
        return f"{value.total_seconds() * 1000:.0f}ms"
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{','.join(map(_text, value))}]"
    return str(value)


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=True)
