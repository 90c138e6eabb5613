"""A Dovecot of the tests: another IMAP server to ask the same questions. Needs Debian's dovecot-imapd."""

from __future__ import annotations

import contextlib
import getpass
import grp
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.system.imap.wire import Wire

PORT: Final = 1143
START_TIMEOUT: Final = 30.0  # seconds
PASSWORD: Final = "secret"

_CONFIGURATION: Final = """
protocols = imap
listen = {ip}
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/log
ssl = no
disable_plaintext_auth = no
default_internal_user = {internal}
default_internal_group = {group}
default_login_user = {internal}
first_valid_uid = 1
first_valid_gid = 0
mail_uid = {uid}
mail_gid = {gid}
mail_location = sdbox:{directory}/home/sdbox
mail_fsync = never
mail_max_userip_connections = 100
service anvil {{
  chroot =
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={directory}/home
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
"""


def missing() -> str:
    """Why it cannot run here; empty if it can."""
    return "" if shutil.which("dovecot") else "dovecot is missing (Debian package dovecot-imapd)"


class Dovecot:
    """A running one; everybody may log in to the one mail store."""

    def __init__(self, ip: str) -> None:
        self._ip = ip

    def session(self) -> Wire:
        """A logged in connection."""
        wire = Wire(self._ip, PORT)
        wire.login("mox", PASSWORD)
        return wire


@contextlib.contextmanager
def running(directory: Path, ip: str) -> Iterator[Dovecot]:
    """Run it in a new directory. As root it gives up root for itself and for the mail."""
    home = directory / "home"
    home.mkdir(parents=True)
    root = os.geteuid() == 0
    user = pwd.getpwnam("nobody" if root else getpass.getuser())
    internal = "dovecot" if root else user.pw_name
    if root:
        os.chown(home, user.pw_uid, user.pw_gid)
        for folder in (directory, *directory.parents[:2]):
            if (
                folder.owner() == "root" and folder.is_relative_to("/tmp") and folder != Path("/tmp")
            ):  # not to write there
                folder.chmod(0o755)
    configuration = directory / "dovecot.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            ip=ip,
            port=PORT,
            directory=directory,
            uid=user.pw_uid,
            gid=user.pw_gid,
            internal=internal,
            group=internal if root else grp.getgrgid(user.pw_gid).gr_name,
            password=PASSWORD,
        )
    )
    process = subprocess.Popen(["dovecot", "-F", "-c", str(configuration)], stderr=subprocess.DEVNULL)
    try:
        _wait_for(ip, process, directory / "log")
        yield Dovecot(ip)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(ip: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection((ip, PORT), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                text = log.read_text() if log.exists() else ""
                raise AssertionError(f"dovecot does not answer on {ip}:{PORT}\n{text}") from None
            time.sleep(0.02)
