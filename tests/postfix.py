"""A real Postfix that receives: Debian's package, with a configuration and directories of its own.

    with postfix("127.0.1.25", 2525, ["far.test"], certified) as server:
        ...
        server.messages()

It must be started as root. ``needs_postfix`` skips a test where that or the package is missing.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.unit.certificates import Certified

START_TIMEOUT = 20.0  # seconds; far above what a start takes, also on a busy machine
SECONDS = 20.0  # for a message to come from Postfix's queue into the mailbox

_path = shutil.which("postfix") or shutil.which("postfix", path="/usr/sbin")
needs_postfix = pytest.mark.skipif(
    _path is None or os.geteuid() != 0, reason="Debian package postfix is missing, or this is not root"
)

_SERVICES = """
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True, slots=True)
class Postfix:
    """A running server."""

    directory: Path

    def messages(self, count: int) -> list[bytes]:
        """What is in the mailbox of all recipients, once that are so many."""
        deadline = time.monotonic() + SECONDS
        while len(found := list((self.directory / "inbox" / "new").glob("*"))) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} messages:\n{self.log()}"
            time.sleep(0.05)
        return [path.read_bytes() for path in found]

    def log(self) -> str:
        return (self.directory / "mail.log").read_text()


@contextlib.contextmanager
def postfix(ip: str, port: int, domains: Sequence[str], certified: Certified, *others: Certified) -> Iterator[Postfix]:
    """Take mail for all addresses of the domains, with STARTTLS under this certificate (and others of its chain)."""
    assert _path is not None
    # Not below a directory that only root can enter: it gives up root.
    directory = Path(tempfile.mkdtemp(prefix="mox-postfix-"))
    directory.chmod(0o755)
    process: subprocess.Popen[bytes] | None = None
    try:
        _configure(directory, f"{ip}:{port}", domains, (certified, *others))
        command = [_path, "-c", str(directory / "etc"), "start-fg"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        _wait_until_answering(process, ip, port)
        yield Postfix(directory)
    finally:
        if process is not None:
            subprocess.run([_path, "-c", str(directory / "etc"), "stop"], capture_output=True, timeout=30, check=False)
            process.kill()
            process.communicate()
        shutil.rmtree(directory, ignore_errors=True)


def _configure(directory: Path, address: str, domains: Sequence[str], chain: Sequence[Certified]) -> None:
    for name in ("etc", "queue", "data", "inbox"):
        (directory / name).mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(directory / "data", pwd.getpwnam("postfix").pw_uid, -1)
    os.chown(directory / "inbox", nobody.pw_uid, nobody.pw_gid)
    key = chain[0].key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "chain.pem").write_text(key.decode() + "".join(certified.pem for certified in chain))
    (directory / "etc/master.cf").write_text(f"{address} inet n - n - - smtpd\n{_SERVICES.strip()}\n")
    (directory / "etc/main.cf").write_text(f"""compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
maillog_file = {directory}/mail.log
maillog_file_prefixes = {tempfile.gettempdir()}
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.receiver.test
mydestination =
alias_maps =
virtual_mailbox_domains = {", ".join(domains)}
virtual_mailbox_base = {directory}
virtual_mailbox_maps = static:inbox/
virtual_uid_maps = static:{nobody.pw_uid}
virtual_gid_maps = static:{nobody.pw_gid}
smtpd_relay_restrictions = reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_chain_files = {directory}/chain.pem
""")


def _wait_until_answering(process: subprocess.Popen[bytes], ip: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((ip, port), 1) as connection:
            connection.settimeout(START_TIMEOUT)
            if connection.recv(4) == b"220 ":
                return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"Postfix does not answer: {process.communicate()[1].decode()}")
