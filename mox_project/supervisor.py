"""The supervising process: imports once, opens the sockets, forks the rest, restarts what dies, stops it all.

    supervisor = Supervisor(run_dir, [ChildProcess("mail-1", run_mail), ...], on_ready=...)
    sys.exit(supervisor.run())

It opens no thread, database connection or event loop itself: forked children share its memory and inherit only sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import selectors
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Final

log = logging.getLogger(__name__)

STOP_TIMEOUT: Final = 4.5  # seconds for children to end before they are killed: all is over within 5
RESTART_DELAY_MAX: Final = 30.0  # seconds; delays double from 1
START_FAILURES_MAX: Final = 5  # in a row without becoming ready: then the whole server gives up
LOCK_WAIT: Final = 6.0  # seconds that a start waits for what is left of a killed supervisor to end
TICK: Final = 1.0  # seconds between looks at what is due
_PR_SET_PDEATHSIG: Final = 1
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class AlreadyRunning(Exception):
    """Another supervisor serves this directory."""


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A process to keep running. ``run(ready)`` is its whole life in the forked child; it calls ``ready()`` once.

    What is ``essential`` is started first and stopped last: the others need it all along.
    """

    name: str
    run: Callable[[Callable[[], None]], None]
    essential: bool = False


@dataclass(slots=True)
class _State:
    process: ChildProcess
    pid: int = 0
    ready: bool = False
    was_ready: bool = False
    pipe: int = -1  # the child writes a byte to it when it is ready
    failures: int = 0  # starts in a row that did not become ready
    due: float = 0.0  # when to start it (again)


@dataclass(slots=True)
class Supervisor:
    """Runs the children until SIGTERM or SIGINT.

    ``on_ready`` is called once, when all are ready; ``on_end`` with the process id of each child that has ended.
    """

    run_dir: Path
    processes: Sequence[ChildProcess]
    on_ready: Callable[[], None]
    on_end: Callable[[int], None]
    _states: list[_State] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _stopping: bool = False
    _announced: bool = False
    _gave_up: bool = False

    def run(self) -> int:
        """The exit status of the server: 0 when it was stopped, 1 when a process cannot be started."""
        self._states = [_State(process) for process in self.processes]
        gc.collect()
        gc.freeze()  # what was imported is never looked at again, and its pages stay shared
        with _signal_pipe() as signals:
            self._selector.register(signals, selectors.EVENT_READ)
            while not self._stopping:
                self._start_due()
                self._wait(signals)
            self._stop(signals)
        return int(self._gave_up)

    def _start_due(self) -> None:
        now = time.monotonic()
        base_ready = all(state.ready for state in self._states if state.process.essential)
        for state in self._states:
            if not state.pid and state.due <= now and (base_ready or state.was_ready or state.process.essential):
                self._start(state)

    def _start(self, state: _State) -> None:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _run_child(state.process, writing)
        os.close(writing)
        state.pid, state.pipe, state.ready = pid, reading, False
        self._selector.register(reading, selectors.EVENT_READ, state)
        (self.run_dir / f"{state.process.name}.pid").write_text(f"{pid}\n")
        log.debug("process started", extra={"child": state.process.name, "pid": pid})

    def _wait(self, signals: int) -> None:
        """Take in what happens within the next second."""
        for key, _ in self._selector.select(self._seconds_to_wait()):
            if key.fd == signals:
                for number in os.read(signals, 64):
                    self._signalled(number)
            elif isinstance(key.data, _State):
                self._became_ready(key.data)

    def _seconds_to_wait(self) -> float:
        now = time.monotonic()
        waits = [state.due - now for state in self._states if not state.pid and state.due > now]
        return min([TICK, *waits])

    def _signalled(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stopping = True
        elif number == signal.SIGCHLD:
            self._reap()

    def _became_ready(self, state: _State) -> None:
        self._selector.unregister(state.pipe)
        is_ready = os.read(state.pipe, 1) == b"+"
        os.close(state.pipe)
        state.pipe = -1
        if is_ready:
            state.ready = state.was_ready = True
            state.failures = 0
        if not self._announced and all(s.ready for s in self._states):
            self._announced = True
            log.info("ready to serve")
            self.on_ready()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for state in self._states:
                if state.pid == pid:
                    self.on_end(pid)
                    self._died(state, os.waitstatus_to_exitcode(status))

    def _died(self, state: _State, status: int) -> None:
        name = state.process.name
        if state.pipe >= 0:
            self._selector.unregister(state.pipe)
            os.close(state.pipe)
            state.pipe = -1
        was_ready, state.pid, state.ready = state.ready, 0, False
        (self.run_dir / f"{name}.pid").unlink(missing_ok=True)
        if self._stopping:
            return
        state.failures = 0 if was_ready else state.failures + 1
        delay = min(RESTART_DELAY_MAX, 2.0 ** max(0, state.failures - 1))
        state.due = time.monotonic() + delay
        cause = f"signal {-status}" if status < 0 else f"status {status}"
        log.error("process died, it will be restarted", extra={"child": name, "cause": cause, "delay": delay})
        if state.failures >= START_FAILURES_MAX:
            log.critical("process cannot be started, giving up", extra={"child": name, "tries": state.failures})
            self._gave_up = self._stopping = True

    def _stop(self, signals: int) -> None:
        log.info("stopping")
        deadline = time.monotonic() + STOP_TIMEOUT
        for essential in (False, True):
            group = [state for state in self._states if state.process.essential is essential]
            self._signal_all(signal.SIGTERM, group)
            while any(state.pid for state in group) and time.monotonic() < deadline:
                if self._selector.select(max(0.0, min(0.2, deadline - time.monotonic()))):
                    with contextlib.suppress(BlockingIOError):
                        os.read(signals, 64)
                self._reap()
        left = [state for state in self._states if state.pid]
        for state in left:
            log.warning("process did not stop in time, killed", extra={"child": state.process.name})
        self._signal_all(signal.SIGKILL, left)
        for state in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(state.pid, 0)
        log.info("stopped")

    def _signal_all(self, number: int, states: Sequence[_State] | None = None) -> None:
        for state in self._states if states is None else states:
            if state.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state.pid, number)


def _run_child(process: ChildProcess, writing: int) -> None:
    """The child's life; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)  # an interrupt at the terminal is for the supervisor, which stops us in its order
        end_with_parent()
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # certificates and settings are looked at anew by themselves

        def ready() -> None:
            os.write(writing, b"+")
            os.close(writing)

        process.run(ready)
        status = 0
    except KeyboardInterrupt:
        status = 0
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        log.critical("process failed", exc_info=True, extra={"child": process.name})
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

    What it raises is printed there; here it is a ChildProcessError.
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
                pipe.write(function())
            status = 0
        except SystemExit as exc:
            status = 1
            if exc.code:
                sys.stderr.write(f"{exc.code}\n")
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
    if status:
        raise ChildProcessError("set-up failed, see above")
    return text


def lock(run_dir: Path) -> IO[str]:
    """Claim a directory for this supervisor and its children, until the last of them ends. Raises AlreadyRunning."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (run_dir / "supervisor.pid").open("a+")
    deadline = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            file.seek(0)
            pid = file.read().strip()
            if _is_alive(pid) or time.monotonic() > deadline:
                file.close()
                raise AlreadyRunning(f"process {pid or '(unknown)'} is serving {run_dir.parent} already") from None
            time.sleep(0.05)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _signal_pipe() -> Iterator[int]:
    """A descriptor from which the numbers of signals can be read."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _noted) for number in _SIGNALS}
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def _noted(number: int, frame: FrameType | None) -> None:
    """The number is in the pipe."""
