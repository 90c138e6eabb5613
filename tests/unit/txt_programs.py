"""Programs that look up TXT records by themselves, in a network of their own with a name server that knows a few.

python -m tests.unit.txt_programs, as root of new namespaces: reads the records and the runs as JSON, writes what came
of each run as JSON.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TEXT: Final = 255  # bytes of one string of a record

_NAMESPACES: Final = ("unshare", "--map-root-user", "--net", "--mount")
_SETUP: Final = 'ip link set lo up && mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


@dataclass(frozen=True, slots=True)
class Finished:
    returncode: int
    stdout: bytes
    stderr: str


def missing(*programs: str) -> str:
    """Why these programs cannot be run, "" when they can."""
    absent = [program for program in programs if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if subprocess.run([*_NAMESPACES, "true"], capture_output=True).returncode:
        return "no namespaces for a name server of one's own"
    return ""


def run(records: Mapping[str, str], runs: Sequence[tuple[Sequence[str], bytes]], directory: Path) -> list[Finished]:
    """Each command line with its standard input; ``records``: text by absolute name; ``directory``: for a file."""
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text("nameserver 127.0.0.1\n")
    work = {"records": records, "runs": [[list(argv), base64.b64encode(data).decode()] for argv, data in runs]}
    argv = [*_NAMESPACES, "sh", "-c", _SETUP, "sh", str(resolv_conf), sys.executable, "-m", __name__]
    output = subprocess.run(argv, input=json.dumps(work), capture_output=True, text=True, check=True).stdout
    return [Finished(code, base64.b64decode(stdout), stderr) for code, stdout, stderr in json.loads(output)]


def _main() -> None:
    work = json.load(sys.stdin)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    threading.Thread(target=_serve, args=(server, work["records"]), daemon=True).start()
    results = []
    for argv, data in work["runs"]:
        process = subprocess.run(argv, input=base64.b64decode(data), capture_output=True)
        stdout = base64.b64encode(process.stdout).decode()
        results.append([process.returncode, stdout, process.stderr.decode("utf-8", "replace")])
    json.dump(results, sys.stdout)


def _serve(server: socket.socket, records: dict[str, str]) -> None:
    from dns import message, rcode, rrset

    while True:
        query, client = server.recvfrom(4096)
        reply = message.make_response(message.from_wire(query))
        name = reply.question[0].name
        text = records.get(name.to_text().lower())
        if text is None:
            reply.set_rcode(rcode.NXDOMAIN)
        else:
            strings = " ".join(f'"{text[at : at + TEXT]}"' for at in range(0, len(text), TEXT))
            reply.answer.append(rrset.from_text(name, 60, "IN", "TXT", strings))
        server.sendto(reply.to_wire(), client)


if __name__ == "__main__":
    _main()
