"""The examples in docstrings of protocols/ are run, so that they stay true."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import io
import pkgutil
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from types import CodeType
from typing import Any, Final

import pytest

import protocols
from protocols import metrics
from protocols.dns import ErrorKind, MockResolver
from protocols.dns.servers import parse_servers
from protocols.dns.stub import StubResolver
from protocols.message.composer import NameAddress
from protocols.message.mail import Mail
from protocols.names import Domain, IPDomain, parse_address
from protocols.pkix import peer_chain
from protocols.smtpclient import Session, TLSPolicy
from protocols.smtpdata import DataReader, DotStuffer
from protocols.smtpsyntax import Path
from protocols.spf import Identity, SpfArgs, SpfResult, SpfStatus
from protocols.stream import Deadline, Stream
from tests.unit.test_dmarc_reports import REPORT as DMARC_REPORT
from tests.unit.test_dmarc_reports import mail as dmarc_mail

HOSTNAME: Final = Domain("mx.example")
AUTHOR: Final = NameAddress("Jan", parse_address("jan@example.org"))
NOBODY: Final = SpfResult(SpfStatus.NONE, Identity.HELO, None)

# What an example takes as given, by the object whose docstring it is in. What is to be found in the module is there.
GIVEN: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "protocols.dmarc.verification": lambda: {
        "resolver": MockResolver(),
        "from_domain": HOSTNAME,
        "dkim_results": [],
        "spf_result": NOBODY,
    },
    "protocols.dmarc.report": lambda: {"content": dmarc_mail(DMARC_REPORT, "text/xml")},
    "protocols.dns.mock": lambda: {"ErrorKind": ErrorKind},
    "protocols.durations": lambda: {"timedelta": timedelta},
    "protocols.deflate": lambda: {"data": b""},
    "protocols.mbox": lambda: {
        "file": io.BytesIO(),
        "size_max": 1000,
        "blocks": [b"Subject: x\r\n\r\n"],
        "received": datetime(2031, 3, 3, tzinfo=UTC),
    },
    "protocols.maildir": lambda: {"received": datetime(2024, 3, 5, 9, 11, 12, tzinfo=UTC)},
    "protocols.message.composer.Composer": lambda: {
        "file": io.BytesIO(),
        "address": parse_address("jan@example.org"),
        "NameAddress": NameAddress,
    },
    "protocols.message.mail": lambda: {
        "file": io.BytesIO(),
        "mail": Mail(from_=AUTHOR, to=[AUTHOR], date=datetime.now(UTC), message_id="<x@example.org>", text="hi"),
    },
    "protocols.metrics": lambda: {"metrics": metrics, "observe": lambda name, seconds, labels: None},
    "protocols.spf.evaluation": lambda: {
        "resolver": MockResolver(),
        "remote_ip": ip_address("192.0.2.1"),
        "mail_from": Path(),
        "hello": IPDomain(domain=HOSTNAME),
        "hostname": HOSTNAME,
        "SpfArgs": SpfArgs,
    },
}
# Those that talk to somebody; their names and arguments are looked at.
TALKING: Final = {
    "protocols.dane",
    "protocols.destinations",
    "protocols.dns.stub",
    "protocols.pkix",
    "protocols.smtpclient",
    "protocols.smtpdata",
    "protocols.socks",
    "protocols.stream",
    "protocols.stream.Deadline",
}


def documented() -> Iterator[tuple[str, Any]]:
    """The modules of protocols with their classes and functions, by name."""
    for info in pkgutil.walk_packages(protocols.__path__, "protocols."):
        module = importlib.import_module(info.name)
        yield info.name, module
        for name, value in vars(module).items():
            if getattr(value, "__module__", "") == info.name and (inspect.isclass(value) or inspect.isfunction(value)):
                yield f"{info.name}.{name}", value


def code(docstring: str) -> Iterator[ast.Module]:
    """The paragraphs that are Python: prose is not."""
    for paragraph in docstring.split("\n\n")[1:]:
        try:
            yield ast.parse(textwrap.dedent(paragraph))
        except SyntaxError:
            continue


EXAMPLES: Final = {
    name: (value, trees) for name, value in documented() if (trees := list(code(inspect.getdoc(value) or "")))
}


def test_each_example_is_looked_at() -> None:
    print(f"{len(EXAMPLES)} examples")
    assert EXAMPLES.keys() >= GIVEN.keys() | TALKING


@pytest.mark.parametrize("name", sorted(EXAMPLES.keys() - TALKING))
def test_it_runs(name: str) -> None:
    value, trees = EXAMPLES[name]
    names = vars(inspect.getmodule(value)) | GIVEN.get(name, dict)()
    hook = metrics._hook
    try:
        for tree in trees:
            asyncio.run(_run(compile(tree, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names))
    finally:
        metrics.use(hook)


async def _run(compiled: CodeType, names: dict[str, Any]) -> None:
    coroutine = eval(compiled, names)
    if coroutine is not None:
        await coroutine


@pytest.mark.parametrize("name", sorted(TALKING))
def test_it_calls_what_there_is(name: str) -> None:
    value, trees = EXAMPLES[name]
    module = inspect.getmodule(value)
    assert module is not None
    known = vars(module) | {
        "parse_servers": parse_servers,
        "TLSPolicy": TLSPolicy,
        "IPDomain": IPDomain,
        "peer_chain": peer_chain,
    }
    methods = {
        method for kind in (Stream, Deadline, Session, DataReader, DotStuffer, StubResolver) for method in dir(kind)
    }
    for call in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name):
            arguments = {keyword.arg or "": None for keyword in call.keywords}
            inspect.signature(known[call.func.id]).bind(*call.args, **arguments)
        else:
            assert isinstance(call.func, ast.Attribute)
            assert call.func.attr in methods | {"write"}
