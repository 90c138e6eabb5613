"""Where Django looks for what its admin shows."""

from __future__ import annotations

from . import browse, installation, users

__all__ = ["browse", "installation", "users"]
