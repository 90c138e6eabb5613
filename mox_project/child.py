"""The other side of the supervisor's fork: a child's whole life, and its tie to the supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from .problem import EnvironmentProblem

log = logging.getLogger(__name__)

READY: Final = b"+"  # what a child says once
RELOAD: Final = b"r"  # what it may hear at any time
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)  # that the supervisor takes
_PR_SET_PDEATHSIG: Final = 1
_PROBLEM: Final = 3  # exit status of a child that hands back the text of an EnvironmentProblem


@dataclass(frozen=True, slots=True)
class Link:
    """The child's end of the pair of sockets between it and its supervisor."""

    sock: socket.socket

    def ready(self) -> None:
        """Tell the supervisor that this process does its work now."""
        self.sock.sendall(READY)

    def on_reload(self, reload: Callable[[], None]) -> None:
        """Call a function, in a thread of its own, whenever the supervisor asks to look at settings anew."""
        threading.Thread(target=self._listen, args=(reload,), name="reload", daemon=True).start()

    def _listen(self, reload: Callable[[], None]) -> None:
        while self.sock.recv(1) == RELOAD:
            try:
                reload()
            except Exception:
                log.exception("settings cannot be loaded anew, the earlier ones stay")


def live(name: str, run: Callable[[Link], None], link: Link) -> NoReturn:
    """Be the child: run, and end the process with the status that fits how that ended."""
    status = 1
    try:
        os.setpgid(0, 0)  # an interrupt at the terminal is for the supervisor, which stops us in its order
        end_with_parent()
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor hears it and tells all
        run(link)
        status = 0
    except KeyboardInterrupt:
        status = 0
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:
        log.critical("process failed", exc_info=True, extra={"child": name})
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def end_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when its parent ends, however it ends (Linux; elsewhere nothing)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def in_child(function: Callable[[], str]) -> str:
    """Run a function in a forked child, for work that opens database connections; gives the text it returned.

    Raises the EnvironmentProblem that it raised. Any other exception is printed there; here it is a ChildProcessError.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                try:
                    pipe.write(function())
                    status = 0
                except EnvironmentProblem as problem:
                    pipe.write(str(problem))
                    status = _PROBLEM
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) == _PROBLEM:
        raise EnvironmentProblem(text)
    if status:
        raise ChildProcessError("set-up failed, see above")
    return text
