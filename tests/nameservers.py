"""DNS as in the world, on loopback: nsd serves a root zone and zones below it, signed; unbound resolves and verifies.

    zones = [Zone("signed.test.", "@ A 192.0.2.1"), Zone("plain.test.", "@ MX 10 mail", signing=Signing.NONE)]
    with name_servers(directory, "127.0.1.53", zones) as dns:
        resolver = StubResolver([dns.resolver])

The trust anchor is the root's key; a zone is delegated from the next zone above it, securely when it is signed. Both
programs, and ldns-signzone, are Debian packages; ``needs_name_servers`` skips a test when one is missing.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_address
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

from protocols.dns.servers import NameServer

PROGRAMS = {"nsd": "nsd", "unbound": "unbound", "ldns-signzone": "ldnsutils", "ldns-keygen": "ldnsutils"}
START_TIMEOUT = 20.0  # seconds; far above what a start takes, also on a busy machine
STOP_TIMEOUT = 10.0
TTL = 300


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


_missing = {package for program, package in PROGRAMS.items() if _find(program) is None}
needs_name_servers = pytest.mark.skipif(
    bool(_missing), reason=f"Debian packages are missing: {', '.join(sorted(_missing))}"
)


class Signing(Enum):
    """What is done to a zone; all but NONE are delegated with a DS record."""

    NONE = auto()
    GOOD = auto()
    NSEC3 = auto()
    EXPIRED = auto()  # the signatures were valid once
    FUTURE = auto()  # they will be valid some day
    TAMPERED = auto()  # signed, and then 192.0.2.66 was changed to 192.0.2.99
    WRONG_KEY = auto()  # the DS record is of another key
    STRIPPED = auto()  # the DS record says that there are signatures, but there are none


# Days from now, of the signatures' inception and expiration.
_VALID = (-10, 10)
_VALIDITIES = {Signing.EXPIRED: (-60, -30), Signing.FUTURE: (30, 60)}


@dataclass(frozen=True, slots=True)
class Zone:
    """``records`` as in a zone file, names relative to ``name`` (absolute); SOA and NS records are made."""

    name: str
    records: str = ""
    signing: Signing = Signing.GOOD

    def text(self, delegations: str) -> str:
        return (
            f"$ORIGIN {self.name}\n$TTL {TTL}\n"
            f"@ SOA ns.name-server.test. admin.name-server.test. 1 7200 3600 1209600 {TTL}\n"
            f"@ NS ns.name-server.test.\n{self.records}\n{delegations}"
        )


@dataclass(frozen=True, slots=True)
class NameServers:
    """Running servers."""

    resolver: NameServer
    """unbound: verifies, and answers with AD and extended errors."""
    authoritative: NameServer
    """nsd: answers for the zones alone, without AD."""
    trust_anchor: str
    """The DS record of the root."""


@contextlib.contextmanager
def name_servers(directory: Path, ip: str, zones: Sequence[Zone]) -> Iterator[NameServers]:
    """Sign the zones and serve them on free ports of ``ip``."""
    directory.mkdir(parents=True)
    authoritative, resolver = _free(ip), _free(ip)
    anchor = _write_zones(directory, zones)
    (directory / "nsd.conf").write_text(_nsd_conf(directory, authoritative, zones))
    (directory / "unbound.conf").write_text(_unbound_conf(directory, authoritative, resolver, anchor, zones))
    with (
        _running("nsd", "-d", "-c", str(directory / "nsd.conf"), directory=directory, server=authoritative),
        _running("unbound", "-d", "-p", "-c", str(directory / "unbound.conf"), directory=directory, server=resolver),
    ):
        yield NameServers(resolver, authoritative, anchor)


def _write_zones(directory: Path, zones: Sequence[Zone]) -> str:
    """Write each zone, children first: parents have their DS records. Gives the DS record of the root."""
    by_name = {zone.name: zone for zone in (Zone("."), Zone("test."), *zones)}
    delegations = dict.fromkeys(by_name, "")
    ds = ""
    for name in sorted(by_name, key=lambda name: name.rstrip(".").count(".") + (name != "."), reverse=True):
        zone = by_name[name]
        path = directory / _file_name(name)
        path.write_text(zone.text(delegations[name]))
        ds = _sign(directory, path, zone)
        if name != ".":
            parent = next(p for p in _parents(name) if p in by_name)
            delegations[parent] += f"{name} NS ns.name-server.test.\n{ds}"
    return ds


def _sign(directory: Path, path: Path, zone: Zone) -> str:
    """Sign a zone file in its place; gives the DS record for the parent, "" when there is to be none."""
    if zone.signing is Signing.NONE:
        return ""
    key, other = (_run(directory, "ldns-keygen", "-a", "ECDSAP256SHA256", "-k", zone.name) for _ in range(2))
    inception, expiration = (str(int(time.time()) + days * 24 * 3600) for days in _VALIDITIES.get(zone.signing, _VALID))
    if zone.signing is not Signing.STRIPPED:
        nsec3 = ["-n", "-t", "0"] if zone.signing is Signing.NSEC3 else []
        dates = ["-i", inception, "-e", expiration]
        _run(directory, "ldns-signzone", *nsec3, *dates, "-o", zone.name, "-f", path.name, path.name, key)
    if zone.signing is Signing.TAMPERED:
        path.write_text(path.read_text().replace("192.0.2.66", "192.0.2.99"))
    ds_key = other if zone.signing is Signing.WRONG_KEY else key
    return (directory / f"{ds_key}.ds").read_text()


def _parents(name: str) -> Iterator[str]:
    while name != ".":
        name = name.partition(".")[2] or "."
        yield name


def _file_name(zone: str) -> str:
    return f"{zone.replace('/', '_')}zone"


def _nsd_conf(directory: Path, server: NameServer, zones: Sequence[Zone]) -> str:
    return f"""server:
    ip-address: {server.ip}@{server.port}
    zonesdir: "{directory}"
    database: ""
    pidfile: "{directory}/nsd.pid"
    xfrdfile: "{directory}/nsd.xfrd"
    xfrdir: "{directory}"
    zonelistfile: "{directory}/nsd.zones"
    username: ""
    server-count: 1
    tcp-count: 20
remote-control:
    control-enable: no
""" + "".join(f'zone:\n    name: "{name}"\n    zonefile: "{_file_name(name)}"\n' for name in _names(zones))


def _names(zones: Sequence[Zone]) -> list[str]:
    return list(dict.fromkeys((".", "test.", *(zone.name for zone in zones))))


def _unbound_conf(
    directory: Path, authoritative: NameServer, resolver: NameServer, anchor: str, zones: Sequence[Zone]
) -> str:
    (directory / "root.ds").write_text(anchor)
    return f"""server:
    interface: {resolver.ip}@{resolver.port}
    access-control: 127.0.0.0/8 allow
    do-daemonize: no
    use-syslog: no
    chroot: ""
    username: ""
    directory: "{directory}"
    num-threads: 1
    do-ip6: no
    do-not-query-localhost: no
    module-config: "validator iterator"
    trust-anchor-file: "{directory}/root.ds"
    trust-anchor-signaling: no
    ede: yes
    val-log-level: 2
    unblock-lan-zones: yes
    local-zone: "test." nodefault
    local-zone: "2.0.192.in-addr.arpa." nodefault
    local-zone: "8.b.d.0.1.0.0.2.ip6.arpa." nodefault
    local-zone: "100.51.198.in-addr.arpa." nodefault
    local-zone: "113.0.203.in-addr.arpa." nodefault
remote-control:
    control-enable: no
""" + "".join(
        # One for each: else it looks for the port 53 of the zone above when it has to prove that a zone is unsigned.
        f'stub-zone:\n    name: "{name}"\n    stub-addr: {authoritative.ip}@{authoritative.port}\n'
        for name in _names(zones)
    )


@contextlib.contextmanager
def _running(program: str, *options: str, directory: Path, server: NameServer) -> Iterator[None]:
    log = directory / f"{program}.log"
    path = _find(program)
    assert path, f"{program} is missing"
    with log.open("wb") as output:
        process = subprocess.Popen([path, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        _wait_until_answering(process, server, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_answering(process: subprocess.Popen[bytes], server: NameServer, log: Path) -> None:
    query = dns.message.make_query(".", "SOA")
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError, dns.exception.DNSException):
            response = dns.query.udp(query, str(server.ip), timeout=0.2, port=server.port)
            if response.answer:
                return
        time.sleep(0.02)  # a refused datagram may fail at once
    raise AssertionError(f"{process.args!r} does not answer on {server}:\n{log.read_text()}")


def _run(directory: Path, program: str, *arguments: str) -> str:
    path = _find(program)
    assert path, f"{program} is missing"
    done = subprocess.run([path, *arguments], cwd=directory, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{program} {arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def _free(ip: str) -> NameServer:
    """A port of this address that is free for both protocols."""
    for _ in range(20):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind((ip, 0))
            port = udp.getsockname()[1]
            with contextlib.suppress(OSError):
                tcp.bind((ip, port))
                return NameServer(ip_address(ip), port)
    raise AssertionError(f"no free port on {ip}")
