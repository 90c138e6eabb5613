"""The supervising process: imports once, opens the sockets, forks the rest, restarts what dies, stops it all.

    supervisor = Supervisor(run_dir, [ChildProcess("mail-1", run_mail), ...], ...)
    sys.exit(supervisor.run())

It opens no thread, database connection or event loop itself: forked children share its memory and inherit only sockets.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, Final

from . import child, control, systemd
from .problem import EnvironmentProblem

log = logging.getLogger(__name__)

STOP_TIMEOUT: Final = 4.3  # seconds for a child to end before it is killed: all is over within 5
ESSENTIAL_STOP_TIMEOUT: Final = 0.4  # seconds, after the others; Redis keeps nothing and ends at once
RESTART_DELAY_MAX: Final = 30.0  # seconds; delays double from 1
START_FAILURES_MAX: Final = 5  # in a row without becoming ready: then the whole server gives up
LOCK_WAIT: Final = 6.0  # seconds that a start waits for what is left of a killed supervisor to end
TICK: Final = 1.0  # seconds between looks at what is due
SIGNALS_MAX: Final = 64  # taken at once


class AlreadyRunning(Exception):
    """Another supervisor serves this directory."""


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A process to keep running. ``run(link)`` is its whole life in the forked child; it calls ``link.ready()`` once.

    What is ``essential`` is started first and stopped last: the others need it all along. ``stop_timeout``: seconds
    that it may take to end.
    """

    name: str
    run: Callable[[child.Link], None]
    essential: bool = False
    stop_timeout: float = STOP_TIMEOUT


@dataclass(slots=True)
class _State:
    process: ChildProcess
    pid: int = 0
    ready: bool = False
    was_ready: bool = False
    link: socket.socket | None = None
    started: float = 0.0
    starts: int = 0
    failures: int = 0  # starts in a row that did not become ready
    due: float = 0.0  # when to start it (again)
    killed: bool = False  # for not stopping in time


@dataclass(slots=True)
class Supervisor:
    """Runs the children until SIGTERM, SIGINT or ``mox stop``.

    ``on_ready`` is called once, when all are ready; ``on_reload`` when settings are to be looked at anew; ``on_end``
    with the process id of each child that has ended.
    """

    run_dir: Path
    processes: Sequence[ChildProcess]
    version: str
    node: str
    on_ready: Callable[[], None]
    on_reload: Callable[[], None]
    on_end: Callable[[int], None]
    _states: list[_State] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _asking: list[socket.socket] = field(default_factory=list)  # connections to the control socket
    _started: float = field(default_factory=time.monotonic)
    _watchdog_due: float = 0.0
    _stopping: bool = False
    _announced: bool = False
    _gave_up: bool = False

    def run(self) -> int:
        """The exit status of the server: 0 when it was stopped, 1 when a process cannot be started.

        Raises EnvironmentProblem if the control socket cannot be had.
        """
        self._states = [_State(process) for process in self.processes]
        gc.collect()
        gc.freeze()  # what was imported is never looked at again, and its pages stay shared
        with _signal_pipe() as signals, control.listen(self.run_dir) as listening:
            self._selector.register(signals, selectors.EVENT_READ, lambda: self._take_signals(signals))
            self._selector.register(listening, selectors.EVENT_READ, lambda: self._accept(listening))
            while not self._stopping:
                self._start_due()
                self._wait(self._seconds_to_start())
            self._stop()
        (self.run_dir / control.NAME).unlink(missing_ok=True)
        return int(self._gave_up)

    def _start_due(self) -> None:
        now = time.monotonic()
        base_ready = all(state.ready for state in self._states if state.process.essential)
        for state in self._states:
            if not state.pid and state.due <= now and (base_ready or state.was_ready or state.process.essential):
                self._start(state)

    def _start(self, state: _State) -> None:
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError as exc:  # the machine has no room for one more process: perhaps later
            log.error("process cannot be started", extra={"child": state.process.name, "err": str(exc)})
            state.due = time.monotonic() + RESTART_DELAY_MAX
            ours.close()
            theirs.close()
            return
        if pid == 0:
            ours.close()
            self._close_all()
            child.live(state.process.name, state.process.run, child.Link(theirs))
        theirs.close()
        ours.setblocking(False)
        state.pid, state.link, state.ready = pid, ours, False
        state.started = time.monotonic()
        state.starts += 1
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._became_ready(state))
        (self.run_dir / f"{state.process.name}.pid").write_text(f"{pid}\n")
        log.debug("process started", extra={"child": state.process.name, "pid": pid})

    def _close_all(self) -> None:
        """In the child: what is the supervisor's alone."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
            else:
                os.close(key.fd)
        self._selector.close()
        for state in self._states:
            if state.link is not None:
                state.link.close()
        for sock in self._asking:
            sock.close()

    def _wait(self, seconds: float) -> None:
        """Take in what happens within this time."""
        now = time.monotonic()
        if self._watchdog_due <= now:
            systemd.notify("WATCHDOG=1")
            self._watchdog_due = now + systemd.watchdog_interval()
        for key, _ in self._selector.select(max(0.0, min(seconds, self._watchdog_due - now))):
            key.data()

    def _seconds_to_start(self) -> float:
        now = time.monotonic()
        waits = [state.due - now for state in self._states if not state.pid and state.due > now]
        return min([TICK, *waits])

    def _take_signals(self, pipe: int) -> None:
        for number in os.read(pipe, SIGNALS_MAX):
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stopping = True
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGCHLD:
                self._reap()

    def _became_ready(self, state: _State) -> None:
        assert state.link is not None  # it is in the selector only while it is there
        self._selector.unregister(state.link)
        try:
            is_ready = state.link.recv(1) == child.READY
        except OSError:
            is_ready = False
        if is_ready:
            state.ready = state.was_ready = True
            state.failures = 0
        if not self._announced and all(s.ready for s in self._states):
            self._announced = True
            log.info("ready to serve")
            systemd.notify("READY=1")
            self.on_ready()

    def _reload(self) -> None:
        log.info("settings are loaded anew")
        self.on_reload()
        for state in self._states:
            if state.link is not None:
                with contextlib.suppress(OSError):  # Redis does not listen
                    state.link.send(child.RELOAD)

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
        if state.link is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(state.link)
            state.link.close()
            state.link = None
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

    def _accept(self, listening: socket.socket) -> None:
        sock = control.accept(listening)
        if sock is not None:
            self._asking.append(sock)
            self._selector.register(sock, selectors.EVENT_READ, lambda: self._answer(sock))

    def _answer(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        question = control.question(sock)
        if question == "stop":
            self._stopping = True
            control.answer(sock, "{}")
            return  # open until our end, for which the other side waits
        if question == "reload":
            self._reload()
            control.answer(sock, "{}")
        elif question == "status":
            control.answer(sock, self._status().dumps())
        self._asking.remove(sock)
        sock.close()

    def _status(self) -> control.Status:
        now = time.monotonic()
        processes = [
            control.ProcessStatus(
                name=state.process.name,
                pid=state.pid,
                is_ready=state.ready,
                uptime=int(now - state.started) if state.pid else 0,
                restarts=max(0, state.starts - 1),
            )
            for state in self._states
        ]
        return control.Status(self.version, self.node, os.getpid(), int(now - self._started), processes)

    def _stop(self) -> None:
        log.info("stopping")
        systemd.notify("STOPPING=1")
        for essential in (False, True):
            group = [state for state in self._states if state.process.essential is essential]
            self._signal_all(signal.SIGTERM, group)
            began = time.monotonic()
            while running := [state for state in group if state.pid]:
                waited = time.monotonic() - began
                self._kill([s for s in running if not s.killed and waited >= s.process.stop_timeout])
                left = [s.process.stop_timeout - waited for s in running if not s.killed]
                self._wait(min([TICK, *left]))
        log.info("stopped")

    def _kill(self, states: Sequence[_State]) -> None:
        for state in states:
            log.warning("process did not stop in time, killed", extra={"child": state.process.name})
            state.killed = True
        self._signal_all(signal.SIGKILL, states)

    def _signal_all(self, number: int, states: Sequence[_State]) -> None:
        for state in states:
            if state.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(state.pid, number)


def lock(run_dir: Path) -> IO[str]:
    """Claim a directory for this supervisor and its children, until the last of them ends.

    Raises AlreadyRunning; EnvironmentProblem for a directory that cannot be written.
    """
    try:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (run_dir / "supervisor.pid").open("a+")
    except OSError as exc:
        raise EnvironmentProblem(f"data directory {run_dir.parent} cannot be written: {exc.strerror}") from exc
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
    handlers = {number: signal.signal(number, _noted) for number in child.SIGNALS}
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
