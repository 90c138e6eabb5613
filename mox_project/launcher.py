"""``serve`` as root: opens the low ports, then gives up root for good before anything of the server runs.

Little code runs as root here: the standard library, and how the environment is read. What to listen on is asked of
``manage.py listeners``, which runs as the server's user already; its answer is checked as if it came from anybody. This
process stays behind as the parent, and passes signals on.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import pwd
import select
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from . import permissions, portholders, tcp
from .child import end_with_parent
from .environment import load_for_launch
from .problem import EnvironmentProblem

UMASK: Final = 0o007
ANSWER_MAX: Final = 1 << 20  # bytes of the list of addresses
ANSWER_TIMEOUT: Final = 600.0  # seconds: a database may be copied and migrated before
ADDRESSES_MAX: Final = 1000
FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_NO_NEW_PRIVS: Final = 38


@dataclass(frozen=True, slots=True)
class User:
    """Whom the server runs as."""

    name: str
    uid: int
    gid: int
    home: str


def launch(argv: Sequence[str]) -> int:
    """Serve; gives the exit status of the server. Raises EnvironmentProblem."""
    os.umask(UMASK)
    environment = load_for_launch(argv=argv)
    if environment.inherited:
        raise EnvironmentProblem("MOX_SOCKETS is set, and this is root: sockets are opened here, unset it")
    user = find_user(environment.user)
    if environment.fix_permissions:
        permissions.ensure(environment.data_dir.resolve(), user.uid, user.gid)
    variables = _variables(user, environment.data_dir)
    addresses = checked_addresses(_ask_listeners(argv, user, variables))
    sockets = [_listening(ip, port) for ip, port in addresses]
    return _run(argv, user, {**variables, "MOX_SOCKETS": ",".join(tcp.join_address(*a) for a in addresses)}, sockets)


def find_user(name: str) -> User:
    """A user by name, or by number (with the group of the same number if it has no name). Raises EnvironmentProblem."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        user = User(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_dir)
    except KeyError:
        if not name.isdecimal():
            raise EnvironmentProblem(
                f"user {name!r} does not exist: make it with useradd -d {Path.cwd()} {name}, "
                "or name another with MOX_USER"
            ) from None
        user = User(name, int(name), int(name), "/")
    if user.uid == 0 or user.gid == 0:
        raise EnvironmentProblem(f"MOX_USER={name!r} is root: name a user without privileges")
    return user


def checked_addresses(answer: bytes) -> list[tuple[str, int]]:
    """What to bind, from the JSON of ``listeners``. Raises EnvironmentProblem for anything unexpected in it."""
    try:
        listed = json.loads(answer)
        if not isinstance(listed, list) or len(listed) > ADDRESSES_MAX:
            raise ValueError(f"a list of at most {ADDRESSES_MAX} addresses is expected")
        addresses = [_checked_address(entry) for entry in listed]
    except (ValueError, RecursionError) as exc:
        raise EnvironmentProblem(f"the list of addresses to listen on cannot be trusted: {exc}") from exc
    if len(set(addresses)) != len(addresses):
        raise EnvironmentProblem("the list of addresses to listen on cannot be trusted: one is listed twice")
    return addresses


def _checked_address(entry: Any) -> tuple[str, int]:
    if not isinstance(entry, dict) or set(entry) != {"service", "ip", "port", "listener_id"}:
        raise ValueError("an entry has other fields than service, ip, port and listener_id")
    ip, port = entry["ip"], entry["port"]
    if not isinstance(ip, str) or "%" in ip or str(ip_address(ip)) != ip:
        raise ValueError(f"{ip!r} is not an address in its usual form")
    if type(port) is not int or not 1 <= port <= 65535:
        raise ValueError(f"{port!r} is not a port")
    return ip, port


def _variables(user: User, data_dir: Path) -> dict[str, str]:
    """The environment of what runs as the server's user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "PYTHON"))}
    return {**kept, "HOME": user.home, "USER": user.name, "LOGNAME": user.name, "MOX_DATA_DIR": str(data_dir)}


def _command(argv: Sequence[str], *words: str) -> list[str]:
    return [sys.executable, str(Path(argv[0]).absolute()), *words]


def _ask_listeners(argv: Sequence[str], user: User, variables: Mapping[str, str]) -> bytes:
    """What ``listeners`` answers, which is run as the server's user."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(user, _command(argv, "listeners", "--start", "--json", *argv[2:]), variables, [], stdout=writing)
    os.close(writing)
    answer = b""
    try:
        while len(answer) <= ANSWER_MAX:
            if not select.select([reading], [], [], ANSWER_TIMEOUT)[0]:
                os.kill(pid, signal.SIGKILL)
                raise EnvironmentProblem(f"the list of addresses did not come within {ANSWER_TIMEOUT:.0f} s")
            block = os.read(reading, 65536)
            if not block:
                break
            answer += block
        else:
            os.kill(pid, signal.SIGKILL)
            raise EnvironmentProblem(f"the list of addresses is longer than {ANSWER_MAX} bytes")
    finally:
        os.close(reading)
        _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:  # it has said why
        sys.exit(code if code > 0 else 1)
    return answer


def _listening(ip: str, port: int) -> socket.socket:
    try:
        return tcp.listen(ip, port)
    except OSError as exc:
        holder = portholders.holder(port) if exc.errno == errno.EADDRINUSE else ""
        cause = f"{exc.strerror}{f' by {holder}' if holder else ''}"
        raise EnvironmentProblem(f"cannot bind {tcp.join_address(ip, port)}: {cause}") from exc


def _run(argv: Sequence[str], user: User, variables: Mapping[str, str], sockets: Sequence[socket.socket]) -> int:
    """Start the server with the sockets, pass on the signals, and wait for its end."""
    waiting: list[int] = []
    child = 0

    def forward(number: int, frame: FrameType | None) -> None:
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)
        else:
            waiting.append(number)

    for forwarded in FORWARDED:
        signal.signal(forwarded, forward)
    child = os.fork()
    if child == 0:
        for forwarded in FORWARDED:
            signal.signal(forwarded, signal.SIG_DFL)
        _become(user, _command(argv, *argv[1:]), variables, sockets)
    for sock in sockets:
        sock.close()
    for number in waiting:
        forward(number, None)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _become(
    user: User,
    command: Sequence[str],
    variables: Mapping[str, str],
    sockets: Sequence[socket.socket],
    *,
    stdout: int | None = None,
) -> NoReturn:
    """In a forked child: give up root for good, and go on as another program."""
    try:
        drop_privileges(user)
        end_with_parent()  # set after the change of user, which clears it
        if stdout is not None:
            os.dup2(stdout, 1)
        _hand_over([sock.fileno() for sock in sockets])
        os.execve(command[0], list(command), dict(variables))  # noqa: S606 # no shell, and the words are ours
    except BaseException as exc:
        sys.stderr.write(f"error: the server cannot be started as {user.name}: {exc}\n")
        sys.stderr.flush()
    os._exit(1)


def drop_privileges(user: User) -> None:
    """Become a user without any way back. Raises OSError; RuntimeError if there still was a way."""
    os.setgroups([])
    os.setgid(user.gid)
    os.setuid(user.uid)
    ways_back: list[tuple[Callable[[int], None], int]] = [(os.setuid, 0), (os.seteuid, 0), (os.setgid, 0)]
    for regain, number in ways_back:
        try:
            regain(number)
        except OSError:
            continue
        raise RuntimeError("root could be regained after it was given up")
    if os.getgroups() not in ([], [user.gid]):
        raise RuntimeError("groups of root were kept")
    if {os.getuid(), os.geteuid()} != {user.uid} or {os.getgid(), os.getegid()} != {user.gid}:
        raise RuntimeError("root was not given up entirely")
    if sys.platform == "linux" and not _forbid_new_privileges():
        raise RuntimeError("the kernel does not promise that no program brings new privileges")


def _forbid_new_privileges() -> bool:
    """Whether the kernel promises that no program brings new privileges, setuid root as it may be (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0) == 0)


def _hand_over(descriptors: Sequence[int]) -> None:
    """Put descriptors where the next program looks for them: 3 and up, in order."""
    above = max([tcp.FIRST_DESCRIPTOR + len(descriptors), *(number + 1 for number in descriptors)])
    copies = [os.dup2(number, above + at, inheritable=False) for at, number in enumerate(descriptors)]
    for at, number in enumerate(copies):
        os.dup2(number, tcp.FIRST_DESCRIPTOR + at, inheritable=True)
