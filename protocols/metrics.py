"""Where the protocol libraries tell how long something took; what becomes of that is for who uses them.

metrics.use(observe)                                     # once, at the start of a process
metrics.observe("mox_dns_lookup_duration_seconds", 0.003, {"pkg": "spf", "type": "txt", "result": "ok"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

Hook: TypeAlias = Callable[[str, float, Mapping[str, str]], None]
"""Is given the name of the metric, a duration in seconds, and the labels."""

_hook: Hook | None = None


def use(hook: Hook | None) -> None:
    """From now on ``hook`` is told of every observation; it must be quick and safe to call from any thread."""
    global _hook  # noqa: PLW0603 # like the handlers of `logging`: one place for the whole process
    _hook = hook


def observe(name: str, seconds: float, labels: Mapping[str, str]) -> None:
    """Tell the hook, if there is one."""
    if _hook is not None:
        _hook(name, seconds, labels)
