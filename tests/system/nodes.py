"""Servers as an operator runs them: `serve`, alone on a directory, or several nodes on one PostgreSQL and Redis."""

from __future__ import annotations

import atexit
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.system.servers import PROJECT, Server

HOSTNAME = "mail.test.example"
DOMAIN = "test.example"
ACCOUNT = "user"
ADDRESS = f"{ACCOUNT}@{DOMAIN}"
PASSWORD = "correct horse"

# Run in a process of its own, since its environment names another directory than that of the tests.
_SET_UP = """
import json, sys
from datetime import timedelta
from ipaddress import ip_address
import django
django.setup()
from accounts import dkim
from accounts.accounts import create_account
from accounts.domains import create_domain
from accounts.passwords import set_password
from mox_project import upgrade
from server import db, tls
from server.models import EndpointKind, Listener, ListenerEndpoint, ServerSettings, TLSMode
from server.selfsigned import make_self_signed

given = json.load(sys.stdin)
upgrade.bring_up_to_date(automatic=True)
make_self_signed(*tls.self_signed_pair(), [given["hostname"]], [ip_address("127.0.0.1")])
with db.write():
    ServerSettings(hostname=given["hostname"], postmaster_account=given["account"]).save()
    for listener in given["listeners"]:
        metrics = listener.pop("metrics_port")
        made = Listener.objects.create(
            tls_mode=TLSMode.MANUAL,
            smtp_first_time_sender_delay=timedelta(0),
            smtp_enabled=True,
            imap_enabled=True,
            submission_enabled=True,
            **listener,
        )
        ListenerEndpoint.objects.create(listener=made, kind=EndpointKind.METRICS, port=metrics)
    domain = create_domain(given["domain"])
    dkim.add_selectors(domain, [dkim.localserve_key()])
    account = create_account(given["account"], given["account"], domain)
    set_password(account, given["password"])
"""


ROUTE = """
from accounts.models import Route, Transport
transport = Transport.objects.create(name="relay", kind="smtp", host={host!r}, port={port}, no_starttls=True)
Route.objects.create(transport=transport)
"""
"""For `shell -c`: all mail goes to this server."""


def listener(name: str, ip: str, *, node: str = "*", low_ports: bool = False) -> dict[str, object]:
    """A listener with all plain-text services, on the ports of localserve or (``low_ports``) the usual ones."""
    add = 0 if low_ports else 1000
    return {
        "name": name,
        "ips": [ip],
        "node": node,
        "smtp_port": 25 + add,
        "submission_port": 587 + add,
        "imap_port": 143 + add,
        "submission_no_require_starttls": True,
        "imap_no_require_starttls": True,
        "metrics_port": 81 + add,
    }


def set_up(directory: Path, *listeners: Mapping[str, object], env: Mapping[str, str] | None = None) -> None:
    """Make a configured installation: database, certificate, listeners, an account with a password."""
    given = {"hostname": HOSTNAME, "domain": DOMAIN, "account": ACCOUNT, "password": PASSWORD, "listeners": listeners}
    subprocess.run(
        [sys.executable, "-c", _SET_UP],
        cwd=PROJECT,
        env={**environment(directory), **(env or {})},
        input=json.dumps(given),
        text=True,
        check=True,
    )


def environment(directory: Path) -> dict[str, str]:
    """The variables of a node with this directory, without those of the tests' own."""
    own = ("MOX_DATA_DIR", "MOX_DATABASE_URL", "MOX_CACHE_URL", "MOX_BROKER_URL", "MOX_CHANNEL_URL")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {**kept, "MOX_DATA_DIR": str(directory), "MOX_USER": "nobody"}


class Node(Server):
    """A `serve` on a directory that is set up; ports as `listener` has them.

    As root it is started by way of the launcher, and runs as the user that MOX_USER names.
    """

    def __init__(self, directory: Path, ip: str, *, env: Mapping[str, str] | None = None) -> None:
        super().__init__(directory, ip)
        self.env = {**environment(directory), **(env or {})}

    def start(self, *options: str, env: Mapping[str, str] | None = None, wait: bool = True) -> None:
        super().start(*options, env={**self.env, **(env or {})}, wait=False)
        if wait:
            self.wait_for_line('m="ready to serve"')

    def mox(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """A command beside the server, on the same directory."""
        return subprocess.run(
            [sys.executable, str(PROJECT / "manage.py"), *words],
            env=self.env,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def _command(self, *options: str) -> list[str]:
        return [*reaching_python(), sys.executable, str(PROJECT / "manage.py"), "serve", *options]


# What the launcher starts runs as another user, who cannot reach a Python in root's home: show it that alone there.
_REACHING = """
set -e
home=$1 python=$2 hold=$3
shift 3
mount --make-rprivate /
mount --bind "$python" "$hold"
mount -t tmpfs -o mode=755 tmpfs "$home"
mkdir -p "$python"
mount --bind "$hold" "$python"
exec "$@"
"""


def reaching_python() -> list[str]:
    """What stands before a command that must find Python as any user: nothing, where any user can."""
    python = Path(sys.base_prefix)
    closed = [place for place in (python, *python.parents) if not place.stat().st_mode & stat.S_IXOTH]
    if os.geteuid() or not closed:
        return []
    hold = tempfile.mkdtemp(prefix="mox-test-python-")
    atexit.register(os.rmdir, hold)
    return ["unshare", "--mount", "sh", "-c", _REACHING, "sh", str(closed[-1]), str(python), hold]
