"""Named places at which a test kills the process, to see that nothing acknowledged is lost.

``point("store.before_commit")`` costs a comparison, unless MOX_FAULT names that point: ``name``, or ``name:n`` for the
n-th pass.
"""

from __future__ import annotations

import os
import signal
import threading

from django.conf import settings

_lock = threading.Lock()
_passes: dict[str, int] = {}


def point(name: str) -> None:
    """Kill this process with SIGKILL if this is the fault point, and the pass over it, that MOX_FAULT names."""
    fault: str = settings.MOX_FAULT
    if not fault:
        return
    wanted, _, nth = fault.partition(":")
    if name != wanted:
        return
    with _lock:
        _passes[name] = _passes.get(name, 0) + 1
        if _passes[name] < int(nth or 1):
            return
        os.kill(os.getpid(), signal.SIGKILL)
