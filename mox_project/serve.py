"""Which processes make a running server, and how a start prepares for them: shared by ``serve`` and ``localserve``."""

from __future__ import annotations

import argparse
import enum
import json
import logging
import os
import resource
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from socket import socket
from typing import Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, connections

from server import encryption, logs, metricfiles, tls
from server.connections import panic_total
from server.encryption import CannotDecrypt
from server.logs import Levels
from server.version import VERSION

from . import asgi, celery, embedded_redis, mailserver, sockets, upgrade
from .child import Link
from .environment import Environment, log_level_now
from .problem import EnvironmentProblem
from .sockets import Binding
from .supervisor import ESSENTIAL_STOP_TIMEOUT, STOP_TIMEOUT, ChildProcess, Supervisor

log = logging.getLogger(__name__)

UMASK: Final = 0o007  # what the server makes is for its user and group
TEMPORARY_AGE: Final = 24 * 3600  # seconds after which a temporary file is left over from a crash
OPEN_FILES: Final = 65536  # descriptors of a process, where the system lets it have them
DELIVERY_STOP_TIMEOUT: Final = 32.0  # seconds: it waits up to 30 for the answer to a message that is sent already
# Search text can wait for mail that comes in, but not so long that mail waits for a lock held by who gets no processor.
MAINTENANCE_NICENESS: Final = 5


class Kind(enum.StrEnum):
    """What a process does; a node may have some of them only."""

    MAIL = "mail"
    WEB = "web"
    DELIVERY = "worker-delivery"
    WEBHOOKS = "worker-webhooks"
    MAINTENANCE = "worker-maintenance"
    BEAT = "beat"


ALL_KINDS: Final = frozenset(Kind)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the database says about a start. Read in a child: the supervisor has no connection."""

    bindings: list[Binding]
    levels: Levels

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Plan:
        values = json.loads(text)
        return cls([Binding(**binding) for binding in values["bindings"]], Levels(**values["levels"]))


def examined(kinds: Collection[Kind]) -> Plan:
    """What to serve, if all is there that it takes; the database is brought up to date. Raises EnvironmentProblem.

    Opens database connections: not for the supervisor's own process.
    """
    from accounts.models import DKIMSelector
    from server.models import Listener, ServerSettings

    environment = settings.MOX
    try:
        connection.ensure_connection()
    except DatabaseError as exc:
        raise EnvironmentProblem(f"the database cannot be used: {' '.join(str(exc).split())}") from exc
    upgrade.bring_up_to_date(automatic=environment.is_alone)
    if not ServerSettings.objects.exists():
        raise EnvironmentProblem(
            f"no server is set up in {environment.data_dir}: its hostname, listeners and first account are missing"
        )
    for listener in Listener.objects.filter(node__in=("*", environment.node)):
        for path in tls.missing_files(listener):
            raise EnvironmentProblem(f"listener {listener.name} has TLS, and its file {path} is missing")
    try:
        encryption.check()
        DKIMSelector.objects.values_list("private_key").first()  # decrypted on its way
    except (CannotDecrypt, ImproperlyConfigured) as exc:
        raise EnvironmentProblem(str(exc)) from exc
    found = plan()
    bindings = wanted(found.bindings, kinds)
    if Kind.MAIL in kinds and not any(binding.is_mail for binding in bindings):
        raise EnvironmentProblem(
            f"no listener has a mail service for node {environment.node}: enable one, or name this node with "
            "MOX_NODE as the listener does"
        )
    return Plan(bindings, found.levels)


def report_problems(levels: Levels) -> None:
    """Log what is wrong with the configuration, for whoever changed it by hand; what can be served is."""
    from accounts import addresschecks
    from server import listener_rules

    environment = settings.MOX
    logs.configure(levels, environment.log_format, own_time=environment.log_time)
    for listener, text in listener_rules.stored_problems():
        log.error("configuration is wrong", extra={"listener": listener.name, "err": text})
    for text in addresschecks.problems():
        log.error("configuration is wrong", extra={"err": text})


def parse_kinds(text: str) -> frozenset[Kind]:
    """``mail,web``, as an option of a command."""
    unknown = [word for word in text.split(",") if word not in list(Kind)]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown kind {unknown[0]!r}, use {', '.join(Kind)}")
    return frozenset(Kind(word) for word in text.split(","))


def plan(given_level: str = "") -> Plan:
    """What to listen on and how much to log, as the database has it."""
    return Plan(list(sockets.bindings(settings.MOX.node)), levels(given_level))


def levels(given: str = "") -> Levels:
    """How much to log: as given on the command line, else as the environment has it now, else as the settings do."""
    from server.models import ServerSettings

    stored = ServerSettings.objects.get()
    default = given or log_level_now(settings.MOX.data_dir) or stored.log_level
    return Levels(default, {} if given else stored.log_levels)


def prepare_directories(environment: Environment, *, keep_metrics: bool = False) -> None:
    """Make what the processes expect, and remove what earlier ones left behind; ``keep_metrics``: others still run."""
    for directory in (environment.run_dir, environment.temporary_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in () if keep_metrics else environment.metrics_dir.glob("*.db"):
        if not path.stem.endswith(f"_{os.getpid()}"):
            path.unlink(missing_ok=True)
    content = Path(settings.STORAGES["messages"]["OPTIONS"]["location"])
    for directory in (environment.temporary_dir, content / "tmp"):
        remove_old_files(directory, time.time() - TEMPORARY_AGE)


def remove_old_files(directory: Path, before: float) -> None:
    """Remove files that were last written before a moment (seconds since the epoch)."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        try:
            if path.is_file() and path.stat().st_mtime < before:
                path.unlink()
        except OSError as exc:
            log.warning("temporary file cannot be removed", extra={"file": path, "err": str(exc)})


def wanted(found: Iterable[Binding], kinds: Collection[Kind]) -> list[Binding]:
    """What to listen on where only these kinds of processes run; what machines ask of a server is always answered."""
    return [
        binding
        for binding in found
        if (Kind.MAIL in kinds if binding.is_mail else Kind.WEB in kinds or binding.service == sockets.METRICS)
    ]


def run(
    environment: Environment,
    opened: list[tuple[Binding, socket]],
    levels: Levels,
    on_ready: Callable[[], None],
    *,
    kinds: Collection[Kind] = ALL_KINDS,
    given_level: str = "",
    delivery_stop_timeout: float = STOP_TIMEOUT,
) -> int:
    """Supervise the processes until the server is stopped; gives the exit status.

    ``given_level``: the log level that the command line names, which no reload changes.
    """
    logs.configure(levels, environment.log_format, own_time=environment.log_time)
    _raise_file_limit()
    celery.preload()
    if Kind.WEB in kinds:
        asgi.prepare()

    def reload() -> None:
        level = given_level or log_level_now(environment.data_dir)
        if level:
            logs.set_levels(Levels(level, levels.packages))

    return Supervisor(
        run_dir=environment.run_dir,
        processes=_processes(environment, opened, levels, kinds, given_level, delivery_stop_timeout),
        version=VERSION,
        node=environment.node,
        on_ready=on_ready,
        on_reload=reload,
        on_end=lambda pid: _forget_metrics(environment, pid),
    ).run()


def _raise_file_limit() -> None:
    """Each connection is a descriptor: the usual 1024 would be used up by one client that opens many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _processes(
    environment: Environment,
    opened: list[tuple[Binding, socket]],
    levels: Levels,
    kinds: Collection[Kind],
    given_level: str,
    delivery_stop_timeout: float,
) -> list[ChildProcess]:
    """The children to supervise, in the order of their start."""
    mail, http = sockets.mail_sockets(opened), sockets.http_sockets(opened)
    # Without a web process, the first of any kind says how this node is doing.
    beside = [] if Kind.WEB in kinds else http
    children: list[ChildProcess] = []

    def add(
        name: str,
        run: Callable[[Callable[[], None]], None],
        stop_timeout: float = STOP_TIMEOUT,
        niceness: int = 0,
    ) -> None:
        health = [] if children else beside

        def live(link: Link) -> None:
            os.nice(niceness)
            _begin(environment, levels)
            link.on_reload(lambda: reload_settings(given_level))
            if health:
                asgi.run_health_beside(health)
            try:
                run(link.ready)
            except Exception:
                panic_total.labels("mox_project").inc()
                raise

        children.append(ChildProcess(name, live, stop_timeout=stop_timeout))

    def add_worker(
        kind: Kind, queues: list[str], concurrency: int, stop_timeout: float = STOP_TIMEOUT, niceness: int = 0
    ) -> None:
        if kind in kinds:
            node = environment.node
            add(kind, lambda ready: celery.run_worker(node, kind, queues, concurrency, ready), stop_timeout, niceness)

    if Kind.MAIL in kinds:
        for number in range(1, environment.mail_workers + 1):
            add(f"mail-{number}", lambda ready: mailserver.run(mail, ready))
    if Kind.WEB in kinds:
        for number in range(1, environment.web_workers + 1):
            add(f"web-{number}", lambda ready: asgi.run(http, ready))
    add_worker(Kind.DELIVERY, [celery.DELIVERY], environment.queue_max_concurrent, delivery_stop_timeout)
    add_worker(Kind.WEBHOOKS, [celery.WEBHOOKS], environment.webhook_concurrency)
    add_worker(
        Kind.MAINTENANCE,
        [celery.MAINTENANCE, celery.REPORTS],
        environment.worker_concurrency,
        niceness=MAINTENANCE_NICENESS,
    )
    if Kind.BEAT in kinds:
        schedule = str(environment.run_dir / "beat-schedule")
        add("beat", lambda ready: celery.run_beat(schedule, ready))
    return [*_redis(environment, levels), *children]


def _redis(environment: Environment, levels: Levels) -> list[ChildProcess]:
    """The private Redis, where no URL names another. Raises EnvironmentProblem."""
    if not environment.embedded_redis:
        return []

    words = embedded_redis.command(environment.redis_socket)  # what is missing is told before anything starts

    def live(link: Link) -> None:
        _begin(environment, levels)
        embedded_redis.run(words, environment.redis_socket, link.ready)

    return [ChildProcess("redis", live, essential=True, stop_timeout=ESSENTIAL_STOP_TIMEOUT)]


def _begin(environment: Environment, levels: Levels) -> None:
    logs.configure(levels, environment.log_format, own_time=environment.log_time)
    connections.close_all()
    try:
        metricfiles.reserve(environment.metrics_dir)
    except OSError as exc:
        log.error("no room for metrics, the process may be killed", extra={"err": str(exc)})


def _forget_metrics(environment: Environment, pid: int) -> None:
    try:
        metricfiles.forget(environment.metrics_dir, pid)
    except OSError as exc:
        log.error("metrics of a process that ended are lost", extra={"pid": pid, "err": str(exc)})


def reload_settings(given_level: str = "") -> None:
    """Look at log levels and certificates anew, in any thread of a running process."""
    try:
        logs.set_levels(levels(given_level))
        tls.forget()
    finally:
        connections.close_all()
