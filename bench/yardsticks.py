"""Servers to compare with that run on the same machine: a fresh localserve, Dovecot, and aiosmtpd that does nothing."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .target import Target

PROJECT = Path(__file__).parents[1]
PASSWORD = "moxmoxmox"
START_TIMEOUT = 60.0


@contextmanager
def localserve(ip: str, mail_workers: int = 1) -> Iterator[tuple[Target, Path]]:
    """This project, in a new directory (the second), without pedantic checks and with a quiet log."""
    with _directory() as parent:
        directory = parent / "d"
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "manage.py", "localserve", "--dir", str(directory), "--ip", ip]
            + ["--no-pedantic", "--loglevel", "error"],
            cwd=PROJECT,
            env={**os.environ, "MOX_MAIL_WORKERS": str(mail_workers)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line == "ready\n":
                break
        else:
            raise SystemExit("localserve did not start")
        print(f"localserve on {ip}: ready after {time.monotonic() - started:.1f} s", file=sys.stderr)
        try:
            yield Target(name="mox", host=ip, pids=(process.pid,)), directory
        finally:
            _stop(process)


@contextmanager
def submitting(directory: Path) -> Iterator[None]:
    """The account of a localserve may send as much as it likes, and what it sends stays in the queue meanwhile."""
    with _database(directory) as database:
        database.execute(
            "UPDATE accounts_account SET max_outgoing_messages_per_day = 10000000,"
            " max_first_time_recipients_per_day = 10000000"
        )
        database.execute("INSERT INTO queue_holdrule (sender_domain, recipient_domain) VALUES ('', '')")
    try:
        yield
    finally:
        with _database(directory) as database:
            database.execute("DELETE FROM queue_holdrule")


@contextmanager
def relaying(directory: Path, sink: str) -> Iterator[None]:
    """What a localserve sends goes over a relay without TLS, and its account may send as much as it likes."""
    host, _, port = sink.rpartition(":")
    transport = {
        "name": "sink", "kind": "smtp", "host": host, "port": int(port), "no_starttls": True, "password": b"",
        "starttls_insecure_skip_verify": False, "username": "", "mechanisms": "[]", "disable_ipv4": False,
        "disable_ipv6": False, "socks_address": "", "socks_remote_ips": "[]", "socks_remote_hostname": "",
        "destination_connections": 0, "fail_code": 554, "fail_message": "",
    }  # fmt: skip
    route = {"position": 0, "from_domains": "[]", "to_domains": "[]", "minimum_attempts": 0}
    with _database(directory) as database:
        database.execute(
            "UPDATE accounts_account SET max_outgoing_messages_per_day = 10000000,"
            " max_first_time_recipients_per_day = 10000000"
        )
        route["transport_id"] = _insert(database, "accounts_transport", transport)
        _insert(database, "accounts_route", route)
    try:
        yield
    finally:
        with _database(directory) as database:
            database.execute("DELETE FROM accounts_route")
            database.execute("DELETE FROM accounts_transport")


def _insert(database: sqlite3.Connection, table: str, values: dict[str, object]) -> int | None:
    marks = ", ".join("?" * len(values))
    return database.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", [*values.values()]).lastrowid


@contextmanager
def _database(directory: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(directory / "mox.sqlite3", timeout=20)
    try:
        with database:
            yield database
    finally:
        database.close()


@contextmanager
def noop_smtp(ip: str) -> Iterator[Target]:
    """aiosmtpd under uvloop with a handler that takes every message and keeps none, and any password for submission."""
    process = subprocess.Popen([sys.executable, "-m", "bench.yardsticks", ip], cwd=PROJECT)
    try:
        _wait_for(ip, 1025)
        yield Target(name="aiosmtpd", host=ip, pids=(process.pid,))
    finally:
        _stop(process)


def has_dovecot() -> bool:
    """Whether Dovecot is installed, and can be run: it needs root."""
    return shutil.which("dovecot") is not None and os.geteuid() == 0


@contextmanager
def dovecot(ip: str) -> Iterator[Target]:
    """Dovecot's IMAP server with its own fast mailbox format."""
    with _directory() as directory:
        user = pwd.getpwnam("nobody")
        home = directory / "home"
        home.mkdir()
        os.chown(home, user.pw_uid, user.pw_gid)
        config = directory / "dovecot.conf"
        config.write_text(_DOVECOT.format(ip=ip, dir=directory, uid=user.pw_uid, gid=user.pw_gid, password=PASSWORD))
        process = subprocess.Popen(["dovecot", "-F", "-c", str(config)])
        try:
            _wait_for(ip, 1143)
            yield Target(name="dovecot", host=ip, pids=(process.pid,))
        finally:
            _stop(process)


_DOVECOT = """
protocols = imap
listen = {ip}
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
first_valid_uid = 1
first_valid_gid = 1
mail_uid = {uid}
mail_gid = {gid}
mail_location = sdbox:{dir}/home/sdbox
mail_fsync = always
default_client_limit = 4000
default_process_limit = 2000
service imap-login {{
  inet_listener imap {{
    port = 1143
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service imap {{
  process_limit = 2000
}}
mail_max_userip_connections = 2000
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={dir}/home
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
"""


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mox-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def _wait_for(ip: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection((ip, port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _stop(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()


def _run_noop(ip: str) -> None:
    import logging

    import uvloop
    from aiosmtpd.smtp import SMTP, AuthResult

    logging.getLogger("mail.log").setLevel(logging.ERROR)

    class Nothing:
        async def handle_DATA(self, server, session, envelope):
            return "250 OK"

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        options = {"data_size_limit": 200 << 20, "loop": loop, "enable_SMTPUTF8": True}
        login = {"auth_require_tls": False, "authenticator": lambda *_: AuthResult(success=True)}
        await loop.create_server(lambda: SMTP(Nothing(), **options, **login), ip, 1587)
        server = await loop.create_server(lambda: SMTP(Nothing(), **options), ip, 1025)
        await server.serve_forever()

    uvloop.run(serve())


if __name__ == "__main__":
    _run_noop(sys.argv[1])
