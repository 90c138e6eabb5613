"""Named places at which a test kills the process, to see that nothing acknowledged is lost.

``point("store.before_commit")`` costs a comparison, unless MOX_FAULT names that point: ``name``, or ``name:n`` for the
n-th pass. With ``@file`` it is what that file says while it is there, for one process: ``name:n pid``. The process
that dies takes it away, so that a running server can be told again and again where one of its processes is to die.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from django.conf import settings

_lock = threading.Lock()
_passes: dict[str, int] = {}


def point(name: str) -> None:
    """Kill this process with SIGKILL if this is the fault point, and the pass over it, that MOX_FAULT names."""
    fault: str = settings.MOX_FAULT
    if not fault:
        return
    order = Path(fault[1:]) if fault.startswith("@") else None
    if order is not None:
        try:
            fault = order.read_text()
        except FileNotFoundError:
            return
    where, _, pid = fault.partition(" ")
    wanted, _, nth = where.partition(":")
    if name != wanted or (pid and int(pid) != os.getpid()):
        return
    with _lock:
        _passes[fault] = _passes.get(fault, 0) + 1
        if _passes[fault] < int(nth or 1):
            return
        if order is not None:
            order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
