"""Whom the files belong to, as root ensures it at each start: the data to the server's user, the program to root.

The server's user may have put anything into the data directory. So nothing is reached by a path twice: each file is
opened without following links, looked at, and changed through that descriptor.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .environment import ENVIRONMENT_FILE

DATA_MODE: Final = 0o2750  # setgid: what is made in it stays readable for root's group
DIRECTORY_MODE: Final = 0o750
FILE_MODE: Final = 0o640
RUN_MODE: Final = 0o700
WORKING_MODE: Final = 0o751
ROOT: Final = 0
DEPTH_MAX: Final = 32  # directories within each other that are looked at; ours are four deep
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
PROGRAM: Final = Path(__file__).parents[1]
PACKAGES: Final = ("mox_project", "protocols")  # of which root imports something


def ensure(data_dir: Path, uid: int, gid: int) -> None:
    """Make data directory and working directory as they should be. What cannot be changed is told, and left."""
    data_dir.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    if data_dir.parent == Path.cwd() and data_dir.parent != Path(data_dir.anchor):
        with _opened(str(data_dir.parent)) as working:
            _change(working, str(data_dir.parent), ROOT, gid, WORKING_MODE)
    with _opened(str(data_dir)) as top:
        # All of it is looked at only when the top was wrong: a large installation has millions of files.
        if _change(top, str(data_dir), uid, ROOT, DATA_MODE):
            _ensure_within(top, str(data_dir), uid)
        _ensure_run(top, str(data_dir / "run"), uid)
    _warn_of_program(PROGRAM)


def _ensure_within(directory: int | None, path: str, uid: int, depth: int = DEPTH_MAX) -> None:
    if directory is None:
        return
    if depth == 0:
        _tell(f"{path} is too deep, permissions in it are not checked")
        return
    for name in os.listdir(directory):
        inner = f"{path}/{name}"
        with _opened(name, directory, inner) as descriptor:
            if descriptor is None:
                continue
            found = os.fstat(descriptor)
            if stat.S_ISDIR(found.st_mode):
                _change(descriptor, inner, uid, ROOT, found.st_mode & stat.S_ISGID | DIRECTORY_MODE & _stricter(found))
                _ensure_within(descriptor, inner, uid, depth - 1)
            elif stat.S_ISREG(found.st_mode) and name != ENVIRONMENT_FILE:  # that is root's, if root made it
                if found.st_nlink > 1 and found.st_uid != uid:
                    _tell(f"{inner} has another name elsewhere and belongs to user {found.st_uid}, it is left alone")
                    continue
                _change(descriptor, inner, uid, ROOT, FILE_MODE & _stricter(found))


def _stricter(found: os.stat_result) -> int:
    """The bits that may stay: what is closed to the group is closed on purpose, as keys are."""
    return found.st_mode | stat.S_IRWXU


def _ensure_run(top: int | None, path: str, uid: int) -> None:
    if top is None:
        return
    with _opened("run", top, path) as run:
        if run is not None:
            _change(run, path, uid, ROOT, RUN_MODE | os.fstat(run).st_mode & stat.S_ISGID)


def _warn_of_program(program: Path) -> None:
    """Root runs these files: nobody else should be able to write them."""
    directories = [program, *(program / package for package in PACKAGES)]
    for path in (*directories, *(file for directory in directories for file in directory.glob("*.py"))):
        found = path.stat()
        if found.st_uid != ROOT or found.st_mode & _OTHERS_WRITE:
            _tell(f"{path} can be changed by others than root, and root runs it: chown root it, chmod go-w it")
            return


@contextlib.contextmanager
def _opened(path: str, directory: int | None = None, shown: str = "") -> Iterator[int | None]:
    """A descriptor of a file or directory; None for a link, a socket or what cannot be opened."""
    try:
        descriptor = os.open(path, _OPEN, dir_fd=directory)
    except OSError as exc:
        if directory is None:
            _tell(f"permissions of {shown or path} are not checked: {exc.strerror}")
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _change(descriptor: int | None, path: str, uid: int, gid: int, mode: int) -> bool:
    """Set owner and mode; gives whether anything was to be changed."""
    if descriptor is None:
        return False
    found = os.fstat(descriptor)
    before = found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
    if before == (uid, gid, mode):
        return False
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    except OSError as exc:
        _tell(f"permissions of {path} cannot be changed: {exc.strerror}")
    else:
        _tell(f"permissions of {path} changed from {before[0]}:{before[1]} {before[2]:04o} to {uid}:{gid} {mode:04o}")
    return True


def _tell(text: str) -> None:
    sys.stderr.write(f"l=info m={_quoted(text)} pkg=launcher\n")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if " " <= c <= "~" else f"\\u{ord(c):04x}" for c in escaped) + '"'
